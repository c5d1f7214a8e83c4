"""Deterministic fits on posteriordb: error, widths, cost, and the error they state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows, json_text

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.deterministic.measure import measure

    return measure(part, work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.deterministic.render import page

    return Rendered(text=page(rows), files={"deterministic.json": json_text(rows)})


def _read(folder: Path) -> Rows:
    return json_rows(folder / "deterministic.json")


STUDY = Study(
    name="deterministic",
    title="Deterministic fits on posteriordb: error, widths, cost",
    page="docs/results/deterministic.md",
    seconds=3_600,
    quick_seconds=60,
    parts=("fits", "calibration"),
    needs="a copy of posteriordb in POSTERIORDB",
    measure=_measure,
    render=_render,
    read=_read,
)
