"""Horseshoe regression: which of thirty columns predict diabetes progression?

The model and the data of `horseshoe_marginal` (twenty of the columns are noise), with weights and
intercept as sites, in the usual non-centered form of the regularized horseshoe:

    sigma, global, slab, local_j as there
    intercept  ~ Normal(0, 1)
    z_j        ~ Normal(0, 1),                               j = 1..30
    weight_j   = z_j s_j,        s_j = (1 / (tau local_j)^2 + 1 / slab)^(-1/2)
    progress_i ~ Normal(intercept + x_i . weight, sigma),    i = 1..442

A weight that the data determine is a product of z_j and its scale: the two lie on a hyperbola with
long arms, which no normal guide can represent, and at the bends of which NUTS diverges. A weight
that may be zero has a spike with broad shoulders. Serum measurements are largely redundant, so a
sparse solution uses one or another of them. 64 parameters.

The reference needs no chains in this form: given the scales the weights are normal, so draws of
`horseshoe_marginal` are completed by exact draws of intercept and z.

References:
    Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals, Biometrika
    97(2), 465-480. Piironen and Vehtari (2017), Sparsity information and regularization in the
    horseshoe and other shrinkage priors, Electronic Journal of Statistics 11(2), 5018-5051. Efron,
    Hastie, Johnstone and Tibshirani (2004), Least angle regression, Annals of Statistics 32(2),
    407-499 (data).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.distributions.multivariate import MarginalRegression
from zoo.models.regression import horseshoe_marginal as marginal
from zoo.models.regression.horseshoe_marginal import (
    QUANTITIES,
    prior_sds,
    sample_scales,
    with_intercept,
)
from zoo.quantities import site
from zoo.truth.completion import completed
from zoo.types import Data, ModelEntry, Program, Quantity


def make_data(seed: int) -> Data:
    """Return the data of `horseshoe_marginal` without the column of ones."""
    data = marginal.make_data(seed)
    train = {"x": data.train["x"][:, 1:], "progress": data.train["progress"]}
    return replace(
        data, train=train, dims={**data.dims, "x": ("patient", "feature"), "z": ("feature",)}
    )


def build(data: Data) -> Program:
    """Return the regression with standardized weights."""
    columns = data.train["x"].shape[-1]

    def program(x: Tensor, progress: Tensor | None = None) -> None:
        draws = sample_scales(columns)
        intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([columns]).to_event(1))  # [feature]
        with pyro.plate("patient", len(x)):
            pyro.sample(
                "progress",
                dist.Normal(intercept + x @ (z * prior_sds(draws, data)), draws["sigma"]),
                obs=progress,
            )

    return program


def complete(draws: Mapping[str, Tensor], data: Data) -> dict[str, Tensor]:
    """Add exact draws of intercept and z given the scales, each `[chain, draw, ...]`.

    With A = L L' of `MarginalRegression` the posterior of (intercept, z) is normal with mean
    inv(A) S X'y / sigma^2 and covariance inv(A).
    """
    generator = torch.Generator().manual_seed(1)
    x, y = data.train["x"], data.train["progress"]
    x = torch.cat([torch.ones_like(x[:, :1]), x], -1)
    root, white = MarginalRegression(
        x, x.T @ x, with_intercept(prior_sds(draws, data)), draws["sigma"]
    ).posterior(y)
    noise = torch.randn(white.shape, dtype=y.dtype, generator=generator)
    # mean inv(L') white / sigma, and inv(L') noise has covariance inv(A)
    both = white / draws["sigma"].unsqueeze(-1) + noise
    standard = torch.linalg.solve_triangular(root.mT, both.unsqueeze(-1), upper=True).squeeze(-1)
    return {**draws, "intercept": standard[..., 0], "z": standard[..., 1:]}


def weights(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the weights, sds of the response per sd of a column, `[*sample, feature]`."""
    return draws["z"] * prior_sds(draws, data)


ENTRY = ModelEntry(
    name="horseshoe_regression",
    title="Regularized horseshoe on diabetes and twenty columns of noise",
    make_data=make_data,
    build=build,
    quantities={
        "intercept": Quantity(
            fn=site("intercept"), description="response at the mean of every column, sds"
        ),
        "weight": Quantity(
            fn=weights,
            dims=("feature",),
            description="change of the response per sd of a column, sds",
        ),
        **QUANTITIES,
    },
    reference="stored",
    published=completed("horseshoe_marginal", complete),
    tags=frozenset({"regression", "sparse", "heavy_tails"}),
    cites=(
        (
            "Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals,"
            " Biometrika 97(2), 465-480"
        ),
        (
            "Piironen and Vehtari (2017), Sparsity information and regularization in the"
            " horseshoe, EJS 11(2), 5018-5051"
        ),
    ),
)
