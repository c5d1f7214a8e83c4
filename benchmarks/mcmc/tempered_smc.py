"""Tempered sequential Monte Carlo: draws of a posterior and its evidence from any rough start.

Points of a base density q move through p^b q^(1 - b) while b grows from 0 to 1. At each of the
stages they are weighted, resampled and moved by Hamiltonian Monte Carlo:

    Z-hat = prod_stages 1/N sum_i exp((b' - b) (log p(x_i) - log q(x_i))),    E[Z-hat] = Z

Two passes. A *pilot* chooses stages, metrics, steps and lengths from its own points: trajectories
are as long, and as many, as it takes to forget where they began, up to a limit. *Counting islands*
start from fresh points and use them unchanged, each of full size; only then is Z-hat unbiased: a
metric taken from the very points that it moves is adapted to their noise, and adds 0.3 nats for a
normal of 128 dimensions and 1,024 points. The evidence is the mean of the islands' Z-hats, never
of their logarithms.

Sources: Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo samplers, JRSS B 68; Zhou,
Johansen and Aston (2016), Toward automatic model comparison: an adaptive sequential Monte Carlo
approach, JCGS 25 (conditional ESS); Buchholz, Chopin and Jacob (2021), Adaptive tuning of
Hamiltonian Monte Carlo within sequential Monte Carlo, Bayesian Analysis 16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.mcmc.base_mixture import Mixture
from benchmarks.mcmc.batched_hmc import (
    Base,
    Density,
    Kernel,
    Moved,
    Path,
    State,
    Streams,
    move,
    tuned,
)
from benchmarks.mcmc.islands import LogEvidence, evidence, island_mean
from benchmarks.mcmc.lengths import coordinates, explored, memory
from benchmarks.mcmc.metric import Metric
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.seeds import derive_seed

__all__ = ["Plan", "Smc", "Stage", "counted", "pilot", "run_plan", "tempered"]

CESS = 0.7  # of the particles, which the conditional ESS of one stage keeps
MOVES, EXTRA = 3, 6  # longest trajectories of a stage; further ones at the last
LEAPFROGS = 8  # of a trajectory, at most
MEMORY, LAST = 0.3, 0.1  # correlation of start and end at which a stage, and the last, may end
STAGES = 200  # at most; a path that needs more has no usable base
ISLANDS, PARTICLES = 8, 1024
ACCEPTANCE = 0.3  # of the last transition, below which the points have not moved
ANCESTORS, MASS = 20, 0.01  # distinct ancestors that a mode of this mass needs


class Start(Base, Protocol):
    """A density where islands begin, with stratified draws."""

    particles: int

    def draw(self, streams: Streams) -> Tensor:
        """Return points `[island * particles, dim]`."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the path: the power b it ends at, and the kernel of each transition."""

    beta: float
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the pilot chose, and what it took.

    Attributes:
        stages: in order; the last one has b = 1.
        log_z: the pilot's own log Z-hat in nats, which is biased.
        acceptance: mean acceptance at the last transition.
        gradients: evaluations of the density and its gradient.
        depth: of them one after another.
    """

    stages: tuple[Stage, ...]
    log_z: float
    acceptance: float
    gradients: int
    depth: int


@dataclass(frozen=True, kw_only=True)
class Smc:
    """Draws and evidence of the counting islands.

    Attributes:
        points: `[island, particle, dim]`, equally weighted within an island.
        evidence: of all islands.
        ancestors: which initial point each particle descends from, `[island, particle]`.
        modes: per component of the base its name, the mass of the particles nearest to it, and
            their distinct ancestors over all islands.
        acceptance: mean acceptance at the last transition.
        divergent: share of the last transitions that diverged.
        gradients, depth: evaluations of the density, all and one after another.
        plan: what the pilot chose.
    """

    points: Tensor
    evidence: LogEvidence
    ancestors: Tensor
    modes: tuple[tuple[str, float, int], ...]
    acceptance: float
    divergent: float
    gradients: int
    depth: int
    plan: Plan

    def __repr__(self) -> str:
        """Return sizes and the log normalizer, without points."""
        islands, particles, dim = self.points.shape
        return (
            f"Smc({islands} islands of {particles:,} points in {dim} coordinates; log normalizer"
            f" {self.evidence.value:.2f} +- {self.evidence.se:.2f})"
        )

    @property
    def weights(self) -> Tensor:
        """The weight of each island's points, `[island]`: its Z-hat over the sum of all."""
        return torch.softmax(torch.tensor(self.evidence.islands, dtype=torch.float64), 0)

    @property
    def starved(self) -> tuple[str, ...]:
        """Components whose mass rests on too few ancestors."""
        return tuple(n for n, mass, count in self.modes if mass >= MASS and count < ANCESTORS)

    @property
    def doubt(self) -> str:
        """Why the points cannot be relied on, in one sentence; empty if nothing speaks against."""
        islands = self.evidence.islands
        if not self.evidence.known:
            return f"The islands of SMC lie {max(islands) - min(islands):.1f} nats apart."
        if self.starved:
            name, mass, count = next(m for m in self.modes if m[0] in self.starved)
            return f"The mass {mass:.2f} of {name} rests on {count} of {ANCESTORS} ancestors."
        if not self.acceptance >= ACCEPTANCE:
            return f"The last transition of SMC accepts {self.acceptance:.0%} of its moves."
        return ""

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return means `[...]` of values `[island, particle, ...]` with their standard errors."""
        return island_mean(values, torch.tensor(self.evidence.islands, dtype=torch.float64))

    def draws(self, n: int, seed: int) -> Tensor:
        """Return n points `[n, dim]` of all islands by their weights, resampled without gaps."""
        k, each, _ = self.points.shape
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(k * each, generator=generator)
        weights = (self.weights[:, None] / each).expand(k, each).flatten()[shuffled]
        offset = torch.rand(1, generator=generator, dtype=weights.dtype)
        chosen = _systematic(weights[None], offset, n)
        return self.points.flatten(0, 1)[shuffled[chosen[0]]]


def tempered(
    density: LogDensity,
    base: Mixture,
    *,
    islands: int = ISLANDS,
    seed: int = 0,
    moves: int = MOVES,
    extra: int = EXTRA,
    leapfrogs: int = LEAPFROGS,
    cess: float = CESS,
) -> Smc:
    """Run the pilot and the counting islands.

    Args:
        density: the log density of the posterior, compiled or not.
        base: where the points start.
        islands: independent counting runs of full size, at least 2 for an error.
        seed: of all noise.
        moves: longest trajectories of a stage; shorter ones may be more, for the same gradients.
        extra: further ones at the last stage.
        leapfrogs: steps of a trajectory, at most.
        cess: share of the particles that a stage's conditional ESS keeps.

    Raises:
        FitError: the density is finite at no point of the base, or the path does not end.
    """
    plan = pilot(
        density, base, seed=seed, moves=moves, extra=extra, leapfrogs=leapfrogs, cess=cess
    )
    return counted(density, base, plan, islands=islands, seed=seed)


def pilot(
    density: Density,
    base: Start,
    *,
    targets: int = 1,
    seed: int = 0,
    moves: int = MOVES,
    extra: int = EXTRA,
    leapfrogs: int = LEAPFROGS,
    cess: float = CESS,
) -> Plan:
    """Choose stages, metrics and steps on one island of points that are not used further.

    Args:
        density: the log density of the posterior.
        base: where the points start.
        targets: densities side by side, as in `UnitDensity`, with an island of points each. A
            stage is as long as the hardest of them allows; metric and step are those of all.
        seed: of the noise.
        moves: longest trajectories of a stage; shorter ones may be more, for the same gradients.
        extra: further ones at the last stage.
        leapfrogs: steps of a trajectory, at most.
        cess: share of the particles that a stage's conditional ESS keeps.

    Raises:
        FitError: the density is finite at no point of the base, or the path does not end.
    """
    seeds = [derive_seed(seed, "smc", "pilot", *([] if i == 0 else [i])) for i in range(targets)]
    path, streams = Path(density, base), Streams(seeds)
    state = path(base.draw(streams))
    _refuse_nowhere(state)
    step, beta, log_z, acceptance = 0.6 / density.dim**0.25, 0.0, 0.0, math.nan
    stages: list[Stage] = []
    while beta < 1.0:
        if len(stages) == STAGES:
            raise FitError(
                f"The path from the start to the posterior is not finished after {STAGES} stages"
                f" (power {beta:.3g} of 1): the start is too far from the posterior; begin with"
                " another family, or with more steps."
            )
        gap = _gap(state).reshape(targets, -1)
        power = _next_power(gap, beta, cess)
        increment = (power - beta) * gap
        log_z += float((increment.logsumexp(1) - math.log(gap.shape[1])).sum())
        state = state.take(_chosen(_resampled(increment, streams)))
        beta = power
        groups = state.x.reshape(targets, -1, state.x.shape[1])
        spread = groups if targets == 1 else groups - groups.mean(1, keepdim=True)
        kernel = Kernel(metric=Metric.of(spread.flatten(0, 1)), step=step, leapfrogs=leapfrogs)
        last = beta == 1.0
        least, most, left = (moves, moves + extra, LAST) if last else (1, moves, MEMORY)
        state, moved, length = explored(
            path,
            state,
            kernel,
            streams,
            least=least,
            gradients=most * leapfrogs,
            left=left,
            beta=beta,
            targets=targets,
        )
        kernel = replace(tuned(kernel, moved), leapfrogs=length)
        start = coordinates(state, kernel, beta)
        kernels: list[Kernel] = []
        while (len(kernels) + 1) * length <= most * leapfrogs:
            kernels.append(kernel)
            state, moved = move(path, state, kernel, streams, beta=beta)
            known, noise = memory(start, coordinates(state, kernel, beta), targets)
            kernel = tuned(kernel, moved)
            acceptance = float(moved.acceptance.mean())
            if len(kernels) >= least and known <= max(left, noise):
                break
        step = kernel.step
        stages.append(Stage(beta=beta, kernels=tuple(kernels)))
    return Plan(
        stages=tuple(stages),
        log_z=log_z,
        acceptance=acceptance,
        gradients=path.gradients,
        depth=path.calls,
    )


def counted(
    density: LogDensity, base: Mixture, plan: Plan, *, islands: int = ISLANDS, seed: int = 0
) -> Smc:
    """Run counting islands with the stages and kernels of a plan, unchanged.

    Args:
        density: the log density of the posterior.
        base: the base that the plan was made with.
        plan: what a pilot chose.
        islands: independent runs of full size, moved together.
        seed: of their noise; each island has a stream of its own.
    """
    path = Path(density, base)
    streams = Streams([derive_seed(seed, "smc", "island", i) for i in range(islands)])
    state, log_z, ancestors, moved = run_plan(path, base, plan, streams)
    return Smc(
        points=state.x.reshape(islands, base.particles, -1),
        evidence=evidence(log_z.tolist()),
        ancestors=ancestors,
        modes=_modes(base, state.x, ancestors.flatten(), torch.softmax(log_z, 0)),
        acceptance=float(moved.acceptance.mean()),
        divergent=float(moved.divergent.double().mean()),
        gradients=path.gradients + plan.gradients,
        depth=path.calls + plan.depth,
        plan=plan,
    )


def run_plan(
    path: Path, base: Start, plan: Plan, streams: Streams
) -> tuple[State, Tensor, Tensor, Moved]:
    """Move fresh points along a plan, unchanged.

    Args:
        path: the densities.
        base: where the points start.
        plan: what a pilot chose.
        streams: the noise, one stream per island.

    Returns:
        The points of all islands, one after another; log Z-hat `[island]` in nats; the initial
        point from which each descends, `[island, particle]`; and the last transition.
    """
    each, islands = base.particles, len(streams.generators)
    state = path(base.draw(streams))
    log_z, beta = torch.zeros(islands, dtype=torch.float64), 0.0
    ancestors, moved = torch.arange(islands * each).reshape(islands, each), None
    for stage in plan.stages:
        increment = (stage.beta - beta) * _gap(state).reshape(islands, each)
        log_z = log_z + increment.logsumexp(1) - math.log(each)
        chosen = _resampled(increment, streams)
        ancestors = ancestors.gather(1, chosen)
        state = state.take(_chosen(chosen))
        beta = stage.beta
        for kernel in stage.kernels:
            state, moved = move(path, state, kernel, streams, beta=beta)
    assert moved is not None
    return state, log_z, ancestors, moved


def _gap(state: State) -> Tensor:
    """Return log p - log q `[n]`."""
    assert state.log_q is not None
    return (state.log_p - state.log_q).double()


def _refuse_nowhere(state: State) -> None:
    if not torch.isfinite(state.log_p).any():
        raise FitError(
            f"The log density is finite at none of {len(state.x)} points around the start; begin"
            " with another family, or check the program with `zoo check`."
        )


def _next_power(gap: Tensor, beta: float, cess: float) -> float:
    """Return the largest power whose conditional ESS is at least that share of an island.

    Of several islands, for nine of ten of them, and for all at least half of it.
    """

    def kept(power: float) -> float:
        weights = (power - beta) * gap
        ess = torch.exp(2 * weights.logsumexp(1) - (2 * weights).logsumexp(1))
        return float(torch.minimum(ess.quantile(0.1), 2 * ess.min())) / gap.shape[1]

    if kept(1.0) >= cess:
        return 1.0
    low, high = beta, 1.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if kept(middle) >= cess else (low, middle)
    # points where the density is zero have no weight at any power: go on by a small step
    return low if low > beta else min(1.0, beta + 1e-6)


def _resampled(log_weights: Tensor, streams: Streams) -> Tensor:
    """Return indices `[island, n]` by systematic resampling of log weights `[island, n]`."""
    weights = torch.softmax(log_weights, 1)
    return _systematic(weights, streams.uniform(1, log_weights.dtype), log_weights.shape[1])


def _chosen(within: Tensor) -> Tensor:
    """Return indices `[island, n]` within islands as indices of all points `[island * n]`."""
    islands, each = within.shape
    return (within + each * torch.arange(islands)[:, None]).flatten()


def _systematic(weights: Tensor, offset: Tensor, n: int) -> Tensor:
    """Return n indices per row of weights `[row, m]`, with one uniform offset `[row]` each."""
    ladder = (torch.arange(n, dtype=weights.dtype) + offset[:, None]) / n
    total = weights.cumsum(1)
    chosen = torch.searchsorted(total / total[:, -1:], ladder, right=True)  # never weight zero
    return chosen.clamp(max=weights.shape[1] - 1)


def _modes(
    base: Mixture, x: Tensor, ancestors: Tensor, shares: Tensor
) -> tuple[tuple[str, float, int], ...]:
    nearest = base.nearest(x)
    weight = (shares / base.particles).repeat_interleave(base.particles)
    return tuple(
        (c.name, float(weight[nearest == i].sum()), len(ancestors[nearest == i].unique()))
        for i, c in enumerate(base.components)
    )
