"""Whether a cell holds a comparison that is still valid: same code, same reference."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.metrics.metric import METRICS
from benchmarks.run.outside import plugin_digest
from benchmarks.run.record import digest_of
from benchmarks.run.sources import code_digest
from zoo.types import Reference

__all__ = ["comparing_code", "digest_of_truth", "is_compared"]


def is_compared(
    content: dict[str, Any], reference: Reference | None, strict: bool, trust: bool = True
) -> bool:
    """Return whether a cell holds a comparison.

    `strict` asks for one by the current code and, where it is known, with this reference; `trust`
    for an assessment where no truth is known.
    """
    if content["verdict"] == "fit_failed" and not content["scores"]:
        return True
    seen = content["reference"]
    if content["verdict"] is None or seen is None:
        return False
    return not strict or (
        seen["digest"] == digest_of_truth(reference, trust)
        if reference is not None
        else seen["digest"].endswith(comparing_code())
    )


def comparing_code() -> str:
    """Return the digest of the comparing code: the package's own and that of plug-in metrics.

    Files are read once per process, which has imported what is in them.
    """
    outside = of_metrics(METRICS.plugins)[:16]
    return code_digest("compare")[:16] + (f"-{outside}" if outside else "")


@functools.cache
def of_metrics(plugins: tuple[str, ...]) -> str:
    """Return the digest of metrics of plug-ins, by name."""
    return plugin_digest(METRICS, plugins)


def digest_of_truth(reference: Reference, trust: bool = True) -> str:
    """Return the digest that a comparison with this reference keeps, the code included."""
    assessed = "-assessed" if trust and reference.kind in ("none", "estimated") else ""
    return f"{digest_of(reference)}{assessed}-{comparing_code()}"
