"""The data frame of a scorecard: scores, and estimates in the units of the quantities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.metrics.metric import NATURAL
from benchmarks.report.components import make_view
from benchmarks.report.inputs import EntryReport
from benchmarks.report.sections.estimates import LEVELS, Row, estimates
from benchmarks.run.results import score_columns, score_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["card_frame"]


def card_frame(cells: Sequence[Mapping[str, Any]], report: EntryReport) -> pd.DataFrame:
    """Return one row per method and component: its scores, and `NATURAL` beside its label.

    A row that was not scored, as that of the chains that are the reference, has its estimates; a
    method without draws is one row.
    """
    import pandas as pd

    view = make_view(report)
    rows = {row.key: row for row in estimates(view, most=None)[1]}
    names = {(c.posterior.method, c.posterior.seed): name for name, c in view.by_name.items()}
    found: list[dict[str, Any]] = []
    for score in score_rows([dict(c) for c in cells]):
        name = names.get((score["method"], score["seed"]), "")
        if "quantity" in score:
            key = score["quantity"], tuple(int(i) for i in score["index"].split(".") if i)
            found.append({**score, **(_natural(rows[key], name) if key in rows else {})})
            continue
        drawn = [row for row in rows.values() if name in row.quantiles]
        found += [
            {
                **score,
                "quantity": row.key[0],
                "index": ".".join(map(str, row.key[1])),
                "label": view.labels[row.key],
                **_natural(row, name),
            }
            for row in drawn
        ] or [score]
    columns = score_columns(cells)
    after = columns.index("label") + 1
    return pd.DataFrame(found, columns=[*columns[:after], *NATURAL, *columns[after:]])


def _natural(row: Row, name: str) -> dict[str, Any]:
    """Return the columns `NATURAL` of one method and component."""
    missing = (math.nan,) * len(LEVELS)
    numbers = [
        float(q) for column in (name, "reference") for q in row.quantiles.get(column, missing)
    ]
    return dict(zip(NATURAL, (row.label, *numbers), strict=True))
