"""Mean error: e = (m_q - m_p) / s_p, in reference sds."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.metrics.components import Array, Side
from benchmarks.metrics.metric import Metric
from benchmarks.metrics.moments import moment_errors

__all__ = ["METRIC"]


def compute(method: Side, reference: Side) -> Mapping[str, Array]:
    """Return e with its standard error."""
    found = moment_errors(method, reference)
    return {"mean_error": found.mean_error, "mean_error_se": found.mean_error_se}


METRIC = Metric(
    name="mean_error",
    term="mean error",
    definition="(mean of the method − mean of the reference) / sd of the reference",
    unit="reference sds",
    good="within ±0.15",
    blind="which way the shape is wrong: a skewed posterior has a right mean with wrong tails",
    order=10,
    columns=("mean_error", "mean_error_se"),
    signed=True,
    compute=compute,
)
