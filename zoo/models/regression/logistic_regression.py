"""Logistic regression: malignant or benign, from thirty measurements of cell nuclei.

Thirty measurements of the cell nuclei in each of 569 breast tumors predict whether the tumor is
malignant. Every column is standardized (mean 0, standard deviation 1).

    intercept    ~ Normal(0, 2.5)
    weight_j     ~ Normal(0, 2.5),                                   j = 1..30
    malignant_i  ~ Bernoulli(logit = intercept + x_i . weight),      i = 1..569

The scale 2.5 on standardized columns is the default of the R package rstanarm: one standard
deviation of one feature changes the log odds by more than 5 only rarely. The classes are almost
separable, so the prior and not the likelihood bounds some directions, and radius, perimeter and
area are nearly the same column three times: the posterior is skewed and its correlations are
strong. A mean-field normal is far too narrow; a mode with its curvature is shifted.

References:
    Street, Wolberg and Mangasarian (1993), Nuclear feature extraction for breast tumor diagnosis.
    Gelman, Jakulin, Pittau and Su (2008), A weakly informative default prior distribution for
    logistic and other regression models, Annals of Applied Statistics 2(4), 1360-1383.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.datasets import read, standardize
from zoo.quantities import site
from zoo.types import Data, ModelEntry, Program, Quantity

PRIOR_SCALE = 2.5


def make_data(seed: int) -> Data:
    """Return the standardized table; real data do not depend on the seed."""
    table = read("breast_cancer")
    features = table.columns[:-1]
    return Data(
        train={"x": standardize(table.select(features)), "malignant": table.column("malignant")},
        observed=("malignant",),
        coords={"feature": features},
        dims={"x": ("tumor", "feature"), "malignant": ("tumor",), "weight": ("feature",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def build(data: Data) -> Program:
    """Return the logistic regression program."""

    def program(x: Tensor, malignant: Tensor | None = None) -> None:
        intercept = pyro.sample("intercept", dist.Normal(0.0, PRIOR_SCALE))
        weight = pyro.sample(
            "weight", dist.Normal(0.0, PRIOR_SCALE).expand([x.shape[-1]]).to_event(1)
        )  # [feature]
        with pyro.plate("tumor", x.shape[0]):
            pyro.sample("malignant", dist.Bernoulli(logits=intercept + x @ weight), obs=malignant)

    return program


ENTRY = ModelEntry(
    name="logistic_regression",
    title="Logistic regression on the Wisconsin breast cancer data",
    make_data=make_data,
    build=build,
    quantities={
        "intercept": Quantity(
            fn=site("intercept"), description="log odds of malignancy at the mean of every feature"
        ),
        "weight": Quantity(
            fn=site("weight"),
            dims=("feature",),
            description="change of the log odds per sd of a feature",
        ),
    },
    reference="stored",
    tags=frozenset({"regression", "classification"}),
    cites=(
        (
            "Street, Wolberg and Mangasarian (1993), Nuclear feature extraction for breast tumor"
            " diagnosis"
        ),
        (
            "Gelman, Jakulin, Pittau and Su (2008), A weakly informative default prior"
            " distribution, Annals of Applied Statistics 2(4)"
        ),
    ),
)
