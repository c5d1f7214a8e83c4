"""The table of families on the page of a model, from the cells of its comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.studies.pages import fold

__all__ = ["table"]


def table(name: str, cells: Sequence[dict[str, Any]]) -> str:
    """Return the command and one row per family.

    Verdict, what decided it, worst mean error and sd ratio, k-hat, cost.
    """
    lines = [
        fold(
            f"`zoo compare {name} --quick --no-nuts`, seed 0. Mean errors are in reference sds; an sd"
            " ratio is the sd of the family over that of the reference. Both columns show the judged"
            " component with the largest error."
        ),
        "",
        "| family | verdict | mean error | sd ratio | k-hat | gradients |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_row, cells)])


def _row(cell: dict[str, Any]) -> str:
    judged = [s for s in cell["scores"] if s["judged"] and s["mean_error"] is not None]
    mean = max(judged, key=lambda s: abs(s["mean_error"]), default=None)
    spread = max(
        (s for s in judged if (s["sd_ratio"] or 0) > 0),
        key=lambda s: max(s["sd_ratio"], 1 / s["sd_ratio"]),
        default=None,
    )
    k = (cell["pareto_k"] or {}).get("value")
    parts = [
        cell["method"],
        (cell["verdict"] or cell["status"]).replace("_", " "),
        "" if mean is None else f"{mean['mean_error']:+.2f} {_label(mean)}",
        "" if spread is None else f"{spread['sd_ratio']:.2g} {_label(spread)}",
        "" if k is None else f"{k:.2f}",
        f"{cell['cost']['gradient_evaluations'] / 1000:,.1f} k",
    ]
    return f"| {' | '.join(parts)} |"


def _label(score: dict[str, Any]) -> str:
    """Escape a bar in a coordinate's name, which would end the table cell even in code."""
    return f"`{score['label']}`".replace("|", "\\|")
