"""Stochastic volatility: the quarterly variability of the growth of the US economy.

The quarterly growth of real gross domestic product, 1959 to 2009, in percent. Its variability fell
in the mid 1980s (the Great Moderation) and rose again in 2008. The sample mean (0.78 %) is
subtracted.

    persistence ~ Beta(20, 1.5)               # phi = 2 persistence - 1 (Kim, Shephard and Chib)
    volatility  ~ HalfNormal(0.5)             # sd of a step of the log variance
    z_t         ~ Normal(0, 1),                        t = 1..202
    d_1         = volatility z_1 / sqrt(1 - phi^2)
    d_t         = phi d_{t-1} + volatility z_t         # log variance around its level
    average     ~ Normal(-0.5 + mean(d), 1)   # level = average - mean(d) ~ Normal(-0.5, 1)
    h_t         = level + d_t
    growth_t    ~ Normal(0, exp(h_t / 2))

This form standardizes the steps and samples the average of h where others sample its level: the
data determine the average to 0.1, and the level, with phi near 1, hardly at all (with the level as
a latent 32 of 2,000 draws of NUTS diverged, in this form one). A single growth says almost nothing
about its own variance (log squares have sd 2.2), so the posterior of z_t is close to its prior.
The steps together determine phi and volatility, but poorly: volatility has a long tail towards 0
and phi towards 1. The recursion is computed by eight doublings instead of a loop of 202 steps. 205
parameters.

References:
    Kim, Shephard and Chib (1998), Stochastic volatility: likelihood inference and comparison with
    ARCH models, RES 65(3). McConnell and Perez-Quiros (2000), Output fluctuations in the United
    States, American Economic Review 90(5).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.datasets import read
from zoo.quantities import log_site
from zoo.types import Data, ModelEntry, Program, Quantity

SHOWN = range(0, 202, 8)  # every second year: neighbors are nearly equal


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


def deviations(persistence: Tensor, volatility: Tensor, z: Tensor) -> Tensor:
    """Return the stationary d_t = phi d_{t-1} + volatility z_t, `[*batch, quarter]`.

    d is the deviation of the log variances from their level, a sum over powers of phi; after k
    doublings d_t holds the terms of its last 2^k steps (Hillis and Steele's scan).
    """
    phi = (2 * persistence - 1).unsqueeze(-1)
    # 1 - phi^2 = 4 p (1 - p) keeps its digits for phi close to 1
    first = (4 * persistence * (1 - persistence)).rsqrt().unsqueeze(-1)
    n = z.shape[-1]
    d = volatility.unsqueeze(-1) * z * torch.where(torch.arange(n) == 0, first, 1.0)
    reach = 1
    while reach < n:
        d = d + phi**reach * torch.nn.functional.pad(d[..., :-reach], (reach, 0))
        reach *= 2
    return d


def build(data: Data) -> Program:
    """Return the program with standardized steps around the average of h."""
    n = len(data.train["growth"])

    def program(growth: Tensor | None = None) -> None:
        persistence = pyro.sample("persistence", dist.Beta(20.0, 1.5))
        volatility = pyro.sample("volatility", dist.HalfNormal(0.5))
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([n]).to_event(1))  # [quarter]
        d = deviations(persistence, volatility, z)
        average = pyro.sample("average", dist.Normal(-0.5 + d.mean(-1), 1.0))
        h = (average - d.mean(-1)).unsqueeze(-1) + d
        with pyro.plate("quarter", n):
            pyro.sample("growth", dist.Normal(0.0, (h / 2).exp()), obs=growth)

    return program


def level(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the stationary mean of h, `[*sample]`."""
    return draws["average"] - _deviations(draws).mean(-1)


def _deviations(draws: Mapping[str, Tensor]) -> Tensor:
    return deviations(*(draws[k] for k in ("persistence", "volatility", "z")))


def persistence_log_odds(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return logit persistence = log((1 + phi) / (1 - phi)), `[*sample]`."""
    return draws["persistence"].logit()


def log_scale(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return h / 2, the log sd of growth, in every second year, `[*sample, shown]`."""
    return (level(draws, data).unsqueeze(-1) + _deviations(draws))[..., list(SHOWN)] / 2


ENTRY = ModelEntry(
    name="stochastic_volatility",
    title="Stochastic volatility of US growth, non-centered",
    make_data=make_data,
    build=build,
    quantities={
        "level": Quantity(fn=level, description="stationary mean of the log variance of growth"),
        "persistence_log_odds": Quantity(
            fn=persistence_log_odds,
            description="log((1 + phi) / (1 - phi)), phi the autoregression of h",
        ),
        "log_volatility": Quantity(
            fn=log_site("volatility"), description="log sd of a step of the log variance"
        ),
        "log_scale": Quantity(
            fn=log_scale,
            dims=("shown",),
            description="log sd of growth in one quarter of every second year, percent",
        ),
    },
    reference="stored",
    tags=frozenset({"time_series", "large", "heavy_tails"}),
    cites=(
        (
            "Kim, Shephard and Chib (1998), Stochastic volatility: likelihood inference and"
            " comparison with ARCH models, RES 65(3)"
        ),
    ),
)
