"""Gaussian process with a sampled latent function: 103 coordinates of `gp_regression`.

The same sunspots and the same priors, with the whitened function sampled.

    length       ~ InverseGamma(5, 20)                 # length scale, years
    amplitude    ~ HalfNormal(1.5)                     # sd of the function
    noise        ~ HalfNormal(0.5)                     # sd of the noise
    z_t          ~ Normal(0, 1),                       t = 1..100
    f            = L z,   L L' = K, the covariance of `gp_regression`
    y_t          ~ Normal(f_t, noise)

A hundred years determine f well, and z = inv(L) f varies with length and amplitude: sites that are
independent in the prior are strongly dependent in the posterior, and a guide with independent
coordinates is overconfident about the length scale. Given the three hyperparameters z is normal,
so the reference completes exact draws of `gp_regression` with exact draws of z.

References:
    Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, chapter 2.
    Murray and Adams (2010), Slice sampling covariance hyperparameters of latent Gaussian models,
    NeurIPS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.models.processes import gp_regression as marginal
from zoo.models.processes.gp_regression import (
    AMPLITUDE_SCALE,
    LENGTH_RATE,
    LENGTH_SHAPE,
    NOISE_SCALE,
    QUANTITIES,
    kernel,
)
from zoo.truth.completion import completed
from zoo.types import Data, ModelEntry, Program, Quantity

SHOWN = range(0, 100, 10)  # years whose function value is compared


def make_data(seed: int) -> Data:
    """Return the data of `gp_regression`."""
    data = marginal.make_data(seed)
    return replace(
        data,
        coords={**data.coords, "shown": [data.coords["time"][t] for t in SHOWN]},
        dims={**data.dims, "z": ("time",)},
    )


def factor(year: Tensor, length: Tensor, amplitude: Tensor) -> Tensor:
    """Return L, `[*batch, year, year]`; NaN far from the data, where the factorization fails."""
    lower, failed = torch.linalg.cholesky_ex(kernel(year, length, torch.ones_like(amplitude)))
    return torch.where(
        (failed > 0)[..., None, None], torch.nan, amplitude[..., None, None] * lower
    )


def build(data: Data) -> Program:
    """Return the program with the whitened function."""

    def program(year: Tensor, y: Tensor | None = None) -> None:
        length = pyro.sample("length", dist.InverseGamma(LENGTH_SHAPE, LENGTH_RATE))
        amplitude = pyro.sample("amplitude", dist.HalfNormal(AMPLITUDE_SCALE))
        noise = pyro.sample("noise", dist.HalfNormal(NOISE_SCALE))
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(year)]).to_event(1))  # [year]
        f = (factor(year, length, amplitude) @ z.unsqueeze(-1)).squeeze(-1)
        with pyro.plate("year", len(year)):
            pyro.sample("y", dist.Normal(f, noise), obs=y)

    return program


def function(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the function in every tenth year, `[*sample, shown]`, in sds of the root number."""
    lower = factor(data.train["year"], draws["length"], draws["amplitude"])[..., list(SHOWN), :]
    return (lower @ draws["z"].unsqueeze(-1)).squeeze(-1)


def complete(draws: Mapping[str, Tensor], data: Data) -> dict[str, Tensor]:
    """Add exact draws of z given length, amplitude and noise, each `[chain, draw]`.

    With A = L'L / noise^2 + I the posterior of z is normal with mean inv(A) L'y / noise^2 and
    covariance inv(A).
    """
    generator = torch.Generator().manual_seed(1)
    year, y = data.train["year"], data.train["y"]
    lower = factor(year, draws["length"], draws["amplitude"]) / draws["noise"][..., None, None]
    root = torch.linalg.cholesky(lower.mT @ lower + torch.eye(len(year), dtype=y.dtype))
    mean = torch.cholesky_solve(lower.mT @ (y / draws["noise"].unsqueeze(-1)).unsqueeze(-1), root)
    noise = torch.randn(mean.shape, dtype=y.dtype, generator=generator)
    return {
        **draws,
        "z": (mean + torch.linalg.solve_triangular(root.mT, noise, upper=True)).squeeze(-1),
    }


ENTRY = ModelEntry(
    name="gp_latent",
    title="Gaussian process through a hundred years of sunspots, latent function sampled",
    make_data=make_data,
    build=build,
    quantities={
        **QUANTITIES,
        "function": Quantity(
            fn=function,
            dims=("shown",),
            description="the function in every tenth year, sds of the root of the number",
        ),
    },
    reference="stored",
    published=completed("gp_regression", complete),
    tags=frozenset({"gaussian_process", "regression", "time_series", "large"}),
    cites=(
        (
            "Murray and Adams (2010), Slice sampling covariance hyperparameters of latent Gaussian"
            " models, NeurIPS"
        ),
    ),
)
