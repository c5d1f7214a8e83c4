"""Batch and match on posteriordb: error and widths, raw and reweighted, and cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows, json_text

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.batch_and_match.measure import measure

    return measure(part, work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.batch_and_match.render import page

    return Rendered(text=page(rows), files={"batch_and_match.json": json_text(rows)})


def _read(folder: Path) -> Rows:
    return json_rows(folder / "batch_and_match.json")


STUDY = Study(
    name="batch_and_match",
    title="Batch and match on posteriordb: error, widths, cost",
    page="docs/results/batch_and_match.md",
    seconds=3_600,
    quick_seconds=60,
    parts=("fits", "nuts"),
    needs="a copy of posteriordb in POSTERIORDB",
    measure=_measure,
    render=_render,
    read=_read,
)
