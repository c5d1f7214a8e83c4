"""Guides over the flat unconstrained vector: what the flat objective needs of q.

For u in R^dim with the site order and bijections of `LogDensity`,

    ELBO = E_q[log p(u, data) - log q(u)]      [nats]

A `FlatGuide` transforms standard normal noise into u and knows log q. Pyro's Gaussian autoguides
are optimized through a `FlatGuide` in whitened coordinates, u = m + L (a + T eps), in which every
parameter is of order one regardless of the units of the posterior, and are then filled with the
result: the same family and optimum, but a better conditioned problem.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.guides import AutoContinuous
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor, nn

from guides.base.own_guides import on_charts
from zoo.density.log_density import LogDensity, default_dtype
from zoo.errors import ProgramError
from zoo.seeds import seeded
from zoo.types import Data, Program

__all__ = [
    "FlatGuide",
    "NormalGuide",
    "Start",
    "build_autoguide",
    "fill",
    "lower_product",
    "standard_normal_log_prob",
    "triangular",
]


@dataclass(frozen=True, kw_only=True)
class Start:
    """The start of an optimization: location, scales for a diagonal q, factor for a full one.

    `factor` is `[dim, dim]`, or None for the diagonal of the scales (for the units of an encoder a
    matrix would not fit into memory). `gradients` counts its cost.
    """

    loc: Tensor
    scale: Tensor
    factor: Tensor | None = None
    gradients: int = 0
    sentence: str = ""

    @property
    def tril(self) -> Tensor:
        """The Cholesky factor `[dim, dim]`."""
        return torch.diag(self.scale) if self.factor is None else self.factor

    def covariance(self, places: Tensor) -> Tensor:
        """Return the covariance of the values at these indices of the vector."""
        if self.factor is None:
            return torch.diag(self.scale[places].square())
        rows = self.factor[places]
        return rows @ rows.T


class FlatGuide(nn.Module, ABC):
    """A guide over the flat vector, with methods pure in parameters, noise and index."""

    dim: int
    noise_dim: int

    @abstractmethod
    def sample(
        self, noise: Tensor, *, index: Tensor | None = None, stl: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map noise `[n, noise_dim]` to points `[n, dim]` and their log q `[n]` in nats.

        `stl=True` stops the gradient at the parameters inside log q (sticking the landing, Roeder
        et al. 2017): the gradient stays unbiased and its variance vanishes where q equals the
        posterior. With `index`, only the local values of these units need to be set, and their log
        q is scaled by size / batch.
        """

    @abstractmethod
    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` in nats at points `[n, dim]`."""

    def noise_for(self, units: int) -> int:
        """Return the noise dimension per draw if only this number of units is needed."""
        return self.noise_dim

    def watched(self) -> Tensor | None:
        """Return parameters in posterior standard deviations for the stopping rule, or None."""
        return None

    def finish(self) -> None:
        """Export the result to the public guide; whitened guides fill their autoguide here."""

    def forward(self, noise: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """Call `sample`, so that `torch.func.functional_call` can replace the parameters."""
        return self.sample(noise, **options)


class NormalGuide(FlatGuide):
    """A normal around `origin` in whitened coordinates v, u = origin + tril v.

    Attributes:
        origin: location of the start `[dim]`.
        tril: its Cholesky factor `[dim, dim]`.
        shift: location in v.
        diagonal: whether only the diagonal of P over u matters to `nearest`.
    """

    diagonal = False
    origin: Tensor
    tril: Tensor
    shift: nn.Parameter

    @functools.cached_property
    def back(self) -> Tensor:
        """The inverse of `tril`, float64; every step needs it."""
        return torch.linalg.inv(self.tril.double())

    @abstractmethod
    def nearest(self, precision: Tensor) -> Tensor:
        """Take the covariance with the largest ELBO for a quadratic log density.

        S minimizes tr(P S) - log |S| among the members of the family, whatever the location.

        Args:
            precision: P `[dim, dim]` in whitened coordinates, positive definite, float64.

        Returns:
            The covariance S `[dim, dim]` in whitened coordinates, float64.
        """


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return the log density of independent standard normals `[n, k] -> [n]` in nats."""
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


BANDS = 8  # of rows; from `LARGE` rows on, skipping the zeros above the diagonal pays
LARGE = 128


def lower_product(tril: Tensor, x: Tensor) -> Tensor:
    """Return L x `[dim]` for a lower triangular L `[dim, dim]`.

    A large L is processed in bands of rows, so that little more than half of it is read.
    """
    dim = len(x)
    if dim < LARGE:
        return tril @ x
    ends = [dim * k // BANDS for k in range(BANDS + 1)]
    return torch.cat([tril[a:b, :b] @ x[:b] for a, b in pairwise(ends)])


def build_autoguide(
    kind: type[AutoContinuous], program: Program, data: Data, density: LogDensity, **options: Any
) -> AutoContinuous:
    """Build one of Pyro's flat autoguides and check its layout against `LogDensity`.

    Every site is initialized at unconstrained zero, so that improper flat priors (which cannot be
    sampled) work. Discrete sites are hidden, since the density sums them out.

    Raises:
        ProgramError: order or shapes of the sites differ between autoguide and log density.
    """
    with default_dtype(density.dtype), seeded(0):
        values = density.constrain(torch.zeros(density.dim, dtype=density.dtype))
        run = on_charts(program, density)
        hidden = poutine.block(run, hide=list(density.discrete)) if density.discrete else run
        guide = kind(hidden, init_loc_fn=init_to_value(values=values), **options)
        with poutine.block():
            guide(**data.train)
    theirs = [(name, tuple(shape)) for name, shape in guide._unconstrained_shapes.items()]
    ours = [(s.name, tuple(s.unconstrained_shape)) for s in density.sites]
    if theirs != ours:
        raise ProgramError(
            f"The autoguide lays its sites out as {theirs}, the log density as {ours}; give every"
            " site a fixed place and shape."
        )
    return guide


def fill(guide: nn.Module, **values: Tensor) -> None:
    """Write constrained parameter values into an autoguide."""
    with torch.no_grad():
        for name, value in values.items():
            if name == "loc" or name == "cov_factor":
                getattr(guide, name).copy_(value)
            else:
                setattr(guide, name, value.detach().clone())


def triangular(lower: Tensor, log_diagonal: Tensor) -> Tensor:
    """Return the lower triangular matrix of the strict part of `lower` and the diagonal's exp."""
    return lower.tril(-1) + torch.diag(log_diagonal.exp())
