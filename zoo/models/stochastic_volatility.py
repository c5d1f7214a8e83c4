"""Stochastic volatility: how variable was the growth of the US economy from quarter to quarter?

The quarterly growth of real gross domestic product, 1959 to 2009, in percent. Its variability fell in the mid 1980s (the
Great Moderation) and rose again in 2008. Growth is taken around its sample mean (0.78 %).

    level        ~ Normal(-0.5, 1)                     # mean log variance
    persistence  ~ Beta(20, 1.5)                       # phi = 2 persistence - 1, as in Kim, Shephard and Chib
    volatility   ~ HalfNormal(0.5)                     # sd of a step of the log variance
    z_t          ~ Normal(0, 1),                       t = 1..202
    h_1          = level + volatility z_1 / sqrt(1 - phi^2)
    h_t          = level + phi (h_{t-1} - level) + volatility z_t
    growth_t     ~ Normal(0, exp(h_t / 2))

This form standardizes the steps of the random walk. A single growth says next to nothing about its own variance (log squares
have sd 2.2), so the posterior of z_t is close to its prior, but phi and volatility are known from all steps together and
badly: volatility has a long tail towards 0 and phi towards 1. The recursion is one triangular solve, which
compiles, instead of a loop of 202 steps. 205 parameters.

References:
    Kim, Shephard and Chib (1998), Stochastic volatility: likelihood inference and comparison with ARCH models, RES 65(3).
    McConnell and Perez-Quiros (2000), Output fluctuations in the United States, American Economic Review 90(5).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.datasets import read
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

SHOWN = range(0, 202, 8)  # every second year: neighbors are nearly the same


def make_data(seed: int) -> Data:
    """Return quarterly growth around its mean, in percent; real data do not depend on the seed."""
    table = read("gdp")
    growth = 100 * table.column("gdp").log().diff()
    when = [f"{int(y)}q{int(q)}" for y, q in table.select(("year", "quarter"))[1:].tolist()]
    return Data(
        train={"growth": growth - growth.mean()},
        observed=("growth",),
        coords={"quarter": when, "shown": [when[t] for t in SHOWN]},
        dims={"growth": ("quarter",), "z": ("quarter",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def log_variances(level: Tensor, persistence: Tensor, volatility: Tensor, z: Tensor) -> Tensor:
    """Return h by solving (I - phi S) (h - level) = volatility (z_1 / sqrt(1 - phi^2), z_2, ...), `[*batch, quarter]`.

    S shifts by one quarter; the matrix has two diagonals, so the solve is the recursion.
    """
    n, phi = z.shape[-1], 2 * persistence - 1
    shift = torch.diag(torch.ones(n - 1, dtype=z.dtype), -1)
    matrix = torch.eye(n, dtype=z.dtype) - phi[..., None, None] * shift
    first = torch.arange(n) == 0
    # 1 - phi^2 = 4 p (1 - p) keeps its digits where phi is close to 1
    stationary = (4 * persistence * (1 - persistence)).rsqrt().unsqueeze(-1)
    steps = volatility.unsqueeze(-1) * z * torch.where(first, stationary, 1.0)
    return level.unsqueeze(-1) + torch.linalg.solve_triangular(matrix, steps.unsqueeze(-1), upper=False, unitriangular=True).squeeze(-1)


def build(data: Data) -> Program:
    """Return the program with standardized steps."""
    n = len(data.train["growth"])

    def program(growth: Tensor | None = None) -> None:
        level = pyro.sample("level", dist.Normal(-0.5, 1.0))
        persistence = pyro.sample("persistence", dist.Beta(20.0, 1.5))
        volatility = pyro.sample("volatility", dist.HalfNormal(0.5))
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([n]).to_event(1))  # [quarter]
        h = log_variances(level, persistence, volatility, z)
        with pyro.plate("quarter", n):
            pyro.sample("growth", dist.Normal(0.0, (h / 2).exp()), obs=growth)

    return program


def persistence_log_odds(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return logit persistence = log((1 + phi) / (1 - phi)), `[*sample]`."""
    return draws["persistence"].logit()


def log_scale(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return h / 2, the log standard deviation of growth, in every second year, `[*sample, shown]`."""
    return log_variances(*(draws[k] for k in ("level", "persistence", "volatility", "z")))[..., list(SHOWN)] / 2


ENTRY = ModelEntry(
    name="stochastic_volatility",
    title="Stochastic volatility of US growth, non-centered",
    make_data=make_data,
    build=build,
    quantities={
        "level": Quantity(fn=site("level"), description="mean log variance of growth"),
        "persistence_log_odds": Quantity(fn=persistence_log_odds, description="log((1 + phi) / (1 - phi)), phi the autoregression of h"),
        "log_volatility": Quantity(fn=log_site("volatility"), description="log sd of a step of the log variance"),
        "log_scale": Quantity(fn=log_scale, dims=("shown",), description="log sd of growth in one quarter of every second year, percent"),
    },
    reference="nuts",
    tags=frozenset({"time_series", "large", "heavy_tails"}),
    cites=("Kim, Shephard and Chib (1998), Stochastic volatility: likelihood inference and comparison with ARCH models, RES 65(3)",),
)
