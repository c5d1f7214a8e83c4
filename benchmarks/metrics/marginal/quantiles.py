"""Errors of the 5, 50 and 95 % quantiles, in reference sds."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.metrics.components import Array, Side
from benchmarks.metrics.metric import Metric
from benchmarks.metrics.moments import reference_scale

__all__ = ["METRIC"]


def compute(method: Side, reference: Side) -> Mapping[str, Array]:
    """Return quantiles of the method minus those of the reference."""
    error = (method.quantiles - reference.quantiles) / reference_scale(method, reference)
    return {"q05_error": error[0], "q50_error": error[2], "q95_error": error[4]}


METRIC = Metric(
    name="quantiles",
    term="5 / 50 / 95 % error",
    definition="error of the 5, 50 and 95 % quantiles",
    unit="reference sds",
    good="within ±0.15",
    blind="tails beyond 5 and 95 %",
    order=40,
    columns=("q05_error", "q50_error", "q95_error"),
    signed=True,
    compute=compute,
)
