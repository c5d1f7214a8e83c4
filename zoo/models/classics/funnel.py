"""Funnel, non-centered: Neal's funnel in coordinates in which it is a standard normal.

There are no data; the target is a distribution that mimics the prior of a hierarchical model: a
log variance `v` and nine values whose scale it sets. Here the values are standardized, so that all
coordinates are independent.

    v            ~ Normal(0, 3)
    z_i          ~ Normal(0, 1),               i = 1..9
    x_i          = exp(v / 2) z_i

Every family should be right on it. `funnel_centered` is the same distribution with x as the site;
the quantities are functions of v and x, so that both entries are judged alike. The raw x has no
usable moments (its kurtosis is 3 exp(9), about 24,000): it is compared on the scales log |x| and
asinh x = sign(x) log(|x| + sqrt(1 + x^2)). Exactly,

    E log |x| = -(log 2 + gamma) / 2,  Var log |x| = 9/4 + pi^2/8,  E asinh x = 0,

and E (asinh x)^2 = 1.8086 is a smooth two-dimensional integral.

References:
    Neal (2003), Slice sampling, Annals of Statistics 31(3), 705-767, section 8.
    Papaspiliopoulos, Roberts and Skold (2007), A general framework for the parametrization of
    hierarchical models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.quantities import site
from zoo.types import Analytic, Data, ModelEntry, Moments, Program, Quantity

LOG_VARIANCE_SCALE = 3.0
WIDTH = 9


def make_data(seed: int) -> Data:
    """Return data without observations: the target is the prior itself."""
    return Data(
        train={},
        coords={"coordinate": [str(i) for i in range(1, WIDTH + 1)]},
        dims={"x": ("coordinate",), "z": ("coordinate",)},
        source="no data: Neal's funnel, a distribution defined by its density",
        licence="CC0-1.0",
    )


def build(data: Data) -> Program:
    """Return the non-centered program."""

    def program() -> None:
        pyro.sample("v", dist.Normal(0.0, LOG_VARIANCE_SCALE))
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([WIDTH]).to_event(1))  # [coordinate]

    return program


def log_abs_x(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return log |x|, `[*sample, coordinate]`, from either form."""
    if "x" in draws:
        return draws["x"].abs().log()
    return draws["z"].abs().log() + draws["v"].unsqueeze(-1) / 2


def asinh_x(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return asinh x, a signed logarithm, `[*sample, coordinate]`, from either form."""
    x = draws["x"] if "x" in draws else draws["z"] * (draws["v"].unsqueeze(-1) / 2).exp()
    return x.asinh()


QUANTITIES = {
    "v": Quantity(fn=site("v"), description="log variance of the values"),
    "log_abs_x": Quantity(
        fn=log_abs_x, dims=("coordinate",), description="log of the size of a value"
    ),
    "asinh_x": Quantity(
        fn=asinh_x,
        dims=("coordinate",),
        description="a value on a logarithmic scale that keeps its sign",
    ),
}


def moments() -> dict[str, Moments]:
    """Return the exact moments; that of asinh x by the trapezoid rule in v and t = log |z|."""
    zero, row = torch.zeros((), dtype=torch.float64), torch.zeros(WIDTH, dtype=torch.float64)
    v, t = (
        torch.arange(-30, 30, 0.25, dtype=torch.float64).unsqueeze(-1),
        torch.arange(-25, 2.5, 0.05, dtype=torch.float64),
    )
    # of v and t, not normalized
    log_density = -0.5 * (v / LOG_VARIANCE_SCALE).square() + t - 0.5 * (2 * t).exp()
    weight = log_density.exp() / log_density.exp().sum()
    square = (weight * (v / 2 + t).exp().asinh().square()).sum()
    log_sd = math.sqrt(LOG_VARIANCE_SCALE**2 / 4 + math.pi**2 / 8)
    return {
        "v": Moments(zero, zero, zero + LOG_VARIANCE_SCALE, zero),
        "log_abs_x": Moments(row - (math.log(2) + 0.5772156649015329) / 2, row, row + log_sd, row),
        "asinh_x": Moments(row, row, row + square.sqrt(), row),
    }


def sampler(values: str) -> Analytic:
    """Return the closed form for values named `x` (centered) or `z`; its log evidence is 0."""

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, WIDTH + 1, dtype=torch.float64, generator=generator)
        v, z = LOG_VARIANCE_SCALE * noise[:, 0], noise[:, 1:]
        return {"v": v, values: z * (v.unsqueeze(-1) / 2).exp() if values == "x" else z}

    return Analytic(sample=sample, moments=moments(), log_evidence=0.0)


def analytic(data: Data) -> Analytic:
    """Return exact draws, exact moments, and the evidence 1."""
    return sampler("z")


ENTRY = ModelEntry(
    name="funnel",
    title="Neal's funnel, non-centered",
    make_data=make_data,
    build=build,
    quantities=QUANTITIES,
    reference="analytic",
    analytic=analytic,
    tags=frozenset({"no_data", "hierarchical", "classic"}),
    cites=("Neal (2003), Slice sampling, Annals of Statistics 31(3), 705-767",),
)
