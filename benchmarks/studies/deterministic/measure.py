"""Rows of `docs/results/deterministic.md`: deterministic fits and others on posteriordb.

Every fit is scored by 40,000 of its draws, in mirrored pairs, against the reference draws: with
the 2,000 draws of a report the worst of ten means would be off by 0.04 sds by chance alone.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import guides
import zoo
from benchmarks.metrics.components import Array, evaluate
from benchmarks.studies.against_reference import measure_each
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from guides.draws import density_of
from guides.session import session
from zoo.seeds import seeded
from zoo.truth.stored import load
from zoo.types import Posterior

__all__ = ["CALIBRATED", "METHODS", "calibrate", "measure", "rows_of"]

PAIRS = 20_000
SEEDS = (0, 1, 2)
FITS = 20  # per design, of the calibration of the stated error
LONGEST = 7200.0  # seconds of all fits to one entry
UNLIMITED = 1e9  # a target that one block meets
QUICK = ("posteriordb/kidiq-kidscore_momhs", "posteriordb/arma-arma11")
# label -> family and options
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "deterministic": ("deterministic", {}),
    "its mean field": ("deterministic", {"covariance": "mean_field"}),
    "mirrored": ("deterministic", {"design": "mirrored"}),
    "sobol": ("deterministic", {"design": "sobol"}),
    "30 independent": (
        "deterministic",
        {"design": "independent", "draws": 30, "target": UNLIMITED},
    ),
    "mean_field": ("mean_field", {}),
    "laplace": ("laplace", {}),
}
CALIBRATED = (
    "posteriordb/arK-arK",
    "posteriordb/arma-arma11",
    "posteriordb/mesquite-mesquite",
    "posteriordb/eight_schools-eight_schools_noncentered",
    "robust_regression",
    "weibull_survival",
)
DESIGNS = ("matched", "mirrored", "sobol", "independent")
Row = dict[str, Any]


def measure(part: str, work: Work) -> dict[str, list[Row]]:
    """Measure the entries that are missing, each in a process of its own."""
    kept = Kept(work.out / "rows.json")
    names = [name for name in zoo.names() if name.startswith("posteriordb/")]
    seeds: tuple[int, ...] = SEEDS[:1] if work.quick else SEEDS
    row = rows_of
    if part == "calibration":
        names, row, seeds = list(CALIBRATED), calibrate, tuple(range(4 if work.quick else FITS))
    if work.quick:
        names = [name for name in names if name in (*QUICK, CALIBRATED[-1])]
    made = {name: functools.partial(row, name, seeds) for name in names}
    return measure_each(made, kept, work, LONGEST)


def rows_of(name: str, seeds: tuple[int, ...]) -> list[Row]:
    """Return one row per method and seed on one entry.

    `mean_error` is the largest |mean error| of a judged component in reference sds, `sd_ratio` the
    ratio farthest from 1, `draw_error` the largest error of a mean that the fit itself states.
    """
    entry = zoo.load(name)
    data = entry.load_data()
    truth = load(entry, data).posterior
    assert truth is not None
    judged = [q for q, quantity in entry.quantities.items() if quantity.judged]
    center, width = _moments(evaluate(truth, judged))
    rows = []
    for label, (family, options) in METHODS.items():
        for seed in seeds:
            fit = guides.fit(entry, family, seed=seed, data=data, progress=False, **options)
            row: Row = {"entry": name, "method": label, "seed": seed, "status": fit.stop.status}
            row["gradients"] = fit.cost.gradient_evaluations
            row["seconds"] = fit.cost.seconds
            row["elbo"] = None if fit.elbo is None else fit.elbo.value_nats
            row["draw_error"] = _stated(fit)
            if fit.ok:
                mean, sd = _moments(evaluate(_many(fit), judged))
                ratio = sd / width
                row["mean_error"] = float(np.abs((mean - center) / width).max())
                row["sd_ratio"] = float(ratio[np.abs(np.log(ratio)).argmax()])
            rows.append(row)
    return rows


def calibrate(name: str, seeds: tuple[int, ...]) -> list[Row]:
    """Return per design the spread of the means over fits, and the error that these state.

    `spread` is the largest sd of a location over the seeds, in posterior sds; `stated` the median
    over the seeds of the largest stated error.
    """
    entry = zoo.load(name)
    data = entry.load_data()
    rows = []
    for design in DESIGNS:
        options: dict[str, Any] = {"design": design, "target": UNLIMITED}
        if design == "independent":
            options["draws"] = 30
        fits = [
            guides.fit(entry, "deterministic", seed=s, data=data, progress=False, **options)
            for s in seeds
        ]
        ends = [fit.guide.get_posterior() for fit in fits if fit.ok]  # type: ignore[operator]
        spread = torch.stack([end.mean for end in ends]).std(0) / ends[0].stddev
        stated = [_stated(fit) for fit in fits if fit.ok]
        rows.append(
            {
                "entry": name,
                "design": design,
                "fits": len(ends),
                "spread": float(spread.max()),
                "stated": float(np.median([s for s in stated if s is not None])),
            }
        )
    return rows


def _stated(fit: guides.Fit) -> float | None:
    if fit.family != "deterministic" or not fit.ok:
        return None
    return float(fit.guide.get_buffer("draw_error").max())


def _many(fit: guides.Fit) -> Posterior:
    """Return mirrored pairs of draws of a fit whose guide is normal."""
    with session(fit.entry.dtype), seeded(0), torch.no_grad():
        normal = fit.guide.get_posterior()  # type: ignore[operator]
        half = normal.rsample((PAIRS,))
        u = torch.cat([half, 2 * normal.mean - half])
        sites = density_of(fit).constrain(u)
    return Posterior(
        entry=fit.entry,
        data=fit.data,
        method=fit.family,
        draws=sites,
        sample_dims=("sample",),
        unconstrained=u,
        seed=fit.seed,
    )


def _moments(values: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return mean and sd of every component, from `[chain, draw, *shape]`."""
    flat = [v.reshape(v.shape[0] * v.shape[1], -1) for v in values.values()]
    draws = np.concatenate(flat, axis=1)
    return draws.mean(0), draws.std(0)
