"""When to stop: window means of the loss against their noise, and drift of the parameters.

The search runs at a constant learning rate. It has settled when, from one window to the next,

    gain = mean(previous losses) - mean(losses)  <=  2 se(gain) + slack       [nats]

and no watched parameter's mean moved by more than `drift` plus four of its own standard errors.
Watched parameters are in whitened units (posterior standard deviations); guides without such units
are watched by their losses alone.

Weights of a program that are trained together with a guide of the caller's own drift for long
within the noise of these losses, and rest for thousands of steps near saddle points, where a
latent dimension is not used yet. There (`pairs`) the loss at the mean parameters of a window is
computed with the same random numbers every time, and its paired difference to the loss after half
as many windows decides, from the fortieth window on.

Neither sees a search whose steps are too small to be seen. What seems to have settled is looked at
once more by `guides.optimize.ahead`, which follows its way further, and goes on if the loss falls.

After that the learning rate is annealed along a cosine and the parameters are averaged over the
last steps (Dhaka et al. 2020, "Robust, accurate stochastic optimization for variational
inference": the average is the answer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Settled", "Watch"]

BATCHES = 5
LEAST = 40  # windows before pairs of them can have settled
DRIFT = 0.1
SHORTEST = 10
SLACK = 0.02
TOLERATED = 100.0  # nats of noise beside the loss itself


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Comparison of two neighboring windows, or pairs of them, of `steps` steps each.

    It holds the gain in nats with its error, the movement, and the decision.

    A loss is unstable if its noise, or its distance from the best window, is larger than the best
    window's mean itself: a change within such noise says nothing.
    """

    steps: int
    gain: float
    gain_se: float
    moved: float
    settled: bool
    unstable: bool = False
    noise: float = 0.0

    @property
    def improving(self) -> bool:
        """Whether the loss still falls by more than three standard errors and a minimal gain."""
        return self.gain > 3 * self.gain_se + 2 * SLACK

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        moved = (
            ""
            if math.isnan(self.moved)
            else f" and no watched parameter moved by more than {self.moved:.2g} posterior sd"
        )
        return (
            f"over the last {self.steps} steps the loss fell by {self.gain:.2g} +-"
            f" {self.gain_se:.1g} nats{moved}"
        )


@dataclass
class Watch:
    """Collects losses and watched parameters of a window and compares it with the previous one."""

    window: int
    pairs: bool = False
    means: list[tuple[float, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    before: tuple[float, float, Tensor | None] | None = None
    last: Settled | None = None
    best: float = math.inf
    probes: list[np.ndarray[Any, Any]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Steps of a window."""
        return max(SHORTEST, self.window)

    @property
    def remaining(self) -> int:
        """Steps until the window ends, when the search can first have settled."""
        return max(1, self.length - len(self.losses))

    def extend(
        self,
        losses: Sequence[float],
        watched: Callable[[int], Tensor | None],
        probe: Callable[[], Sequence[float]] | None = None,
    ) -> bool:
        """Add up to `remaining` steps of a window; return True if it ended and the search settled.

        Args:
            losses: the losses of these steps.
            watched: maps an index among them to the watched parameters after that step; called for
                a hundred steps of a window.
            probe: of a watch of pairs: called at the end of a window, returns the losses at its
                mean parameters for the same random numbers every time.
        """
        every, had = max(1, self.window // 100), len(self.losses)
        self.losses.extend(losses)
        for i in range((-had - 1) % every, len(losses), every):
            value = watched(i)
            if value is None:
                break
            self.values.append(value.detach().clone())
        if len(self.losses) < self.length:
            return False
        mean, se = _mean_and_error(np.asarray(self.losses))
        self.means.append((mean, se))
        if self.pairs and probe is not None:
            self.probes.append(np.asarray(probe()))
        stack = torch.stack(self.values) if self.values else None
        center = None if stack is None else stack.mean(0)
        settled = False
        if self.before is not None:
            self.last = self._compare(mean, se, stack, center)
            settled = self.last.settled
        self.before = (mean, se, center)
        self.losses, self.values = [], []
        return settled

    def _compare(
        self, mean: float, se: float, stack: Tensor | None, center: Tensor | None
    ) -> Settled:
        assert self.before is not None
        gain, gain_se = self.before[0] - mean, math.hypot(self.before[1], se)
        moved, still = math.nan, True
        if stack is not None and center is not None and self.before[2] is not None:
            blocks = torch.stack([part.mean(0) for part in stack.tensor_split(BATCHES)])
            error = blocks.std(0) / math.sqrt(BATCHES)
            steps = (center - self.before[2]).abs()
            moved = float(steps.max())
            still = bool((steps <= DRIFT + 4 * error).all())
        enough, number, noise = not self.pairs or len(self.means) >= LEAST, 1, gain_se
        if len(self.probes) >= 3:
            number = len(self.probes) - len(self.probes) // 2
            fall = self.probes[len(self.probes) // 2 - 1] - self.probes[-1]
            gain, gain_se = float(fall.mean()), float(fall.std(ddof=1)) / math.sqrt(len(fall))
        self.best = min(self.best, self.before[0], mean)
        size = abs(self.best) + TOLERATED
        unstable = not max(noise, mean - self.best - 5 * noise) <= size
        return Settled(
            steps=number * self.length,
            gain=gain,
            gain_se=gain_se,
            moved=moved,
            settled=enough and still and gain <= 2 * gain_se + SLACK and not unstable,
            unstable=unstable,
            noise=noise,
        )


def _mean_and_error(losses: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Mean and standard error by successive differences (von Neumann 1941), robust to a trend."""
    variance = 0.5 * np.square(np.diff(losses)).mean()
    return float(losses.mean()), math.sqrt(variance / len(losses))
