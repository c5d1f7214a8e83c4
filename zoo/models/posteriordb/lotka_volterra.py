"""Lynx and hare: predator and prey from 21 years of fur returns.

Pelts (thousands) of snowshoe hares u and Canadian lynx v, 1900-1920, follow the equations of Lotka
and Volterra with multiplicative errors.

    du/dt = (a - b v) u,   dv/dt = (-c + d u) v,   theta = (a, b, c, d)
    a, c    ~ Normal(1, 0.5) on (0, inf);   b, d ~ Normal(0.05, 0.05) on (0, inf)
    z_init  ~ LogNormal(log 10, 1)                 # u and v in 1900, thousands
    sigma_k ~ LogNormal(-1, 1)
    y_tk    ~ LogNormal(log z_tk, sigma_k),        t = 1900..1920

The equations are solved for log u and log v, so that u and v stay positive. The slope of each
depends only on the other, so a splitting method of order six with two steps per year suffices. At
the posterior it is within 2e-5 nats of half the step (a test checks it); Stan's own solver is run
at tolerances of 1e-5 and 1e-3 and is 1.4e-4 nats from an accurate one.

References:
    Hewitt (1921), The conservation of the wild life of Canada. Howard (2009), Modeling basics.
    Carpenter (2018), Predator-prey population dynamics: the Lotka-Volterra model in Stan.
    Magnusson et al. (2024), posteriordb: testing, benchmarking and developing Bayesian inference
    algorithms.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.distributions.univariate import PositiveNormal
from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, make_card_data, published
from zoo.models.posteriordb._ode import refined, split
from zoo.quantities import log_site
from zoo.types import Data, ModelEntry, Program, Quantity

NAME = "hudson_lynx_hare-lotka_volterra"
STEPS = 2  # per year
# of log d u and log b v: reached only at rates far too fast for the grid, which the data exclude
CEILING = 30.0
MEANS, SDS = (1.0, 0.05, 1.0, 0.05), (0.5, 0.05, 0.5, 0.05)


def make_data(seed: int) -> Data:
    """Return the pelts of all years, including the first; real data do not depend on the seed."""
    table = posteriordb.data(NAME)
    y = torch.cat([table["y_init"].unsqueeze(0), table["y"]])  # [year, species]
    return make_card_data(
        NAME,
        {"y": y},
        ("y",),
        coords={
            "year": (0.0, *table["ts"].tolist()),
            "species": ("hare", "lynx"),
            "rate": ("a", "b", "c", "d"),
        },
        dims={
            "y": ("year", "species"),
            "theta": ("rate",),
            "z_init": ("species",),
            "sigma": ("species",),
        },
    )


def log_populations(
    theta: Tensor, z_init: Tensor, years: tuple[float, ...], steps: int = STEPS
) -> Tensor:
    """Return log u and log v at the years, `[year, species]`."""
    a, b, c, d = theta.unbind(-1)
    # log d u and log b v have slopes a - exp and exp - c, without factors
    shift = torch.stack([d.log(), b.log()])
    moved: dict[float, tuple[Tensor, Tensor]] = {}  # the few weights recur in every step

    def part(w: float) -> tuple[Tensor, Tensor]:
        return moved.get(w) or moved.setdefault(w, (w * a, -w * c))

    grid, keep = refined(years, steps)
    log_z = split(
        lambda w, x, y: torch.add(x + part(w)[0], y.clamp(max=CEILING).exp(), alpha=-w),
        lambda w, y, x: torch.add(y + part(w)[1], x.clamp(max=CEILING).exp(), alpha=w),
        (z_init[0].log() + shift[0], z_init[1].log() + shift[1]),
        grid,
        keep,
    )
    return log_z - shift


def build(data: Data) -> Program:
    """Return the program."""
    years = tuple(float(t) for t in data.coords["year"])

    def program(y: Tensor | None = None) -> None:
        theta = pyro.sample(
            "theta", PositiveNormal(torch.tensor(MEANS), torch.tensor(SDS)).to_event(1)
        )  # [rate]
        z_init = pyro.sample(
            "z_init", dist.LogNormal(math.log(10.0), 1.0).expand([2]).to_event(1)
        )  # [species]
        sigma = pyro.sample(
            "sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1)
        )  # [species]
        log_z = log_populations(theta, z_init, years)
        with pyro.plate("year", len(years), dim=-2), pyro.plate("species", 2, dim=-1):
            pyro.sample("y", dist.LogNormal(log_z, sigma), obs=y)

    return program


ENTRY = ModelEntry(
    name="posteriordb/hudson_lynx_hare-lotka_volterra",
    title="Lynx and hare: Lotka-Volterra equations",
    make_data=make_data,
    build=build,
    quantities={
        "log_theta": Quantity(
            fn=log_site("theta"),
            dims=("rate",),
            description="log rates of growth, predation, death and conversion",
        ),
        "log_z_init": Quantity(
            fn=log_site("z_init"),
            dims=("species",),
            description="log populations in 1900, log thousands of pelts",
        ),
        "log_sigma": Quantity(
            fn=log_site("sigma"), dims=("species",), description="log of the relative errors"
        ),
    },
    reference="stored",
    published=published(NAME),
    tags=frozenset({"posteriordb", "ode"}),
    cites=(
        CITE,
        "Carpenter (2018), Predator-prey population dynamics: the Lotka-Volterra model in Stan",
    ),
)
