"""Marginal distributions: quantiles, interval coverage and the Wasserstein distance, per component."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import wasserstein_distance

from benchmarks.metrics.components import Array, Side

__all__ = ["Marginals", "marginals"]

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class Marginals(NamedTuple):
    """Per component: quantile errors and Wasserstein distance in reference sds, coverage as shares.

    `aligned50` and `aligned90` are the coverages of the method's intervals after its draws were moved and scaled to the
    reference's mean and sd, so that only the shape is left.
    """

    q05: Array
    q50: Array
    q95: Array
    wasserstein: Array
    coverage50: Array
    coverage50_se: Array
    coverage90: Array
    coverage90_se: Array
    aligned50: Array
    aligned90: Array


def marginals(method: Side, reference: Side, scale: Array) -> Marginals:
    """Compare the margins: coverage = share of reference draws inside the method's central interval.

    se^2 = p (1 - p) (1 / ESS_q + 1 / ESS_p): the reference's share and the method's own quantiles are both noisy.
    """
    q, p = method.flat, reference.flat
    ours, theirs = np.quantile(q, LEVELS, axis=0), np.quantile(p, LEVELS, axis=0)
    error = (ours - theirs) / scale
    distance = np.array([wasserstein_distance(q[:, i], p[:, i]) for i in range(q.shape[1])]) / scale
    # Draws of both sides are standardized by their own held draws: stored moments may come from more of them.
    sd_q = np.where(q.std(0) > 0, q.std(0), 1.0)
    aligned = (ours - q.mean(0)) / sd_q * p.std(0) + p.mean(0)
    c50, c90 = _inside(p, ours[1], ours[3]), _inside(p, ours[0], ours[4])
    return Marginals(
        error[0], error[2], error[4], distance,
        c50, _share_se(c50, 0.5, method, reference), c90, _share_se(c90, 0.9, method, reference),
        _inside(p, aligned[1], aligned[3]), _inside(p, aligned[0], aligned[4]),
    )  # fmt: skip


def _inside(draws: Array, low: Array, high: Array) -> Array:
    inside: Array = ((draws >= low) & (draws <= high)).mean(0)
    return inside


def _share_se(share: Array, nominal: float, method: Side, reference: Side) -> Array:
    own = nominal * (1 - nominal)
    se: Array = np.sqrt(own / method.ess + np.maximum(share * (1 - share), own) / reference.ess)
    return se
