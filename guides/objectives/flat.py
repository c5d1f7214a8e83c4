"""The loss of the loop for flat guides: minus the ELBO, all particles in one pass.

`FlatObjective` evaluates E_q[log p(u, data) - log q(u)] for all particles in one vectorized pass
of the log density; noise comes in antithetic pairs (e, -e), which removes the odd part of the
Monte Carlo error. `guides.objectives.program` is for guides that are Pyro programs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from guides.base.flat import FlatGuide
from zoo.compiler.compile import Record
from zoo.compiler.torch_private import is_traced
from zoo.compiler.trace import Traced, trace, vectorize
from zoo.compiler.vectorize import value_and_gradient, vmappable
from zoo.density.log_density import LogDensity

__all__ = ["FlatObjective", "Minibatches"]


class Minibatches:
    """Seeded minibatches without replacement; each epoch drops an incomplete remainder."""

    def __init__(self, density: LogDensity, batch_size: int | None) -> None:
        size = density.data.size
        self.data = density.data
        self.size = size or 0
        self.batch_size = (
            batch_size
            if batch_size is not None and size is not None and batch_size < size
            else None
        )
        self._left = torch.empty(0, dtype=torch.long)

    def draw(self, generator: torch.Generator) -> Tensor | None:
        """Return the indices of the next minibatch `[batch]`, or None if all data are used."""
        if self.batch_size is None:
            return None
        if len(self._left) < self.batch_size:
            self._left = torch.randperm(self.size, generator=generator)
        index, self._left = self._left[: self.batch_size], self._left[self.batch_size :]
        return index

    def tensors(self, index: Tensor | None) -> dict[str, Any]:
        """Return the program's keyword arguments for these units."""
        if index is None:
            return dict(self.data.train)
        return {
            **{k: v[index] if k in self.data.batched else v for k, v in self.data.train.items()},
            "index": index,
        }


class FlatObjective:
    """Minus the flat ELBO of a `FlatGuide`, differentiable in its parameters and the weights.

    Args:
        density: the log density of the program.
        guide: the guide in the optimized coordinates.
        weights: the program's own trainable weights, empty unless the entry learns.
        num_particles: points per step, in antithetic pairs if even.
        batch_size: units per step, None for all.
        stl: omit the score term of the gradient (sticking the landing).
    """

    record: Record | None = None  # of a density that is compiled by itself
    eager = ""  # why the step cannot be compiled; no reason is known

    def __init__(
        self,
        density: LogDensity,
        guide: FlatGuide,
        weights: Mapping[str, nn.Parameter],
        *,
        num_particles: int,
        batch_size: int | None,
        stl: bool,
    ) -> None:
        self.density, self.guide, self.weights = density, guide, dict(weights)
        self.num_particles, self.stl = num_particles, stl
        self.batches = Minibatches(density, batch_size)
        self.function = density.batch_function()
        if density.by_points and batch_size is None and not self.weights:
            self.eager = "its log density is compiled by itself, point by point in C"
            self.record = density.compiled
        self.parameters: dict[str, nn.Parameter] = {
            n: p for n, p in guide.named_parameters() if p.requires_grad
        }
        self.gradients_per_step = num_particles
        self._graph: Traced | None = None
        self._module: nn.Module = _Bound(
            self._estimate, guide, density.program if self.weights else None
        )
        self._names = [
            *(f"guide.{n}" for n in self.parameters),
            *(f"program.{n}" for n in self.weights),
        ]

    @property
    def noise_width(self) -> int:
        """Noise dimension per particle."""
        return (
            self.guide.noise_dim
            if self.batches.batch_size is None
            else self.guide.noise_for(self.batches.batch_size)
        )

    @property
    def normal(self) -> tuple[int, int] | None:
        """Shape of the noise if it consists of standard normals only, None with minibatches."""
        rows = self.num_particles // 2 if self.num_particles % 2 == 0 else self.num_particles
        return None if self.batches.batch_size is not None else (rows, self.noise_width)

    def noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the noise of one step.

        Returns:
            Standard normals `[particle, noise]`, half of them if mirrored, and the unit indices.
        """
        return self._noise(generator, self.batches)

    def peek_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw such noise without advancing the stream of minibatches."""
        return self._noise(generator, Minibatches(self.density, self.batches.batch_size))

    def _noise(self, generator: torch.Generator, batches: Minibatches) -> tuple[Tensor, ...]:
        rows = self.num_particles // 2 if self.num_particles % 2 == 0 else self.num_particles
        half = torch.randn(rows, self.noise_width, dtype=self.density.dtype, generator=generator)
        index = batches.draw(generator)
        return (half,) if index is None else (half, index)

    def mirrored(self, noise: Tensor) -> Tensor:
        """Return noise for every particle `[particle, noise]` from the result of `noise`."""
        return torch.cat([noise, -noise]) if self.num_particles % 2 == 0 else noise

    def observe(self, device: str) -> None:
        """Do nothing: the noise is drawn outside."""

    def inputs(self, noise: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the noise, which is all that a step needs."""
        return noise

    @property
    def numbers(self) -> int:
        """Random numbers that are inputs of a step."""
        return math.prod(self.normal or (1,))

    def loss(self, noise: tuple[Tensor, ...]) -> Tensor:
        """Return minus the ELBO estimate in nats for one draw of the noise."""
        return self._estimate(*noise)

    def flat_loss(
        self, parameters: Mapping[str, Tensor], noise: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """Return minus the ELBO as a pure function of the guide's parameters and the noise."""
        return torch.func.functional_call(
            self._module, {f"guide.{n}": p for n, p in parameters.items()}, (noise, index)
        )

    def gradients(
        self, values: Sequence[Tensor], *noise: Tensor
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return the loss at given parameters and weights, and its gradients.

        This is a pure function that can be traced.
        """
        loss = torch.func.functional_call(
            self._module, dict(zip(self._names, values, strict=True)), noise
        )
        return loss, torch.autograd.grad(loss, list(values), allow_unused=True)

    def _estimate(self, noise: Tensor, index: Tensor | None = None) -> Tensor:
        u, log_q = self.guide.sample(self.mirrored(noise), index=index, stl=self.stl)
        return (log_q - self._log_p(u, index)).mean()

    def prepare(self) -> None:
        """Prepare for a trace.

        A program that runs point by point is traced once, and its graph is mapped over the
        particles.

        Raises:
            TraceFailure: the program cannot be traced into one graph.
        """
        if (
            self._graph is None
            and not self.function.vectorized
            and not self.weights
            and self.batches.batch_size is None
        ):
            point = torch.full((self.density.dim,), 0.1, dtype=self.density.dtype)
            self._graph = vectorize(
                trace(lambda u: list(self.density.eager_gradient(u)), [point]),
                self.num_particles,
                (0, 1),
            )

    def _log_p(self, u: Tensor, index: Tensor | None) -> Tensor:
        if self._graph is not None and is_traced(u):
            value, gradient = self._graph(u.detach())
            # the value, and a function with its gradient
            return value + ((u - u.detach()) * gradient).sum(-1)
        if index is None and len(u) > 1:
            return self.function(u)
        tensors = self.batches.tensors(index)

        def point(row: Tensor) -> Tensor:
            return self.density.evaluate(row, tensors)

        # for one point vector products suffice where vmap would use matrix products
        if not self.function.vectorized or len(u) == 1:
            return torch.stack([point(row) for row in u])
        with vmappable():
            return torch.func.vmap(point)(u)

    def watched(self) -> Tensor | None:
        """Return the whitened parameters that the stopping rule watches."""
        return self.guide.watched()

    def locate_nonfinite(self, noise: tuple[Tensor, ...]) -> str:
        """Repeat the draw and name the site whose log density is not finite there."""
        with torch.no_grad():
            u, _ = self.guide.sample(
                self.mirrored(noise[0]), index=noise[1] if len(noise) > 1 else None
            )
            if not bool(torch.isfinite(u).all()):
                return "the guide's own parameters"
            bad = ~torch.isfinite(self.function(u))
            if bool(bad.any()):
                return self.density.nonfinite_sites(u[int(bad.long().argmax())])
        _, gradient = value_and_gradient(self.function, u)
        column = (~torch.isfinite(gradient)).any(0)
        names = [s.name for s in self.density.sites if bool(column[s.start : s.stop].any())]
        return f"the gradient of site {names[0]!r}" if names else "a gradient of the guide"


class _Bound(nn.Module):
    """A loss that owns the modules it reads, so that `functional_call` can replace all values."""

    def __init__(self, loss: Callable[..., Tensor], guide: nn.Module, program: Any) -> None:
        super().__init__()
        self._loss: Any = loss
        self.guide = guide
        if program is not None:
            self.program = program

    def forward(self, *noise: Tensor | None) -> Tensor:
        """Return the loss."""
        return self._loss(*noise)
