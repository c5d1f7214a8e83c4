"""Entries whose evidence is known by scipy and numpy: mixtures of closed forms, grids.

None of them uses the entry's program.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, stats

import zoo
from benchmarks.audit.target_table import TARGETS, Target

__all__ = ["gp_grid", "log_integral", "weibull_grid"]

Array = NDArray[np.float64]
Grid = tuple[list[Array], Array]


def log_integral(grid: Grid) -> float:
    """Return the log of the integral of exp(values) over a grid, in nats.

    The trapezoid rule converges exponentially for smooth integrands that vanish at the border.
    """
    axes, values = grid
    peak = values.max()
    total = np.exp(values - peak)
    for axis in reversed(axes):
        total = integrate.trapezoid(total, x=axis, axis=-1)
    return float(np.log(total) + peak)


def weibull_grid(points: int = 61) -> Grid:
    """Return axes of level, slope and log shape, and the log joint density over them.

    The density is `[level, slope, log shape]`.
    """
    train = zoo.load("weibull_survival").load_data().train
    production, days = train["production"].numpy(), train["days"].numpy()
    level, slope, log_shape = (
        np.linspace(2.7, 5.7, points),
        np.linspace(-2.0, 1.2, points),
        np.linspace(-1.0, 0.8, points),
    )
    k = np.exp(log_shape)[None, None, :]
    values = (
        stats.norm.logpdf(level, 3.5, 1.5)[:, None, None]
        + stats.norm.logpdf(slope)[None, :, None]
        + stats.norm.logpdf(log_shape, 0.0, 0.5)[None, None, :]
    )
    for t, x in zip(days, production, strict=True):
        scale = np.exp(level[:, None, None] + slope[None, :, None] * x)
        # one hazard per strike: shapes broadcast to [level, slope, log shape]
        ratio = (t / scale) ** k
        values = values - ratio
        if t < 80:
            values = values + np.log(k) + k * np.log(t / scale) - math.log(t)
    return [level, slope, log_shape], values


def gp_grid(points: int = 61) -> Grid:
    """Return axes of log length, log amplitude and log noise, and the log joint density.

    The eigenvalues of the correlation for one length give the density for every amplitude and
    noise.
    """
    train = zoo.load("gp_regression").load_data().train
    year, y = train["year"].numpy(), train["y"].numpy()
    log_length, log_amplitude, log_noise = (
        np.linspace(0.1, 1.5, points),
        np.linspace(-0.7, 1.2, points),
        np.linspace(-2.8, -0.8, points),
    )
    a2, s2 = np.exp(2 * log_amplitude)[:, None, None], np.exp(2 * log_noise)[None, :, None]
    prior = (
        stats.invgamma.logpdf(np.exp(log_length), 5, scale=20)[:, None, None]
        + stats.halfnorm.logpdf(np.exp(log_amplitude), scale=1.5)[None, :, None]
        + stats.halfnorm.logpdf(np.exp(log_noise), scale=0.5)[None, None, :]
        + log_length[:, None, None]
        + log_amplitude[None, :, None]
        + log_noise[None, None, :]
    )
    likelihood = []
    for length in np.exp(log_length):
        correlation = np.exp(-0.5 * ((year[:, None] - year) / length) ** 2) + 1e-6 * np.eye(
            len(year)
        )
        eigenvalues, vectors = np.linalg.eigh(correlation)
        variance = a2 * eigenvalues + s2  # [amplitude, noise, eigenvalue]
        likelihood.append(
            -0.5 * (np.log(2 * math.pi * variance) + (vectors.T @ y) ** 2 / variance).sum(-1)
        )
    return [log_length, log_amplitude, log_noise], prior + np.array(likelihood)


def _change_point_evidence() -> float:
    """Sum multivariate t densities over the years: given the change, the flows are jointly t."""
    flow = zoo.load("change_point").load_data().train["flow"].numpy()
    terms = []
    for change in range(1, 100):
        x = np.repeat(np.eye(2), [change, 100 - change], axis=0)
        # normal-inverse-gamma with shape 3, rate 4: t with 6 degrees of freedom
        shape = (4 / 3) * (np.eye(100) + 4 * x @ x.T)
        terms.append(
            stats.multivariate_t.logpdf(flow, np.full(100, 9.0), shape, df=6) - math.log(99)
        )
    return float(np.logaddexp.reduce(terms))


def _enter(name: str, route: str, evidence: Callable[[], float]) -> None:
    TARGETS[name] = Target(entry=zoo.load(name), log_evidence=evidence, route=route)


_enter("banana", "closed form", lambda: 0.0)
_enter(
    "change_point", "scipy.stats.multivariate_t, one for each of 99 years", _change_point_evidence
)
_enter(
    "weibull_survival",
    "scipy.integrate.trapezoid over three axes",
    lambda: log_integral(weibull_grid()),
)
_enter(
    "gp_regression",
    "eigenvalues and scipy.integrate.trapezoid over three axes",
    lambda: log_integral(gp_grid()),
)
