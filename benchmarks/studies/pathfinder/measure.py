"""Rows of `docs/results/pathfinder.md`: fits on posteriordb, and modes of exact targets.

Every fit to posteriordb is scored by 10,000 of its draws against the reference draws: as they are,
and with Pareto-smoothed importance weights of the mixture. The modes of the exact targets are
normals with known centers and masses; one counts as found if a normal of the fit has its center
within half of its sd.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

import guides
import zoo
from benchmarks.metrics.components import evaluate
from benchmarks.studies.against_reference import (
    columns,
    measure_each,
    posteriordb_names,
    raw_and_weighted,
)
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from benchmarks.studies.trust.hard_targets import TARGETS
from zoo.truth.stored import load

__all__ = ["METHODS", "MODES", "OWN", "measure", "mode_row", "rows_of"]

OWN = "pathfinder"
DRAWS = 10_000
SEEDS, MODE_SEEDS = (0,), tuple(range(10))
LONGEST = 1800.0  # seconds of all fits to one entry
QUICK = ("posteriordb/kidiq-kidscore_momhs", "posteriordb/arma-arma11")
# label -> options
METHODS: Mapping[str, Mapping[str, Any]] = {
    OWN: {},
    "history of 6": {"history": 6},
    "all normals": {"merge": False},
}
# target -> center, sd and mass of every mode
MODES: Mapping[str, tuple[tuple[tuple[float, float], float, float], ...]] = {
    "modes4": (((0.0, 0.0), 1.0, 0.7), ((4.0, 0.0), 1.0, 0.3)),
    "modes10": (((0.0, 0.0), 1.0, 0.7), ((10.0, 0.0), 1.0, 0.3)),
    "triangle": (((0.0, 0.0), 1.0, 0.6), ((8.0, 0.0), 1.0, 0.3), ((4.0, 7.0), 1.0, 0.1)),
    "narrow_mode": (((0.0, 0.0), 1.0, 0.5), ((6.0, 0.0), 0.1, 0.5)),
}
NEAR = 0.5  # sds of a mode, from its center to that of a normal that answers for it
Row = dict[str, Any]


def measure(part: str, work: Work) -> dict[str, Any]:
    """Measure the entries or targets that are missing, each in a process of its own."""
    kept = Kept(work.out / f"{part}.json")
    if part == "modes":
        names = list(MODES)[:2] if work.quick else list(MODES)
        seeds = MODE_SEEDS[:2] if work.quick else MODE_SEEDS
        made = {name: functools.partial(_mode_rows, name, seeds) for name in names}
    else:
        names = posteriordb_names(work.quick, QUICK)
        made = {name: functools.partial(rows_of, name, SEEDS) for name in names}
    return measure_each(made, kept, work, LONGEST)


def rows_of(name: str, seeds: tuple[int, ...]) -> list[Row]:
    """Return one row per method and seed on one entry.

    `mean` is the largest |mean error| of a judged component in reference sds, `sd` the ratio
    farthest from 1; `weighted_mean` and `weighted_sd` are those of the weighted draws, whatever
    k-hat and ESS are; `path` is the largest number of gradients of a path.
    """
    entry = zoo.load(name)
    data = entry.load_data()
    truth = load(entry, data).posterior
    assert truth is not None
    judged = [q for q, quantity in entry.quantities.items() if quantity.judged]
    flat = columns(evaluate(truth, judged))
    center, width = flat.mean(0), flat.std(0)
    rows = []
    for label, options in METHODS.items():
        for seed in seeds:
            fit = guides.fit(entry, OWN, seed=seed, data=data, progress=False, **options)
            row = {"entry": name, "method": label, **_described(fit)}
            if fit.ok:
                posterior = guides.draw(fit, DRAWS)
                values = columns(evaluate(posterior, judged))
                row |= raw_and_weighted(values, posterior.log_weights, center, width)
            rows.append(row)
    return rows


def mode_row(name: str, seed: int) -> Row:
    """Return which modes of a target a fit found, and their masses with errors.

    `masses` and `errors` have an item per mode of the target, None where it was not found;
    `other` is the mass of normals at no mode.
    """
    entry = TARGETS[name].entry(name)
    fit = guides.fit(entry, OWN, seed=seed, progress=False)
    row: Row = {"entry": name, "method": OWN, **_described(fit)}
    modes = MODES[name]
    row["true"] = [mass for *_, mass in modes]
    row["masses"], row["errors"], row["other"] = [None] * len(modes), [None] * len(modes), 0.0
    if not fit.ok:
        return row
    guide: Any = fit.guide
    for k, normal in enumerate(guide.normals):
        weight, error = float(guide.weight[k]), float(guide.weight_error[k])
        for m, (center, sd, _) in enumerate(modes):
            apart = normal.loc - torch.tensor(center, dtype=normal.loc.dtype)
            if float(apart.norm()) <= NEAR * sd and row["masses"][m] is None:
                row["masses"][m], row["errors"][m] = weight, error
                break
        else:
            row["other"] += weight
    return row


def _mode_rows(name: str, seeds: tuple[int, ...]) -> list[Row]:
    return [mode_row(name, seed) for seed in seeds]


def _described(fit: guides.Fit) -> Row:
    return {
        "seed": fit.seed,
        "status": fit.stop.status,
        "said": fit.stop.sentence,
        "gradients": fit.cost.gradient_evaluations,
        "path": int(fit.guide.get_buffer("path_gradients").max()),
        "seconds": fit.cost.seconds,
        "elbo": None if fit.elbo is None else fit.elbo.value_nats,
        "normals": len(fit.guide.normals),  # type: ignore[arg-type]
    }
