"""Hamiltonian Monte Carlo on thousands of points at once.

One call of the batched log density moves all points. For a target f of x in R^d, a metric L and a
step e of each point's own, in coordinates z = L^-1 x,

    r ~ N(0, I),   leapfrog of H(z, r) = -f(L z) + |r|^2 / 2,   accept with min(1, exp(H - H')).

Step, number of leapfrogs and metric are given, never taken from the points that they move: the
kernel then leaves f invariant exactly. Steps are log-uniform over a factor of `spread`, so that
some of them fit a narrow place. Source: Neal (2011), MCMC using Hamiltonian dynamics, Handbook of
Markov Chain Monte Carlo, chapter 5.

The target is a power path between a base density q and the posterior p (unnormalized):

    f_b(x) = b log p(x) + (1 - b) log q(x)      [nats],   b = 1 without a base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.mcmc.metric import Metric
from zoo.density.faults import unless_it_raises
from zoo.density.sites import default_dtype

__all__ = ["Base", "Kernel", "Moved", "Path", "State", "Streams", "move", "tuned"]

BLOCK = 4_000_000  # coordinates evaluated at once: bounds the memory
DIVERGENT = 1000.0  # nats of energy error, as in Stan
TARGET = 0.75  # acceptance that steps are tuned to
RATE = 0.4  # of log step per unit of acceptance


class Density(Protocol):
    """A log density that is evaluated at many points at once."""

    dim: int
    dtype: torch.dtype

    def batch_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log densities `[n]` at points `[n, dim]` in nats, and gradients `[n, dim]`."""


class Base(Protocol):
    """A normalized density that can be drawn from."""

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log q `[n]` at points `[n, dim]` in nats and its gradients `[n, dim]`."""


class Streams:
    """Random numbers of several islands, each from a generator of its own.

    What an island draws does not depend on which islands run beside it.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, each: int, dim: int, dtype: torch.dtype) -> Tensor:
        """Return standard normal numbers `[island * each, dim]`."""
        parts = [torch.randn(each, dim, dtype=dtype, generator=g) for g in self.generators]
        return torch.cat(parts)

    def uniform(self, each: int, dtype: torch.dtype) -> Tensor:
        """Return uniform numbers `[island * each]`."""
        return torch.cat([torch.rand(each, dtype=dtype, generator=g) for g in self.generators])


@dataclass(frozen=True, kw_only=True)
class State:
    """Points with everything known there.

    Attributes:
        x: points `[n, dim]`.
        log_p, slope_p: log p `[n]` in nats (-inf where it is not a number) and its gradient.
        log_q, slope_q: the same of the base, None without one.
    """

    x: Tensor
    log_p: Tensor
    slope_p: Tensor
    log_q: Tensor | None = None
    slope_q: Tensor | None = None

    def value(self, beta: float) -> Tensor:
        """Return f_b `[n]` in nats, 0 < b <= 1."""
        if self.log_q is None or beta == 1.0:
            return self.log_p
        return beta * self.log_p + (1 - beta) * self.log_q

    def slope(self, beta: float) -> Tensor:
        """Return the gradient of f_b `[n, dim]`."""
        if self.slope_q is None or beta == 1.0:
            return self.slope_p
        return beta * self.slope_p + (1 - beta) * self.slope_q

    def take(self, index: Tensor) -> State:
        """Return the points of these indices."""

        def chosen(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[index]

        return State(
            x=self.x[index],
            log_p=self.log_p[index],
            slope_p=self.slope_p[index],
            log_q=chosen(self.log_q),
            slope_q=chosen(self.slope_q),
        )

    def mixed(self, other: State, accepted: Tensor) -> State:
        """Return the other points where accepted `[n]`, else these."""
        rows = accepted[:, None]
        if self.log_q is None or self.slope_q is None:
            log_q = slope_q = None
        else:
            assert other.log_q is not None
            assert other.slope_q is not None
            log_q = torch.where(accepted, other.log_q, self.log_q)
            slope_q = torch.where(rows, other.slope_q, self.slope_q)
        return State(
            x=torch.where(rows, other.x, self.x),
            log_p=torch.where(accepted, other.log_p, self.log_p),
            slope_p=torch.where(rows, other.slope_p, self.slope_p),
            log_q=log_q,
            slope_q=slope_q,
        )


class Path:
    """The densities f_b between a base and the posterior, evaluated together and counted."""

    def __init__(self, density: Density, base: Base | None = None) -> None:
        self.density = density
        self.base = base
        self.gradients = 0  # of the posterior, one per point
        self.calls = 0  # one after another: the sequential depth

    def __call__(self, x: Tensor) -> State:
        """Evaluate all points `[n, dim]`, in blocks of fixed size."""
        self.gradients += len(x)
        self.calls += 1
        # points of several targets belong together
        whole = getattr(self.density, "targets", 1) > 1
        rows = len(x) if whole else max(64, BLOCK // x.shape[1] // 64 * 64)
        # a trajectory may run off to NaN, at which some programs raise
        finite = torch.isfinite(x).all(1)
        at = torch.where(finite[:, None], x, 0.0)
        with default_dtype(self.density.dtype):
            parts = [self._evaluated(part.contiguous()) for part in at.split(rows)]
        log_p, slope = (torch.cat(column) for column in zip(*parts, strict=True))
        log_p = torch.nan_to_num(log_p, nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
        log_p = torch.where(finite, log_p, -math.inf)
        if self.base is None:
            return State(x=x, log_p=log_p, slope_p=slope)
        log_q, slope_q = self.base.value_and_gradient(x)
        return State(x=x, log_p=log_p, slope_p=slope, log_q=log_q, slope_q=slope_q)

    def _evaluated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p and its gradients; -inf at the points where the program raises.

        One point can stop a whole batch (a covariance that is not positive definite), so the batch
        is halved until the rest is known.
        """
        try:
            found = unless_it_raises(lambda: self.density.batch_gradient(x), None)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of an entry of this package
            found = None
        if found is not None:
            return found
        if len(x) == 1:
            return x.new_full((1,), -math.inf), torch.zeros_like(x)
        halves = [self._evaluated(half.contiguous()) for half in x.split((len(x) + 1) // 2)]
        return torch.cat([h[0] for h in halves]), torch.cat([h[1] for h in halves])


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """How points are moved once.

    Attributes:
        metric: the whitening map.
        step: the largest step, in whitened units.
        leapfrogs: steps of a trajectory.
        spread: steps lie between `step / spread` and `step`, log-uniform.
    """

    metric: Metric
    step: float
    leapfrogs: int
    spread: float = 20.0


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What a transition did: acceptance `[n]`, and which points diverged `[n]`."""

    acceptance: Tensor
    divergent: Tensor


def move(
    path: Path,
    state: State,
    kernel: Kernel,
    streams: Streams,
    *,
    beta: float = 1.0,
    seen: Callable[[State, Tensor], None] | None = None,
) -> tuple[State, Moved]:
    """Move every point by one trajectory of Hamiltonian Monte Carlo on f_b.

    A point that leaves the support, or whose density is no number at the end, stays where it was.

    Args:
        path: the densities.
        state: the points.
        kernel: metric, steps and length.
        streams: the noise.
        beta: the power b.
        seen: called after every leapfrog with the points there, and with the chance `[n]` that a
            trajectory which ends there is accepted.
    """
    n, dim = state.x.shape
    each, dtype, metric = n // len(streams.generators), state.x.dtype, kernel.metric
    steps = kernel.step * torch.exp(
        math.log(kernel.spread) * (streams.uniform(each, dtype)[:, None] - 1)
    )
    momentum = streams.normal(each, dim, dtype)
    chance = streams.uniform(each, dtype)
    before = state.value(beta) - 0.5 * momentum.square().sum(1)
    at, acceptance, change = state, chance, before
    kick = 0.5 * steps * metric.pull(at.slope(beta))
    for i in range(kernel.leapfrogs):
        momentum = momentum + kick
        at = path(at.x + steps * metric.push(momentum))
        kick = 0.5 * steps * metric.pull(at.slope(beta))
        momentum = momentum + kick
        if seen is not None or i == kernel.leapfrogs - 1:
            change = at.value(beta) - 0.5 * momentum.square().sum(1) - before
            acceptance = _chance(at, change)
            if seen is not None:
                seen(at, acceptance)
    moved = Moved(acceptance=acceptance, divergent=~(change > -DIVERGENT))
    return state.mixed(at, chance < acceptance), moved


def _chance(at: State, change: Tensor) -> Tensor:
    """Return the chance `[n]` that a trajectory with this change of energy is accepted."""
    acceptance = torch.nan_to_num(torch.exp(change.clamp(max=0.0)), nan=0.0)
    # nothing may be taken from a point where a number is missing
    sound = torch.isfinite(at.slope_p).all(1) & torch.isfinite(at.x).all(1)
    return torch.where(sound, acceptance, 0.0)


def tuned(kernel: Kernel, moved: Moved) -> Kernel:
    """Return the kernel with its step moved towards an acceptance of 0.75.

    For pilot points only: points that are judged are moved by fixed kernels.
    """
    change = RATE * (float(moved.acceptance.mean()) - TARGET)
    return replace(kernel, step=kernel.step * math.exp(change))
