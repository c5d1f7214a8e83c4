"""Linear regression: diabetes progression on ten measurements, with a conjugate prior.

Ten baseline measurements of 442 patients predict the progression of diabetes one year later. All
columns and the response are standardized (mean 0, standard deviation 1), so there is no intercept.

    noise_variance ~ InverseGamma(2, 1)              # prior mean 1, the variance of the response
    weight_j       ~ Normal(0, sqrt(noise_variance)),                j = 1..10
    y_i            ~ Normal(x_i . weight, sqrt(noise_variance)),     i = 1..442

The posterior is normal-inverse-gamma. With V = inv(I + X'X), m = V X'y, a = 2 + n/2, b = 1 + (y'y
- m' inv(V) m) / 2:

    noise_variance | y ~ InverseGamma(a, b),
    weight | noise_variance, y ~ Normal(m, noise_variance V),

so that weight is multivariate t with 2a degrees of freedom. Five of the six blood measurements are
correlated (tc and ldl at 0.90), and so are their weights in the posterior: mean-field makes them
0.15 to 0.35 times as wide as they are, while a full-rank normal is right.

References:
    Efron, Hastie, Johnstone and Tibshirani (2004), Least angle regression, Annals of Statistics
    32(2), 407-499. Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., sections 14.2 and 14.8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.datasets import read, standardize
from zoo.quantities import site
from zoo.seeds import seeded
from zoo.types import Analytic, Data, ModelEntry, Moments, Program, Quantity

FEATURES = ("age", "sex", "bmi", "bp", "tc", "ldl", "hdl", "tch", "ltg", "glu")
PRIOR_SHAPE, PRIOR_RATE = 2.0, 1.0  # of the noise variance
PRIOR_VARIANCE = 1.0  # of a weight, in units of the noise variance


def make_data(seed: int) -> Data:
    """Return the standardized table; real data do not depend on the seed."""
    table = read("diabetes")
    return Data(
        train={
            "x": standardize(table.select(FEATURES)),
            "y": standardize(table.column("progression")),
        },
        observed=("y",),
        coords={"feature": FEATURES},
        dims={"x": ("patient", "feature"), "y": ("patient",), "weight": ("feature",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def build(data: Data) -> Program:
    """Return the conjugate regression program."""

    def program(x: Tensor, y: Tensor | None = None) -> None:
        noise_variance = pyro.sample("noise_variance", dist.InverseGamma(PRIOR_SHAPE, PRIOR_RATE))
        noise_scale = noise_variance.sqrt()
        spread = (
            (math.sqrt(PRIOR_VARIANCE) * noise_scale)
            .unsqueeze(-1)
            .expand(*noise_scale.shape, x.shape[-1])
        )
        weight = pyro.sample("weight", dist.Normal(0.0, spread).to_event(1))  # [feature]
        with pyro.plate("patient", x.shape[0]):
            pyro.sample("y", dist.Normal(x @ weight, noise_scale), obs=y)

    return program


def log_noise_scale(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log standard deviation of the residuals, `[*sample]`."""
    return 0.5 * draws["noise_variance"].log()


class _Conjugate(NamedTuple):
    """Parameters of the normal-inverse-gamma posterior."""

    mean: Tensor  # [feature]
    scale: Tensor  # [feature, feature], covariance of the weights in units of the noise variance
    shape: Tensor
    rate: Tensor


def _posterior(x: Tensor, y: Tensor) -> _Conjugate:
    rows, features = x.shape
    precision = torch.eye(features, dtype=x.dtype) / PRIOR_VARIANCE + x.T @ x
    scale = torch.linalg.inv(precision)
    mean = scale @ (x.T @ y)
    rate = PRIOR_RATE + 0.5 * (y @ y - mean @ precision @ mean)
    return _Conjugate(mean, scale, torch.tensor(PRIOR_SHAPE + rows / 2, dtype=x.dtype), rate)


def analytic(data: Data) -> Analytic:
    """Return the normal-inverse-gamma posterior with exact moments and log evidence in nats."""
    x, y = data.train["x"], data.train["y"]
    p = _posterior(x, y)
    root = torch.linalg.cholesky(p.scale)

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        with seeded(seed):
            variance = p.rate / torch.distributions.Gamma(
                p.shape, torch.ones_like(p.shape)
            ).sample((n,))  # [n]
            noise = torch.randn(n, len(p.mean), dtype=x.dtype)
        return {
            "noise_variance": variance,
            "weight": p.mean + variance.sqrt().unsqueeze(-1) * (noise @ root.T),
        }

    zero = torch.zeros((), dtype=x.dtype)
    weight_sd = (p.rate / (p.shape - 1) * p.scale.diagonal()).sqrt()
    return Analytic(
        sample=sample,
        moments={
            "weight": Moments(
                p.mean, zero.expand(p.mean.shape), weight_sd, zero.expand(p.mean.shape)
            ),
            "log_noise_scale": Moments(
                0.5 * (p.rate.log() - p.shape.digamma()),
                zero,
                0.5 * p.shape.polygamma(1).sqrt(),
                zero,
            ),
        },
        log_evidence=float(
            -0.5 * len(y) * math.log(2 * math.pi)
            + 0.5 * (torch.logdet(p.scale) - len(p.mean) * math.log(PRIOR_VARIANCE))
            + PRIOR_SHAPE * math.log(PRIOR_RATE)
            - p.shape * p.rate.log()
            + p.shape.lgamma()
            - math.lgamma(PRIOR_SHAPE)
        ),
    )


ENTRY = ModelEntry(
    name="linear_regression",
    title="Conjugate linear regression on the diabetes data",
    make_data=make_data,
    build=build,
    quantities={
        "weight": Quantity(
            fn=site("weight"),
            dims=("feature",),
            description="change of the response per sd of a feature, in sds",
        ),
        "log_noise_scale": Quantity(
            fn=log_noise_scale, description="log standard deviation of the residuals"
        ),
    },
    reference="analytic",
    analytic=analytic,
    tags=frozenset({"regression", "conjugate"}),
    cites=(
        (
            "Efron, Hastie, Johnstone and Tibshirani (2004), Least angle regression, Annals of"
            " Statistics 32(2)"
        ),
    ),
)
