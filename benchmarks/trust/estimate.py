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

import numpy as np
import torch
from torch import Tensor

from benchmarks.mcmc.base_mixture import Mixture
from benchmarks.mcmc.islands import LogEvidence, evidence, island_mean, widening
from benchmarks.mcmc.settle import settle
from benchmarks.mcmc.tempered_smc import ISLANDS, PARTICLES, Smc, tempered
from benchmarks.trust.base import smc_base
from benchmarks.trust.drift import PILOT, drift_of
from benchmarks.trust.judged import Judged
from benchmarks.trust.prior_part import PRIOR, direct, prior_part
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites
from zoo.errors import FitError
from zoo.seeds import derive_seed
from zoo.types import Cost, Data, ModelEntry, Moments, Posterior, Reference

__all__ = [
    "BY_PRIOR",
    "LOG_Z",
    "METHOD",
    "SMC_DIMENSIONS",
    "Estimate",
    "estimate",
    "estimated_reference",
    "evidence_holds",
    "evidence_of",
    "island_moments",
]

METHOD = "smc"
SMC_DIMENSIONS = 150  # beyond, tempered SMC is not run
LOG_Z, ANCESTOR = "log_z", "ancestor"  # statistics of a draw
MOVED = "moved"  # whether later chains moved the points of SMC: log Z is then not known
PRIOR_SHARE = 0.3  # of the points, beside 0.6 of the guide
BY_PRIOR = "Begun from the prior as well; importance sampling from there gives the same evidence."
SETTLING = 2048  # points that have to stay where they are under further chains


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What SMC found.

    Attributes:
        smc: points and evidence of the islands.
        posterior: the same points as draws `[island, particle]` of the method `smc`; its `doubt`
            says why they may not be the posterior, empty if nothing speaks against them.
        proper: whether the prior is proper, so that Z is an evidence.
        moved_on: whether the draws are the ends of chains that began at the points of SMC.
        depth: gradients one after another.
    """

    smc: Smc
    posterior: Posterior
    proper: bool
    depth: int
    moved_on: bool = False

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
    notes: tuple[str, ...] = ()
    later: _Later | None = None
    judged = Judged(density, entry, data)
    stays, points, cost = (False, None, 0) if doubt else _stays(density, judged, found, base, seed)
    depth += cost
    if not stays:
        wider, cost = _from_the_prior(density, data, u, modes, k_hat, islands, particles, seed)
        depth += cost
        if wider is not None:
            found, doubt, notes = wider, "", (BY_PRIOR,)
        elif points is not None:
            later = _moved_on(density, judged, found, base, points, seed)
            found, doubt, depth = later.smc, later.doubt, depth + later.depth
    with torch.no_grad():
        sites = density.constrain(found.points)
    log_z = torch.tensor(found.evidence.islands, dtype=torch.float64)
    shape = found.points.shape[:2]
    posterior = Posterior(
        entry=entry,
        data=data,
        method=METHOD,
        draws=sites,
        sample_dims=("chain", "draw"),
        unconstrained=found.points,
        stats={
            LOG_Z: log_z[:, None].expand(shape).contiguous(),
            ANCESTOR: found.ancestors,
            MOVED: torch.full(shape, later is not None and later.changed),
        },
        seed=seed,
        notes=notes,
        doubt=doubt,
        cost=Cost(
            seconds=time.perf_counter() - begin,
            gradient_evaluations=density.gradient_evaluations - before,
            sequential_depth=depth,
        ),
    )
    return Estimate(
        smc=found,
        posterior=posterior,
        proper=not flat_sites(density),
        depth=depth,
        moved_on=later is not None,
    )


def _from_the_prior(
    density: LogDensity,
    data: Data,
    u: Tensor,
    modes: Sequence[Tensor],
    k_hat: float,
    islands: int,
    particles: int,
    seed: int,
) -> tuple[Smc | None, int]:
    """Return SMC from a base that the prior is a part of, and gradients one after another.

    None where that is impossible, or where draws of the base alone do not give the same evidence.
    Where they do, weights are bounded and many enough: no narrow place that the prior covers is
    missed, whatever chains can or cannot forget there.
    """
    part = prior_part(density, data, PRIOR_SHARE)
    if part is None:
        return None, 0
    base = smc_base(density, data, u, particles=particles, modes=modes, k_hat=k_hat, prior=part)
    alone = direct(density, base, seed)
    if not alone.enough:
        return None, 1
    try:
        smc = tempered(density, base, islands=islands, seed=derive_seed(seed, "trust", "prior"))
    except FitError:
        return None, 1
    sound = not smc.doubt and alone.confirms(smc.evidence.value, smc.evidence.se)
    return (smc if sound else None), 1 + smc.depth


def _stays(
    density: LogDensity, judged: Judged, smc: Smc, base: Mixture, seed: int
) -> tuple[bool, Tensor, int]:
    """Return whether chains from the points of SMC stay and forget, with points for a pilot.

    All islands can share a bias that their differences do not show: a narrow place that no
    trajectory enters. Chains that start there forget slowly. Masses of separate modes are not
    forgotten; they rest on the weights, so what is forgotten is judged within modes. The last
    number is that of gradients one after another.
    """
    x = smc.draws(SETTLING + PILOT, derive_seed(seed, "trust", "settled"))
    start, pilot = x[:SETTLING], x[SETTLING:]
    modes = _modes(base, start)
    again = drift_of(density, start, judged, pilot=pilot, modes=modes, seed=seed + 1)
    return not again.found and not again.doubt, pilot, again.depth


@dataclass(frozen=True, kw_only=True)
class _Later:
    """SMC after chains from its points.

    Attributes:
        smc: with the points as they are now.
        doubt: why they may not be the posterior, in one sentence.
        depth: gradients one after another.
        changed: whether a judged mean or sd changed.
    """

    smc: Smc
    doubt: str
    depth: int
    changed: bool


def _moved_on(
    density: LogDensity, judged: Judged, smc: Smc, base: Mixture, pilot: Tensor, seed: int
) -> _Later:
    """Move the points of SMC on until they have forgotten where they were, within every mode."""
    islands, _, dim = smc.points.shape
    # every other point, as those of one ancestor are neighbors
    kept, ancestors = smc.points[:, ::2], smc.ancestors[:, ::2]
    starts = kept.reshape(-1, dim)
    later = settle(density, starts, judged, pilot=pilot, modes=_modes(base, starts), seed=seed + 1)
    points = later.points.reshape(islands, -1, dim)
    return _Later(
        smc=dataclasses.replace(smc, points=points, ancestors=ancestors),
        doubt=later.doubt and f"Chains from the points of SMC have not settled: {later.doubt}.",
        depth=later.depth,
        changed=later.changed > 0,
    )


def _modes(base: Mixture, x: Tensor) -> np.ndarray:
    """Return the mode of every point `[n]`: the nearest of guide and modes that climbs found."""
    inside = [i for i, c in enumerate(base.components) if c.name != PRIOR]
    logs = torch.stack([base.components[i].log_prob(x) for i in inside])
    found: np.ndarray = logs.argmax(0).numpy()
    return found


def evidence_of(posterior: Posterior) -> LogEvidence:
    """Return log Z from the draws of SMC, as computed or as read from a file."""
    return evidence(posterior.stats[LOG_Z][:, 0].tolist())


def evidence_holds(posterior: Posterior) -> bool:
    """Whether log Z of SMC can be relied on: nothing speaks against its draws as they were."""
    return not posterior.doubt and not bool(posterior.stats[MOVED].any())


def estimated_reference(posterior: Posterior, *, proper: bool) -> Reference:
    """Return draws of SMC as a reference of the kind `estimated`, unusable if in doubt.

    Args:
        posterior: draws of the method `smc`.
        proper: whether the prior is proper; else there is no evidence.
    """
    found, known = evidence_of(posterior), proper and evidence_holds(posterior)
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
    wide = widening(len(log_z))
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
