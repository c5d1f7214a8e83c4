"""Horseshoe regression, weights integrated out: diabetes progression on thirty columns.

Ten measurements of 442 patients (Efron et al.), and twenty columns of standard normal noise. All
columns and the response are standardized (divisor n). A few weights should be free and the rest
near zero:

    sigma      ~ HalfNormal(1)                          # sd of the noise
    global     ~ HalfCauchy(1)
    slab       ~ InverseGamma(2, 2)                     # variance of a free weight
    local_j    ~ HalfCauchy(1),               j = 1..30
    tau        = global sigma 5 / (25 sqrt(442))        # 5 of 30 weights expected to matter
    s_j        = (1 / (tau local_j)^2 + 1 / slab)^(-1/2)      # prior sd of weight j
    weight_j   ~ Normal(0, s_j)                         # integrated out
    intercept  ~ Normal(0, 1)                           # integrated out
    progress_i ~ Normal(intercept + x_i . weight, sigma),    i = 1..442

This is the regularized horseshoe of Piironen and Vehtari: a weight is shrunk towards zero or, if
the data determine it, only by the slab. Given the scales everything is normal, so weights and
intercept are integrated out exactly, and with them the hyperbola that makes `horseshoe_regression`
hard. What remains has Cauchy tails in 30 local scales. 33 parameters.

With X the columns after a column of ones, S = diag(1, s) and A = I + S X'X S / sigma^2 the
likelihood needs one 31 x 31 factor:

    log p(y) = -n/2 log 2 pi - n log sigma - 1/2 log |A|
               - (y'y - y'X S inv(A) S X'y / sigma^2) / (2 sigma^2)

Recipe of the noise: Python's Mersenne Twister seeded with the data seed, normal numbers row by
row.

References:
    Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals, Biometrika
    97(2), 465-480. Piironen and Vehtari (2017), Sparsity information and regularization in the
    horseshoe and other shrinkage priors, Electronic Journal of Statistics 11(2), 5018-5051.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.datasets import read, standardize
from zoo.datasets.portable_random import Recipe
from zoo.distributions.multivariate import MarginalRegression
from zoo.quantities import log_site
from zoo.types import Data, ModelEntry, Program, Quantity

NOISE, EXPECTED = 20, 5  # columns of noise; weights expected to matter
# a Student-t slab with 4 degrees of freedom and scale 1, in sds of the response
SLAB_SHAPE, SLAB_SCALE = (2.0, 2.0)


def make_data(seed: int) -> Data:
    """Return a column of ones, ten real and twenty generated columns, and their products.

    Another seed gives other noise.
    """
    table = read("diabetes")
    *names, response = table.columns
    x = standardize(
        torch.cat([table.select(names), Recipe(seed).normals(len(table.values), NOISE)], -1)
    )
    x = torch.cat([torch.ones_like(x[:, :1]), x], -1)
    return Data(
        train={"x": x, "products": x.T @ x, "progress": standardize(table.column(response))},
        observed=("progress",),
        coords={"feature": [*names, *(f"noise_{j}" for j in range(1, NOISE + 1))]},
        dims={"x": ("patient", "column"), "progress": ("patient",), "local": ("feature",)},
        source=(
            f"{table.provenance.source}; {NOISE} columns of noise by the recipe in the model's"
            f" docstring, data seed {seed}"
        ),
        licence=table.provenance.licence,
    )


def with_intercept(sd: Tensor) -> Tensor:
    """Prepend the prior sd of the intercept, 1, `[*batch, feature] -> [*batch, column]`."""
    return torch.cat([torch.ones_like(sd[..., :1]), sd], -1)


def sample_scales(columns: int) -> dict[str, Tensor]:
    """Sample the scales inside a program."""
    return {
        "sigma": pyro.sample("sigma", dist.HalfNormal(1.0)),
        "global": pyro.sample("global", dist.HalfCauchy(1.0)),
        "slab": pyro.sample("slab", dist.InverseGamma(SLAB_SHAPE, SLAB_SCALE)),
        "local": pyro.sample(
            "local", dist.HalfCauchy(1.0).expand([columns]).to_event(1)
        ),  # [feature]
    }


def build(data: Data) -> Program:
    """Return the program of the scales."""

    def program(x: Tensor, products: Tensor, progress: Tensor | None = None) -> None:
        draws = sample_scales(x.shape[-1] - 1)
        sd = with_intercept(prior_sds(draws, data))
        pyro.sample("progress", MarginalRegression(x, products, sd, draws["sigma"]), obs=progress)

    return program


def log_tau(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log of the global scale in sds of the response, `[*sample]`."""
    expected = EXPECTED / (draws["local"].shape[-1] - EXPECTED)
    return (
        draws["global"].log()
        + draws["sigma"].log()
        + math.log(expected / math.sqrt(len(data.train["x"])))
    )


def prior_sds(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the prior sd of each weight, `[*sample, feature]`."""
    free = log_tau(draws, data).unsqueeze(-1) + draws["local"].log()
    return ((-2 * free).exp() + 1 / draws["slab"].unsqueeze(-1)).rsqrt()


def effective(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the effective number of weights, sum_j n s_j^2 / (sigma^2 + n s_j^2), `[*sample]`."""
    signal = len(data.train["x"]) * prior_sds(draws, data).square()
    return (signal / (draws["sigma"].square().unsqueeze(-1) + signal)).sum(-1)


QUANTITIES = {
    "log_sigma": Quantity(fn=log_site("sigma"), description="log sd of the noise"),
    "log_tau": Quantity(fn=log_tau, description="log of the global scale of the weights"),
    "log_local": Quantity(
        fn=log_site("local"), dims=("feature",), description="log local scale of each weight"
    ),
    "effective": Quantity(
        fn=effective, description="effective number of weights that are not shrunk away"
    ),
}
ENTRY = ModelEntry(
    name="horseshoe_marginal",
    title="Regularized horseshoe on diabetes and twenty columns of noise, weights integrated out",
    make_data=make_data,
    build=build,
    quantities=QUANTITIES,
    reference="stored",
    tags=frozenset({"regression", "sparse", "heavy_tails"}),
    cites=(
        (
            "Piironen and Vehtari (2017), Sparsity information and regularization in the"
            " horseshoe, EJS 11(2), 5018-5051"
        ),
    ),
)
