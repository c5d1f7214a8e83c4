"""Rows of `docs/results/reweighted.md`: guides on posteriordb, raw and reweighted.

Both are scored by `benchmarks.compare` against the reference draws, without joint distances.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import guides
import zoo
from benchmarks.comparison.reweight import DRAWS, reweight
from benchmarks.comparison.score import compare
from benchmarks.studies.against_reference import measure_each, posteriordb_names
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from benchmarks.types import Comparison
from guides.types import Fit
from zoo.errors import FitError
from zoo.truth.stored import load
from zoo.types import Reference

__all__ = ["PARTS", "measure", "rows_of"]

SEEDS = (0, 1, 2)
LONGEST = 7200.0  # seconds of all fits to one entry
QUICK = ("posteriordb/kidiq-kidscore_momhs", "posteriordb/arma-arma11")
PARTS: Mapping[str, tuple[str, ...]] = {
    "laplace": ("laplace",),
    "others": ("mean_field", "full_rank", "low_rank"),
}
Row = dict[str, Any]


def measure(part: str, work: Work) -> dict[str, list[Row]]:
    """Measure the entries that are missing, each in a process of its own."""
    kept = Kept(work.out / "rows.json")
    names = posteriordb_names(work.quick, QUICK)
    seeds = SEEDS if part == "laplace" and not work.quick else SEEDS[:1]
    made = {name: functools.partial(rows_of, name, PARTS[part], seeds) for name in names}
    return measure_each(made, kept, work, LONGEST)


def rows_of(name: str, families: tuple[str, ...], seeds: tuple[int, ...]) -> list[Row]:
    """Return one row per family and seed on one entry."""
    entry = zoo.load(name)
    data = entry.load_data()
    truth = load(entry, data)
    rows = []
    for family in families:
        for seed in seeds:
            fit = guides.fit(entry, family, seed=seed, data=data, progress=False)
            rows.append(_row(fit, truth, seed) | {"entry": name, "method": family, "seed": seed})
    return rows


def _row(fit: Fit, truth: Reference, seed: int) -> Row:
    """Return the errors of raw and reweighted draws, and the figures of the weights.

    `mean_error` is the largest |mean error| of a judged component in reference sds, `sd_ratio` the
    ratio farthest from 1; those of the raw draws have the prefix `raw_`.
    """
    row: Row = {"fit": fit.stop.status, "gradients": fit.cost.gradient_evaluations, "refused": ""}
    if not fit.ok:
        return row | {"refused": fit.stop.sentence}
    row |= {f"raw_{k}": v for k, v in _errors(_scored(fit, truth, None, seed)).items()}
    try:
        drawn = reweight(fit, draws=DRAWS, seed=seed)
    except FitError as error:
        return row | {"refused": str(error)}
    row |= {k: float(v[0]) for k, v in drawn.stats.items()} | {"draws": drawn.sample_shape[0]}
    row["seconds"] = drawn.cost.seconds - fit.cost.seconds
    return row | _errors(_scored(fit, truth, drawn, seed))


def _scored(fit: Fit, truth: Reference, drawn: Any, seed: int) -> Comparison:
    """Compare draws with the reference; without any, as many of the guide."""
    given = guides.draw(fit, DRAWS, seed=seed) if drawn is None else drawn
    return compare(given, truth, distances="none", heldout=False, climb=False)


def _errors(found: Comparison) -> Row:
    judged = [s for s in found.scores if s.judged]
    mean = max(judged, key=lambda s: abs(s.mean_error))
    width = max(judged, key=lambda s: abs(s.log_sd_ratio))
    return {
        "verdict": found.verdict,
        "mean_error": abs(mean.mean_error),
        "mean_of": mean.label,
        "sd_ratio": width.sd_ratio,
        "sd_of": width.label,
        "components": len(judged),
    }
