"""`docs/results/posteriordb.md`, its table and figure, from `zoo study posteriordb`."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import matplotlib

from benchmarks.report.theme import MARKERS, canvas, light
from benchmarks.studies.draw_parity.render import USUAL
from benchmarks.studies.pages import EMPTY_NOTES, fold
from benchmarks.studies.rows import csv_text

__all__ = ["COLUMNS", "FAMILIES", "chains", "markdown", "picture", "remarks", "table"]

FAMILIES = ("mean_field", "full_rank", "low_rank", "laplace")
COLUMNS = (
    "entry",
    "method",
    "seed",
    "status",
    "verdict",
    "decided_by",
    "worst_mean_error",
    "worst_mean_error_se",
    "sd_ratio",
    "sd_ratio_se",
    "pareto_k",
    "pareto_k_threshold",
    "gradient_evaluations",
    "seconds",
)
NAME, TITLE = "posteriordb", "Variational inference on posteriordb"


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as CSV."""
    return csv_text(rows, COLUMNS)


def markdown(rows: Sequence[dict[str, Any]], title: str = TITLE) -> str:
    """Return the page: a count of each verdict, then one row per entry with its worst seed."""
    image = f"![worst mean error against gradient evaluations]({NAME}.svg)"
    lines = [
        f"# {title}",
        "",
        *remarks(rows),
        "",
        *EMPTY_NOTES,
        "",
        "",
        image,
        "",
        "## Verdicts",
        "",
    ]
    verdicts = sorted({r["verdict"] for r in rows}, key=lambda v: (v != "agrees", v))
    lines += [
        "| family | fits | " + " | ".join(v.replace("_", " ") for v in verdicts) + " |",
        "|---|---|" + "---|" * len(verdicts),
    ]
    for family in FAMILIES:
        count = Counter(r["verdict"] for r in rows if r["method"] == family)
        lines.append(
            f"| {family} | {count.total()} | " + " | ".join(str(count[v]) for v in verdicts) + " |"
        )
    lines += [
        "",
        "## Every posterior",
        "",
        *_legend(),
        "",
        "| entry | " + " | ".join(FAMILIES) + " |",
        "|---|" + "---|" * len(FAMILIES),
    ]
    entries = sorted({r["entry"] for r in rows})
    lines += [
        f"| `{e.partition('/')[2] or e}` | "
        + " | ".join(
            _cell([r for r in rows if (r["entry"], r["method"]) == (e, f)]) for f in FAMILIES
        )
        + " |"
        for e in entries
    ]
    lines += [
        "",
        "## Cost",
        "",
        "Gradient evaluations (in thousands) and seconds of one fit, medians over seeds.",
        "",
    ]
    lines += ["| entry | " + " | ".join(FAMILIES) + " |", "|---|" + "---|" * len(FAMILIES)]
    lines += [
        f"| `{e.partition('/')[2] or e}` | "
        + " | ".join(
            _cost([r for r in rows if (r["entry"], r["method"]) == (e, f)]) for f in FAMILIES
        )
        + " |"
        for e in entries
    ]
    return fold("\n".join(lines) + "\n")


def _legend() -> list[str]:
    return [
        "Verdict (per seed if seeds differ); *m* largest mean error in reference sds; *s* the sd"
        " ratio farthest from 1; *k* Pareto k-hat of the importance weights. Numbers are those of"
        " the worst seed."
    ]


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    verdicts = [r["verdict"].replace("_", " ") for r in rows]
    word = verdicts[0] if len(set(verdicts)) == 1 else " / ".join(verdicts)
    means = [r["worst_mean_error"] for r in rows if r["worst_mean_error"] is not None]
    ratios = [r["sd_ratio"] for r in rows if r["sd_ratio"]]
    ks = [r["pareto_k"] for r in rows if r["pareto_k"] is not None]
    parts = []
    if means:
        parts.append(f"m {max(means, key=abs):+.2g}")
    if ratios:
        parts.append(f"s {max(ratios, key=lambda r: max(r, 1 / r)):.2g}")
    if ks:
        parts.append(f"k {max(ks):.1f}")
    return f"**{word}** {', '.join(parts)}".strip()


def _cost(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    return (
        f"{median(r['gradient_evaluations'] for r in rows) / 1000:.1f} k,"
        f" {median(r['seconds'] for r in rows):.1f} s"
    )


def chains(rows: Iterable[Mapping[str, Any]]) -> list[list[float]]:
    """Return (gradient evaluations, 1 / sqrt(smallest bulk ESS)) of NUTS per posterior.

    Takes the rows of a draw parity. The second number is the standard error, in posterior sds, of
    the least precise mean of the chains.
    """
    # without second runs
    usual = [r for r in rows if r["ess_bulk_min"] and r["target_accept"] == USUAL]
    return [[float(r["gradient_evaluations"]), float(r["ess_bulk_min"]) ** -0.5] for r in usual]


def picture(rows: Sequence[dict[str, Any]], chains: Sequence[Sequence[float]] = ()) -> str:
    """Draw every fit's worst mean error against its gradient evaluations.

    The standard errors of NUTS are drawn too.
    """
    figure, axis = canvas(560, 340)
    for i, family in enumerate(FAMILIES):
        found = [
            r
            for r in rows
            if r["method"] == family
            and r["worst_mean_error"] is not None
            and r["gradient_evaluations"]
        ]
        x, y = (
            [r["gradient_evaluations"] for r in found],
            [max(abs(r["worst_mean_error"]), 1e-3) for r in found],
        )
        axis.plot(
            x,
            y,
            linestyle="none",
            marker=MARKERS[i],
            color=light(f"m{i + 1}"),
            markersize=4.5,
            alpha=0.75,
            label=family,
        )
    if chains:
        axis.plot(
            *zip(*chains, strict=True),
            linestyle="none",
            marker="x",
            color=light("ref-line"),
            markersize=4.5,
            label="nuts, 1 / sqrt(ESS)",
        )
    axis.axhline(0.15, color=light("ref-line"), linewidth=1, linestyle=(0, (3, 3)))
    seen = [r["gradient_evaluations"] for r in rows if r["gradient_evaluations"]] + [
        number for number, _ in chains
    ] or [1]
    axis.set(
        xscale="log",
        yscale="log",
        xlim=(min(seen) / 2, max(seen) * 2),
        xlabel="gradient evaluations",
        ylabel="worst |mean error| (ref. sds)",
    )
    axis.legend(frameon=False, fontsize=8)
    axis.grid(True, linewidth=0.4)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "posteriordb"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return how the table was made, from its own rows."""
    seeds, fits, entries = (
        sorted({r["seed"] for r in rows}),
        len(rows),
        len({r["entry"] for r in rows}),
    )
    word = "seeds" if len(seeds) > 1 else "seed"
    return [
        f"{entries} posteriors, {fits} fits, {word} {', '.join(map(str, seeds))}, default settings,"
        " compared with the 10,000 reference draws of the collection. Made by"
        " `zoo study posteriordb`; `posteriordb.csv` has one row per fit. For the terms see"
        " [reading a report](../reading_a_report.md)."
    ]
