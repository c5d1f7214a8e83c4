"""The one optimization loop: Adam in two phases, stopped by a rule, averaged at the end.

1. Search at a constant learning rate until `guides.stopping.Watch` says that nothing improves beyond noise.
2. Anneal along a cosine to `final_lr`, and average the parameters over the last share `tail` of this phase.

A loss or gradient that is not finite ends the fit at once; the last finite parameters are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guides.schedules import check_schedule
from guides.step import Objective, Step
from guides.stopping import Settled, Watch
from guides.types import FitConfig, Stop
from zoo.compiled import Record

__all__ = ["Outcome", "optimize"]

Progress = Callable[[int, int, float], None]
FIRST = (1, 2, 4, 8, 16, 32)  # steps that are looked at besides every tenth of a window
WINDOWS = 3  # of the stopping rule that a search usually takes (two at least), for the prediction of its time


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Losses per step in nats, why the loop ended and how the step ran; the parameters themselves are changed in place.

    `history` holds what an objective with a `snapshot` said along the way, name -> values, with their `step`.
    """

    losses: np.ndarray[Any, Any]
    stop: Stop
    record: Record | None = None
    history: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.losses)


@dataclass
class _Run:
    """One run of the loop: the step with its state, and the losses."""

    objective: Objective
    config: FitConfig
    generator: torch.Generator
    progress: Progress | None
    expected: int
    losses: list[float] = field(default_factory=list)
    averaged: int = 0
    seen: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.step = Step(self.objective, self.config, self.expected)

    def take(self, share: float, *, averaging: bool) -> Stop | None:
        """Take one step at this share of the learning rate; return a Stop when something is not finite."""
        number = len(self.losses) + 1
        noise = self.objective.noise(self.generator)
        loss, norm = self.step.take(number, share, noise, averaging=averaging)
        if not math.isfinite(loss):
            return self._failed(number, "The loss is not finite", noise)
        if not math.isfinite(norm):
            return self._failed(number, "The gradient is not finite", noise)
        self.losses.append(loss)
        self.averaged += averaging
        if self.objective.weights and (number in FIRST or number % max(1, self.config.patience // 10) == 0):
            self._look(number)
        if self.progress is not None:
            self.progress(number, self.config.steps, loss)
        return None

    def _look(self, number: int) -> None:
        """Note what the objective says of the parameters after this step, where it says something."""
        snapshot = getattr(self.objective, "snapshot", None)
        if snapshot is not None:
            self.step.write()
            self.seen.append({"step": float(number), **snapshot()})

    def watched(self) -> Tensor | None:
        """Return the watched parameters after the last step."""
        self.step.write()
        return self.objective.watched()

    def _failed(self, number: int, what: str, noise: tuple[Tensor, ...]) -> Stop:
        """Go back to the parameters of the last finite loss and say where it broke."""
        self.step.write()
        culprit = self.objective.blame(noise)
        self.step.write_last()
        return Stop(status="nan", step=number, sentence=f"{what} at step {number}, at {culprit}; the last finite parameters are kept.")

    def outcome(self, stop: Stop) -> Outcome:
        """Return what the loop hands back."""
        history = {name: np.array([row[name] for row in self.seen]) for name in (self.seen[0] if self.seen else ())}
        return Outcome(losses=np.asarray(self.losses), stop=stop, record=self.step.record, history=history)


def optimize(
    objective: Objective, config: FitConfig, generator: torch.Generator, progress: Progress | None = None, *, starts: int = 1
) -> Outcome:
    """Run search and annealing; the objective's parameters hold the averaged result afterwards.

    Args:
        objective: what is minimized.
        config: settings of the loop.
        generator: source of all noise and minibatches.
        progress: called as `progress(step, steps, loss)`.
        starts: how many starts of this fit are still to come, this one included: a compiled step serves all of them.
    """
    annealing = min(max(2 * config.patience, config.anneal), max(1, config.steps // 2))
    check_schedule(config, annealing)
    expected = min(config.steps, WINDOWS * config.patience + annealing)
    run = _Run(objective, config, generator, progress, expected * starts)
    watch = Watch(min(config.patience, max(1, (config.steps - annealing) // 2)))
    settled = False
    while len(run.losses) < config.steps - annealing and not settled:
        stop = run.take(1.0, averaging=False)
        if stop is not None:
            return run.outcome(stop)
        settled = watch.add(run.losses[-1], run.watched if watch.due else None) and len(run.losses) > getattr(objective, "warmup", 0)
    floor = min(1.0, config.final_lr / config.lr)
    for k in range(annealing):
        share = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * k / annealing))
        stop = run.take(share, averaging=k >= (1 - config.tail) * annealing)
        if stop is not None:
            return run.outcome(stop)
    weight = getattr(objective, "final_weight", 1.0)
    assert weight == 1.0 or config.objective == "beta", f"the weight of the KL ended at {weight}"
    run.step.write_average(run.averaged) if run.averaged else run.step.write()
    return run.outcome(_verdict(settled, watch.last, watch.window, len(run.losses), config))


def _verdict(settled: bool, last: Settled | None, window: int, steps: int, config: FitConfig) -> Stop:
    tail = f"annealed and averaged, {steps} steps in all"
    if last is None:
        return Stop(
            status="not_converged",
            step=steps,
            sentence=f"The budget of {config.steps} steps is too short for the stopping rule; give more steps.",
        )
    if settled:
        return Stop(status="ok", step=steps, sentence=f"Settled: {last.sentence(window)}; {tail}.")
    if last.improving:
        return Stop(
            status="not_converged",
            step=steps,
            sentence=f"The budget of {config.steps} steps ended while still improving: {last.sentence(window)}; {tail}.",
        )
    return Stop(
        status="ok",
        step=steps,
        sentence=f"The budget of {config.steps} steps ended without improvement beyond noise: {last.sentence(window)}; {tail}.",
    )
