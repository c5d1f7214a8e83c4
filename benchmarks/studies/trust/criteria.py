"""Criteria of the page on trust: which fits are bad and good, and lines of counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy.stats import beta

__all__ = ["BAD", "GOOD", "LEVEL", "REPAIRED", "Row", "bad", "count", "line", "within"]

Row = Mapping[str, Any]
BAD = (0.2, math.log(1.25))  # worst mean error in sds, worst |log sd ratio|
GOOD = (0.1, math.log(1.1))
REPAIRED = (0.1, math.log(1.08))
LEVEL = 0.95


def line(name: str, asked: str, measured: str, met: bool) -> str:
    """Return one row of the table of criteria."""
    return f"| {name} | {asked} | {measured} | {'yes' if met else '**no**'} |"


def count(hits: int, total: int) -> str:
    """`30 of 31 (97 %, 83 to 100)`, with the exact interval."""
    if total == 0:
        return "none"
    low = 0.0 if hits == 0 else float(beta.ppf((1 - LEVEL) / 2, hits, total - hits + 1))
    high = 1.0 if hits == total else float(beta.ppf((1 + LEVEL) / 2, hits + 1, total - hits))
    return f"{hits} of {total} ({hits / total:.0%}, {low:.0%} to {high:.0%})"


def within(row: Row, prefix: str, limits: tuple[float, float]) -> bool:
    """Whether the worst mean error and log sd ratio of a row lie within limits."""
    mean, spread = row.get(f"{prefix}_mean"), row.get(f"{prefix}_log_sd")
    return mean is not None and spread is not None and mean <= limits[0] and spread <= limits[1]


def bad(row: Row) -> bool:
    """Whether a fit is bad by its true errors."""
    return not within(row, "true", BAD)
