"""Exact independent draws, evidence and moments of densities over few coordinates.

If all but at most three hyperparameters can be integrated out in closed form, the rest does not
need Markov chains: independent draws come by rejection from a multivariate t around the mode, and
integrals by the trapezoid rule, which converges exponentially for smooth integrands that vanish at
the boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.compiler.vectorize import value_and_gradient
from zoo.errors import ProgramError

__all__ = ["Integral", "Small"]

FREEDOM, WIDEN = 8.0, 1.05  # degrees of freedom (tails heavier than the target), scale factor
MARGIN = 0.05  # nats added to the largest log ratio that was found
REACH, NODES = 7.0, 15  # half width of the grid in sds, and its points per axis
CHUNK = 256  # points at once: their matrices fit into the CPU cache

Function = Callable[[Tensor], Tensor]


class Integral(NamedTuple):
    """Log of the integral in nats, mean and standard deviation of the coordinates `[dim]`."""

    log_value: float
    mean: Tensor
    sd: Tensor


class Small:
    """An unnormalized density over a few coordinates.

    Args:
        log_f: maps points `[n, dim]` to log f in nats, `[n]`, twice differentiable.
        start: initial point of the search for the mode, `[dim]`.

    Raises:
        ProgramError: no mode is found, or the envelope fails.
    """

    def __init__(self, log_f: Function, start: Tensor) -> None:
        self.log_f, self.dim = log_f, len(start)
        self.mode, self.root = self._expand(start)

    def _expand(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mode, by Newton's method, and a Cholesky factor of the inverse curvature."""

        def one(point: Tensor) -> Tensor:
            return self.log_f(point.unsqueeze(0))[0]

        for _ in range(60):
            slope = value_and_gradient(self.log_f, u[None])[1][0]
            curvature = -torch.autograd.functional.hessian(one, u)
            values, vectors = torch.linalg.eigh(curvature)
            step = vectors @ ((vectors.T @ slope) / values.abs().clamp(min=0.1))
            length = step.norm()
            u = u + step * torch.clamp(1.0 / length.clamp(min=1e-12), max=1.0)
            if length < 1e-9:
                return u, torch.linalg.cholesky(torch.linalg.inv(curvature))
        raise ProgramError("No mode was found in 60 Newton steps; start closer to it.")

    def _log_ratio(self, noise: Tensor) -> Tensor:
        """Return log f - log t `[n]`, up to a constant, at points given in sds from the mode."""
        t = -0.5 * (FREEDOM + self.dim) * torch.log1p((noise / WIDEN).square().sum(-1) / FREEDOM)
        return (
            torch.cat(
                [self.log_f(part) for part in (self.mode + noise @ self.root.T).split(CHUNK)]
            )
            - t
        )

    def _propose(self, n: int, generator: torch.Generator) -> Tensor:
        normal = torch.randn(n, self.dim, dtype=torch.float64, generator=generator)
        half = (
            torch.randn(n, int(FREEDOM), dtype=torch.float64, generator=generator)
            .square()
            .sum(-1, keepdim=True)
        )
        return WIDEN * normal * (FREEDOM / half).sqrt()

    @cached_property
    def _bound(self) -> Tensor:
        """The largest log ratio, by gradient ascent from the five best of 500 proposals."""
        pilot = self._propose(500, torch.Generator().manual_seed(0))
        best = self._log_ratio(pilot).topk(5).indices
        point = pilot[best].clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS([point], max_iter=60, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = -self._log_ratio(point).sum()
            value.backward()
            return value

        optimizer.step(loss)
        with torch.no_grad():
            return (
                torch.maximum(self._log_ratio(point).max(), self._log_ratio(pilot).max()) + MARGIN
            )

    def sample(self, n: int, seed: int) -> Tensor:
        """Return independent exact draws, `[n, dim]`."""
        generator = torch.Generator().manual_seed(seed)
        kept: list[Tensor] = []
        while sum(map(len, kept)) < n:
            noise = self._propose(int(1.4 * (n - sum(map(len, kept)))) + 50, generator)
            log_ratio = self._log_ratio(noise) - self._bound
            if bool((log_ratio > 0).any()):
                raise ProgramError(
                    "A draw lies above the envelope; widen the envelope or its margin."
                )
            uniform = torch.rand(len(noise), dtype=torch.float64, generator=generator)
            kept.append((self.mode + noise @ self.root.T)[uniform.log() < log_ratio])
        return torch.cat(kept)[:n]

    def integral(self) -> Integral:
        """Return the log integral and the moments of the coordinates, by the trapezoid rule."""
        axis = torch.linspace(-REACH, REACH, NODES, dtype=torch.float64)
        mesh = torch.cartesian_prod(*[axis] * self.dim).reshape(-1, self.dim)
        points = self.mode + mesh @ self.root.T
        values = torch.cat([self.log_f(part) for part in points.split(CHUNK)])
        total = values.logsumexp(0)
        weight = (values - total).exp()
        mean = weight @ points
        log_cell = self.dim * math.log(2 * REACH / (NODES - 1)) + float(
            self.root.diagonal().log().sum()
        )
        return Integral(float(total) + log_cell, mean, (weight @ (points - mean).square()).sqrt())
