"""Gates of a reference: near-independence, the ESS band, Stein's identities, its moments.

The standard is posteriordb's definition (REFERENCE_POSTERIOR_DEFINITION.md): R-hat < 1.01, bulk
and tail ESS inside n +- 4 sqrt(7 n), |lag-1 autocorrelation| < 0.05, and on the unthinned draws no
divergences and E-BFMI (0.3 here).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from benchmarks import arviz_bridge
from benchmarks.mcmc.diagnostics import components
from benchmarks.metrics.components import evaluate
from benchmarks.thresholds import EBFMI, RHAT, rhat_limit
from zoo.compiler.vectorize import value_and_gradient
from zoo.density.log_density import LogDensity
from zoo.types import Moments, Posterior

__all__ = [
    "SIGMAS",
    "all_moments",
    "autocorrelation",
    "ess_band",
    "independence_gates",
    "moment_gap",
    "sampler_gates",
    "stein",
]

Array = NDArray[np.float64]
SIGMAS = 4.0


def ess_band(n: int) -> tuple[float, float]:
    """Return n -+ 4 sqrt(7 n), which contains nearly every ESS estimate of n independent draws."""
    width = 4.0 * math.sqrt(7.0 * n)
    return n - width, n + width


def autocorrelation(x: Array) -> Array:
    """Return the lag-1 autocorrelation of `[chain, draw, component]`, pooled over chains."""
    centred = x - x.mean(1, keepdims=True)
    return np.asarray((centred[:, 1:] * centred[:, :-1]).sum((0, 1)) / (centred**2).sum((0, 1)))


def independence_gates(
    posterior: Posterior, *, thinned_to: int | None = None
) -> tuple[dict[str, bool], dict[str, float]]:
    """Return gates and values of near-independence over judged components and `lp`.

    The draws were thinned. `thinned_to` is the number of draws of a subset, which has the wider
    R-hat limit of short chains; without it the limit is 1.01.
    """
    x, _ = components(posterior)
    chains, draws = posterior.sample_shape
    n = chains * draws
    finite = bool(np.isfinite(x).all()) and bool((x.max(1) > x.min(1)).all())
    if not finite:
        return {"finite": False}, {}
    low, high = ess_band(n)
    rhat, bulk, tail = arviz_bridge.rhat(x), arviz_bridge.ess_bulk(x), arviz_bridge.ess_tail(x)
    lag = np.abs(autocorrelation(x))
    ess = np.concatenate([bulk, tail])
    gates = {
        "finite": True,
        "rhat": bool((rhat < (RHAT if thinned_to is None else rhat_limit(chains, draws))).all()),
        "ess_band": bool(((ess >= low) & (ess <= high)).all()),
        "autocorrelation": bool((lag < max(0.05, 5.0 / math.sqrt(n))).all()),
    }
    values = {
        "rhat_max": rhat.max(),
        "ess_min": ess.min(),
        "ess_max": ess.max(),
        "autocorrelation_max": lag.max(),
    }
    return gates, {k: float(v) for k, v in values.items()}


def sampler_gates(posterior: Posterior) -> tuple[dict[str, bool], dict[str, float]]:
    """Return the gates of the unthinned chains: no divergences, E-BFMI of every chain."""
    divergences = int(posterior.stats["diverging"].sum())
    fraction = float(arviz_bridge.ebfmi(posterior.stats["energy"].numpy()).min())
    gates = {"no_divergences": divergences == 0, "ebfmi": fraction >= EBFMI}
    return gates, {"divergences": float(divergences), "ebfmi_min": fraction}


def all_moments(posterior: Posterior) -> dict[str, Moments]:
    """Return mean and sd of every quantity with their Monte Carlo errors, each `[*shape]`."""
    out = {}
    for name, x in evaluate(posterior).items():
        parts = (
            x.mean((0, 1)),
            arviz_bridge.mcse_mean(x),
            x.std((0, 1), ddof=1),
            arviz_bridge.mcse_sd(x),
        )
        # a constant component has no error to estimate
        out[name] = Moments(
            *(
                torch.as_tensor(np.nan_to_num(np.asarray(p, dtype=np.float64), nan=0.0))
                for p in parts
            )
        )
    return out


def moment_gap(posterior: Posterior, moments: Mapping[str, Moments]) -> tuple[float, float]:
    """Return the largest deviation of mean or sd from the record, in standard errors.

    Also returns the limit for the number of comparisons.
    """
    worst, looks = 0.0, 0
    for name, own in all_moments(posterior).items():
        known = moments[name]
        for value, error, truth, other in (
            (own.mean, own.mean_se, known.mean, known.mean_se),
            (own.sd, own.sd_se, known.sd, known.sd_se),
        ):
            if value.shape != truth.shape:
                return math.inf, SIGMAS
            se = (error**2 + other**2).sqrt()
            gap = torch.where(
                se > 0, (value - truth).abs() / se.clamp(min=1e-300), (value - truth).abs() * 1e12
            )
            worst, looks = max(worst, float(gap.max())), looks + value.numel()
    return worst, _limit(looks)


def stein(log_density: LogDensity, u: Array) -> tuple[float, float, str]:
    """Return the largest deviation from Stein's identities, its limit, and its coordinate.

    For draws of a density p with gradient g = d log p / du and any constant c, E[g_i] = 0 and
    E[(u_i - c_i) g_i] = -1. A missing prior term, a wrong Jacobian or changed data violate them.
    `u` is `[chain, draw, dim]`; deviations are in standard errors.
    """
    gradients = np.empty_like(u)
    for chain in range(len(u)):
        points = torch.tensor(u[chain], dtype=log_density.dtype)
        gradients[chain] = value_and_gradient(log_density.batch_function(), points)[1].double()
    products = (u - u.mean((0, 1))) * gradients
    # [chain, draw, 2 dim], each of mean 0
    statistics = np.concatenate([gradients, products + 1.0], -1)
    if not np.isfinite(statistics).all():
        return math.inf, SIGMAS, "a gradient is not finite"
    z = np.abs(statistics.mean((0, 1))) / np.maximum(arviz_bridge.mcse_mean(statistics), 1e-300)
    i, dim = int(z.argmax()), log_density.dim
    site = next(s for s in log_density.sites if s.start <= i % dim < s.stop)
    what = "mean gradient" if i < dim else "mean of (u - mean) * gradient"
    return float(z.max()), _limit(z.size), f"{what} of {site.name}[{i % dim - site.start}]"


def _limit(looks: int) -> float:
    """Return the limit for the largest of `looks` deviations, at the level of 4 sigma in one."""
    return float(norm.isf(norm.sf(SIGMAS) / max(looks, 1)))
