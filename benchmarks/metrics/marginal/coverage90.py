"""Coverage of the central 90 % interval: the fraction of reference draws inside it."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.metrics.components import Array, Side
from benchmarks.metrics.coverage import interval_coverage
from benchmarks.metrics.metric import Metric

__all__ = ["METRIC"]


def compute(method: Side, reference: Side) -> Mapping[str, Array]:
    """Return the coverage with its error, and the coverage after aligning mean and sd."""
    found = interval_coverage(method, reference, 0.9)
    return {"coverage90": found.share, "coverage90_se": found.se, "aligned90": found.aligned}


METRIC = Metric(
    name="coverage90",
    term="90 % cover",
    definition="share of reference draws inside the method's central 90 % interval",
    unit="percent",
    good="85 to 95",
    blind="a shifted narrow interval can hold the right share by luck",
    order=60,
    columns=("coverage90",),
    percent=True,
    compute=compute,
)
