"""Coverage of the central 50 % interval: the fraction of reference draws inside it."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.metrics.components import Array, Side
from benchmarks.metrics.coverage import interval_coverage
from benchmarks.metrics.metric import Metric

__all__ = ["METRIC"]


def compute(method: Side, reference: Side) -> Mapping[str, Array]:
    """Return the coverage with its error, and the coverage after aligning mean and sd."""
    found = interval_coverage(method, reference, 0.5)
    return {"coverage50": found.share, "coverage50_se": found.se, "aligned50": found.aligned}


METRIC = Metric(
    name="coverage50",
    term="50 % cover",
    definition="share of reference draws inside the method's central 50 % interval",
    unit="percent",
    good="50",
    blind="a shifted narrow interval can hold the right share by luck",
    order=50,
    columns=("coverage50",),
    percent=True,
    compute=compute,
)
