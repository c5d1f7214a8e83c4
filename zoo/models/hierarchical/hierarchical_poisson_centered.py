"""Hierarchical Poisson, centered: as `hierarchical_poisson`, with the log rates as sites.

    mean         ~ Normal(-1, 2)                  # of the log failure rate, per 1000 hours
    spread       ~ HalfNormal(2)                  # sd of the log failure rates
    log_rate_j   ~ Normal(mean, spread),          j = 1..10
    failures_j   ~ Poisson(hours_j exp(log_rate_j))

Most pumps failed often enough that their own data determine their rate better than the other pumps
do: the posterior hardly reaches the neck of the funnel, and this form is the better one for guides
with independent coordinates. Which form is better depends on the data, not on the model, which
this pair of entries shows. The density is still unbounded where all rates are equal and `spread`
goes to 0.

References:
    Gaver and O'Muircheartaigh (1987), Robust empirical Bayes analyses of event rates,
    Technometrics 29(1), 1-15. Papaspiliopoulos, Roberts and Skold (2007), A general framework for
    the parametrization of hierarchical models.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.models.hierarchical.hierarchical_poisson import (
    MEAN_LOC,
    MEAN_SCALE,
    SPREAD_SCALE,
    make_data,
)
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity


def build(data: Data) -> Program:
    """Return the centered program."""

    def program(hours: Tensor, failures: Tensor | None = None) -> None:
        mean = pyro.sample("mean", dist.Normal(MEAN_LOC, MEAN_SCALE))
        spread = pyro.sample("spread", dist.HalfNormal(SPREAD_SCALE))
        with pyro.plate("pump", len(hours)):
            log_rate = pyro.sample("log_rate", dist.Normal(mean, spread))  # [pump]
            pyro.sample("failures", dist.Poisson(hours * log_rate.exp()), obs=failures)

    return program


ENTRY = ModelEntry(
    name="hierarchical_poisson_centered",
    title="Failures of ten pumps, centered",
    make_data=make_data,
    build=build,
    quantities={
        "mean": Quantity(fn=site("mean"), description="mean log failure rate, per 1000 hours"),
        "log_spread": Quantity(
            fn=log_site("spread"), description="log sd of the log failure rates"
        ),
        "log_rate": Quantity(
            fn=site("log_rate"),
            dims=("pump",),
            description="log failure rate of each pump, per 1000 hours",
        ),
    },
    reference="stored",
    tags=frozenset({"hierarchical", "counts", "classic", "funnel"}),
    cites=(
        (
            "Gaver and O'Muircheartaigh (1987), Robust empirical Bayes analyses of event rates,"
            " Technometrics 29(1), 1-15"
        ),
    ),
)
