"""Coverage of central intervals: the fraction of reference draws inside the method's.

It is measured on the draws as they are, and on draws aligned in mean and sd.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.metrics.components import Array, Side

__all__ = ["Coverage", "interval_coverage"]

ENDS = {0.5: (1, 3), 0.9: (0, 4)}  # level -> indices into `components.LEVELS`


class Coverage(NamedTuple):
    """Coverage per component, its standard error, and the aligned coverage.

    `aligned` is the coverage of the method's interval after its draws were shifted and scaled to
    the mean and sd of the reference, so that it depends on the shape alone.
    """

    share: Array
    se: Array
    aligned: Array


def interval_coverage(method: Side, reference: Side, level: float) -> Coverage:
    """Return the fraction of reference draws inside the method's central interval.

    se^2 = p (1 - p) (1 / ESS_q + 1 / ESS_p), since the fraction of reference draws and the
    method's quantiles are both noisy.
    """
    q, p, ours = method.flat, reference.flat, method.quantiles
    low, high = ENDS[level]
    # Standardize by the stored draws: moments of a stored reference may come from more draws.
    (mean_q, sd_q), (mean_p, sd_p) = (_held(q, method), _held(p, reference))
    aligned = (ours - mean_q) / np.where(sd_q > 0, sd_q, 1.0) * sd_p + mean_p
    share = _inside(p, ours[low], ours[high])
    return Coverage(
        share, _share_se(share, level, method, reference), _inside(p, aligned[low], aligned[high])
    )


def _held(draws: Array, one: Side) -> tuple[Array, Array]:
    """Return mean and sd of stored draws, or median and scaled IQR (`Side.by_quantiles`)."""
    mean, sd = draws.mean(0), draws.std(0)
    if one.by_quantiles is None:
        return mean, sd
    return np.where(one.by_quantiles, one.mean, mean), np.where(one.by_quantiles, one.sd, sd)


def _inside(draws: Array, low: Array, high: Array) -> Array:
    inside: Array = ((draws >= low) & (draws <= high)).mean(0)
    return inside


def _share_se(share: Array, nominal: float, method: Side, reference: Side) -> Array:
    own = nominal * (1 - nominal)
    se: Array = np.sqrt(own / method.ess + np.maximum(share * (1 - share), own) / reference.ess)
    return se
