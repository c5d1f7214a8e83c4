"""Rows of the cost of an assessment, beside NUTS on the same posterior.

Seconds are CPU seconds of one process with one torch thread, so that other work on the machine
matters little. NUTS runs its four chains one after another in that process; its cost is counted up
to an ESS of 1,000:

    seconds (tune + draws 1000 / ESS) / (tune + draws)

and its sequential depth is that of one chain. An assessment is that of a mean-field fit (Laplace
where the entry has none); the fit and the wide climbs are counted apart. Both sides are compiled
before they are timed.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

import guides
import zoo
from benchmarks.comparison.assess import assess
from benchmarks.mcmc.diagnostics import smallest_ess
from benchmarks.mcmc.nuts import TUNE, run_nuts
from benchmarks.trust.estimate import SMC_DIMENSIONS
from guides.session import session
from zoo.density.log_density import LogDensity

__all__ = ["ESS", "cost_row", "cost_rows", "to_ess"]

ESS = 1000.0
POINTS = 10**7  # gradients that make every batch worth its compilation
TIMED = 200  # gradients at one point
CHAINS, DRAWS = 4, 1000
QUICK = ("coin", "eight_schools")
Row = dict[str, Any]


def cost_rows(quick: bool) -> Iterable[tuple[str, Callable[[], Row]]]:
    """Return the rows by name: every entry, in a fixed random order, as those of `fits`."""
    names = list(QUICK if quick else zoo.names())
    random.Random(0).shuffle(names)
    for name in names:
        yield name, functools.partial(cost_row, name)


def cost_row(name: str, seed: int = 0) -> Row:
    """Return seconds and depths of NUTS and of one assessment."""
    entry = zoo.load(name)
    if entry.learns:
        return {"status": "left out", "why": "a program that is trained"}
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    if density.dim > SMC_DIMENSIONS:
        return {"status": "left out", "why": f"{density.dim} coordinates"}
    family = "mean_field" if "mean_field" in entry.families else "laplace"
    fit = guides.fit(entry, family, seed=seed, data=data)
    if not fit.ok or fit.points:
        return {"status": fit.stop.status, "why": fit.stop.sentence}
    torch.set_num_threads(1)
    with session(entry.dtype):
        each = _compiled(density)
        begin = time.process_time()
        nuts = run_nuts(
            entry,
            data=data,
            seed=seed,
            chains=CHAINS,
            draws=DRAWS,
            min_ess=ESS,
            log_density=density,
            in_process=True,
            progress=False,
        )
        seconds = time.process_time() - begin
    ess, draws = smallest_ess(nuts), nuts.sample_shape[1]
    share = to_ess(ess, draws)
    at: dict[str, float] = {}
    begin = time.process_time()
    found = assess(
        fit,
        seed=seed,
        progress=lambda text: at.update({text.split(":")[0]: time.process_time() - begin}),
    )
    total = time.process_time() - begin
    climbs = 0 if found.climbs is None else found.climbs.gradients
    return {
        "status": "ok",
        "entry": name,
        "family": family,
        "dimensions": density.dim,
        "gradient_seconds": each,
        "nuts_seconds": seconds * share,
        "nuts_depth": nuts.cost.gradient_evaluations / CHAINS * share,
        "nuts_ess": ess,
        "drift_seconds": at.get("drift"),
        "seconds": total,
        "depth": found.depth - climbs,
        "gradients": found.gradients,
        "verdict": found.verdict,
        "smc": next((c.passed for c in found.checks if c.name == "smc"), None),
    }


def to_ess(ess: float, draws: int, tune: int = TUNE["nutpie"]) -> float:
    """Return the share of a run of NUTS that an ESS of 1,000 takes; beyond it, more than one.

    Args:
        ess: the smallest of the whole run.
        draws: of each chain.
        tune: warm-up of each chain, which is needed in any case.
    """
    return (tune + draws * ESS / max(ess, 1.0)) / (tune + draws)


def _compiled(density: LogDensity) -> float:
    """Compile what both sides call, and return the seconds of one gradient at one point."""
    density.compile("auto", expected_calls=10**6, expected_points=POINTS)
    u = torch.zeros(1024, density.dim, dtype=density.dtype)
    for _ in range(2):
        density.batch_gradient(u)
        density.batch(u)
    gradient = density.numpy_gradient()
    point = u[0].numpy()
    begin = time.process_time()
    for _ in range(TIMED):
        gradient(point)
    return (time.process_time() - begin) / TIMED
