"""The posterior by tempered SMC that begins from a fit: its draws, its climbs, its weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import guides
from benchmarks.comparison.score import compare
from benchmarks.mcmc.tempered_smc import ISLANDS
from benchmarks.trust.climbs import wide_climbs
from benchmarks.trust.estimate import Estimate, estimate
from zoo.seeds import derive_seed

if TYPE_CHECKING:
    from guides.types import Fit
    from zoo.density.log_density import LogDensity

__all__ = ["CLIMB_GRADIENTS", "DRAWS", "estimate_from"]

DRAWS = 2048  # of the guide
CLIMB_GRADIENTS = 30_000  # most, for wide climbs


def estimate_from(
    fit: Fit, density: LogDensity, *, islands: int = ISLANDS, seed: int = 0
) -> tuple[Estimate, int]:
    """Run tempered SMC from a fit; return what it found, and its depth with that of the climbs.

    Args:
        fit: a usable fit that is no point.
        density: the log density of its posterior, compiled or not; its gradients are counted.
        islands: counting islands.
        seed: of all noise.

    Raises:
        FitError: the density is finite at no point of the base, or the path does not end.
    """
    drawn = guides.draw(fit, DRAWS, seed=derive_seed(seed, "trust", "draws"))
    assert drawn.unconstrained is not None
    climbs = wide_climbs(density, drawn, seed=seed, budget=CLIMB_GRADIENTS)
    weights = compare(drawn, None, fit=fit, heldout=False).pareto_k
    found = estimate(
        density,
        fit.entry,
        fit.data,
        drawn.unconstrained,
        modes=climbs.points,
        k_hat=math.inf if weights is None else weights.value,
        islands=islands,
        seed=seed,
    )
    return found, found.depth + climbs.gradients
