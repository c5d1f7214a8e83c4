"""Topic models: recovery of known topics, and held-out digits by one common evaluator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows, json_text

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.lda.measure import PARTS

    return PARTS[part](work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.lda.render import render

    # one order of the tables, whatever the order of measurement
    rows = json.loads(json.dumps(rows, sort_keys=True))
    return Rendered(text=render(rows), files={"lda.json": json_text(rows)})


def _read(folder: Path) -> Rows:
    return json_rows(folder / "lda.json")


STUDY = Study(
    name="lda",
    title="Topic models against known topics, scikit-learn and tomotopy",
    page="docs/results/lda.md",
    seconds=600,
    quick_seconds=60,
    parts=("bars", "number_of_topics", "three_numbers", "amortized", "digits"),
    needs="tomotopy for its own rows",
    measure=_measure,
    render=_render,
    read=_read,
)
