"""Mixture of two normals with ordered means, 1,000 simulated numbers.

    mu ordered, each Normal(0, 2);   sigma_k ~ HalfNormal(2);   theta ~ Beta(5, 5)
    y_i ~ theta Normal(mu_1, sigma_1) + (1 - theta) Normal(mu_2, sigma_2)

The classes are summed out and the order of the means fixes their labels: one nearly normal mode
remains, so this is the easy kind of mixture. `gaussian_mixture` is one with free labels.

References:
    Betancourt (2017), Identifying Bayesian mixture models.
    Magnusson et al. (2024), posteriordb: testing, benchmarking and developing Bayesian inference
    algorithms.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, make_card_data, published
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

NAME = "low_dim_gauss_mix-low_dim_gauss_mix"
SCALE, BETA = 2.0, 5.0


def make_data(seed: int) -> Data:
    """Return the simulated numbers of posteriordb, which do not depend on the seed."""
    y = posteriordb.data(NAME)["y"]
    return make_card_data(
        NAME,
        {"y": y, "rows": len(y)},
        ("y",),
        coords={"class": ("1", "2")},
        dims={"y": ("row",), "mu": ("class",), "sigma": ("class",)},
    )


def build(data: Data) -> Program:
    """Return the program."""

    def program(rows: int, y: Tensor | None = None) -> None:
        mu = pyro.sample(
            "mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,))
        )  # [class]
        pyro.factor("mu_prior", dist.Normal(0.0, SCALE).log_prob(mu).sum())
        sigma = pyro.sample("sigma", dist.HalfNormal(SCALE).expand([2]).to_event(1))  # [class]
        theta = pyro.sample("theta", dist.Beta(BETA, BETA))
        weights = dist.Categorical(torch.stack([theta, 1.0 - theta]))
        with pyro.plate("row", rows):
            pyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)

    return program


def log_odds(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log odds of the lower class."""
    return draws["theta"].logit()


ENTRY = ModelEntry(
    name="posteriordb/low_dim_gauss_mix-low_dim_gauss_mix",
    title="Mixture of two normals with ordered means",
    make_data=make_data,
    build=build,
    quantities={
        "mu": Quantity(fn=site("mu"), dims=("class",), description="means, in ascending order"),
        "log_sigma": Quantity(
            fn=log_site("sigma"),
            dims=("class",),
            description="log standard deviation of each class",
        ),
        "log_odds": Quantity(fn=log_odds, description="log odds of the class with the lower mean"),
    },
    reference="stored",
    published=published(NAME),
    tags=frozenset({"posteriordb", "mixture"}),
    cites=(CITE, "Betancourt (2017), Identifying Bayesian mixture models"),
)
