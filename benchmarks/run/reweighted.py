"""Rows of reweighted draws, each of which begins from the kept fit of its family.

Every file of `benchmarks` that this module imports is part of the key of such a row
(`benchmarks.run.sources`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.comparison.reweight import START, refuse_without_weights, reweighted
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.errors import FitError

if TYPE_CHECKING:
    from guides.types import Fit
    from zoo.types import Posterior

__all__ = ["PER_DRAW", "from_fit"]

PER_DRAW = START  # densities for a draw, where the first ones are enough


def from_fit(
    fit: Fit | None, family: str, config: Mapping[str, Any], *, draws: int, seed: int
) -> tuple[Posterior, Mapping[str, Any]]:
    """Return reweighted draws of a fit, and the compilation of its density.

    Args:
        fit: the kept fit; None if it failed.
        family: whose fit it is.
        config: settings, `compile` among them.
        draws: number wanted.
        seed: of all noise.

    Raises:
        FitError: there is no fit, or its weights do not allow it.
    """
    if fit is None:
        raise FitError(f"There is no usable fit of {family} to reweight; see the row {family}.")
    refuse_without_weights(fit)
    with session(fit.entry.dtype):
        density = LogDensity(fit.program, fit.data, dtype=fit.entry.dtype)
        record = density.compile(config["compile"], expected_calls=PER_DRAW * draws)
        found = reweighted(fit, density, draws=draws, seed=seed)
    compiling = found.cost.compile_seconds + record["compile_seconds"]
    cost = dataclasses.replace(found.cost, compile_seconds=compiling)
    return dataclasses.replace(found, cost=cost), {
        name: density.compiled[name] for name in ("used", "reason")
    }
