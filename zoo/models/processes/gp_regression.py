"""Gaussian process regression: a hundred years of sunspots, the function integrated out.

The square roots of the yearly sunspot numbers from 1909 to 2008, standardized, are a smooth
function of the year plus noise.

    length       ~ InverseGamma(5, 20)              # length scale, years: 98 % of it in 1.7..15.6
    amplitude    ~ HalfNormal(1.5)                  # sd of the function
    noise        ~ HalfNormal(0.5)                  # sd of the noise
    y            ~ MultivariateNormal(0, K + noise^2 I),
    K_st = amplitude^2 [exp(-(t_s - t_t)^2 / (2 length^2)) + 1e-6 (s = t)]

The prior of the length scale excludes 0, where the function is noise, and the length of the
series,
where the function is a constant: in both limits the likelihood is flat and the posterior would be
the prior's tail. Three coordinates remain, with a posterior close to normal, from which
`zoo.truth.rejection` draws exactly. Years are equally spaced, so the covariance is invariant under
time reversal, and sums and differences of the two halves of the series are independent: two
factors of 50 x 50 instead of one of 100 x 100. `gp_latent` samples the function.

References:
    Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, chapter 2.
    Betancourt (2017), Robust Gaussian processes in Stan (the prior of the length scale).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.datasets import read, standardize
from zoo.quantities import log_site
from zoo.truth.rejection import Integral, Small
from zoo.types import Analytic, Data, ModelEntry, Moments, Program, Quantity

FIRST, YEARS = 1909, 100
LENGTH_SHAPE, LENGTH_RATE = 5.0, 20.0  # years
AMPLITUDE_SCALE, NOISE_SCALE = 1.5, 0.5
JITTER = 1e-6  # so that `gp_latent` can factor the covariance of the function alone


def make_data(seed: int) -> Data:
    """Return standardized square roots of the sunspot numbers, independent of the seed."""
    table = read("sunspots")
    rows = table.column("year") >= FIRST
    year = table.column("year")[rows]
    return Data(
        train={"year": year - FIRST, "y": standardize(table.column("number")[rows].sqrt())},
        observed=("y",),
        coords={"time": [str(int(t)) for t in year]},
        dims={"year": ("time",), "y": ("time",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def kernel(year: Tensor, length: Tensor, amplitude: Tensor) -> Tensor:
    """Return the covariance of the function at the years, `[*batch, year, year]`."""
    squares = (year.unsqueeze(-1) - year).square()
    correlation = torch.exp(
        -0.5 * squares / length[..., None, None].square()
    ) + JITTER * torch.eye(len(year), dtype=year.dtype)
    return amplitude[..., None, None].square() * correlation


def build(data: Data) -> Program:
    """Return the program with the function integrated out."""
    eye = torch.eye(len(data.train["year"]), dtype=torch.float64)

    def program(year: Tensor, y: Tensor | None = None) -> None:
        length = pyro.sample("length", dist.InverseGamma(LENGTH_SHAPE, LENGTH_RATE))
        amplitude = pyro.sample("amplitude", dist.HalfNormal(AMPLITUDE_SCALE))
        noise = pyro.sample("noise", dist.HalfNormal(NOISE_SCALE))
        covariance = kernel(year, length, amplitude) + noise[..., None, None].square() * eye
        scale_tril = torch.linalg.cholesky(covariance)
        pyro.sample(
            "y", dist.MultivariateNormal(torch.zeros_like(year), scale_tril=scale_tril), obs=y
        )

    return program


def _log_density(train: Mapping[str, Tensor], logs: Tensor) -> Tensor:
    """Return the log joint density at log length, amplitude and noise, `[n, 3] -> [n]`.

    It uses sums and differences of the two halves of the series.
    """
    year, y = train["year"], train["y"]
    half = len(year) // 2
    length, amplitude, noise = logs.exp().unbind(-1)
    near = kernel(year[:half], length, amplitude)
    squares = (year[:half].unsqueeze(-1) - year[half:].flip(0)).square()
    far = amplitude[:, None, None].square() * torch.exp(
        -0.5 * squares / length[:, None, None].square()
    )
    total = dist.InverseGamma(LENGTH_SHAPE, LENGTH_RATE).log_prob(length) + dist.HalfNormal(
        AMPLITUDE_SCALE
    ).log_prob(amplitude)
    total = total + dist.HalfNormal(NOISE_SCALE).log_prob(noise) + logs.sum(-1)
    for sign in (1, -1):
        root = torch.linalg.cholesky(
            near + sign * far + noise[:, None, None].square() * torch.eye(half, dtype=y.dtype)
        )
        part = (y[:half] + sign * y[half:].flip(0)) / 2**0.5
        white = torch.linalg.solve_triangular(
            root, part.expand(len(logs), half).unsqueeze(-1), upper=False
        )
        total = (
            total
            - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            - 0.5 * (white.square().sum((-2, -1)) + half * math.log(2 * math.pi))
        )
    return total


@lru_cache(maxsize=2)
def _exact(year: tuple[float, ...], y: tuple[float, ...]) -> tuple[Small, Integral]:
    """Return mode, envelope and integral for the data; cached, since several callers need them."""
    tensors = {
        name: torch.tensor(values, dtype=torch.float64)
        for name, values in (("year", year), ("y", y))
    }
    small = Small(
        lambda u: _log_density(tensors, u), torch.tensor([1.0, 0.0, -1.5], dtype=torch.float64)
    )
    return small, small.integral()


def analytic(data: Data) -> Analytic:
    """Return exact draws by rejection, moments and log evidence by the trapezoid rule."""
    small, whole = _exact(tuple(data.train["year"].tolist()), tuple(data.train["y"].tolist()))

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        return dict(
            zip(
                ("length", "amplitude", "noise"),
                small.sample(n, seed).exp().unbind(-1),
                strict=True,
            )
        )

    zero = torch.zeros((), dtype=torch.float64)
    moments = {
        name: Moments(mean, zero, sd, zero)
        for name, mean, sd in zip(QUANTITIES, whole.mean, whole.sd, strict=True)
    }
    return Analytic(sample=sample, moments=moments, log_evidence=whole.log_value)


QUANTITIES = {
    "log_length": Quantity(fn=log_site("length"), description="log length scale, log years"),
    "log_amplitude": Quantity(fn=log_site("amplitude"), description="log sd of the function"),
    "log_noise": Quantity(fn=log_site("noise"), description="log sd of the noise"),
}
ENTRY = ModelEntry(
    name="gp_regression",
    title="Gaussian process through a hundred years of sunspots, function integrated out",
    make_data=make_data,
    build=build,
    quantities=QUANTITIES,
    reference="analytic",
    analytic=analytic,
    tags=frozenset({"gaussian_process", "regression", "time_series"}),
    cites=("Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, chapter 2",),
)
