"""Importance weights log w = log p(z, data) - log q(z): ELBO, evidence, k-hat, reweighting.

None of them decides a verdict: weights are computed at draws of the guide and cannot reveal a
region it never visits.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from benchmarks.arviz_bridge import pareto_k
from benchmarks.metrics.components import Array, Component, Side
from benchmarks.metrics.moments import reference_scale
from benchmarks.thresholds import pareto_threshold
from benchmarks.types import ParetoK

__all__ = ["elbo", "importance_ess", "log_evidence", "pareto"]


def elbo(log_weights: Array) -> dict[str, float]:
    """Return E_q[log w] in nats with its Monte Carlo error."""
    return {
        "value_nats": float(log_weights.mean()),
        "se": float(log_weights.std(ddof=1) / np.sqrt(len(log_weights))),
    }


def log_evidence(log_weights: Array, exact: float | None = None) -> dict[str, float | None]:
    """Return log mean w in nats, its standard error, and its difference to the exact evidence.

    A stochastic lower bound: its expectation is below log p(data) (Jensen). By the delta method,
    se = sd(w) / (mean(w) sqrt(n)). Reliable only with a good k-hat.
    """
    n = len(log_weights)
    bound = float(logsumexp(log_weights) - np.log(n))
    ratio = np.exp(log_weights - bound)  # mean 1
    se = float(ratio.std(ddof=1) / np.sqrt(n))
    return {
        "exact": exact,
        "bound_nats": bound,
        "bound_se": se,
        "error": None if exact is None else bound - exact,
    }


def importance_ess(log_weights: Array) -> float:
    """Return 1 / sum of squared normalized weights, in draws (Kish)."""
    return float(np.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights)))


def pareto(
    log_weights: Array, method: Side, components: list[Component], reference: Side | None = None
) -> ParetoK:
    """Return k-hat with its threshold, the importance ESS, and raw and reweighted moments.

    The threshold depends on the sample size. Moments use Pareto-smoothed weights (Vehtari et al.
    2024); they are in reference sds, or relative to the raw draws without a reference.
    """
    k, smoothed = pareto_k(log_weights)
    smoothed = np.asarray(smoothed, dtype=np.float64).reshape(-1)
    weights = np.exp(smoothed - logsumexp(smoothed))
    flat = method.flat
    truth = method if reference is None else reference
    scale = reference_scale(method, truth)
    mean = weights @ flat
    sd = np.sqrt(weights @ (flat - mean) ** 2)
    raw, new = (method.mean - truth.mean) / scale, (mean - truth.mean) / scale
    labels = [c.label for c in components]
    return ParetoK(
        value=float(k),
        threshold=pareto_threshold(len(log_weights)),
        draws=len(log_weights),
        importance_ess=importance_ess(smoothed),
        reweighted={name: (float(raw[i]), float(new[i])) for i, name in enumerate(labels)},
        reweighted_sd={
            name: (float(method.sd[i] / scale[i]), float(sd[i] / scale[i]))
            for i, name in enumerate(labels)
        },
    )
