"""The posterior by tempered SMC, begun from a guide's draws: an estimated reference.

The base is the widened guide, with further components at the modes that climbs found and over the
prior (`benchmarks.trust.base`). Draws are `[island, particle]`, equally weighted within an island;
islands weigh as their estimates of Z do, and errors come from their differences: the points of one
island share ancestors, so their number says nothing of the error. `Estimate.posterior` has log
Z-hat of its island and the ancestor of each draw among its statistics, so that moments and
evidence are known from stored draws as well.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import norm, t
from torch import Tensor

from benchmarks.mcmc.tempered_smc import (
    ISLANDS,
    PARTICLES,
    LogEvidence,
    Smc,
    evidence,
    island_mean,
    tempered,
)
from benchmarks.trust.base import smc_base
from benchmarks.trust.drift import PILOT, drift_of
from benchmarks.trust.judged import Judged
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites
from zoo.seeds import derive_seed
from zoo.types import Cost, Data, ModelEntry, Moments, Posterior, Reference

__all__ = [
    "LOG_Z",
    "METHOD",
    "SMC_DIMENSIONS",
    "Estimate",
    "estimate",
    "estimated_reference",
    "evidence_of",
    "island_moments",
]

METHOD = "smc"
SMC_DIMENSIONS = 150  # beyond, tempered SMC is not run
LOG_Z, ANCESTOR = "log_z", "ancestor"  # statistics of a draw
SETTLING = 2048  # points that have to stay where they are under further chains


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What SMC found.

    Attributes:
        smc: points and evidence of the islands.
        posterior: the same points as draws `[island, particle]` of the method `smc`; its `doubt`
            says why they may not be the posterior, empty if nothing speaks against them.
        proper: whether the prior is proper, so that Z is an evidence.
        depth: gradients one after another.
    """

    smc: Smc
    posterior: Posterior
    proper: bool
    depth: int

    @property
    def doubt(self) -> str:
        """Why the draws may not be the posterior, in one sentence."""
        return self.posterior.doubt

    @property
    def evidence(self) -> LogEvidence:
        """Log Z in nats; with an improper prior a normalizer of this density only."""
        return self.smc.evidence

    @property
    def reference(self) -> Reference:
        """The draws as a reference, unusable where they are in doubt."""
        return estimated_reference(self.posterior, proper=self.proper)

    def draws(self, density: LogDensity, n: int, seed: int) -> Posterior:
        """Return n equally weighted draws `[n]` of all islands, by their weights."""
        points = self.smc.draws(n, seed)
        with torch.no_grad():
            sites = density.constrain(points)
        return dataclasses.replace(
            self.posterior, draws=sites, sample_dims=("sample",), unconstrained=points, stats={}
        )


def estimate(
    density: LogDensity,
    entry: ModelEntry,
    data: Data,
    u: Tensor,
    *,
    modes: Sequence[Tensor] = (),
    k_hat: float = 0.0,
    islands: int = ISLANDS,
    particles: int = PARTICLES,
    seed: int = 0,
) -> Estimate:
    """Run tempered SMC from a guide's draws, and chains from its points as a check.

    Args:
        density: the log density of the posterior, compiled or not.
        entry: whose quantities are judged.
        data: what the program is conditioned on.
        u: draws of the guide `[n, dim]`, unconstrained.
        modes: points `[dim]` of modes where the guide has never been.
        k_hat: of the guide's weights.
        islands: counting islands, at least 2.
        particles: points of an island.
        seed: of all noise.

    Raises:
        FitError: the density is finite at no point of the base, or the path does not end.
        LinAlgError: a covariance of the base cannot be factored.
    """
    begin, before = time.perf_counter(), density.gradient_evaluations
    base = smc_base(density, data, u, particles=particles, modes=modes, k_hat=k_hat)
    found = tempered(density, base, islands=islands, seed=seed)
    doubt, depth = found.doubt, found.depth
    if not doubt:
        doubt, more = _unsettled(density, Judged(density, entry, data), found, seed)
        depth += more
    with torch.no_grad():
        sites = density.constrain(found.points)
    log_z = torch.tensor(found.evidence.islands, dtype=torch.float64)
    posterior = Posterior(
        entry=entry,
        data=data,
        method=METHOD,
        draws=sites,
        sample_dims=("chain", "draw"),
        unconstrained=found.points,
        stats={
            LOG_Z: log_z[:, None].expand(found.points.shape[:2]).contiguous(),
            ANCESTOR: found.ancestors,
        },
        seed=seed,
        doubt=doubt,
        cost=Cost(
            seconds=time.perf_counter() - begin,
            gradient_evaluations=density.gradient_evaluations - before,
            sequential_depth=depth,
        ),
    )
    return Estimate(smc=found, posterior=posterior, proper=not flat_sites(density), depth=depth)


def _unsettled(density: LogDensity, judged: Judged, smc: Smc, seed: int) -> tuple[str, int]:
    """Return why chains from the points of SMC still move or know their starts, and their depth.

    All islands can share a bias that their differences do not show: a narrow place that no
    trajectory enters. Chains that start there forget slowly.
    """
    x = smc.draws(SETTLING + PILOT, derive_seed(seed, "trust", "settled"))
    again = drift_of(density, x[:SETTLING], judged, pilot=x[SETTLING:], seed=seed + 1)
    if again.found:
        return "Chains from the points of SMC leave them.", again.depth
    doubt = again.doubt and f"Chains from the points of SMC have not settled: {again.doubt}."
    return doubt, again.depth


def evidence_of(posterior: Posterior) -> LogEvidence:
    """Return log Z from the draws of SMC, as computed or as read from a file."""
    return evidence(posterior.stats[LOG_Z][:, 0].tolist())


def estimated_reference(posterior: Posterior, *, proper: bool) -> Reference:
    """Return draws of SMC as a reference of the kind `estimated`, unusable if in doubt.

    Args:
        posterior: draws of the method `smc`.
        proper: whether the prior is proper; else there is no evidence.
    """
    found, known = evidence_of(posterior), proper and not posterior.doubt
    return Reference(
        kind="estimated",
        posterior=posterior,
        moments=island_moments(posterior),
        log_evidence=found.value if known else None,
        log_evidence_se=found.se if known else None,
        usable=not posterior.doubt,
        reason=posterior.doubt,
    )


def island_moments(posterior: Posterior) -> Mapping[str, Moments]:
    """Return moments of every quantity with errors from the differences between islands.

    The errors are widened so that 1.645 of them hold 90 %: with k islands they have k - 1 degrees
    of freedom, and what follows takes errors as those of a normal.
    """
    log_z = posterior.stats[LOG_Z][:, 0].double()
    wide = float(t.isf(0.05, len(log_z) - 1) / norm.isf(0.05))
    out = {}
    for name, quantity in posterior.entry.quantities.items():
        values = quantity.fn(posterior.draws, posterior.data).detach().double()
        constant = values.flatten(0, 1).amax(0) == values.flatten(0, 1).amin(0)
        mean, mean_se = island_mean(values, log_z)
        mean = torch.where(constant, values[0, 0], mean)  # weighted means round
        variance, variance_se = island_mean((values - mean).square(), log_z)
        sd = variance.sqrt()
        safe = torch.where(sd > 0, sd, 1.0)
        out[name] = Moments(
            mean=mean,
            mean_se=wide * torch.where(constant, 0.0, mean_se),
            sd=sd,
            sd_se=wide * 0.5 * variance_se / safe,
        )
    return out
