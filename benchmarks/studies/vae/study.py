"""Autoencoders against the exact evidence: scores of trained variants, and gaps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows, json_text

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.vae.measure import measure

    return measure(part, work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.vae.render import render

    return Rendered(text=render(rows), files={"vae.json": json_text(rows)})


def _read(folder: Path) -> Rows:
    return json_rows(folder / "vae.json")


STUDY = Study(
    name="vae",
    title="Autoencoders against the exact evidence",
    page="docs/results/vae.md",
    seconds=900,
    quick_seconds=240,
    parts=("scores", "others", "bars"),
    measure=_measure,
    render=_render,
    read=_read,
)
