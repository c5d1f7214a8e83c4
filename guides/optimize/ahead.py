"""Whether a search that stands still could move on: the loss further along its own way.

A loss whose noise hides a fall, and steps too small for any fall, look like an optimum. Hence the
way d from the mean parameters t' of one window to those t of the next is followed further,

    fall(m) = mean_k [loss(t; e_k) - loss(t + m d; e_k)],    m = 4, 16, 64, ...,

with the same random numbers e_k at both ends, so that their noise cancels. Nothing of it depends
on the learning rate, and d is independent of the e_k. At an optimum d is noise and the loss rises
along it. The search goes on if for some m

    fall(m) > 3 se + tolerance,    tolerance = 0.05 + min(2 se(gain), |loss| / 10,000)    [nats].

The values of the guide and the weights of the program are followed one after the other, since
each has a learning rate of its own (compare Chee & Toulis 2018, "Convergence diagnostics for
stochastic gradient descent with constant learning rate", who watch the inner products of
successive gradients, and Pesme et al. 2020, who show that those fail for small steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from zoo.density.faults import unless_it_raises

__all__ = ["FEW", "Ahead", "look_ahead", "tolerance_of"]

FEW, MORE = 16, 4  # draws at first; times as many where a fall is neither seen nor excluded
LONG = 64  # windows that no budget has left
TIMES = tuple(4.0**k for k in range(1, 17))  # up to 4e9 times the way of a window
LEAST_FALL, SHARE = 0.05, 1e-4

Numbers = np.ndarray[Any, np.dtype[np.float64]]
# losses in nats at a row of values, for the first of a fixed sequence of random numbers
Losses = Callable[[Tensor, int], Numbers]


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """A fall of the loss further along the way of the last window.

    Attributes:
        part: whose values were moved.
        times: how many times the way of the last window.
        fall: by how much the loss is lower there, in nats.
        se: its standard error at equal random numbers.
    """

    part: str
    times: float
    fall: float
    se: float

    @property
    def far(self) -> bool:
        """Whether larger steps are needed, not more of them."""
        return self.times >= LONG

    @property
    def sentence(self) -> str:
        """The finding in words."""
        return (
            f"moving {self.part} {self.times:,.0f} times as far the same way would lower it by"
            f" {self.fall:.2g} +- {self.se:.1g} nats"
        )


def tolerance_of(loss: float, gain_se: float) -> float:
    """Return the fall in nats that a settled search may leave.

    Args:
        loss: the loss in nats.
        gain_se: standard error of the gain between two windows.
    """
    return LEAST_FALL + min(2 * gain_se, SHARE * abs(loss))


def look_ahead(
    losses: Losses, here: Tensor, ways: Mapping[str, Tensor], tolerance: float, few: int = FEW
) -> Ahead | None:
    """Return the largest fall along the ways if it is beyond noise and tolerance, else None.

    Args:
        losses: the losses at a row of values.
        here: the mean values of the last window.
        ways: the way of each part of the values from one window to the next.
        tolerance: what may be left, in nats.
        few: random numbers for each loss at first.
    """
    start = losses(here, few)
    found: Ahead | None = None
    for part, way in ways.items():
        best, lowest = None, -math.inf
        for times in TIMES:
            there = here + times * way
            fall, se = _fall(start, _at(losses, there, few))
            if tolerance < fall <= 3 * se + tolerance:
                fall, se = _fall(losses(here, MORE * few), _at(losses, there, MORE * few))
            if not fall > lowest:  # also if it is not a number
                break
            lowest = fall
            if fall > 3 * se + tolerance:
                best = Ahead(part=part, times=times, fall=fall, se=se)
        if best is not None and (found is None or best.fall > found.fall):
            found = best
    return found


def _at(losses: Losses, there: Tensor, number: int) -> Numbers:
    """Return the losses at values where nobody has been; they are no numbers if that fails."""
    none = np.full(number, math.nan)
    try:
        return unless_it_raises(lambda: losses(there, number), none)
    except (RuntimeError, ValueError, ArithmeticError):  # of a guide: a singular matrix, say
        return none


def _fall(start: Numbers, end: Numbers) -> tuple[float, float]:
    """Return the mean paired difference with its standard error."""
    with np.errstate(invalid="ignore", over="ignore"):
        each = start - end
        return float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))
