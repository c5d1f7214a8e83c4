"""Random numbers for generated data sets, independent of machine and library versions."""

from __future__ import annotations

import random
from statistics import NormalDist

import torch
from torch import Tensor

__all__ = ["Recipe"]


class Recipe:
    """A stream of numbers from Python's Mersenne Twister, whose output Python guarantees.

    Args:
        seed: the data seed.
    """

    def __init__(self, seed: int) -> None:
        self._stream, self._normal = random.Random(seed), NormalDist()

    def uniforms(self, *shape: int) -> Tensor:
        """Return numbers in (0, 1), in row order, `[*shape]`."""
        values = [
            (self._stream.getrandbits(52) + 0.5) / 2**52 for _ in range(torch.Size(shape).numel())
        ]
        return torch.tensor(values, dtype=torch.float64).reshape(shape)

    def normals(self, *shape: int) -> Tensor:
        """Return standard normal numbers `[*shape]`, by inversion of uniform ones."""
        return self.uniforms(*shape).apply_(self._normal.inv_cdf)
