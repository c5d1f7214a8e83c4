"""How long trajectories are, and how many of them: chosen by pilot points, for others.

A trajectory of the pilot passes through all shorter ones. With z its whitened coordinates, z_l
those after l leapfrogs and a_l the chance that a trajectory of l leapfrogs is accepted, the points
would end with the correlation

    rho_j(l) = corr(z_0j, a_l z_lj + (1 - a_l) z_0j)

to their starts, and k transitions leave rho^k. The l that leaves little enough with the fewest
gradients is chosen; where none does with those that are allowed, the longest. The log density is
one more coordinate: trajectories conserve their energy, so levels are forgotten more slowly than
places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.mcmc.batched_hmc import Kernel, Moved, Path, State, Streams, move
from benchmarks.thresholds import multiplier

__all__ = ["cheapest", "coordinates", "explored", "memory"]

TINY = 1e-12  # of a correlation
MANY = 12  # transitions: beyond, rho^k is the error of rho more than a forecast


def coordinates(state: State, kernel: Kernel, beta: float) -> Tensor:
    """Return whitened coordinates and the log density, in nats, of all points `[n, dim + 1]`."""
    return torch.cat([kernel.metric.whiten(state.x), state.value(beta)[:, None]], 1)


def memory(before: Tensor, after: Tensor, targets: int = 1) -> tuple[float, float]:
    """Return the largest correlation of start and end, and what noise alone can show.

    Args:
        before: coordinates `[n, k]`; of several targets one after another.
        after: the same points later.
        targets: within which correlations are taken.
    """
    each = len(before) // targets
    rho = _correlation(before.reshape(targets, each, -1), after.reshape(targets, each, -1))
    return float(rho.abs().max()), multiplier(rho.numel()) / each**0.5


def explored(
    path: Path,
    state: State,
    kernel: Kernel,
    streams: Streams,
    *,
    least: int,
    gradients: int,
    left: float,
    beta: float = 1.0,
    targets: int = 1,
) -> tuple[State, Moved, int]:
    """Move every point once, and return the number of leapfrogs to forget its start.

    Args:
        path: the densities.
        state: points of a pilot.
        kernel: with the most leapfrogs that may be chosen.
        streams: the noise.
        least: transitions that will follow in any case.
        gradients: of each point, that they may take together.
        left: the correlation of start and end that they may leave.
        beta: the power of the path.
        targets: densities side by side; the slowest of them decides.
    """
    each = len(state.x) // targets
    start = coordinates(state, kernel, beta).reshape(targets, each, -1)
    rho: list[float] = []

    def seen(at: State, acceptance: Tensor) -> None:
        z = coordinates(at, kernel, beta).reshape(targets, each, -1)
        rho.append(float(_correlation(start, z, acceptance.reshape(targets, each, 1)).abs().max()))

    state, moved = move(path, state, kernel, streams, beta=beta, seen=seen)
    return state, moved, cheapest(rho, least, gradients, left)


def cheapest(rho: Sequence[float], least: int, gradients: int, left: float) -> int:
    """Return the number of leapfrogs, of 1, 2, ..., that forgets with the fewest gradients.

    Args:
        rho: the correlation that one transition of so many leapfrogs leaves.
        least: transitions that are made in any case.
        gradients: that all transitions may take together.
        left: what all of them may leave; where no length does, the longest is returned, as it is
            of lengths with equal costs.
    """
    cost = []
    for length, once in enumerate(rho, 1):
        needed = math.ceil(math.log(left) / math.log(min(max(once, TINY), 1 - TINY)))
        cost.append(length * max(needed, least) if needed <= MANY else math.inf)
    if min(cost) > gradients:
        return len(rho)
    return max(length for length, total in enumerate(cost, 1) if total == min(cost))


def _correlation(before: Tensor, after: Tensor, chance: Tensor | None = None) -> Tensor:
    """Return correlations `[target, k]` of start and end; 0 where nothing varies.

    Args:
        before: points `[target, n, k]` at their start; those without a number are left out.
        after: where they would end; a point without a number there stays at its start.
        chance: with which they end there, `[target, n, 1]`, else at their start; None for one.
    """
    a = torch.ones_like(after) if chance is None else chance.expand(after.shape)
    a = torch.where(torch.isfinite(after), a, 0.0)
    sound = torch.isfinite(before)
    x, y = torch.where(sound, before, 0.0), torch.where(torch.isfinite(after), after, 0.0)
    n = sound.sum(1).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return torch.where(sound, values, 0.0).sum(1) / n

    center = mean(x)  # of both: squares of large numbers round
    x, y = x - center[:, None], y - center[:, None]
    end = mean(a * y + (1 - a) * x)
    variance = mean(x.square()) * (mean(a * y.square() + (1 - a) * x.square()) - end.square())
    scale = variance.clamp(min=0).sqrt()
    covariance = mean(x * (a * y + (1 - a) * x))
    return covariance / torch.where(scale > 0, scale, 1.0)
