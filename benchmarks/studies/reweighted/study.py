"""Reweighted draws on posteriordb: errors beside the raw ones, k-hat, effective draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows, json_text

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.reweighted.measure import measure

    return measure(part, work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.reweighted.render import page

    return Rendered(text=page(rows), files={"reweighted.json": json_text(rows)})


def _read(folder: Path) -> Rows:
    return json_rows(folder / "reweighted.json")


STUDY = Study(
    name="reweighted",
    title="Reweighted draws of guides on posteriordb: errors, k-hat, effective draws",
    page="docs/results/reweighted.md",
    seconds=3_600,
    quick_seconds=60,
    parts=("laplace", "others"),
    needs="a copy of posteriordb in POSTERIORDB",
    measure=_measure,
    render=_render,
    read=_read,
)
