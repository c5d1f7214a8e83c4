"""Coverage of central intervals: the share of reference draws inside the method's.

It is measured as it is, and with the shape alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.metrics.components import Array, Side

__all__ = ["Coverage", "interval_coverage"]

ENDS = {0.5: (1, 3), 0.9: (0, 4)}  # level -> which of `components.LEVELS` its interval ends at


class Coverage(NamedTuple):
    """Per component: the share of reference draws inside, its error, and the aligned share.

    `aligned` is the coverage of the method's interval after its draws were moved and scaled to
    the reference's mean and sd, so that only the shape is left.
    """

    share: Array
    se: Array
    aligned: Array


def interval_coverage(method: Side, reference: Side, level: float) -> Coverage:
    """Compare central intervals: coverage = share of reference draws inside the method's.

    se^2 = p (1 - p) (1 / ESS_q + 1 / ESS_p): the reference's share and the method's own quantiles
    are both noisy.
    """
    q, p, ours = method.flat, reference.flat, method.quantiles
    low, high = ENDS[level]
    # Draws of both sides are standardized by their own held draws: stored moments may come from
    # more of them.
    sd_q = np.where(q.std(0) > 0, q.std(0), 1.0)
    aligned = (ours - q.mean(0)) / sd_q * p.std(0) + p.mean(0)
    share = _inside(p, ours[low], ours[high])
    return Coverage(
        share, _share_se(share, level, method, reference), _inside(p, aligned[low], aligned[high])
    )


def _inside(draws: Array, low: Array, high: Array) -> Array:
    inside: Array = ((draws >= low) & (draws <= high)).mean(0)
    return inside


def _share_se(share: Array, nominal: float, method: Side, reference: Side) -> Array:
    own = nominal * (1 - nominal)
    se: Array = np.sqrt(own / method.ess + np.maximum(share * (1 - share), own) / reference.ess)
    return se
