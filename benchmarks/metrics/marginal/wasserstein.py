"""1-Wasserstein distance of one margin, in reference sds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import wasserstein_distance

from benchmarks.metrics.components import Array, Side
from benchmarks.metrics.metric import Metric
from benchmarks.metrics.moments import reference_scale

__all__ = ["METRIC"]


def compute(method: Side, reference: Side) -> Mapping[str, Array]:
    """Return W1 between the draws of each component."""
    q, p = method.flat, reference.flat
    distance = np.array([wasserstein_distance(q[:, i], p[:, i]) for i in range(q.shape[1])])
    return {"wasserstein": distance / reference_scale(method, reference)}


METRIC = Metric(
    name="wasserstein",
    term="Wasserstein",
    definition="average distance the method's draws must be moved to become the reference's",
    unit="reference sds",
    good="near 0",
    blind="where: a shift and a wrong width look alike",
    order=30,
    columns=("wasserstein",),
    compute=compute,
)
