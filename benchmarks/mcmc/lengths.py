"""How long trajectories are, and how many of them: chosen by pilot points, for others.

A trajectory of the pilot passes through all shorter ones. With z its whitened coordinates, z_l
those after l leapfrogs and a_l the chance that a trajectory of l leapfrogs is accepted, the points
would end with the correlation

    rho_j(l) = corr(z_0j, a_l z_lj + (1 - a_l) z_0j)

to their starts. k transitions leave rho^k, so a memory of e^-1 costs l / -log max_j |rho_j(l)|
gradients, and the length with the smallest cost is taken. The log density is one more coordinate:
Hamiltonian trajectories leave their own energy as it is, so levels are forgotten more slowly than
places. Source: Hoffman, Radul and Sountsov (2021), An adaptive-MCMC scheme for setting trajectory
lengths in Hamiltonian Monte Carlo, AISTATS (the same idea, by gradients of expected jumps).
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.mcmc.batched_hmc import Kernel, Moved, Path, State, Streams, move
from benchmarks.thresholds import multiplier

__all__ = ["coordinates", "explored", "memory"]

FORGOTTEN = 0.1  # correlation that counts as none: less is noise of the pilot
TINY = 1e-12  # of a variance


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
    beta: float = 1.0,
    targets: int = 1,
) -> tuple[State, Moved, int]:
    """Move every point once, and return the number of leapfrogs that forgets at the least cost.

    Args:
        path: the densities.
        state: points of a pilot.
        kernel: with the most leapfrogs that may be chosen.
        streams: the noise.
        beta: the power of the path.
        targets: densities side by side; the slowest of them decides.
    """
    each = len(state.x) // targets
    start = coordinates(state, kernel, beta).reshape(targets, each, -1)
    rho: list[float] = []

    def seen(at: State, acceptance: Tensor) -> None:
        z = coordinates(at, kernel, beta).reshape(targets, each, -1)
        chance = acceptance.reshape(targets, each, 1)
        # a point that ran off is not accepted, and its coordinates are no numbers
        end = torch.where(chance > 0, start + chance * (z - start), start)
        rho.append(float(_correlation(start, end).abs().max()))

    state, moved = move(path, state, kernel, streams, beta=beta, seen=seen)
    left = torch.tensor(rho, dtype=torch.float64).clamp(FORGOTTEN, 1 - TINY)
    cost = torch.arange(1, len(rho) + 1, dtype=torch.float64) / -left.log()
    return state, moved, int(cost.argmin()) + 1


def _correlation(before: Tensor, after: Tensor) -> Tensor:
    """Return correlations `[target, k]` of points `[target, n, k]`; 0 where nothing varies.

    Points where a number is missing are left out.
    """
    sound = torch.isfinite(before) & torch.isfinite(after)
    count = sound.sum(1, keepdim=True).clamp(min=1)
    a, b = (torch.where(sound, v, 0.0) for v in (before, after))
    a, b = (torch.where(sound, v - v.sum(1, keepdim=True) / count, 0.0) for v in (a, b))
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return (a * b).sum(1) / torch.where(scale > 0, scale, 1.0)
