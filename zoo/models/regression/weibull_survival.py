"""Weibull survival: how long strikes last, with right-censoring after eighty days.

Sixty-two strikes in US manufacturing that began in June lasted 1 to 216 days. To mimic a study
with an end, each strike is observed for eighty days only: twelve are known only to have lasted
longer. Does unexpectedly high industrial production shorten a strike?

    level        ~ Normal(3.5, 1.5)          # log days
    slope        ~ Normal(0, 1)              # log days per sd of unanticipated production
    shape        ~ LogNormal(0, 0.5)         # above 1 the hazard of ending rises with time
    log_scale_i  = level + slope production_i
    days_i       ~ min(Weibull(exp log_scale_i, shape), 80),  i = 1..62

A strike that ended contributes its density, a censored one its survival probability
exp(-(80 / scale)^shape). With three well-determined coordinates the posterior is close to normal;
the entry is here for its likelihood, which mixes densities and probabilities. Evidence and moments
are three-dimensional integrals, computed by a test.

References:
    Kennan (1985), The duration of contract strikes in US manufacturing, Journal of Econometrics
    28(1), 5-28. Lancaster (1990), The Econometric Analysis of Transition Data. Greene (2012),
    Econometric Analysis, 7th ed., section 19.4.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.datasets import read, standardize
from zoo.distributions.univariate import CensoredWeibull
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

LIMIT = 80.0  # days


def make_data(seed: int) -> Data:
    """Return the strikes, censored at the limit; real data do not depend on the seed."""
    table = read("strikes")
    return Data(
        train={
            "production": standardize(table.column("production")),
            "days": table.column("duration").clamp(max=LIMIT),
        },
        observed=("days",),
        dims={"production": ("strike",), "days": ("strike",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def build(data: Data) -> Program:
    """Return the program with the censored likelihood."""

    def program(production: Tensor, days: Tensor | None = None) -> None:
        level = pyro.sample("level", dist.Normal(3.5, 1.5))
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        shape = pyro.sample("shape", dist.LogNormal(0.0, 0.5))
        with pyro.plate("strike", len(production)):
            pyro.sample(
                "days", CensoredWeibull(level + slope * production, shape, LIMIT), obs=days
            )

    return program


ENTRY = ModelEntry(
    name="weibull_survival",
    title="Weibull durations of strikes, censored at eighty days",
    make_data=make_data,
    build=build,
    quantities={
        "level": Quantity(
            fn=site("level"),
            description="log scale of a strike's duration at mean production, log days",
        ),
        "slope": Quantity(
            fn=site("slope"),
            description="change of the log duration per sd of unanticipated production",
        ),
        "log_shape": Quantity(
            fn=log_site("shape"), description="log shape: above 0 the hazard rises with time"
        ),
    },
    reference="stored",
    tags=frozenset({"regression", "survival", "censored"}),
    cites=(
        (
            "Kennan (1985), The duration of contract strikes in US manufacturing, Journal of"
            " Econometrics 28(1), 5-28"
        ),
    ),
)
