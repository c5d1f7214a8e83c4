"""Rows of tempered SMC: draws that begin from the guides of a run, and the fits compared by them.

Every file of `benchmarks` that this module imports is part of the key of such a row
(`benchmarks.run.sources`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.comparison.assess_steps import DRIFT_GRADIENTS, SMC_GRADIENTS
from benchmarks.comparison.estimate_from import DRAWS, estimate_from
from benchmarks.mcmc.tempered_smc import ISLANDS, PARTICLES
from benchmarks.trust.estimate import METHOD, SMC_DIMENSIONS
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.seeds import derive_seed

if TYPE_CHECKING:
    from guides.types import Fit
    from zoo.types import Posterior

__all__ = ["GRADIENTS", "METHOD", "SMC_DIMENSIONS", "estimated"]

GRADIENTS = (ISLANDS + 1) * PARTICLES * SMC_GRADIENTS + DRAWS * DRIFT_GRADIENTS


def estimated(
    starts: Sequence[Fit], config: Mapping[str, Any], *, seed: int
) -> tuple[Posterior, Mapping[str, Any]]:
    """Run tempered SMC from the first guide that has a spread; return draws and the compilation.

    Args:
        starts: fits of the run, in the order of its rows.
        config: settings, `compile` among them.
        seed: of all noise.

    Raises:
        FitError: no fit is usable, or SMC finds no way to the posterior.
    """
    fit = next((f for f in starts if f.ok and not f.points), None)
    if fit is None:
        raise FitError(
            "Tempered SMC begins from a guide with a spread, and this run has none that is usable;"
            " add a family such as laplace or mean_field."
        )
    seed = derive_seed(seed, fit.entry.key, METHOD)
    with session(fit.entry.dtype):
        density = LogDensity(fit.program, fit.data, dtype=fit.entry.dtype)
        record = density.compile(config["compile"], expected_calls=DRAWS * 100)
        estimate, depth = estimate_from(fit, density, seed=seed)
    found = estimate.posterior
    cost = dataclasses.replace(
        found.cost,
        compile_seconds=record["compile_seconds"],
        gradient_evaluations=density.gradient_evaluations,
        sequential_depth=depth,
    )
    begun = f"Begun from the draws of {fit.family}."
    draws = dataclasses.replace(found, cost=cost, notes=(begun, *found.notes))
    return draws, {name: density.compiled[name] for name in ("used", "reason")}
