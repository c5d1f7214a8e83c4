"""Quality of class probabilities: accuracy, log loss, calibration, OOD detection, distance.

Everywhere p is `[row, class]`, its rows sum to one, and y `[row]` holds the true classes. The
confidence of a row is its largest probability. Sources: Guo et al. (2017), On calibration of
modern neural networks; Nixon et al. (2019), Measuring calibration in deep learning; Brier (1950),
Verification of forecasts expressed in terms of probability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

__all__ = [
    "BINS",
    "Bins",
    "accuracy",
    "adaptive_ece",
    "bootstrap",
    "brier",
    "ece",
    "ece_floor",
    "log_loss",
    "outside_auroc",
    "reliability",
    "total_variation",
]

Array = np.ndarray[Any, Any]
Metric = Callable[[Array, Array], float]
BINS = 15
SMALLEST = 1e-12  # keeps the log loss finite


class Bins(NamedTuple):
    """A reliability diagram: mean confidence, accuracy and row count of each non-empty bin."""

    confidence: Array
    accuracy: Array
    rows: Array


def accuracy(p: Array, y: Array) -> float:
    """Return the fraction of rows whose most probable class is the true one."""
    return float((p.argmax(1) == y).mean())


def log_loss(p: Array, y: Array) -> float:
    """Return the mean of -log p(true class), in nats."""
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], SMALLEST)).mean())


def brier(p: Array, y: Array) -> float:
    """Return the mean over rows of sum_c (p_c - [c is true])^2, between 0 and 2."""
    return float(np.square(p - np.eye(p.shape[1])[y]).sum(1).mean())


def reliability(p: Array, y: Array, *, bins: int = BINS, equal_mass: bool = False) -> Bins:
    """Return confidence and accuracy per bin, of equal width on (0, 1] or of equal counts."""
    confidence, right = p.max(1), p.argmax(1) == y
    if equal_mass:
        place = np.empty(len(y), dtype=int)
        place[np.argsort(confidence, kind="stable")] = (
            np.arange(len(y)) * min(bins, len(y)) // len(y)
        )
    else:
        # bins are closed on the right
        place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = np.bincount(place, minlength=bins)
    some = rows > 0
    total, hits = np.bincount(place, confidence, bins)[some], np.bincount(place, right, bins)[some]
    return Bins(total / rows[some], hits / rows[some], rows[some])


def ece(p: Array, y: Array, *, bins: int = BINS) -> float:
    """Return the expected calibration error over bins of equal width.

    ECE = sum over bins of (rows in bin / all rows) |accuracy - confidence|.
    """
    return _gap(reliability(p, y, bins=bins))


def adaptive_ece(p: Array, y: Array, *, bins: int = BINS) -> float:
    """Return the ECE over bins of equal counts, which no empty bin can flatter."""
    return _gap(reliability(p, y, bins=bins, equal_mass=True))


def _gap(found: Bins) -> float:
    return float((found.rows * np.abs(found.accuracy - found.confidence)).sum() / found.rows.sum())


def ece_floor(p: Array, *, draws: int = 50, seed: int = 0) -> float:
    """Return the ECE expected by chance alone, if these probabilities were exactly right.

    Classes are drawn from p `[row, class]` itself and the ECE is averaged over the draws. As a sum
    of absolute values the ECE of a perfect method is not 0.
    """
    random, cumulative = np.random.default_rng(seed), p.cumsum(1)
    classes = p.shape[1] - 1
    return float(
        np.mean(
            [
                ece(p, np.minimum((random.random((len(p), 1)) > cumulative).sum(1), classes))
                for _ in range(draws)
            ]
        )
    )


def outside_auroc(inside: Array, outside: Array) -> float:
    """Return the area under the ROC curve for telling in-distribution rows from OOD rows.

    It is the probability that an in-distribution row is more confident than an OOD row; ties count
    half.
    """
    scores = np.concatenate([inside.max(1), outside.max(1)])
    ranks = rankdata(scores)[: len(inside)]
    return float(
        (ranks.sum() - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside))
    )


def total_variation(p: Array, q: Array) -> float:
    """Return the mean over rows of the total variation distance, 1/2 sum_c |p_c - q_c|.

    Per row it is the largest difference in probability over all sets of classes.
    """
    return float(0.5 * np.abs(p - q).sum(1).mean())


def bootstrap(
    metric: Metric, p: Array, y: Array, *, number: int = 400, seed: int = 0, level: float = 0.9
) -> tuple[float, float]:
    """Return the central bootstrap interval of a metric over resampled rows.

    The same seed resamples the same rows for every method.
    """
    random = np.random.default_rng(seed)
    values = []
    for _ in range(number):
        rows = random.integers(len(y), size=len(y))
        values.append(metric(p[rows], y[rows]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
