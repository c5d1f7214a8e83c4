"""The mode to which every point of a row belongs: where climbing from it ends.

Chains do not move between separate modes of a row, so what they forget is judged within them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.mcmc.unit_density import UnitDensity

__all__ = ["modes_of"]

STEPS = 60  # of the climb
FIRST, UP, DOWN = 0.1, 1.3, 0.4  # step in the coordinates of the row, and its changes
NEAR = 0.5  # ends of one mode lie within this distance, in sds of the row's q


def modes_of(density: UnitDensity, x: Tensor) -> np.ndarray:
    """Return the number of the mode of every point, `[n, row]`, from 0 in every row.

    Args:
        density: the rows.
        x: points `[row * n, d]`.
    """
    at, step = x.clone(), torch.full((len(x), 1), FIRST, dtype=x.dtype)
    value, slope = density.batch_gradient(at)
    for _ in range(STEPS):
        length = slope.norm(dim=1, keepdim=True).clamp(min=1e-12)
        # long slopes far away would jump over the mode
        to = at + step * slope / length.clamp(min=1.0)
        new, bend = density.batch_gradient(to)
        better = (new > value)[:, None]
        at, slope = torch.where(better, to, at), torch.where(better, bend, slope)
        value = torch.where(better[:, 0], new, value)
        step = torch.where(better, UP * step, DOWN * step).clamp(max=1.0)
    ends = at.reshape(density.targets, -1, density.dim)
    return np.stack([_grouped(own) for own in ends], 1)


def _grouped(ends: Tensor) -> np.ndarray:
    """Return group numbers `[n]` of points `[n, d]`: a group is what lies near its first point."""
    found = np.full(len(ends), -1)
    number = 0
    while (left := np.flatnonzero(found < 0)).size:
        near = (ends[left] - ends[left[0]]).norm(dim=1).numpy() <= NEAR
        found[left[near]] = number
        number += 1
    return found
