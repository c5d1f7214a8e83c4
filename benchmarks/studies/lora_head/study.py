"""Adapters: calibration, prior scale, exact small forms, costs, and laplace-torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import csv_rows, csv_text, json_rows, json_text

__all__ = ["STUDY"]

MODEL_PAGE = "docs/models/lora_head.md"


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.lora_head.measure import PARTS

    return PARTS[part](work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.lora_head.render import COLUMNS, DIGITS, page
    from benchmarks.studies.lora_head.tables import peer, sections

    lab = rows.get("lab", [])
    others = {part: found for part, found in rows.items() if part != "lab"}
    files = {"lora_head.csv": csv_text(lab, COLUMNS, DIGITS)}
    if others:
        files["lora_head.json"] = json_text(others)
    parts = {}
    if rows.get("peer"):
        parts[MODEL_PAGE] = {"laplace-torch": "\n".join(peer(rows["peer"]))}
    return Rendered(text=page(lab) + sections(others), files=files, parts=parts)


def _read(folder: Path) -> Rows:
    lab = csv_rows(folder / "lora_head.csv")
    return {**({"lab": lab} if lab else {}), **json_rows(folder / "lora_head.json")}


STUDY = Study(
    name="lora_head",
    title="Adapters: calibration of guides against NUTS",
    page="docs/results/lora_head.md",
    seconds=900,
    quick_seconds=300,
    parts=("lab", "truth", "scale", "cost", "peer"),
    optional=("peer",),
    needs="laplace-torch for the part peer",
    measure=_measure,
    render=_render,
    read=_read,
)
