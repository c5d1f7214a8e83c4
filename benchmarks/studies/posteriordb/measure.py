"""Variational inference over the posteriors of posteriordb.

Runs, and one row per family, entry and seed: its verdict, the worst numbers that decided it, k-hat
and cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zoo
from benchmarks.run.execute import execute
from benchmarks.run.plan import make_plan
from benchmarks.run.progress import Events
from benchmarks.run.store import RunDir
from benchmarks.studies.draw_parity.render import read as read_parity
from benchmarks.studies.posteriordb.render import FAMILIES, chains
from benchmarks.studies.record import Work
from benchmarks.studies.rows import json_rows

__all__ = ["measure", "run", "summaries"]

QUICK_ENTRIES = 3


def run(
    entries: Sequence[str],
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int = 2,
    events: Events | None = None,
    quick: bool = False,
) -> list[Path]:
    """Fit every family to every entry with every seed; return one run directory per seed.

    Resumes.
    """
    folders = []
    for seed in seeds:
        plan = make_plan(
            name="vi_table",
            entries=tuple(entries),
            guides=FAMILIES,
            nuts=False,
            seeds=(seed,),
            quick=quick,
        )
        folders.append(
            execute(plan, out=out / f"seed{seed}", jobs=jobs, events=events, pages=False).path
        )
    return folders


def summaries(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Return one row per compared cell of the runs.

    Worst judged mean error in reference sds, sd ratio farthest from 1, k-hat, cost.
    """
    rows = []
    for folder in folders:
        directory = RunDir.open(folder)
        for name in directory.names():
            cell = directory.read(name)
            if cell is not None and cell["verdict"] is not None:
                rows.append(_row(cell))
    return sorted(rows, key=lambda r: (r["entry"], FAMILIES.index(r["method"]), r["seed"]))


def _row(cell: dict[str, Any]) -> dict[str, Any]:
    judged = [s for s in cell["scores"] if s["judged"] and s["mean_error"] is not None]
    ratios = [s for s in judged if (s["sd_ratio"] or 0) > 0]
    mean: dict[str, Any] = max(judged, key=lambda s: abs(s["mean_error"]), default={})
    spread: dict[str, Any] = max(
        ratios, key=lambda s: max(s["sd_ratio"], 1 / s["sd_ratio"]), default={}
    )
    weights = cell["pareto_k"] or {}
    return {
        **{key: cell[key] for key in ("entry", "method", "seed", "status", "verdict")},
        "decided_by": cell["reasons"][0]["label"] if cell["reasons"] else "",
        "worst_mean_error": mean.get("mean_error"),
        "worst_mean_error_se": mean.get("mean_error_se"),
        "sd_ratio": spread.get("sd_ratio"),
        "sd_ratio_se": spread.get("sd_ratio_se"),
        "pareto_k": weights.get("value"),
        "pareto_k_threshold": weights.get("threshold"),
        "gradient_evaluations": cell["cost"]["gradient_evaluations"],
        "seconds": cell["cost"]["seconds"],
    }


def measure(part: str, work: Work) -> list[Any]:
    """Return the rows of all fits, or the points of the chains of draw parity.

    A quick run takes three entries and one seed.
    """
    if part == "chains":
        return chains(_parity_rows(work.out.parents[1]))
    names = [name for name in zoo.names() if name.startswith("posteriordb/")]
    for name in names[:1]:
        zoo.load(name).load_data()  # fails early if there is no copy of posteriordb
    if work.quick:
        folders = run(
            names[:QUICK_ENTRIES],
            work.out,
            seeds=(0,),
            jobs=work.jobs,
            events=work.progress,
            quick=True,
        )
    else:
        folders = run(names, work.out, jobs=work.jobs, events=work.progress)
    return summaries(folders)


def _parity_rows(beside: Path) -> list[dict[str, Any]]:
    """Return rows of the study draw_parity, from beside this one or as published."""
    measured = json_rows(beside / "draw_parity" / "rows.json")
    return measured["rows"]["table"] if measured.get("rows") else read_parity(Path("docs/results"))
