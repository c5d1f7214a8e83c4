"""Pigeon homing: the mean direction of fifteen birds, an angle near the cut of the circle.

Fifteen homing pigeons were released, and the directions in which they vanished were noted. Do they
fly home, to 149 degrees?

    direction      ~ VonMises(149 degrees, 0.5)      # mean direction, an angle in [-pi, pi)
    concentration  ~ LogNormal(0.5, 1)
    bearing_i      ~ VonMises(direction, concentration)

The posterior of the direction lies around 168 degrees with a circular sd of 13 degrees, so a
sixth of its mass is beyond 180 degrees, where angles start again at -180. Its arithmetic mean, 107
degrees, means nothing, and over the real line, torch's support of an angle, the density has no
integral. Here the circle is cut opposite to the circular mean, and what is judged are the sine and
cosine.

Given the concentration k, a von Mises prior is conjugate: with C and S the sums of prior and
bearings, each weighted by its concentration, the direction is VonMises(atan2(S, C), r) with r =
hypot(C, S), and the bearings have the density

    p(bearings | k) = I0(r) / (I0(k0) (2 pi I0(k))^n)

so that one integral over log k remains, which the trapezoid rule gives to rounding.

References:
    Schmidt-Koenig (1963), On the role of the loft, the distance and site of release in pigeon
    homing, Biological Bulletin 125, 154-164.
    Mardia and Jupp (2000), Directional Statistics (the data as an example; section 7.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from scipy.special import ive
from torch import Tensor

from zoo.distributions.circular import wrapped
from zoo.quantities import cos_site, log_site, sin_site
from zoo.seeds import seeded
from zoo.types import Analytic, Data, ModelEntry, Moments, Program, Quantity

BEARINGS = (85, 135, 135, 140, 145, 150, 150, 150, 160, 185, 200, 210, 220, 225, 270)  # degrees
HOME = math.radians(149.0)
HOMEWARD = 0.5  # concentration of the prior
LOG_CONCENTRATION, SPREAD = 0.5, 1.0
LOW, HIGH, POINTS = -6.0, 5.0, 8001  # log concentrations of the grid


def make_data(seed: int) -> Data:
    """Return the bearings in radians from -pi to pi; real data do not depend on the seed."""
    bearing = wrapped(torch.tensor(BEARINGS, dtype=torch.float64) * (math.pi / 180))
    return Data(
        train={"bearing": bearing},
        observed=("bearing",),
        dims={"bearing": ("bird",)},
        coords={"bird": [str(i + 1) for i in range(len(BEARINGS))]},
        source=(
            "Schmidt-Koenig (1963), Biological Bulletin 125, 154-164: vanishing directions of 15"
            " homing pigeons, as in Mardia and Jupp (2000), Directional Statistics"
        ),
        licence="facts, not subject to copyright",
    )


def build(data: Data) -> Program:
    """Return the program with a von Mises prior of the mean direction."""
    birds = len(data.train["bearing"])

    def program(bearing: Tensor | None = None) -> None:
        direction = pyro.sample("direction", dist.VonMises(HOME, HOMEWARD))
        concentration = pyro.sample("concentration", dist.LogNormal(LOG_CONCENTRATION, SPREAD))
        with pyro.plate("bird", birds):
            pyro.sample("bearing", dist.VonMises(direction, concentration), obs=bearing)

    return program


class _Exact(NamedTuple):
    """The posterior on a grid of log concentrations, each `[point]`."""

    grid: Tensor
    weight: Tensor  # sums to one
    mean: Tensor  # of the direction given the concentration
    strength: Tensor  # its concentration
    log_evidence: float


def _log_i0(x: Tensor) -> Tensor:
    """Return log I0, exact to rounding; torch's own of a von Mises is off by up to 2e-7."""
    return torch.as_tensor(ive(0, x.numpy()), dtype=x.dtype).log() + x


@lru_cache(maxsize=2)
def _exact(bearings: tuple[float, ...]) -> _Exact:
    grid = torch.linspace(LOW, HIGH, POINTS, dtype=torch.float64)
    k, n = grid.exp(), len(bearings)
    east = HOMEWARD * math.cos(HOME) + k * sum(map(math.cos, bearings))
    north = HOMEWARD * math.sin(HOME) + k * sum(map(math.sin, bearings))
    strength = torch.hypot(east, north)
    prior = -0.5 * ((grid - LOG_CONCENTRATION) / SPREAD).square() - math.log(
        SPREAD * math.sqrt(2 * math.pi)
    )
    home = _log_i0(torch.tensor(HOMEWARD, dtype=torch.float64))
    height = prior + _log_i0(strength) - home - n * (_log_i0(k) + math.log(2 * math.pi))
    return _Exact(
        grid=grid,
        weight=torch.softmax(height, 0),
        mean=torch.atan2(north, east),
        strength=strength,
        log_evidence=float(height.logsumexp(0)) + math.log((HIGH - LOW) / (POINTS - 1)),
    )


def analytic(data: Data) -> Analytic:
    """Return exact draws, moments of sine, cosine and log concentration, and the log evidence."""
    exact = _exact(tuple(data.train["bearing"].tolist()))
    below, r = exact.weight.cumsum(0) - exact.weight / 2, exact.strength.numpy()
    first, second = (torch.from_numpy(ive(order, r) / ive(0, r)) for order in (1, 2))
    zero = torch.zeros((), dtype=torch.float64)

    def moments(mean: Tensor, square: Tensor) -> Moments:
        m, s = (exact.weight * mean).sum(), (exact.weight * square).sum()
        return Moments(m, zero, (s - m.square()).sqrt(), zero)

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        with seeded(seed):
            u = torch.rand(n, dtype=torch.float64)
            right = torch.searchsorted(below, u).clamp(1, POINTS - 1)
            left = right - 1
            share = ((u - below[left]) / (below[right] - below[left])).clamp(0, 1)
            k = exact.grid[left] + share * (exact.grid[right] - exact.grid[left])
            near = torch.where(share < 0.5, left, right)
            direction = dist.VonMises(exact.mean[near], exact.strength[near]).sample()
        return {"direction": wrapped(direction), "concentration": k.exp()}

    double = second * (2 * exact.mean).cos()  # E cos 2 theta, given the concentration
    return Analytic(
        sample=sample,
        moments={
            "sin direction": moments(first * exact.mean.sin(), (1 - double) / 2),
            "cos direction": moments(first * exact.mean.cos(), (1 + double) / 2),
            "log concentration": moments(exact.grid, exact.grid.square()),
        },
        log_evidence=exact.log_evidence,
    )


ENTRY = ModelEntry(
    name="pigeon_homing",
    title="Mean direction of homing pigeons, an angle near 180 degrees (von Mises)",
    make_data=make_data,
    build=build,
    quantities={
        "sin direction": Quantity(
            fn=sin_site("direction"), description="sine of the mean direction (east)"
        ),
        "cos direction": Quantity(
            fn=cos_site("direction"), description="cosine of the mean direction (north)"
        ),
        "log concentration": Quantity(
            fn=log_site("concentration"), description="log of the concentration of the bearings"
        ),
    },
    reference="analytic",
    analytic=analytic,
    tags=frozenset({"conjugate", "circular", "tiny"}),
    cites=(
        "Schmidt-Koenig (1963), Biological Bulletin 125, 154-164",
        "Mardia and Jupp (2000), Directional Statistics",
    ),
)
