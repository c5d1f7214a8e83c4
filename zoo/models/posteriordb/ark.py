"""AR(5): an autoregression of five lags on a simulated series.

    alpha  ~ Normal(0, 10),  beta_k ~ Normal(0, 10),  k = 1..5
    sigma  ~ HalfCauchy(2.5)
    y_t    ~ Normal(alpha + sum_k beta_k y_{t-k}, sigma),   t = 6..200

The first five values are given. The lagged series is a design matrix, so that all steps are one
matrix product instead of a loop; without `y` the program simulates one step ahead of the observed
past. The lags of a smooth series are correlated, and so are their coefficients.

References:
    Stan Development Team, Stan User's Guide, Autoregressive models.
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

NAME = "arK-arK"
SCALE, CAUCHY_SCALE = 10.0, 2.5


def make_data(seed: int) -> Data:
    """Return the series with its lags; the published series does not depend on the seed."""
    table = posteriordb.data(NAME)
    series, order = table["y"], int(table["K"])
    lags = torch.stack(
        [series[order - k : len(series) - k] for k in range(1, order + 1)], -1
    )  # [step, lag]
    return make_card_data(
        NAME,
        {"lags": lags, "y": series[order:]},
        ("y",),
        coords={"lag": tuple(range(1, order + 1))},
        dims={"lags": ("step", "lag"), "y": ("step",), "beta": ("lag",)},
    )


def build(data: Data) -> Program:
    """Return the program."""

    def program(lags: Tensor, y: Tensor | None = None) -> None:
        alpha = pyro.sample("alpha", dist.Normal(0.0, SCALE))
        beta = pyro.sample(
            "beta", dist.Normal(0.0, SCALE).expand([lags.shape[1]]).to_event(1)
        )  # [lag]
        sigma = pyro.sample("sigma", dist.HalfCauchy(CAUCHY_SCALE))
        with pyro.plate("step", len(lags)):
            pyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)

    return program


ENTRY = ModelEntry(
    name="posteriordb/arK-arK",
    title="Autoregression of order 5",
    make_data=make_data,
    build=build,
    quantities={
        "alpha": Quantity(fn=site("alpha"), description="constant of the autoregression"),
        "beta": Quantity(fn=site("beta"), dims=("lag",), description="coefficient of each lag"),
        "log_sigma": Quantity(
            fn=log_site("sigma"), description="log standard deviation of a step"
        ),
    },
    reference="stored",
    published=published(NAME),
    tags=frozenset({"posteriordb", "time_series"}),
    cites=(CITE,),
)
