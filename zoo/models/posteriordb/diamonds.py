"""Diamonds: log price on 24 columns of weight, cut, color and clarity.

Five thousand diamonds with a design matrix made by brms: log carat, ordered factors as orthogonal
polynomials, and their interactions. Columns are centered inside the program.

    b_j       ~ Normal(0, 1),            j = 1..24
    Intercept ~ StudentT(3, 8, 10)                 # log price at the means of the columns
    sigma     ~ HalfStudentT(3, 10)
    y_i       ~ Normal(Intercept + (X_c b)_i, sigma)

Columns are collinear (interactions with polynomials): the posterior covariance has a condition
number of 340,000, and the best factorized normal has sds up to 180 times too small.

References:
    Wickham (2016), ggplot2: elegant graphics for data analysis. Buerkner (2017), brms, Journal of
    Statistical Software 80(1). Magnusson et al. (2024), posteriordb: testing, benchmarking and
    developing Bayesian inference algorithms.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.distributions.univariate import HalfStudentT
from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, make_card_data, published
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

NAME = "diamonds-diamonds"


def make_data(seed: int) -> Data:
    """Return centered columns without intercept, and log prices; independent of the seed."""
    table = posteriordb.data(NAME)
    columns = table["X"][:, 1:]
    return make_card_data(
        NAME,
        {"X": columns - columns.mean(0), "y": table["Y"]},
        ("y",),
        dims={"X": ("diamond", "coefficient"), "y": ("diamond",), "b": ("coefficient",)},
    )


def build(data: Data) -> Program:
    """Return the program."""

    def program(X: Tensor, y: Tensor | None = None) -> None:
        b = pyro.sample(
            "b", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1)
        )  # [coefficient]
        intercept = pyro.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
        sigma = pyro.sample("sigma", HalfStudentT(3.0, 10.0))
        with pyro.plate("diamond", len(X)):
            pyro.sample("y", dist.Normal(intercept + X @ b, sigma), obs=y)

    return program


ENTRY = ModelEntry(
    name="posteriordb/diamonds-diamonds",
    title="Log price of diamonds on 24 collinear columns",
    make_data=make_data,
    build=build,
    quantities={
        "b": Quantity(
            fn=site("b"),
            dims=("coefficient",),
            description="coefficients, log price per unit of the column",
        ),
        "Intercept": Quantity(
            fn=site("Intercept"), description="log price at the means of the columns"
        ),
        "log_sigma": Quantity(
            fn=log_site("sigma"), description="log standard deviation of the errors"
        ),
    },
    reference="stored",
    published=published(NAME),
    tags=frozenset({"posteriordb", "regression"}),
    cites=(CITE, "Wickham (2016), ggplot2: elegant graphics for data analysis"),
)
