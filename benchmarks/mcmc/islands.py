"""Moments and the evidence of independent islands, with errors from their differences.

Points of one island share ancestors, so their number says nothing of the error. Islands weigh as
their Z-hats; the evidence is the mean of these, never of their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import norm, t
from torch import Tensor

__all__ = ["APART", "LogEvidence", "evidence", "island_mean", "widening"]

APART = 1.0  # nats between islands beyond which the evidence is not known
LEVEL = 0.95  # of the interval


@dataclass(frozen=True, kw_only=True)
class LogEvidence:
    """log Z of several islands.

    Attributes:
        value: log of the mean of the islands' Z-hats, nats.
        se: its standard error, nats.
        low, high: interval by Student's t with islands - 1 degrees of freedom; `low` is -inf
            where the interval of Z reaches zero.
        islands: log Z-hat of each, nats.
    """

    value: float
    se: float
    low: float
    high: float
    islands: tuple[float, ...]

    @property
    def known(self) -> bool:
        """Whether all islands lie within one nat of each other."""
        return max(self.islands) - min(self.islands) <= APART


def island_mean(values: Tensor, log_z: Tensor) -> tuple[Tensor, Tensor]:
    """Return means `[...]` of values `[island, particle, ...]` with their standard errors.

    Islands weigh as their Z-hats `exp(log_z)`, `[island]`. The error is that of a ratio of
    unbiased sums over islands, which are independent.
    """
    islands, k = values.mean(1), len(log_z)
    share = torch.softmax(log_z, 0).reshape(-1, *[1] * (islands.ndim - 1))
    mean = (share * islands).sum(0)
    error = (share * (islands - mean)).square().sum(0) * (k / (k - 1))
    return mean, error.sqrt()


def evidence(islands: Sequence[float]) -> LogEvidence:
    """Return the log of the mean of Z-hats given as logarithms, with a t interval."""
    logs = torch.tensor(islands, dtype=torch.float64)
    top, k = logs.max(), len(islands)
    relative = torch.exp(logs - top)
    mean = relative.mean()
    se = float(relative.std() / k**0.5 / mean) if k > 1 else math.inf
    value = float(top + mean.log())
    half = float(t.isf((1 - LEVEL) / 2, k - 1)) * se if k > 1 else math.inf
    return LogEvidence(
        value=value,
        se=se,
        low=value + math.log1p(-half) if half < 1 else -math.inf,
        high=value + math.log1p(half),
        islands=tuple(float(v) for v in islands),
    )


def widening(islands: int) -> float:
    """Return the factor by which errors of k islands are widened for what takes them as normal.

    They have k - 1 degrees of freedom; 1.645 widened errors hold 90 %.
    """
    return float(t.isf(0.05, islands - 1) / norm.isf(0.05))
