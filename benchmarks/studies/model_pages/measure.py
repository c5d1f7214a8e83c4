"""Comparisons for the pages of the models: every family, small budgets, no chains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import zoo
from benchmarks.run.execute import execute
from benchmarks.run.plan import make_plan
from benchmarks.run.progress import Events
from benchmarks.run.store import RunDir
from benchmarks.studies.record import Work

__all__ = ["cells", "measure"]

# fields of a cell in the table, besides its scores
SHOWN = ("method", "status", "verdict", "pareto_k", "cost")
SCORES = ("label", "judged", "mean_error", "sd_ratio")


def cells(
    name: str,
    out: Path,
    guides: Sequence[str] | Literal["all"] = "all",
    *,
    jobs: int = 1,
    events: Events | None = None,
) -> list[dict[str, Any]]:
    """Fit families of an entry with small budgets and return the cells; resumes."""
    plan = make_plan(
        name="pages",
        entries=(name,),
        guides=guides,
        nuts=False,
        seeds=(0,),
        quick=True,
        compile="auto",
    )
    directory = RunDir.open(execute(plan, out=out, jobs=jobs, events=events, pages=False).path)
    return [cell for cell in map(directory.read, directory.names()) if cell is not None]


def measure(name: str, work: Work) -> list[dict[str, Any]]:
    """Return the fields of every cell of an entry that the table needs.

    A quick run fits only the first family.
    """
    guides: Any = [zoo.load(name).families[0]] if work.quick else "all"
    found = cells(name, work.out / "run", guides, jobs=work.jobs, events=work.progress)
    return [
        {**{k: c[k] for k in SHOWN}, "scores": [{k: s[k] for k in SCORES} for s in c["scores"]]}
        for c in found
    ]
