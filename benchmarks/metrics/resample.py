"""Equal draws from weighted ones: inclusion probabilities and systematic sampling.

Of S draws with normalized weights w, n are taken without replacement, draw i with probability

    pi_i = min(1, c w_i),      c such that sum_i pi_i = n.

No draw is repeated, so the n draws have n distinct values and equal weights. Without a pi of 1
this is importance sampling by rejection: Var(mean) of the n draws is the variance of the weighted
mean, sum w^2 (f - mean)^2, plus that of the choice, sum w (f - mean)^2 / n - sum w^2 (f - mean)^2;
together that of n independent draws. A draw with pi_i = 1 stands for 1 / n although its weight is
larger. The mass that this moves to other draws,

    capped = sum_i max(0, w_i - 1 / n),

is the total variation distance between w and what is drawn; it grows with n.

Source: Madow (1949), On the theory of systematic sampling, II, Annals of Mathematical Statistics
20(3), 333-354.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.components import Array

__all__ = ["capped_mass", "inclusion", "largest", "systematic"]


def inclusion(weights: Array, n: int) -> Array:
    """Return the probability of every draw to be among n, `[draw]`, with the sum n.

    Args:
        weights: normalized weights `[draw]`.
        n: draws to take, at most the number of positive weights.
    """
    falling = np.sort(weights)[::-1]
    rest = np.cumsum(falling[::-1])[::-1]  # of a draw and all that weigh less
    scales = (n - np.arange(n)) / rest[:n]  # c, if that many draws are certain
    certain = int(np.argmax(scales * falling[:n] <= 1.0 + 1e-12))
    return np.minimum(1.0, scales[certain] * weights)


def capped_mass(weights: Array, n: int) -> float:
    """Return the mass that n draws without replacement cannot stand for, between 0 and 1."""
    return float(np.maximum(weights - 1.0 / n, 0.0).sum())


def largest(weights: Array, most: int, capped: float) -> int:
    """Return the largest number of draws up to `most` with at most this capped mass.

    0 if a single draw has more.
    """
    low, high = 0, max(0, min(most, int((weights > 0).sum())))
    while low < high:
        middle = (low + high + 1) // 2
        if capped_mass(weights, middle) <= capped:
            low = middle
        else:
            high = middle - 1
    return low


def systematic(probabilities: Array, seed: int) -> NDArray[np.int64]:
    """Return the numbers of the draws taken, each at most once, in random order.

    The draws are laid on a line in random order, each as long as its probability, and those are
    taken that cover a point of the grid u, u + 1, ...; u is uniform on (0, 1).

    Args:
        probabilities: of every draw `[draw]`, at most 1, with an integer sum.
        seed: of the order and of u.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(probabilities))
    ends = np.cumsum(probabilities[order])
    ends[-1] = np.rint(ends[-1])
    points = np.floor(ends + generator.random())  # of the grid, up to the end of every draw
    chosen: NDArray[np.int64] = order[np.diff(points, prepend=0.0) > 0]
    return chosen
