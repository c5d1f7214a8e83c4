"""Tail indices: whether a quantity has a mean and a variance, by its draws.

The largest M of n draws above a threshold follow a generalized Pareto distribution with shape k,
nearly; a moment of order p exists where k < 1 / p, so k >= 1/2 leaves no variance and k >= 1 no
mean. Source: Pickands (1975), Statistical inference using extreme order statistics.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from benchmarks import arviz_bridge
from benchmarks.metrics.components import Array, Side
from benchmarks.thresholds import TAIL

__all__ = ["judged_by_quantiles", "tail_index", "tamed"]

NORMAL_IQR = (
    1.3489795  # of a standard normal: an IQR divided by it is an sd where tails are normal
)
NO_ERROR = 0.25  # tail index without a fourth moment
STEP = 0.05  # of the probability, for the slope of the quantile function

GRID = 30  # values of the profile posterior of Zhang and Stephens, beside sqrt(M)
FEWEST = 25  # draws in a tail


def tail_index(draws: Array) -> Array:
    """Return the larger tail index k of the two tails of `[draw, component]`, `[component]`.

    M = min(n / 10, 3 sqrt(n)) draws of each tail are used, at least 25; with fewer than 250 draws,
    or where a tail does not vary, k is minus infinity: nothing is known.
    """
    n = len(draws)
    size = int(min(n / 10, 3 * np.sqrt(n)))
    if size < FEWEST:
        return np.full(draws.shape[1], -np.inf)
    ordered = np.sort(draws, axis=0)
    upper = ordered[-size:] - ordered[-size - 1]
    lower = ordered[size] - ordered[:size][::-1]
    return np.maximum(_shape(upper), _shape(lower))


def _shape(excess: Array) -> Array:
    """Return the shape of a generalized Pareto distribution.

    `excess` are ascending excesses over the threshold, `[M, component]`.

    The estimate is the posterior mean of Zhang and Stephens (2009), A new and efficient estimation
    method for the generalized Pareto distribution, Technometrics 51(3).
    """
    m = len(excess)
    largest, quartile = excess[-1], excess[int(m / 4 + 0.5) - 1]
    sound = (quartile > 0) & np.isfinite(largest)
    safe = np.where(sound, excess, np.arange(1.0, m + 1)[:, None])  # [M, component]
    largest, quartile = safe[-1], safe[int(m / 4 + 0.5) - 1]
    number = GRID + int(np.sqrt(m))
    steps = 1 - np.sqrt(number / (np.arange(1, number + 1) - 0.5))
    b = steps[:, None] / (3 * quartile) + 1 / largest  # [grid, component]
    k = np.log1p(-b[:, None] * safe[None]).mean(1)
    height = m * (np.log(-b / k) - k - 1)
    weight = np.exp(height - height.max(0))
    mean = (b * weight).sum(0) / weight.sum(0)
    found = np.log1p(-mean * safe).mean(0)
    return np.where(sound, found, -np.inf)


def judged_by_quantiles(method: Side, reference: Side) -> tuple[Side, Side, Array]:
    """Return both sides, with quantiles for moments where no variance exists, and tail indices.

    Where the tail index of either side is above `TAIL`, `mean` is the median and `sd` the
    interquartile range over that of a standard normal, each with its standard error, and
    `by_quantiles` says so. The indices `[component]` are the larger ones of the two sides.
    """
    index = np.maximum(tail_index(method.flat), tail_index(reference.flat))
    heavy = index > TAIL
    if not heavy.any():
        return method, reference, index
    return _quantiled(method, heavy), _quantiled(reference, heavy), index


def _quantiled(one: Side, heavy: NDArray[np.bool_]) -> Side:
    columns = np.flatnonzero(heavy)
    x = one.draws[..., columns]
    flat = x.reshape(-1, len(columns))
    ess = np.full(len(columns), float(len(flat)))
    if not one.independent:
        ess = np.clip(np.nan_to_num(arviz_bridge.ess_bulk(x), nan=1.0), 1.0, ess)
    median, median_slope = _quantile(flat, 0.5)
    low, low_slope = _quantile(flat, 0.25)
    high, high_slope = _quantile(flat, 0.75)
    # Cov of the quantiles at p <= q is p (1 - q) / n, times both slopes.
    variance = 0.1875 * (low_slope**2 + high_slope**2) - 2 * 0.0625 * low_slope * high_slope
    new = {
        "mean": median,
        "mean_se": 0.5 * median_slope / np.sqrt(ess),
        "sd": (high - low) / NORMAL_IQR,
        "sd_se": np.sqrt(np.maximum(variance, 0.0) / ess) / NORMAL_IQR,
        "ess": ess,
        "tail_se": np.zeros(len(columns)),
    }
    parts = {name: getattr(one, name).copy() for name in new}
    for name, values in new.items():
        parts[name][columns] = values
    return dataclasses.replace(one, by_quantiles=heavy, **parts)


def _quantile(flat: Array, p: float) -> tuple[Array, Array]:
    """Return a quantile and the slope of the quantile function, `[component]` each."""
    below, here, above = np.quantile(flat, (p - STEP, p, p + STEP), axis=0)
    return here, (above - below) / (2 * STEP)


def tamed(method: Side, reference: Side) -> tuple[Side, Side]:
    """Return both sides with the draws of heavy-tailed components on an arsinh scale.

    Correlations, classifiers and transport distances use variances, and errors of variances. Where
    a tail index is above 1/4, where such an error does not exist, x becomes
    asinh((x - median) / scale) with median and interquartile range of the reference: the same map
    on both sides, which keeps what differs between them.
    """
    index = np.maximum(tail_index(method.flat), tail_index(reference.flat))
    heavy = index > NO_ERROR
    if not heavy.any():
        return method, reference
    low, median, high = np.quantile(reference.flat[:, heavy], (0.25, 0.5, 0.75), axis=0)
    scale = np.where(high > low, (high - low) / NORMAL_IQR, 1.0)

    def mapped(one: Side) -> Side:
        draws = one.draws.copy()
        draws[..., heavy] = np.arcsinh((draws[..., heavy] - median) / scale)
        return dataclasses.replace(one, draws=draws)

    return mapped(method), mapped(reference)
