"""ARMA(1, 1): one autoregressive and one moving-average term on a simulated series.

    mu ~ Normal(0, 10),  phi ~ Normal(0, 2),  theta ~ Normal(0, 2),  sigma ~ HalfCauchy(2.5)
    nu_1 = mu + phi mu,   nu_t = mu + phi y_{t-1} + theta e_{t-1},   e_t = y_t - nu_t
    y_t ~ Normal(nu_t, sigma),   t = 1..200

The recursion of the errors e is a bidiagonal linear system,

    (I + theta S) e = r,   r = y - mu - phi y_(previous),      S shifts by one step.

S^200 = 0, hence (I + theta S)^-1 = prod_j (I + (-theta)^(2^j) S^(2^j)), j = 0..7: eight vector
operations replace 200 steps or a triangular solve, and vectorize cheaply over many points.

The series enters twice: as the observed past (`past`) and as what is predicted from it (`y`);
without `y` the program simulates one step ahead of the observed past.

References:
    Stan Development Team, Stan User's Guide, Moving average models.
    Magnusson et al. (2024), posteriordb: testing, benchmarking and developing Bayesian inference
    algorithms.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, make_card_data, published
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

NAME = "arma-arma11"
MU_SCALE, SCALE, CAUCHY_SCALE = 10.0, 2.0, 2.5


def make_data(seed: int) -> Data:
    """Return the series; the published series does not depend on the seed."""
    series = posteriordb.data(NAME)["y"]
    return make_card_data(
        NAME,
        {"past": series, "y": series.clone()},
        ("y",),
        dims={"past": ("step",), "y": ("step",)},
    )


def predictions(past: Tensor, mu: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Return nu, the prediction of every step from the observed past, `[step]`."""
    # the value before the start of the series is taken to be mu
    previous = torch.cat([mu.reshape(1), past[:-1]])
    errors = past - mu - phi * previous
    factor, lag = -theta, 1
    while lag < len(past):
        shifted = torch.cat([torch.zeros(lag, dtype=past.dtype), errors[:-lag]])
        errors, factor, lag = errors + factor * shifted, factor * factor, 2 * lag
    return past - errors


def build(data: Data) -> Program:
    """Return the program."""

    def program(past: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, MU_SCALE))
        phi = pyro.sample("phi", dist.Normal(0.0, SCALE))
        theta = pyro.sample("theta", dist.Normal(0.0, SCALE))
        sigma = pyro.sample("sigma", dist.HalfCauchy(CAUCHY_SCALE))
        nu = predictions(past, mu, phi, theta)  # [step]
        with pyro.plate("step", len(past)):
            pyro.sample("y", dist.Normal(nu, sigma), obs=y)

    return program


ENTRY = ModelEntry(
    name="posteriordb/arma-arma11",
    title="ARMA(1, 1) series",
    make_data=make_data,
    build=build,
    quantities={
        "mu": Quantity(fn=site("mu"), description="constant of the series"),
        "phi": Quantity(fn=site("phi"), description="autoregressive coefficient"),
        "theta": Quantity(fn=site("theta"), description="moving-average coefficient"),
        "log_sigma": Quantity(
            fn=log_site("sigma"), description="log standard deviation of a step"
        ),
    },
    reference="stored",
    published=published(NAME),
    tags=frozenset({"posteriordb", "time_series"}),
    cites=(CITE,),
)
