"""Rows of tempered SMC and of short chains, which begin from the guides of a run.

The fits are compared by them where no truth is known.

Every file of `benchmarks` that this module imports is part of the key of such a row
(`benchmarks.run.sources`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import guides
from benchmarks.comparison.assess_steps import DRIFT_GRADIENTS, LEAST_SMC, SMC_GRADIENTS
from benchmarks.comparison.estimate_from import DRAWS, estimate_from
from benchmarks.mcmc.tempered_smc import ISLANDS, PARTICLES
from benchmarks.trust.chains import CHAINS, STARTS, chained, chains_reference
from benchmarks.trust.chains import GRADIENTS as CHAINS_GRADIENTS
from benchmarks.trust.estimate import METHOD, SMC_DIMENSIONS, estimated_reference
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites
from zoo.errors import FitError
from zoo.seeds import derive_seed

if TYPE_CHECKING:
    from guides.types import Fit
    from zoo.types import Posterior, Reference

__all__ = [
    "CHAINS",
    "ESTIMATES",
    "GRADIENTS",
    "METHOD",
    "SMC_DIMENSIONS",
    "estimated",
    "reference_by",
]

ESTIMATES = (METHOD, CHAINS)

GRADIENTS = {
    METHOD: (ISLANDS + 1) * PARTICLES * SMC_GRADIENTS + DRAWS * DRIFT_GRADIENTS,
    CHAINS: CHAINS_GRADIENTS,
}


def estimated(
    method: str, starts: Sequence[Fit], config: Mapping[str, Any], *, seed: int
) -> tuple[Posterior, Mapping[str, Any]]:
    """Begin from the first guide that has a spread; return draws and the compilation.

    Args:
        method: `smc` or `short_chains`.
        starts: fits of the run, in the order of its rows.
        config: settings, `compile` among them.
        seed: of all noise.

    Raises:
        FitError: no fit is usable, or SMC finds no way to the posterior.
    """
    fit = next((f for f in starts if f.ok and not f.points), None)
    if fit is None:
        raise FitError(
            f"The row {method} begins from a guide with a spread, and this run has none that is"
            " usable; add a family such as laplace or mean_field."
        )
    seed = derive_seed(seed, fit.entry.key, method)
    with session(fit.entry.dtype):
        density = LogDensity(fit.program, fit.data, dtype=fit.entry.dtype)
        record = density.compile(
            config["compile"],
            expected_calls=DRAWS * 100,
            expected_points=(ISLANDS + 1) * PARTICLES * LEAST_SMC,
        )
        if method == METHOD:
            estimate, depth = estimate_from(fit, density, seed=seed)
            found = estimate.posterior
        else:
            u = guides.draw(fit, STARTS, seed=derive_seed(seed, "draws")).unconstrained
            assert u is not None
            found = chained(density, fit.entry, fit.data, u, seed=seed)
            depth = found.cost.sequential_depth
    cost = dataclasses.replace(
        found.cost,
        compile_seconds=record["compile_seconds"],
        gradient_evaluations=density.gradient_evaluations,
        sequential_depth=depth,
    )
    begun = f"Begun from the draws of {fit.family}."
    draws = dataclasses.replace(found, cost=cost, notes=(begun, *found.notes))
    return draws, {name: density.compiled[name] for name in ("used", "reason")}


def reference_by(rows: Sequence[Posterior | None], density: LogDensity | None) -> Reference | None:
    """Return the reference that the rows of `ESTIMATES` give, None without such a row.

    Args:
        rows: draws of each, None where it was not run or failed.
        density: of the posterior, which tells whether Z is an evidence.
    """
    smc, chains = rows
    if smc is not None:
        assert density is not None
        return estimated_reference(smc, proper=not flat_sites(density))
    return None if chains is None else chains_reference(chains)
