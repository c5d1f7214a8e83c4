"""Log evidence estimates and co-clustering, against the exact sum over labelings."""

from __future__ import annotations

import math
from typing import Any

import torch

import guides
import zoo
from benchmarks.arviz_bridge import pareto_k
from guides.families.class_network import class_kl
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.models.mixtures import gaussian_mixture_exact as exact
from zoo.quantities import shared_classes

__all__ = ["class_network_rows", "evidence_rows"]

DRAWS = 8000


def evidence_rows(
    K: int, families: tuple[str, ...] = ("laplace", "mean_field", "full_rank"), **settings: Any
) -> list[dict[str, Any]]:
    """Return one row per estimate.

    Its value, its error in nats, the error less log K!, k-hat and the largest co-clustering error.
    """
    entry = zoo.load("gaussian_mixture_exact", K=K)
    data = entry.load_data()
    closed, matrix = entry.exact(data), exact.co_clustering(data, K)
    assert closed is not None
    assert closed.log_evidence is not None
    truth, numberings = closed.log_evidence, math.log(math.factorial(K))
    rows = []

    def add(
        method: str, estimate: str, value: float, se: float | None = None, **more: Any
    ) -> None:
        error = value - truth
        rows.append(
            {
                "K": K,
                "method": method,
                "estimate": estimate,
                "nats": value,
                "se": se,
                "error": error,
                "error_with_numberings": error + numberings,
                **more,
            }
        )

    for family in families:
        fit = guides.fit(
            entry, family, data=data, **({"compile": "off"} if family == "laplace" else settings)
        )
        posterior = guides.draw(fit, DRAWS)
        assert posterior.log_weights is not None
        weights = posterior.log_weights
        worst = float(
            (shared_classes(exact.responsibilities(posterior.draws, data)) - matrix).abs().max()
        )
        khat = pareto_k(weights)[0]
        add(
            family,
            "ELBO",
            float(weights.mean()),
            float(weights.std()) / math.sqrt(DRAWS),
            co_clustering=worst,
            pareto_k=khat,
        )
        ratio = (weights - weights.max()).exp()
        bound = float(weights.logsumexp(0)) - math.log(DRAWS)
        add(
            family,
            f"importance-weighted bound, {DRAWS} draws",
            bound,
            float(ratio.std() / ratio.mean()) / math.sqrt(DRAWS),
        )
        if family == "laplace":
            for name, value in _at_the_mode(entry, data, fit, K).items():
                add(family, name, value)
    return rows


def _at_the_mode(
    entry: zoo.ModelEntry, data: zoo.Data, fit: guides.Fit, K: int
) -> dict[str, float]:
    """Return the Laplace estimate of the log evidence and BIC's, at the posterior mode.

    log Z = log p(u*) + (d/2) log 2 pi + (1/2) log det C;  BIC: log p(data | u*) - (3K - 1)/2 log
    n. The likelihood of a mixture has no maximum, so BIC uses the mode of the unconstrained
    posterior.
    """
    guide: Any = fit.guide
    with session(entry.dtype), torch.no_grad():
        q = guide.get_posterior()
        mode, tril = q.mean, torch.linalg.cholesky(q.covariance_matrix)
        density = LogDensity(fit.program, data, dtype=entry.dtype)
        likelihood = (
            exact.log_joint(density.constrain(mode), data.train["petal"]).logsumexp(-1).sum()
        )
        laplace = (
            density(mode) + 0.5 * density.dim * math.log(2 * math.pi) + tril.diagonal().log().sum()
        )
    return {
        "Laplace's formula": float(laplace),
        "BIC / -2 at the posterior mode": (
            float(likelihood) - 0.5 * (3 * K - 1) * math.log(len(data.train["petal"]))
        ),
    }


def class_network_rows(K: int, **settings: Any) -> list[dict[str, Any]]:
    """Return the cost of class probabilities from a network.

    It is the KL per datum against the exact class posterior of each draw.
    """
    entry = zoo.load("gaussian_mixture_exact", K=K)
    data = entry.load_data()
    fit = guides.fit(entry, "class_network", data=data, **settings)
    assert fit.elbo is not None
    posterior = guides.draw(fit, DRAWS)
    kl = class_kl(fit.guide, exact.responsibilities(posterior.draws, data), data).mean(0)
    with torch.no_grad():
        guide: Any = fit.guide
        q = guide.logits(data.train).softmax(-1)
    mean = exact.responsibilities(posterior.draws, data).mean(0)
    against_mean = (q * (q.log() - mean.log())).sum(-1)
    return [
        {
            "K": K,
            "petal": float(y),
            "kl": float(a),
            "kl_of_mean": float(b),
            "elbo": fit.elbo.value_nats,
            "bound": fit.elbo.value_nats - float(kl.sum()),
            "stop": fit.stop.status,
        }
        for y, a, b in zip(data.train["petal"], kl, against_mean, strict=True)
    ]
