"""Pathfinder: error and widths on posteriordb, modes and masses on exact targets, and cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows, json_text

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.pathfinder.measure import measure

    return measure(part, work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.pathfinder.render import page

    return Rendered(text=page(rows), files={"pathfinder.json": json_text(rows)})


def _read(folder: Path) -> Rows:
    return json_rows(folder / "pathfinder.json")


STUDY = Study(
    name="pathfinder",
    title="Pathfinder: errors on posteriordb, modes and masses on exact targets",
    page="docs/results/pathfinder.md",
    seconds=1_800,
    quick_seconds=60,
    parts=("fits", "modes"),
    needs="a copy of posteriordb in POSTERIORDB",
    measure=_measure,
    render=_render,
    read=_read,
)
