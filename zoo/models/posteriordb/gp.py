"""Gaussian process with Poisson counts at eleven inputs.

    rho     ~ Gamma(25, 4)                         # length scale
    alpha   ~ HalfNormal(2)                        # marginal standard deviation of f
    f~_i    ~ Normal(0, 1),                        i = 1..11
    f       = L f~,   L L' = K + 1e-10 I,   K_ij = alpha^2 exp(-(x_i - x_j)^2 / (2 rho^2))
    k_i     ~ Poisson(exp f_i)

The latent function is whitened: f~ is independent of the hyperparameters in the prior. The data
reintroduce the dependence, since counts determine f well and f~ = L^-1 f varies with rho and
alpha.

References:
    Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, chapter 2.
    Betancourt (2017), Robust Gaussian processes in Stan.
    Magnusson et al. (2024), posteriordb: testing, benchmarking and developing Bayesian inference
    algorithms.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, make_card_data, published
from zoo.quantities import log_site
from zoo.types import Data, ModelEntry, Program, Quantity

NAME = "gp_pois_regr-gp_pois_regr"
JITTER = 1e-10


def make_data(seed: int) -> Data:
    """Return inputs and counts; published data do not depend on the seed."""
    table = posteriordb.data(NAME)
    return make_card_data(
        NAME,
        {"x": table["x"], "k": table["k"]},
        ("k",),
        coords={"input": tuple(table["x"].tolist())},
        dims={"x": ("input",), "k": ("input",), "f_tilde": ("input",), "f": ("input",)},
    )


def cholesky(x: Tensor, rho: Tensor, alpha: Tensor) -> Tensor:
    """Return the lower Cholesky factor of the covariance of f, `[*batch, input, input]`."""
    squares = (x.unsqueeze(-1) - x) ** 2
    rho, alpha = rho[..., None, None], alpha[..., None, None]
    covariance = alpha**2 * torch.exp(-0.5 * squares / rho**2) + JITTER * torch.eye(
        len(x), dtype=x.dtype
    )
    # far from the data the jitter is too small and the factorization fails: return a density of
    # NaN instead of raising
    factor, failed = torch.linalg.cholesky_ex(covariance)
    return torch.where((failed > 0)[..., None, None], torch.nan, factor)


def build(data: Data) -> Program:
    """Return the program."""

    def program(x: Tensor, k: Tensor | None = None) -> None:
        rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
        alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
        f_tilde = pyro.sample(
            "f_tilde", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1)
        )  # [input]
        f = cholesky(x, rho, alpha) @ f_tilde
        with pyro.plate("input", len(x)):
            pyro.sample("k", dist.Poisson(f.exp()), obs=k)

    return program


def function(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the latent function at the inputs, `[*sample, input]`."""
    return (
        cholesky(data.train["x"], draws["rho"], draws["alpha"]) @ draws["f_tilde"].unsqueeze(-1)
    ).squeeze(-1)


def whitened(draws: Mapping[str, Tensor], data: Data) -> dict[str, Tensor]:
    """Return the program's sites from draws of rho, alpha and f: f~ = L^-1 f."""
    factor = cholesky(data.train["x"], draws["rho"], draws["alpha"])
    f_tilde = torch.linalg.solve_triangular(factor, draws["f"].unsqueeze(-1), upper=False).squeeze(
        -1
    )
    return {"rho": draws["rho"], "alpha": draws["alpha"], "f_tilde": f_tilde}


ENTRY = ModelEntry(
    name="posteriordb/gp_pois_regr-gp_pois_regr",
    title="Gaussian process with Poisson counts",
    make_data=make_data,
    build=build,
    quantities={
        "log_rho": Quantity(fn=log_site("rho"), description="log length scale"),
        "log_alpha": Quantity(
            fn=log_site("alpha"), description="log standard deviation of the latent function"
        ),
        "f": Quantity(
            fn=function, dims=("input",), description="latent function at the inputs, log counts"
        ),
    },
    reference="stored",
    published=published(NAME, whitened),
    tags=frozenset({"posteriordb", "gaussian_process"}),
    cites=(CITE, "Rasmussen and Williams (2006), Gaussian Processes for Machine Learning"),
)
