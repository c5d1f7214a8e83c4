"""Correlated Gaussian: the error of mean-field is known in closed form.

There are no data; the target itself is a multivariate normal with unit variances and one common
correlation.

    x            ~ MultivariateNormal(0, Sigma),   Sigma_ii = 1,  Sigma_ij = rho

The mean-field normal closest in KL(q || p) matches the precision, not the variance, of each
coordinate: its standard deviation is 1 / sqrt(Sigma_ii inv(Sigma)_ii) times the true one. With the
equicorrelated Sigma,

    inv(Sigma)_ii = (1 + (d - 2) rho) / ((1 - rho) (1 + (d - 1) rho)),

which at rho = 0.9 gives the ratio 0.436 for d = 2, 0.353 for d = 5 and 0.319 for d = 50, while the
means are exact. A comparison that does not report `too_narrow` with this ratio is broken.

References:
    Turner and Sahani (2011), Two problems with variational expectation maximisation for
    time-series models. Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.2.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.quantities import site
from zoo.types import Analytic, Data, ModelEntry, Moments, Program, Quantity


def covariance(d: int, rho: float) -> Tensor:
    """Return the equicorrelated matrix with unit diagonal, `[d, d]`.

    Raises:
        UsageError: d < 1, or a rho for which the matrix is not positive definite.
    """
    if d < 1:
        raise UsageError(
            f"Option d of correlated_gaussian got {d}; accepted: an integer of at least 1."
        )
    lowest = -1.0 / (d - 1) if d > 1 else -1.0
    if not lowest < rho < 1:
        raise UsageError(
            f"Option rho of correlated_gaussian got {rho}; accepted for d={d}: more than"
            f" {lowest:.4g} and less than 1."
        )
    return (1 - rho) * torch.eye(d, dtype=torch.float64) + rho * torch.ones(
        d, d, dtype=torch.float64
    )


def make_data(seed: int, d: int, rho: float) -> Data:
    """Return data without observations: the target is the prior itself.

    Raises:
        UsageError: impossible options.
    """
    covariance(d, rho)
    return Data(
        train={},
        coords={"coordinate": [str(i) for i in range(1, d + 1)]},
        dims={"x": ("coordinate",)},
        source=f"no data: an equicorrelated normal with d={d} and rho={rho}",
        licence="CC0-1.0",
    )


def build(data: Data, d: int, rho: float) -> Program:
    """Return the program with one multivariate normal site."""
    scale_tril = torch.linalg.cholesky(covariance(d, rho))
    loc = torch.zeros(d, dtype=torch.float64)

    def program() -> None:
        pyro.sample("x", dist.MultivariateNormal(loc, scale_tril=scale_tril))

    return program


def analytic(data: Data, d: int, rho: float) -> Analytic:
    """Return the normal itself; without observations the evidence is 1."""
    sigma = covariance(d, rho)
    scale_tril = torch.linalg.cholesky(sigma)
    zero = torch.zeros(d, dtype=torch.float64)

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, d, dtype=torch.float64, generator=generator)
        return {"x": noise @ scale_tril.T}

    return Analytic(
        sample=sample,
        moments={"x": Moments(zero, zero, sigma.diagonal().sqrt(), zero)},
        log_evidence=0.0,
    )


ENTRY = ModelEntry(
    name="correlated_gaussian",
    title="Equicorrelated multivariate normal",
    make_data=make_data,
    build=build,
    quantities={
        "x": Quantity(
            fn=site("x"), dims=("coordinate",), description="coordinates of the normal vector"
        )
    },
    reference="analytic",
    analytic=analytic,
    options={"d": 2, "rho": 0.9},
    tags=frozenset({"gaussian", "tiny", "no_data"}),
    cites=(
        (
            "Turner and Sahani (2011), Two problems with variational expectation maximisation for"
            " time-series models"
        ),
    ),
)
