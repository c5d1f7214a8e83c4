"""The evidence of every entry, with its error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows, json_text

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.evidence.measure import measure

    return measure(part, work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.evidence.render import package, page

    return Rendered(
        text=page(rows),
        files={"evidence.json": json_text(rows)},
        package={"zoo/references/evidence.json": json_text(package(rows))},
    )


def _read(folder: Path) -> Rows:
    return json_rows(folder / "evidence.json")


STUDY = Study(
    name="evidence",
    title="Log evidence of every entry, with its error",
    page="docs/results/evidence.md",
    seconds=3_000,
    quick_seconds=60,
    measure=_measure,
    render=_render,
    read=_read,
)
