"""The one optimization loop: Adam in two phases, a stopping rule, and averaging at the end.

1. Search at a constant learning rate until `guides.optimize.stopping.Watch` finds no improvement
   beyond noise.
2. Anneal along a cosine to `final_lr`, and average the parameters over the last share `tail` of
   this phase.

A non-finite loss or gradient ends the fit at once; the last finite parameters are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from guides.objectives.records import objective_of
from guides.optimize.ahead import FEW, Ahead, look_ahead, tolerance_of
from guides.optimize.progress import StepProgress
from guides.optimize.protocols import Evaluated, Objective
from guides.optimize.step import Step
from guides.optimize.stopping import LEAST, Settled, Watch
from guides.types import FitConfig, Stop
from zoo.compiler.compile import Record

__all__ = ["Outcome", "expected_steps", "optimize"]

FIRST = (1, 2, 4, 8, 16, 32)  # recorded steps, besides every tenth of a window
Numbers = np.ndarray[Any, np.dtype[np.float64]]
# called with the losses of a block of steps and the values after each
Look = Callable[[Sequence[float], Tensor], None]
# of the stopping rule that a search usually takes (at least two), for the prediction of its time
WINDOWS = 3
PROBES = 16  # evaluations with the same random numbers at the end of a window


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Losses per step in nats, the stop, and how the step ran; parameters are changed in place.

    `history` holds the training diagnostics of an objective with a `snapshot`, name -> values,
    with their `step`.
    """

    losses: np.ndarray[Any, Any]
    stop: Stop
    record: Record | None = None
    history: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.losses)


@dataclass
class _Run:
    """One run of the loop: the step with its state, and the losses."""

    objective: Objective
    config: FitConfig
    generator: torch.Generator
    progress: StepProgress | None
    expected: int
    losses: list[float] = field(default_factory=list)
    averaged: int = 0
    seen: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.step = Step(self.objective, self.config, self.expected)
        self._ahead = torch.empty(0)
        self._sum, self._steps = torch.zeros(()), 0
        self._mean: Tensor | None = None  # values of the last window
        self._way: Tensor | None = None  # from the one before it
        self._length = 0
        self._noises: list[tuple[Tensor, ...]] = []
        self._probing = torch.Generator().manual_seed(0)
        self._graph: bool | None = None  # whether the graph of a step gives losses in evaluation

    def take(
        self, shares: Sequence[float], averaging: Sequence[bool], each: Look | None = None
    ) -> Stop | None:
        """Run a block of steps; return a Stop if something is not finite.

        Args:
            shares: learning-rate scale of each step.
            averaging: whether the values of a step enter the average.
            each: called once with the losses of all steps and the values after each.
        """
        first, noise = len(self.losses) + 1, self._noise(len(shares))
        rows, history = self.step.block(first, shares, noise, averaging)
        good = np.isfinite(rows).all(1)
        number = len(rows) if good.all() else int(good.argmin())
        losses = rows[:number, 0].tolist()
        self.losses.extend(losses)
        if each is not None and number:
            each(losses, history)
        if self.follow is not None:
            self._look(self.follow, first, history[:number])
        if self.progress is not None:
            for i, loss in enumerate(losses):
                self.progress(first + i, self.config.steps, loss)
        if number < len(rows):
            what = "The gradient" if math.isfinite(rows[number, 0]) else "The loss"
            return self._failed(
                first + number, f"{what} is not finite", tuple(x[number] for x in noise)
            )
        self.averaged += sum(averaging)
        return None

    def _look(self, follow: Callable[[], dict[str, float]], first: int, history: Tensor) -> None:
        """Record training diagnostics at some of these steps."""
        for step, values in enumerate(history, first):
            if step in FIRST or step % max(1, self.config.patience // 10) == 0:
                self.step.write(values)
                self.seen.append({"step": float(step), **follow()})

    @property
    def follow(self) -> Callable[[], dict[str, float]] | None:
        """Training diagnostics of the objective, for programs that learn weights."""
        return getattr(self.objective, "snapshot", None) if self.objective.weights else None

    @property
    def most(self) -> int:
        """Maximal number of steps per block; 1 if steps run singly, so that interrupts work."""
        return 1 if self.step.native is None else self.step.together

    def _noise(self, number: int) -> list[Tensor]:
        """Return the noise of up to `most` steps, `[step, *input]` per input.

        The numbers do not depend on how many are requested. Standard normals are drawn for many
        steps
        at once: drawing them for each takes longer than a small step.
        """
        shape = self.objective.normal
        if shape is None:
            rows = [
                self.objective.inputs(self.objective.noise(self.generator)) for _ in range(number)
            ]
            return [torch.stack(column) for column in zip(*rows, strict=True)]
        if len(self._ahead) < number:
            fresh = torch.empty(self.step.together, *shape, dtype=self.step.state.dtype).normal_(
                generator=self.generator
            )
            self._ahead = torch.cat([self._ahead, fresh]) if len(self._ahead) else fresh
        now, self._ahead = self._ahead[:number], self._ahead[number:]
        return [now]

    def watched(self, history: Tensor, row: int) -> Tensor | None:
        """Return the watched parameters at a row of values."""
        self.step.write(history[row])
        return self.objective.watched()

    def gather(self, history: Tensor, *, ends: bool) -> None:
        """Add the values of some steps to the sum over a window, which may end with them."""
        self._sum, self._steps = self._sum + history.sum(0).cpu(), self._steps + len(history)
        if not ends:
            return
        mean = self._sum / self._steps
        self._way = None if self._mean is None else mean - self._mean
        self._mean, self._length = mean, self._steps
        self._sum, self._steps = torch.zeros(()), 0

    def probe(self) -> list[float]:
        """Return losses at the mean values of a window, for the same random numbers each time."""
        assert self._mean is not None
        return self.losses_at(self._mean, PROBES).tolist()

    def losses_at(self, row: Tensor, number: int) -> Numbers:
        """Return losses at a row of values, for the first of a fixed sequence of noises."""
        while len(self._noises) < number:
            self._noises.append(self.objective.peek_noise(self._probing))
        noises = self._noises[:number]
        self.step.write(row)
        try:
            if self._graph is None:  # no layer of a graph behaves otherwise while training
                losses = [self._evaluated(noise) for noise in noises]
                found = [self.step.loss(row, noise) for noise in noises if self.step.compiled]
                same = bool(found) and bool(np.allclose(losses, found, rtol=1e-6, atol=1e-9))
                self._graph = same
            elif self._graph and self.step.compiled:
                losses = [self.step.loss(row, noise) for noise in noises]
            else:
                losses = [self._evaluated(noise) for noise in noises]
        finally:  # far from where a search has been a program may raise anything
            self.step.write()
        return np.asarray(losses)

    def _evaluated(self, noise: tuple[Tensor, ...]) -> float:
        if hasattr(self.objective, "evaluated"):
            return cast(Evaluated, self.objective).evaluated(noise)
        with torch.no_grad():
            return float(self.objective.loss(noise))

    def ahead(self, last: Settled) -> Ahead | None:
        """Return a fall of the loss further along the way of the last window, if there is one."""
        if self._mean is None or self._way is None or not (ways := self._ways(self._way)):
            return None
        tolerance = tolerance_of(float(np.mean(self.losses[-self._length :])), last.noise)
        few = FEW if self.objective.gradients_per_step < FEW else FEW // 2
        return look_ahead(self.losses_at, self._mean, ways, tolerance, few)

    def _ways(self, way: Tensor) -> dict[str, Tensor]:
        """Return the way of the guide's values, and that of the program's weights.

        One that rounding has stopped altogether is replaced by that of Adam's next steps.
        """
        _, first, second, _ = self.step.state.cpu()
        number = sum(p.numel() for p in self.objective.parameters.values())
        out = {}
        for name, part in (("the guide", slice(0, number)), ("the weights", slice(number, None))):
            step = -self.step.rates * first / (second.sqrt() + 1e-8)
            chosen = torch.zeros_like(way)
            chosen[part] = way[part] if bool(way[part].any()) else self._length * step[part]
            if bool(chosen.any()):
                out[name] = chosen
        return out

    def _failed(self, number: int, what: str, noise: tuple[Tensor, ...]) -> Stop:
        """Restore the parameters of the last finite loss and say where it failed."""
        self.step.write()
        culprit = self.objective.locate_nonfinite(noise)
        self.step.write_last()
        return Stop(
            status="nan",
            step=number,
            sentence=(
                f"{what} at step {number}, at {culprit}; the last finite parameters are kept."
            ),
        )

    def outcome(self, stop: Stop) -> Outcome:
        """Return the result of the loop."""
        history = {
            name: np.array([row[name] for row in self.seen])
            for name in (self.seen[0] if self.seen else ())
        }
        return Outcome(
            losses=np.asarray(self.losses), stop=stop, record=self.step.record, history=history
        )


def _annealing(config: FitConfig) -> int:
    """Return the number of annealing steps."""
    return min(max(2 * config.patience, config.anneal), max(1, config.steps // 2))


def expected_steps(config: FitConfig, *, pairs: bool = False) -> int:
    """Return the steps that a start usually takes, at least if pairs of windows are compared."""
    return min(config.steps, (LEAST if pairs else WINDOWS) * config.patience + _annealing(config))


def optimize(
    objective: Objective,
    config: FitConfig,
    generator: torch.Generator,
    progress: StepProgress | None = None,
    *,
    starts: int = 1,
) -> Outcome:
    """Run search and annealing; the objective's parameters hold the averaged result afterwards.

    Args:
        objective: what is minimized.
        config: settings of the loop.
        generator: source of all noise and minibatches.
        progress: called as `progress(step, steps, loss)`.
        starts: remaining starts of this fit, including this one, which share a compiled step.
    """
    annealing = _annealing(config)
    goal = objective_of(config.objective)
    goal.check(config.steps, annealing)
    pairs = getattr(objective, "drifts", False)
    expected = expected_steps(config, pairs=pairs)
    run = _Run(objective, config, generator, progress, expected * starts)
    watch = Watch(min(config.patience, max(1, (config.steps - annealing) // 2)), pairs=pairs)
    settled, ahead, again = False, None, 0

    def look(losses: Sequence[float], history: Tensor) -> None:
        nonlocal settled, ahead, again
        enough = len(run.losses) > getattr(objective, "warmup", 0)
        run.gather(history[: len(losses)], ends=len(losses) == watch.remaining)
        probe = run.probe if watch.pairs else None
        settled = watch.extend(losses, lambda row: run.watched(history, row), probe) and enough
        if settled and watch.last is not None and len(run.losses) >= again:
            ahead = run.ahead(watch.last)
            if ahead is not None:  # the next look comes on a quarter of that way
                again = len(run.losses) + int(ahead.times / 4) * watch.length
        settled = settled and ahead is None

    while len(run.losses) < config.steps - annealing and not settled:
        number = min(run.most, watch.remaining, config.steps - annealing - len(run.losses))
        stop = run.take([1.0] * number, [False] * number, look)
        if stop is not None:
            return run.outcome(stop)
    if not settled and watch.last is not None and not watch.last.unstable:
        ahead = run.ahead(watch.last)
    floor = min(1.0, config.final_lr / config.lr)
    shares = [
        floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * k / annealing))
        for k in range(annealing)
    ]
    averaging = [k >= (1 - config.tail) * annealing for k in range(annealing)]
    k = 0
    while k < annealing:
        number = min(run.most, annealing - k)
        stop = run.take(shares[k : k + number], averaging[k : k + number])
        if stop is not None:
            return run.outcome(stop)
        k += number
    weight = getattr(objective, "final_weight", 1.0)
    assert weight == 1.0 or not goal.settles_after, f"the weight of the KL ended at {weight}"
    run.step.write_average(run.averaged) if run.averaged else run.step.write()
    return run.outcome(_verdict(settled, watch.last, ahead, len(run.losses), config))


def _rate(ahead: Ahead, config: FitConfig) -> str:
    """Return the learning rate of the part that would move on, with its value."""
    name = "lr" if ahead.part == "the guide" else "weight_lr"
    return f"{name} ({getattr(config, name):g})"


def _verdict(
    settled: bool, last: Settled | None, ahead: Ahead | None, steps: int, config: FitConfig
) -> Stop:
    tail = f"annealed and averaged, {steps} steps in all"
    if last is None:
        return Stop(
            status="not_converged",
            step=steps,
            sentence=(
                f"The budget of {config.steps} steps is too short for the stopping rule; raise it."
            ),
        )
    if settled:
        return Stop(status="ok", step=steps, sentence=f"Settled: {last.sentence}; {tail}.")
    if last.unstable:
        return Stop(
            status="not_converged",
            step=steps,
            sentence=(
                f"The loss is unstable: {last.sentence}; {tail}. Lower lr, standardize the"
                " input of the networks, or bound their scales."
            ),
        )
    if ahead is not None and (ahead.far or not last.improving):
        few = "" if ahead.far else f" or too few; raise steps ({config.steps}) or"
        return Stop(
            status="not_converged",
            step=steps,
            sentence=(
                f"Not settled: {last.sentence}, and {ahead.sentence}: the steps are too small"
                f"{few or '; raise'} {_rate(ahead, config)}; {tail}."
            ),
        )
    if last.improving:
        return Stop(
            status="not_converged",
            step=steps,
            sentence=(
                f"The budget of {config.steps} steps ended while still improving:"
                f" {last.sentence}; {tail}."
            ),
        )
    return Stop(
        status="ok",
        step=steps,
        sentence=(
            f"The budget of {config.steps} steps ended without improvement beyond noise:"
            f" {last.sentence}; {tail}."
        ),
    )
