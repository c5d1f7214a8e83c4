"""Summer temperatures at Kilpisjarvi: a straight line over the years.

The mean temperature of each summer from 1952 to 2013 in northern Finland. Has it risen?

    alpha ~ Normal(m_a, s_a)                       # intercept at year 0, degrees C
    beta  ~ Normal(m_b, s_b)                       # degrees C per year
    sigma ~ flat on (0, inf)
    y_i   ~ Normal(alpha + beta x_i, sigma)        # x_i is the calendar year

The year is not centered: alpha and beta have a posterior correlation of -0.99999 and sds of 30 and
0.0075. NUTS needs long trajectories, and the best factorized normal has sds 200 times too small.

References:
    Vehtari, Kilpisjarvi summer temperature, in the demonstrations to Bayesian Data Analysis.
    Magnusson et al. (2024), posteriordb: testing, benchmarking and developing Bayesian inference
    algorithms.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, flat_positive, make_card_data, published
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

NAME = "kilpisjarvi_mod-kilpisjarvi"


def make_data(seed: int) -> Data:
    """Return years, temperatures and the parameters of the priors, independent of the seed."""
    table = posteriordb.data(NAME)
    priors = {key: float(table[key]) for key in ("pmualpha", "psalpha", "pmubeta", "psbeta")}
    return make_card_data(
        NAME,
        {"x": table["x"], "y": table["y"], **priors},
        ("y",),
        dims={"x": ("year",), "y": ("year",)},
    )


def build(data: Data) -> Program:
    """Return the program."""

    def program(
        x: Tensor,
        pmualpha: float,
        psalpha: float,
        pmubeta: float,
        psbeta: float,
        y: Tensor | None = None,
    ) -> None:
        alpha = pyro.sample("alpha", dist.Normal(pmualpha, psalpha))
        beta = pyro.sample("beta", dist.Normal(pmubeta, psbeta))
        sigma = pyro.sample("sigma", flat_positive())
        with pyro.plate("year", len(x)):
            pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)

    return program


ENTRY = ModelEntry(
    name="posteriordb/kilpisjarvi_mod-kilpisjarvi",
    title="Summer temperature at Kilpisjarvi on the calendar year",
    make_data=make_data,
    build=build,
    quantities={
        "alpha": Quantity(fn=site("alpha"), description="intercept at year 0, degrees C"),
        "beta": Quantity(fn=site("beta"), description="warming, degrees C per year"),
        "log_sigma": Quantity(
            fn=log_site("sigma"), description="log standard deviation of the errors, log degrees C"
        ),
    },
    reference="stored",
    published=published(NAME),
    tags=frozenset({"posteriordb", "regression"}),
    cites=(CITE,),
)
