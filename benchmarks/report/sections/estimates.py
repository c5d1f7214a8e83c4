"""Estimates in the units of the quantities: median and 90 % interval under every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

from benchmarks.metrics.numbers import digits_for
from benchmarks.report.blocks import escape, fragment, markdown_table, parts
from benchmarks.report.components import Array, Key, View, make_view
from benchmarks.report.inputs import EntryReport
from benchmarks.report.numbers import DASH, MINUS
from benchmarks.report.section import ReportSection

__all__ = ["LEVELS", "SECTION", "Row", "estimates"]

MOST_ROWS = 30
LEVELS = (0.05, 0.5, 0.95)
NOTE = (
    "Median and 90 % interval in the units of each quantity, components in the order of the card."
    " Where a method was compared on the logarithm of a site, the site itself is shown."
)


@dataclass(frozen=True)
class Row:
    """One component: its label, what it is, and the quantiles of `LEVELS` per column."""

    key: Key
    label: str
    about: str
    quantiles: dict[str, Array]

    def text(self, column: str) -> str:
        """Return `median [low, high]` with decimals for a twentieth of the first column's sd."""
        if column not in self.quantiles:
            return DASH
        first = next(iter(self.quantiles.values()))
        spread = float(first[2] - first[0]) / 3.3
        decimals = digits_for(spread / 20) if spread > 0 and np.isfinite(spread) else 3
        # adding zero turns -0.0 into 0.0
        low, middle, high = (
            f"{round(float(q), decimals) + 0.0:,.{decimals}f}".replace("-", MINUS)
            for q in self.quantiles[column]
        )
        return f"{middle} [{low},\N{NO-BREAK SPACE}{high}]"


def estimates(view: View, most: int | None = MOST_ROWS) -> tuple[list[str], list[Row], int]:
    """Return the columns, at most so many rows (None for all), and how many are left out."""
    columns = {"reference": view.reference} if view.reference else {}
    columns |= {name: view.draws[name] for name in view.shown}
    names = list(view.report.entry.quantities)
    keys = sorted(view.order, key=lambda key: (names.index(key[0]), key[1]))
    return (
        list(columns),
        [_row(view, key, columns) for key in keys[:most]],
        0 if most is None else len(keys[most:]),
    )


def _row(view: View, key: Key, columns: Mapping[str, Mapping[Key, Array]]) -> Row:
    label, quantity = view.labels[key], view.report.entry.quantities[key[0]]
    about = "" if quantity.description == label else quantity.description
    found = {n: np.quantile(draws[key], LEVELS) for n, draws in columns.items() if key in draws}
    site = _site_of(view, key[0])
    if site:  # a quantile of a site is the exponential of that of its logarithm
        found = {n: np.exp(q) for n, q in found.items()}
        label, about = label.replace(key[0], site, 1), ""
    return Row(key, label, about, found)


def _site_of(view: View, quantity: str) -> str:
    """Return the latent site whose logarithm a quantity is; empty if it is none."""
    site = quantity[4:] if quantity.startswith(("log_", "log ")) else ""
    for comparison in view.report.comparisons:
        draws = comparison.posterior.draws.get(site)
        if draws is None:
            continue
        values = comparison.posterior.quantities()[quantity]
        same = values.shape == draws.shape and bool((draws > 0).all())
        return site if same and np.allclose(values.double().exp(), draws.double()) else ""
    return ""


def _once(rows: list[Row]) -> list[Row]:
    """Return the rows with what they are only where it changes."""
    before = ["", *(row.about for row in rows)]
    return [
        replace(row, about="" if row.about == last else row.about)
        for row, last in zip(rows, before, strict=False)
    ]


def html(view: View) -> Markup | None:
    """Render the table, in parts of as many methods as fit beside each other."""
    columns, rows, left = estimates(view)
    if not columns:
        return None
    tables = [
        {
            "columns": [columns[i] for i in places],
            "rows": [
                (r.label, r.about, [r.text(columns[i]) for i in places]) for r in _once(rows)
            ],
        }
        for places in parts(columns)
    ]
    return fragment("sections/estimates.jinja", tables=tables, note=NOTE, left=left)


def markdown(report: EntryReport) -> str | None:
    """Return the table in Markdown."""
    columns, rows, left = estimates(make_view(report))
    if not columns:
        return None
    lines = [[row.label, *(row.text(name) for name in columns)] for row in rows]
    more = f"\n\n{left} more components are in the files of the draws." if left else ""
    return f"{escape(NOTE)}\n\n{markdown_table(['component', *columns], lines)}{more}"


SECTION = ReportSection(
    name="estimates",
    about="estimates and intervals in the units of the quantities",
    order=35,
    html=html,
    markdown=markdown,
)
