"""Comparison of this project's chains with the published draws of posteriordb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.draw_parity.measure import measure

    return measure(work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.draw_parity.render import markdown, table

    return Rendered(text=markdown(rows["table"]), files={"draw_parity.csv": table(rows["table"])})


def _read(folder: Path) -> Rows:
    from benchmarks.studies.draw_parity.render import read

    found = read(folder)
    return {"table": found} if found else {}


STUDY = Study(
    name="draw_parity",
    title="Our NUTS against the published draws of posteriordb",
    page="docs/results/draw_parity.md",
    seconds=2400,
    quick_seconds=150,
    needs="a copy of posteriordb in POSTERIORDB",
    measure=_measure,
    render=_render,
    read=_read,
)
