"""Families of guides over every posterior of posteriordb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import csv_rows

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.posteriordb.measure import measure

    return measure(part, work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.posteriordb.render import markdown, picture, table

    fits, chains = rows.get("fits", []), rows.get("chains", [])
    files = {"posteriordb.csv": table(fits), "posteriordb.svg": picture(fits, chains)}
    return Rendered(text=markdown(fits), files=files)


def _read(folder: Path) -> Rows:
    from benchmarks.studies.draw_parity.render import read
    from benchmarks.studies.posteriordb.render import chains

    fits = csv_rows(folder / "posteriordb.csv")
    return {"fits": fits, "chains": chains(read(folder))} if fits else {}


STUDY = Study(
    name="posteriordb",
    title="Families of guides on the posteriors of posteriordb",
    page="docs/results/posteriordb.md",
    seconds=5400,
    quick_seconds=400,
    parts=("fits", "chains"),
    needs="a copy of posteriordb in POSTERIORDB",
    measure=_measure,
    render=_render,
    read=_read,
)
