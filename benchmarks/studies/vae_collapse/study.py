"""Posterior collapse: what schedules of the KL do for a decoder that can ignore the code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.vae_collapse.measure import measure

    return measure(work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.vae_collapse.render import page, picture, record

    found = rows["table"]
    files = {"vae_collapse.svg": picture(found), "vae_collapse.json": record(found)}
    return Rendered(text=page(found), files=files)


def _read(folder: Path) -> Rows:
    found = json_rows(folder / "vae_collapse.json")
    return {"table": found} if found else {}


STUDY = Study(
    name="vae_collapse",
    title="Posterior collapse under schedules of the KL",
    page="docs/results/vae_collapse.md",
    seconds=2900,
    quick_seconds=180,
    measure=_measure,
    render=_render,
    read=_read,
)
