"""Posteriors on which guides, NUTS and their diagnostics fail, each with an exact sampler.

A target is a Pyro program without data, or with a few numbers, and a function that draws from its
posterior by inversion or composition, in NumPy. Quantities are transformed where moments do not
exist (asinh) or where the unconstrained scale is the logarithm.

| target | what is hard |
|---|---|
| banana | a curved ridge: y given x is N(3 x^2, 0.3) |
| funnel | ten coordinates, nine with the scale exp(v / 2), v of N(0, 3) |
| modes4, modes10 | two normals, 0.7 and 0.3, 4 and 10 sds apart |
| narrow_mode | two normals of equal mass, one of them a tenth as wide |
| triangle | three modes, 0.6, 0.3 and 0.1, 8 sds apart |
| student2, cauchy | five t(2) and three t(1) coordinates |
| spike_slab | two coordinates, each half N(0, 0.1) and half N(0, 5) |
| ring | a circle of radius 5 and width 0.5 |
| corr20 | twenty normals with correlations 0.999 |
| scales50 | fifty normals, sds from 0.01 to 100, in rotated axes |
| gamma | gamma densities of shape 0.3, 0.5 and 1 |
| dirichlet | a Dirichlet density of five concentrations 0.2: mass at the corners |
| boundary | eight groups more alike than their noise: a scale at zero, centered |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions import constraints
from torch import Tensor

import zoo
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Quantity, Reference

__all__ = ["TARGETS", "Target"]

Array = NDArray[np.float64]
Draws = dict[str, Array]
RADIUS, WIDTH = 5.0, 0.5  # of the ring
SHAPES = (0.3, 0.5, 1.0)
CORNERS = (0.2,) * 5
GROUPS = (0.1, -0.2, 0.15, 0.0, -0.1, 0.05, -0.05, 0.1)  # observed means, of sd 1
WIDE_MU, WIDE_TAU = 5.0, 1.0  # of the priors of `boundary`


@dataclass(frozen=True, kw_only=True)
class Target:
    """A posterior with an exact sampler.

    Attributes:
        program: the model; its keyword arguments are the names of `data`.
        exact: n draws per site from a NumPy generator.
        quantities: what is judged.
        data: arguments of the program.
        log_evidence: log of the integral of the density in nats, if known.
    """

    program: Callable[..., None]
    exact: Callable[[int, np.random.Generator], Draws]
    quantities: Mapping[str, Quantity]
    data: Mapping[str, Tensor] = field(default_factory=dict)
    log_evidence: float | None = 0.0

    def entry(self, name: str) -> ModelEntry:
        """Return the target as an entry of the zoo."""
        return zoo.from_program(self.program, self.data, name=name, quantities=self.quantities)

    def draws(self, n: int, seed: int) -> dict[str, Tensor]:
        """Return n exact draws per site, as tensors."""
        drawn = self.exact(n, np.random.default_rng(seed))
        return {name: torch.as_tensor(values) for name, values in drawn.items()}

    def reference(self, entry: ModelEntry, data: Data, n: int, seed: int) -> Reference:
        """Return n exact draws as a reference."""
        posterior = zoo.Posterior(
            entry=entry,
            data=data,
            method="exact",
            draws=self.draws(n, seed),
            sample_dims=("sample",),
            seed=seed,
        )
        return Reference(kind="exact", posterior=posterior, log_evidence=self.log_evidence)


def _tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


ZERO, ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


def _vector(name: str = "x", fn: Callable[[Tensor], Tensor] | None = None) -> Quantity:
    if fn is None:
        return Quantity(fn=site(name), dims=("i",))
    return Quantity(fn=lambda draws, data: fn(draws[name]), dims=("i",))


# -- shapes --------------------------------------------------------------------------------------


def _banana() -> None:
    x = pyro.sample("x", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(3.0 * x**2, 0.3))


def _banana_exact(n: int, g: np.random.Generator) -> Draws:
    x = g.normal(size=n)
    return {"x": x, "y": 3.0 * x**2 + 0.3 * g.normal(size=n)}


def _funnel() -> None:
    v = pyro.sample("v", dist.Normal(ZERO, 3.0))
    pyro.sample("x", dist.Normal(ZERO.expand(9), (v / 2).exp()).to_event(1))


def _funnel_exact(n: int, g: np.random.Generator) -> Draws:
    v = 3.0 * g.normal(size=n)
    return {"v": v, "x": np.exp(v / 2)[:, None] * g.normal(size=(n, 9))}


def _ring() -> None:
    x = pyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    pyro.factor("ring", -0.5 * ((x.square().sum(-1).sqrt() - RADIUS) / WIDTH) ** 2)


def _ring_exact(n: int, g: np.random.Generator) -> Draws:
    # the radius has the density r exp(-((r - 5) / 0.5)^2 / 2): rejection from the normal
    radius = np.empty(0)
    while len(radius) < n:
        r = RADIUS + WIDTH * g.normal(size=2 * n)
        bound = RADIUS + 10 * WIDTH
        radius = np.concatenate([radius, r[(r > 0) & (g.random(2 * n) * bound < r)]])
    angle = 2 * np.pi * g.random(n)
    return {"x": radius[:n, None] * np.stack([np.cos(angle), np.sin(angle)], -1)}


# -- modes ---------------------------------------------------------------------------------------


def _mixture(weights: tuple[float, ...], centers: Array, sds: tuple[float, ...]) -> Target:
    """Return a mixture of round normals in the plane."""

    def program() -> None:
        scales = torch.tensor(sds, dtype=torch.float64)[:, None].expand(-1, 2)
        parts = dist.Normal(torch.as_tensor(centers), scales).to_event(1)
        mix = dist.Categorical(_tensor(*weights))
        pyro.sample("x", dist.MixtureSameFamily(mix, parts))

    def exact(n: int, g: np.random.Generator) -> Draws:
        k = g.choice(len(weights), size=n, p=weights)
        return {"x": centers[k] + np.asarray(sds)[k, None] * g.normal(size=(n, 2))}

    return Target(program=program, exact=exact, quantities={"x": _vector()})


def _spike() -> None:
    mix = dist.Categorical(_tensor(0.5, 0.5).expand(2, 2))
    parts = dist.Normal(ZERO.expand(2, 2), _tensor(0.1, 5.0).expand(2, 2))
    pyro.sample("x", dist.MixtureSameFamily(mix, parts).to_event(1))


def _spike_exact(n: int, g: np.random.Generator) -> Draws:
    return {"x": g.normal(size=(n, 2)) * np.where(g.random((n, 2)) < 0.5, 0.1, 5.0)}


# -- tails ---------------------------------------------------------------------------------------


def _student(freedom: float, number: int) -> Target:
    def program() -> None:
        pyro.sample("x", dist.StudentT(freedom, ZERO.expand(number), 1.0).to_event(1))

    def exact(n: int, g: np.random.Generator) -> Draws:
        return {"x": g.standard_t(freedom, size=(n, number))}

    return Target(program=program, exact=exact, quantities={"asinh_x": _vector(fn=torch.asinh)})


def _gamma() -> None:
    pyro.sample("x", dist.Gamma(_tensor(*SHAPES), 1.0).to_event(1))


def _gamma_exact(n: int, g: np.random.Generator) -> Draws:
    # small shapes by Gamma(a) = Gamma(a + 1) U^(1 / a), so that no draw rounds to zero
    shapes = np.asarray(SHAPES)
    return {"x": g.gamma(shapes + 1, size=(n, 3)) * g.random((n, 3)) ** (1 / shapes)}


def _dirichlet() -> None:
    pyro.sample("x", dist.Dirichlet(_tensor(*CORNERS)))


def _dirichlet_exact(n: int, g: np.random.Generator) -> Draws:
    shapes = np.asarray(CORNERS)
    size = (n, len(CORNERS))
    logs = np.log(g.gamma(shapes + 1, size=size)) + np.log(g.random(size)) / shapes
    parts = np.exp(logs - logs.max(1, keepdims=True))
    return {"x": parts / parts.sum(1, keepdims=True)}


# -- scales --------------------------------------------------------------------------------------


def _normal(covariance: Array) -> Target:
    factor = np.linalg.cholesky(covariance)
    lower = torch.as_tensor(factor)

    def program() -> None:
        center = torch.zeros(len(factor), dtype=torch.float64)
        pyro.sample("x", dist.MultivariateNormal(center, scale_tril=lower))

    def exact(n: int, g: np.random.Generator) -> Draws:
        return {"x": g.normal(size=(n, len(factor))) @ factor.T}

    return Target(program=program, exact=exact, quantities={"x": _vector()})


def _rotated(number: int) -> Array:
    """Return a covariance with sds from 0.01 to 100 along random orthonormal axes."""
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(number, number)))
    covariance = axes @ np.diag(np.logspace(-4, 4, number)) @ axes.T
    return 0.5 * (covariance + covariance.T)


def _boundary(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(ZERO, WIDE_MU))
    tau = pyro.sample("tau", dist.HalfNormal(WIDE_TAU * ONE))
    with pyro.plate("group", len(GROUPS)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def _boundary_log_tau() -> tuple[Array, Array]:
    """Return a grid of log tau with log p(y, log tau): y is N(0, (1 + tau^2) I + 25 1 1')."""
    y, j, wide = np.asarray(GROUPS), len(GROUPS), WIDE_MU**2
    grid = np.linspace(-18.0, 2.5, 40_001)
    s = 1 + np.exp(2 * grid)
    log_det = (j - 1) * np.log(s) + np.log(s + wide * j)
    square = (y @ y) / s - wide * y.sum() ** 2 / (s * (s + wide * j))
    likelihood = -0.5 * (log_det + square + j * math.log(2 * math.pi))
    prior = math.log(2 / math.sqrt(2 * math.pi)) - 0.5 * np.exp(2 * grid) + grid
    return grid, likelihood + prior


def _boundary_exact(n: int, g: np.random.Generator) -> Draws:
    grid, log_p = _boundary_log_tau()
    mass = np.cumsum(np.exp(log_p - log_p.max()))
    tau = np.exp(np.interp(g.random(n), mass / mass[-1], grid))
    y, s = np.asarray(GROUPS), 1 + tau**2
    precision = len(y) / s + 1 / WIDE_MU**2
    mu = y.sum() / s / precision + g.normal(size=n) / np.sqrt(precision)
    own = 1 + 1 / tau**2
    mean = (y + (mu / tau**2)[:, None]) / own[:, None]
    theta = mean + g.normal(size=(n, len(y))) / np.sqrt(own)[:, None]
    return {"mu": mu, "tau": tau, "theta": theta}


def _boundary_evidence() -> float:
    grid, log_p = _boundary_log_tau()
    return float(log_p.max() + np.log(np.trapezoid(np.exp(log_p - log_p.max()), grid)))


def _ring_evidence() -> float:
    """Return the log of 2 pi times the integral of r exp(-((r - 5) / 0.5)^2 / 2) over r > 0."""
    at = RADIUS / WIDTH
    inside = 0.5 * math.erfc(-at / math.sqrt(2))
    first = RADIUS * WIDTH * math.sqrt(2 * math.pi) * inside
    return math.log(2 * math.pi * (first + WIDTH**2 * math.exp(-0.5 * at**2)))


def _pair(gap: float) -> Array:
    return np.array([[0.0, 0.0], [gap, 0.0]])


TARGETS: dict[str, Target] = {
    "banana": Target(
        program=_banana,
        exact=_banana_exact,
        quantities={"x": Quantity(fn=site("x")), "y": Quantity(fn=site("y"))},
    ),
    "funnel": Target(
        program=_funnel,
        exact=_funnel_exact,
        quantities={"v": Quantity(fn=site("v")), "asinh_x": _vector(fn=torch.asinh)},
    ),
    "modes4": _mixture((0.7, 0.3), _pair(4.0), (1.0, 1.0)),
    "modes10": _mixture((0.7, 0.3), _pair(10.0), (1.0, 1.0)),
    "narrow_mode": _mixture((0.5, 0.5), _pair(6.0), (1.0, 0.1)),
    "triangle": _mixture(
        (0.6, 0.3, 0.1), np.array([[0.0, 0.0], [8.0, 0.0], [4.0, 7.0]]), (1.0, 1.0, 1.0)
    ),
    "student2": _student(2.0, 5),
    "cauchy": _student(1.0, 3),
    "spike_slab": Target(program=_spike, exact=_spike_exact, quantities={"x": _vector()}),
    "ring": Target(
        program=_ring,
        exact=_ring_exact,
        quantities={"x": _vector()},
        log_evidence=_ring_evidence(),
    ),
    "corr20": _normal(0.001 * np.eye(20) + 0.999),
    "scales50": _normal(_rotated(50)),
    "gamma": Target(
        program=_gamma, exact=_gamma_exact, quantities={"log_x": _vector(fn=torch.log)}
    ),
    "dirichlet": Target(
        program=_dirichlet,
        exact=_dirichlet_exact,
        quantities={"log_x": _vector(fn=lambda x: x.clamp(min=1e-30).log())},
    ),
    "boundary": Target(
        program=_boundary,
        exact=_boundary_exact,
        quantities={
            "mu": Quantity(fn=site("mu")),
            "log_tau": Quantity(fn=log_site("tau")),
            "theta": _vector("theta"),
        },
        data={"y": torch.tensor(GROUPS, dtype=torch.float64)},
        log_evidence=_boundary_evidence(),
    ),
}
