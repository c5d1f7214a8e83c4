"""The one optimization loop: Adam in two phases, stopped by a rule, averaged at the end.

1. Search at a constant learning rate until `guides.stopping.Watch` says that nothing improves beyond noise.
2. Anneal along a cosine to `final_lr`, and average the parameters over the last share `tail` of this phase.

A loss or gradient that is not finite ends the fit at once; the last finite parameters are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from guides.stopping import Settled, Watch
from guides.types import FitConfig, Stop

__all__ = ["AdamState", "Objective", "Outcome", "adam", "optimize"]

Progress = Callable[[int, int, float], None]
BETAS = (0.9, 0.99)


class Objective(Protocol):
    """What the loop needs of an objective; see `guides.objectives`."""

    parameters: dict[str, nn.Parameter]
    weights: dict[str, nn.Parameter]
    gradients_per_step: int

    def noise(self, generator: torch.Generator) -> Any:
        """Draw the randomness of one step."""

    def loss(self, noise: Any) -> Tensor:
        """Return the loss of one step."""

    def watched(self) -> Tensor | None:
        """Return what the stopping rule watches besides the loss, in posterior standard deviations."""

    def blame(self) -> str:
        """Name what made the last loss or gradient not finite."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Losses per step in nats and why the loop ended; the parameters themselves are changed in place."""

    losses: np.ndarray[Any, Any]
    stop: Stop

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.losses)


@dataclass
class AdamState:
    """First and second moments of the gradients and the step number."""

    first: list[Tensor]
    second: list[Tensor]
    step: int = 0

    @classmethod
    def zeros(cls, parameters: list[Tensor]) -> AdamState:
        """Start with zero moments."""
        return cls([torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters])


def adam(gradients: list[Tensor], state: AdamState, rates: list[float]) -> list[Tensor]:
    """Return the steps of Adam (Kingma & Ba 2015) for each parameter and update the moments in the state."""
    state.step += 1
    beta1, beta2 = BETAS
    out = []
    for i, gradient in enumerate(gradients):
        state.first[i] = beta1 * state.first[i] + (1 - beta1) * gradient
        state.second[i] = beta2 * state.second[i] + (1 - beta2) * gradient * gradient
        mean = state.first[i] / (1 - beta1**state.step)
        spread = (state.second[i] / (1 - beta2**state.step)).sqrt()
        out.append(rates[i] * mean / (spread + 1e-8))
    return out


@dataclass
class _Run:
    """One run of the loop: parameters, optimizer state, losses and the running average of the tail."""

    objective: Objective
    config: FitConfig
    generator: torch.Generator
    progress: Progress | None
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = list(self.objective.parameters) + list(self.objective.weights)
        self.parameters: list[nn.Parameter] = [*self.objective.parameters.values(), *self.objective.weights.values()]
        self.state = AdamState.zeros([p.data for p in self.parameters])
        self.base = [self.config.lr * scaled(n, p) for n, p in self.objective.parameters.items()] + [self.config.weight_lr] * len(
            self.objective.weights
        )
        self.before = [p.detach().clone() for p in self.parameters]
        self.average = [torch.zeros_like(p.data) for p in self.parameters]
        self.averaged = 0

    def step(self, share: float, *, averaging: bool) -> Stop | None:
        """Take one step at this share of the learning rate; return a Stop when something is not finite."""
        number = len(self.losses) + 1
        loss = self.objective.loss(self.objective.noise(self.generator))
        if not bool(torch.isfinite(loss)):
            return self._failed(number, "The loss is not finite")
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        kept = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, self.parameters, strict=True)]
        norm = math.sqrt(sum(float((g * g).sum()) for g in kept))
        if not math.isfinite(norm):
            return self._failed(number, "The gradient is not finite")
        if norm > self.config.clip_norm:
            kept = [g * (self.config.clip_norm / norm) for g in kept]
        moves = adam(kept, self.state, [share * rate for rate in self.base])
        self.losses.append(loss.item())
        with torch.no_grad():
            for i, (parameter, move) in enumerate(zip(self.parameters, moves, strict=True)):
                self.before[i].copy_(parameter)
                parameter.sub_(move)
                if averaging:
                    self.average[i] += parameter
        self.averaged += averaging
        if self.progress is not None:
            self.progress(number, self.config.steps, self.losses[-1])
        return None

    def _failed(self, number: int, what: str) -> Stop:
        """Go back to the parameters of the last finite loss and say where it broke."""
        culprit = self.objective.blame()
        with torch.no_grad():
            for parameter, old in zip(self.parameters, self.before, strict=True):
                parameter.copy_(old)
        return Stop(status="nan", step=number, sentence=f"{what} at step {number}, at {culprit}; the last finite parameters are kept.")

    def use_average(self) -> None:
        """Replace the parameters by their average over the tail."""
        if self.averaged:
            with torch.no_grad():
                for parameter, total in zip(self.parameters, self.average, strict=True):
                    parameter.copy_(total / self.averaged)


def scaled(name: str, parameter: Tensor) -> float:
    """Return the share of the learning rate for a parameter: rows of a matrix factor act together, so they step less."""
    return 1.0 / math.sqrt(parameter.shape[-1]) if name in ("lower", "factor") else 1.0


def optimize(objective: Objective, config: FitConfig, generator: torch.Generator, progress: Progress | None = None) -> Outcome:
    """Run search and annealing; the objective's parameters hold the averaged result afterwards."""
    run = _Run(objective, config, generator, progress)
    annealing = min(max(2 * config.patience, config.anneal), max(1, config.steps // 2))
    watch = Watch(min(config.patience, max(1, (config.steps - annealing) // 2)))
    settled = False
    while len(run.losses) < config.steps - annealing and not settled:
        stop = run.step(1.0, averaging=False)
        if stop is not None:
            return Outcome(losses=np.asarray(run.losses), stop=stop)
        settled = watch.add(run.losses[-1], objective.watched())
    floor = min(1.0, config.final_lr / config.lr)
    for k in range(annealing):
        share = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * k / annealing))
        stop = run.step(share, averaging=k >= (1 - config.tail) * annealing)
        if stop is not None:
            return Outcome(losses=np.asarray(run.losses), stop=stop)
    run.use_average()
    return Outcome(losses=np.asarray(run.losses), stop=_verdict(settled, watch.last, watch.window, len(run.losses), config))


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


def state_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return detached copies of all tensors of several modules, with prefixed names."""
    return {f"{prefix}.{name}": value.detach().clone() for prefix, module in modules.items() for name, value in module.state_dict().items()}


def put_state(modules: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> None:
    """Write the tensors of `state_of` back."""
    for prefix, module in modules.items():
        part = {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(prefix + ".")}
        module.load_state_dict(part)
