"""Trust without a truth: verdicts, errors, repaired draws and evidences beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows, json_text

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.trust.measure import measure

    return measure(part, work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.trust.render import page

    return Rendered(text=page(rows), files={"trust.json": json_text(rows)})


def _read(folder: Path) -> Rows:
    return json_rows(folder / "trust.json")


STUDY = Study(
    name="trust",
    title="Trust without a truth, judged where the truth is known",
    page="docs/results/trust.md",
    seconds=10_000,
    quick_seconds=240,
    measure=_measure,
    render=_render,
    read=_read,
    parts=("hard", "exact_draws", "evidence", "cost", "fits"),
)
