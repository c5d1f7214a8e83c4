"""Robust regression: the stack loss of a chemical plant, with Student-t errors.

Twenty-one days of a plant that oxidizes ammonia to nitric acid. Air flow, the temperature of the
cooling water and the concentration of the acid predict how much ammonia is lost. Four of the days
(1, 3, 4 and 21) are outliers by every robust method that has been tried on this table. Predictors
are standardized (divisor n); losses keep their unit, ten times the percentage of ammonia.

    intercept    ~ Normal(17.5, 10)
    weight_j     ~ Normal(0, 10),                             j = 1..3
    scale        ~ HalfNormal(10)
    freedom      ~ Gamma(2, 0.1)                              # degrees of freedom
    loss_i       ~ StudentT(freedom, intercept + x_i . weight, scale),      i = 1..21

With few rows the degrees of freedom are hardly determined: 90 % of the posterior lies in 3.6..49,
since the data allow outliers or a larger scale. Log scale and log freedom are correlated (0.43),
and so are the weights of air flow and temperature (-0.74); under heavy tails the likelihood of a
weight is not log-concave.

References:
    Brownlee (1965), Statistical Theory and Methodology in Science and Engineering, 2nd ed.,
    section 13.12. Lange, Little and Taylor (1989), Robust statistical modeling using the t
    distribution, JASA 84(408), 881-896. Juarez and Steel (2010), Model-based clustering of
    non-Gaussian panel data based on skew-t distributions (prior).
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.datasets import read, standardize
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

FEATURES = ("air_flow", "water_temperature", "acid_concentration")
LEVEL, SPREAD = 17.5, 10.0  # tenths of a percent of ammonia
FREEDOM_SHAPE, FREEDOM_RATE = 2.0, 0.1


def make_data(seed: int) -> Data:
    """Return Brownlee's table; real data do not depend on the seed."""
    table = read("stackloss")
    return Data(
        train={"x": standardize(table.select(FEATURES)), "loss": table.column("loss")},
        observed=("loss",),
        coords={"feature": FEATURES},
        dims={"x": ("day", "feature"), "loss": ("day",), "weight": ("feature",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def build(data: Data) -> Program:
    """Return the regression with Student-t errors."""

    def program(x: Tensor, loss: Tensor | None = None) -> None:
        intercept = pyro.sample("intercept", dist.Normal(LEVEL, SPREAD))
        weight = pyro.sample(
            "weight", dist.Normal(0.0, SPREAD).expand([x.shape[-1]]).to_event(1)
        )  # [feature]
        scale = pyro.sample("scale", dist.HalfNormal(SPREAD))
        freedom = pyro.sample("freedom", dist.Gamma(FREEDOM_SHAPE, FREEDOM_RATE))
        with pyro.plate("day", x.shape[0]):
            pyro.sample("loss", dist.StudentT(freedom, intercept + x @ weight, scale), obs=loss)

    return program


ENTRY = ModelEntry(
    name="robust_regression",
    title="Student-t regression on the stack loss of a plant",
    make_data=make_data,
    build=build,
    quantities={
        "intercept": Quantity(
            fn=site("intercept"),
            description="loss at the mean of every predictor, tenths of a percent",
        ),
        "weight": Quantity(
            fn=site("weight"),
            dims=("feature",),
            description="change of the loss per sd of a predictor, tenths of a percent",
        ),
        "log_scale": Quantity(fn=log_site("scale"), description="log scale of the errors"),
        "log_freedom": Quantity(
            fn=log_site("freedom"), description="log degrees of freedom of the errors"
        ),
    },
    reference="stored",
    tags=frozenset({"regression", "heavy_tails", "classic"}),
    cites=(
        (
            "Brownlee (1965), Statistical Theory and Methodology in Science and Engineering, 2nd"
            " ed., section 13.12"
        ),
        (
            "Lange, Little and Taylor (1989), Robust statistical modeling using the t"
            " distribution, JASA 84(408), 881-896"
        ),
    ),
)
