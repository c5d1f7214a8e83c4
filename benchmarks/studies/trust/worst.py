"""The worst judged errors of a comparison."""

from __future__ import annotations

from benchmarks.types import Comparison

__all__ = ["worst"]


def worst(comparison: Comparison) -> dict[str, float | None]:
    """Return the worst judged |mean error| in sds and |log sd ratio|."""
    judged = [s for s in comparison.scores if s.judged]
    return {
        "mean": max((abs(s.mean_error) for s in judged), default=None),
        "log_sd": max((abs(s.log_sd_ratio) for s in judged), default=None),
    }
