"""Mixtures and latent classes: evidence, labels, modes, held-out score, coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Rendered, Rows, Study, Work
from benchmarks.studies.rows import json_rows, json_text

__all__ = ["STUDY"]


def _measure(part: str, work: Work) -> Any:
    from benchmarks.studies.latent_classes.measure import PARTS

    return PARTS[part](work.quick)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.latent_classes.render import render

    return Rendered(text=render(rows), files={"latent_classes.json": json_text(rows)})


def _read(folder: Path) -> Rows:
    return json_rows(folder / "latent_classes.json")


STUDY = Study(
    name="latent_classes",
    title="Mixtures and latent classes: labels, evidence, coverage",
    page="docs/results/latent_classes.md",
    seconds=3600,
    quick_seconds=240,
    parts=(
        "evidence",
        "network",
        "labels",
        "modes",
        "co_clustering",
        "coverage",
        "coverage_guide",
        "heldout_iris",
        "heldout_wine",
        "heldout_breast_cancer",
    ),
    measure=_measure,
    render=_render,
    read=_read,
)
