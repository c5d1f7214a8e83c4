"""The table of families on the page of a model: `zoo compare NAME --quick --no-nuts`, one row per family.

    python -c "from benchmarks.studies.model_pages import main; main()" robust_regression banana

runs the comparison into `out/pages/NAME` (a finished run is read again) and replaces the part `families` of
`docs/models/NAME.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.run.store import RunDir
from benchmarks.studies.pages import replace_part

__all__ = ["main", "measure", "table"]

PAGES, RUNS = Path("docs/models"), Path("out/pages")


def measure(name: str, out: Path, guides: Sequence[str] | Literal["all"] = "all") -> list[dict[str, Any]]:
    """Fit families of an entry with small budgets and return the cells; resumes."""
    from benchmarks.run.execute import execute
    from benchmarks.run.plan import make_plan

    plan = make_plan(name="pages", entries=(name,), guides=guides, nuts=False, seeds=(0,), quick=True, compile="auto")
    directory = RunDir.open(execute(plan, out=out, jobs=1, pages=False).path)
    return [cell for cell in map(directory.read, directory.names()) if cell is not None]


def table(name: str, cells: Sequence[dict[str, Any]]) -> str:
    """Return the command and one row per family: verdict, what decided it, worst mean error and sd ratio, k-hat, cost."""
    lines = [
        f"`zoo compare {name} --quick --no-nuts`, seed 0. Errors of means are in sds of the reference, ratios",
        "are sd over its sd; both are those of the worst judged component.", "",
        "| family | verdict | mean error | sd ratio | k-hat | gradients |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    return "\n".join([*lines, *map(_row, cells)])


def _row(cell: dict[str, Any]) -> str:
    judged = [s for s in cell["scores"] if s["judged"] and s["mean_error"] is not None]
    mean = max(judged, key=lambda s: abs(s["mean_error"]), default=None)
    spread = max((s for s in judged if (s["sd_ratio"] or 0) > 0), key=lambda s: max(s["sd_ratio"], 1 / s["sd_ratio"]), default=None)
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
    """A bar in the name of a coordinate would end the cell of the table, between back quotes too."""
    return f"`{score['label']}`".replace("|", "\\|")


def main(names: Sequence[str] | None = None) -> None:
    """Make the table of every named entry anew; the names are those of the command line by default."""
    for name in sys.argv[1:] if names is None else names:
        replace_part(PAGES / f"{name}.md", "families", table(name, measure(name, RUNS / name)))
        print(f"{name}: written", flush=True)
