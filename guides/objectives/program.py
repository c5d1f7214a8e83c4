"""The loss of the loop for guides that are Pyro programs: minus the ELBO, by Pyro's estimators.

A step is compiled like that of a flat guide. Program and guide draw inside their own code, so the
calls that draw are recorded once and their numbers become inputs of the graph
(`zoo.compiler.noise`): those that the program itself would draw. The graph is log q - log p of one
particle, mapped over all of them, and its gradient. It is compared with Pyro's estimator before it
is used.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.enum import config_enumerate
from torch import Tensor, nn

from guides.objectives.flat import Minibatches
from zoo.compiler.noise import Draw, recorded, replayed
from zoo.compiler.torch_private import is_traced
from zoo.compiler.vectorize import vmappable
from zoo.density.guide_density import enumerated
from zoo.density.log_density import LogDensity
from zoo.density.sites import no_validation
from zoo.errors import FitError, one_line
from zoo.seeds import seeded

__all__ = ["ProgramObjective"]

_log = logging.getLogger("zoo")


class ProgramObjective:
    """Minus the ELBO of a guide that is a Pyro program, by Pyro's own estimators.

    `Trace_ELBO`, or `TraceEnum_ELBO` if the program has discrete sites, run as a module; one
    fresh estimator per fit. The noise of a step is the seed of torch's stream. For a graph
    `observe` finds the draws that program and guide make, and their numbers, the same ones, are
    further inputs.
    """

    normal = None

    def __init__(
        self,
        density: LogDensity,
        program: nn.Module,
        guide: nn.Module,
        weights: Mapping[str, nn.Parameter],
        *,
        num_particles: int,
        batch_size: int | None,
    ) -> None:
        self.density, self.weights = density, dict(weights)
        self.drifts = bool(self.weights)  # see `guides.optimize.stopping`
        self.batches = Minibatches(density, batch_size)
        kind = TraceEnum_ELBO if density.discrete else Trace_ELBO
        nesting = density.max_plate_nesting
        run = density.completed(program)
        if density.discrete:
            run = config_enumerate(run, default="parallel")
        self.model: nn.Module = _OfData(run, program)
        self.guide: nn.Module = _OfData(enumerated(guide, density), guide)
        self.module = kind(num_particles=num_particles, max_plate_nesting=nesting)(
            self.model, self.guide
        )
        self._pair = _Pair(density, program, self.guide)
        self.parameters: dict[str, nn.Parameter] = {
            n: p for n, p in guide.named_parameters() if p.requires_grad
        }
        self.gradients_per_step = num_particles
        self.eager = ""  # why the step cannot be compiled
        self._draws: tuple[Draw, ...] | None = None  # of one particle
        self._mapped = True
        self._stream = torch.Generator()

    @property
    def numbers(self) -> int:
        """Random numbers that are inputs of a step."""
        return self.gradients_per_step * sum(math.prod(d.shape) for d in self._draws or ())

    def observe(self, device: str) -> None:
        """Find the draws of a step, by running it for two seeds.

        If they differ between seeds or particles, or if a step changes a buffer, `eager` says so.
        """
        if device != "cpu":
            self.eager = "steps of a guide that is a Pyro program run on the CPU"
        elif self._discrete():
            self.eager = "the guide draws discrete sites"
        if self.eager:
            return
        stream, found = torch.Generator().manual_seed(15_485_863), []
        buffers = [(b, b.clone()) for b in self.module.buffers()]
        for _ in range(2):
            with recorded() as draws:
                self.loss(self.peek_noise(stream))
            found.append(tuple(draws))
        if not all(torch.equal(b, before) for b, before in buffers):
            self.eager = "a layer remembers what it was given, as batch normalization does"
            with torch.no_grad():  # this look at a step is not to be remembered
                for buffer, before in buffers:
                    buffer.copy_(before)
            return
        one = found[0][: len(found[0]) // self.gradients_per_step]
        if all(draws == one * self.gradients_per_step for draws in found):
            self._draws = one
        else:
            self.eager = "the program or its guide draws other random numbers in every run"

    def _discrete(self) -> bool:
        """Whether the guide draws discrete sites of the program, whose values are enumerated."""
        if not self.density.discrete:
            return False
        tensors = self._tensors(self.peek_noise(torch.Generator()))
        with seeded(0), torch.no_grad(), poutine.block(), no_validation():
            trace = poutine.trace(self.guide).get_trace(tensors)
        return any(name in trace.nodes for name in self.density.discrete)

    def inputs(self, noise: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the noise of a step, then for every draw its numbers `[particle, *shape]`.

        The numbers are missing as long as the draws are not known.
        """
        if self._draws is None:
            return noise
        self._stream.manual_seed(int(noise[0]))
        particles = [
            [draw.fresh(self._stream) for draw in self._draws]
            for _ in range(self.gradients_per_step)
        ]
        return (*noise, *(torch.stack(column) for column in zip(*particles, strict=True)))

    def noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw a seed for the step's random numbers, and the unit indices."""
        return self._noise(generator, self.batches)

    def peek_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw such noise without advancing the stream of minibatches."""
        return self._noise(generator, Minibatches(self.density, self.batches.batch_size))

    def _noise(self, generator: torch.Generator, batches: Minibatches) -> tuple[Tensor, ...]:
        seed, index = torch.randint(2**31 - 1, (), generator=generator), batches.draw(generator)
        return (seed,) if index is None else (seed, index)

    def loss(self, noise: tuple[Tensor, ...]) -> Tensor:
        """Return minus the ELBO estimate in nats."""
        with seeded(int(noise[0])):
            return self.module(self._tensors(noise))

    def _tensors(self, noise: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return the arguments of the program for a step."""
        return self.batches.tensors(None if self.batches.batch_size is None else noise[1])

    def gradients(
        self, values: Sequence[Tensor], *noise: Tensor
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Write the values into the parameters, and return the loss and its gradients.

        In a trace the parameters are left as they are.
        """
        own = [*self.parameters.values(), *self.weights.values()]
        if self._draws is not None and is_traced(values[0]):
            loss = self._traced(own, values, noise)
            return loss, _gradient(loss, values)
        with torch.no_grad():
            for parameter, value in zip(own, values, strict=True):
                parameter.copy_(value)
        loss = self.loss(noise)
        return loss, _gradient(loss, own)

    def _traced(
        self, own: Sequence[Tensor], values: Sequence[Tensor], noise: tuple[Tensor, ...]
    ) -> Tensor:
        """Return the loss as a function of values and noise alone."""
        draws = self._draws or ()
        place = {id(p): value for p, value in zip(own, values, strict=True)}
        named = self._pair.named_parameters(remove_duplicate=False)
        given = {name: place[id(p)] for name, p in named if id(p) in place}
        tensors, numbers = self._tensors(noise), noise[len(noise) - len(draws) :]

        def particle(*one: Tensor) -> Tensor:
            with replayed(draws, one):
                loss: Tensor = torch.func.functional_call(self._pair, given, (tensors,))
            return loss

        with vmappable():
            if self._mapped and draws and self.gradients_per_step > 1:
                try:
                    return torch.func.vmap(particle)(*numbers).mean()
                except Exception as error:  # whatever cannot be mapped can be repeated
                    self._mapped = False
                    _log.info("Particles are traced one by one: %s", one_line(error))
            each = zip(*numbers, strict=True) if numbers else [()] * self.gradients_per_step
            return torch.stack([particle(*one) for one in each]).mean()

    def evaluated(self, noise: tuple[Tensor, ...]) -> float:
        """Return the loss of this noise in evaluation mode; what trains stays as it is."""
        training = [part for part in self.module.modules() if part.training]
        try:
            for part in training:
                part.training = False
            return float(self.loss(noise).detach())  # enumeration wants a gradient to exist
        finally:
            for part in training:
                part.training = True

    def watched(self) -> Tensor | None:
        """Return None: the parameters of a Pyro program have no common unit."""
        return None

    def prepare(self) -> None:
        """Do nothing: the loss is traced as it is."""

    def locate_nonfinite(self, noise: tuple[Tensor, ...]) -> str:
        """Repeat the failing draw and name the site whose log probability is not finite."""
        tensors = self._tensors(noise)
        with seeded(int(noise[0])), torch.no_grad(), pyro.validation_enabled(False):
            guide = poutine.trace(self.guide).get_trace(tensors)
            trace = poutine.trace(poutine.replay(self.model, guide)).get_trace(tensors)
            for where in (guide, trace):
                where.compute_log_prob()
                for name, node in where.nodes.items():
                    if (
                        node["type"] == "sample"
                        and not torch.isfinite(torch.as_tensor(node["log_prob"])).all()
                    ):
                        return f"site {name!r}"
        return "a gradient of the log density"


class _Pair(nn.Module):
    """log q - log p at one draw of the guide, with discrete sites summed out of p."""

    def __init__(self, density: LogDensity, program: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.program, self.guide = program, guide  # their parameters are found here
        self._density = density

    def forward(self, tensors: Mapping[str, Any]) -> Tensor:
        """Draw, and return the difference in nats."""
        with poutine.block(), no_validation():
            trace = poutine.trace(self.guide).get_trace(tensors)
            log_q = trace.log_prob_sum()
        draws = {s.name: trace.nodes[s.name]["value"] for s in self._density.sites}
        return log_q - self._density.log_joint(draws, tensors)


class _OfData(nn.Module):
    """A program or guide as a function of one dict: `model` may be a name of the data."""

    def __init__(self, run: Callable[..., Any], owner: nn.Module) -> None:
        super().__init__()
        self.owner = owner  # its parameters are found here
        self._run: Any = run

    def forward(self, tensors: Mapping[str, Any]) -> Any:
        """Run it."""
        return self._run(**tensors)


def _gradient(loss: Tensor, values: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Return the gradient of a loss.

    Raises:
        FitError: no value reaches it.
    """
    if not loss.requires_grad:
        raise FitError(
            "The ELBO depends on no trainable parameter: those of the guide are detached, or read"
            " under torch.no_grad(); leave that out, or score the guide as it is by steps=0."
        )
    return torch.autograd.grad(loss, list(values), allow_unused=True)
