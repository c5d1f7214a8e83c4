"""Sd ratio s_q / s_p; 0 for a point mass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.metrics.components import Array, Side
from benchmarks.metrics.metric import Metric
from benchmarks.metrics.moments import collapsed, fixed, moment_errors

__all__ = ["METRIC"]


def compute(method: Side, reference: Side) -> Mapping[str, Array]:
    """Return the ratio with its standard error, ratio * se(log ratio)."""
    found = moment_errors(method, reference)
    ratio = np.where(collapsed(method, reference), 0.0, np.exp(found.log_sd_ratio))
    error = ratio * found.log_sd_ratio_se
    return {"sd_ratio": np.where(fixed(method, reference), 1.0, ratio), "sd_ratio_se": error}


METRIC = Metric(
    name="sd_ratio",
    term="sd ratio",
    definition="sd of the method / sd of the reference; below 1 is overconfident",
    unit="a ratio",
    good="between 0.87 and 1.15",
    blind="heavy tails make an sd noisy: look at its error first",
    order=20,
    columns=("sd_ratio", "sd_ratio_se"),
    compute=compute,
)
