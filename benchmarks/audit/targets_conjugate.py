"""Conjugate programs, with their evidence in closed form by scipy."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from scipy.special import betaln, gammaln
from torch import Tensor

from benchmarks.audit.target_table import add, as_tensor, mvn

__all__ = ["COUNTS", "GROUPS", "VALUES", "WAITS"]


def _beta_binomial(y: Tensor, n: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Binomial(n, probs=share), obs=y)


def _beta_binomial_evidence() -> float:
    y, n = np.array([3.0, 5.0, 2.0]), np.array([10.0, 12.0, 7.0])
    choose = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
    return float(choose.sum() + betaln(2 + y.sum(), 3 + (n - y).sum()) - betaln(2, 3))


add(
    "beta_binomial",
    "closed form",
    _beta_binomial_evidence,
    _beta_binomial,
    {"y": [3.0, 5.0, 2.0], "n": [10.0, 12.0, 7.0]},
)

COUNTS = [3.0, 1.0, 4.0, 1.0, 5.0, 2.0]


def _gamma_poisson(y: Tensor, index: Tensor | None = None) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(COUNTS), subsample=index):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def _gamma_poisson_evidence() -> float:
    y = np.array(COUNTS)
    return float(
        gammaln(2 + y.sum())
        - gammaln(2)
        - (2 + y.sum()) * math.log(1 + len(y))
        - gammaln(y + 1).sum()
    )


add(
    "gamma_poisson",
    "closed form",
    _gamma_poisson_evidence,
    _gamma_poisson,
    {"y": COUNTS},
    batched=("y",),
)

VALUES = [1.2, -0.4, 2.3, 0.9, 1.7, 0.1, 3.0, 1.1]


def _normal_normal(y: Tensor, index: Tensor | None = None) -> None:
    mean = pyro.sample("mean", dist.Normal(0.5, 2.0))
    with pyro.plate("row", len(VALUES), subsample=index):
        pyro.sample("y", dist.Normal(mean, 1.5), obs=y)


add(
    "normal_normal",
    "closed form",
    lambda: mvn(VALUES, 0.5, 2.25 * np.eye(8) + 4.0),
    _normal_normal,
    {"y": VALUES},
    batched=("y",),
    families=("mean_field", "full_rank", "low_rank", "laplace", "deterministic"),
)


def _normal_inverse_gamma(y: Tensor) -> None:
    variance = pyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    mean = pyro.sample("mean", dist.Normal(0.0, (variance / 0.5).sqrt()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, variance.sqrt()), obs=y)


def _normal_inverse_gamma_evidence() -> float:
    """Return the multivariate t density of the data.

    Given the variance, y = mean + noise is normal with covariance variance (I + 11' / 0.5).
    """
    y = np.array(VALUES)
    return float(
        stats.multivariate_t.logpdf(y, np.zeros(8), (2.0 / 3.0) * (np.eye(8) + 2.0), df=6)
    )


add(
    "normal_inverse_gamma",
    "closed form (multivariate t)",
    _normal_inverse_gamma_evidence,
    _normal_inverse_gamma,
    {"y": VALUES},
)


def _dirichlet_categorical(y: Tensor) -> None:
    share = pyro.sample(
        "share", dist.Dirichlet(torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64))
    )
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(share), obs=y)


def _dirichlet_categorical_evidence() -> float:
    """Return the Dirichlet-multinomial probability of the sequence of outcomes.

    It is that of the counts divided by the number of orders they can come in.
    """
    counts = np.array([5.0, 2.0, 8.0])
    orders = gammaln(counts.sum() + 1) - gammaln(counts + 1).sum()
    return float(stats.dirichlet_multinomial.logpmf([5, 2, 8], [1.5, 2.0, 3.0], 15) - orders)


add(
    "dirichlet_categorical",
    "scipy.stats.dirichlet_multinomial",
    _dirichlet_categorical_evidence,
    _dirichlet_categorical,
    {"y": torch.tensor([0] * 5 + [1] * 2 + [2] * 8)},
)

WAITS = [0.4, 1.9, 0.2, 0.7]


def _exponential_gamma(y: Tensor, index: Tensor | None = None) -> None:
    rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
    with pyro.plate("row", len(WAITS), subsample=index):
        pyro.sample("y", dist.Exponential(rate), obs=y)


def _exponential_gamma_evidence() -> float:
    return float(
        3 * math.log(2) + gammaln(3 + 4) - gammaln(3) - (3 + 4) * math.log(2 + sum(WAITS))
    )


add(
    "exponential_gamma",
    "closed form",
    _exponential_gamma_evidence,
    _exponential_gamma,
    {"y": WAITS},
    batched=("y",),
)

LOADINGS = np.array([[1.0, 0.9], [0.5, 0.7], [0.9, 0.9], [0.8, 0.6]])
MEASURED = [1.1, -0.3, 0.8, 1.5]


def _linear_factor(y: Tensor) -> None:
    factor = pyro.sample("factor", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    pyro.sample("y", dist.Normal(as_tensor(LOADINGS) @ factor, 0.6).to_event(1), obs=y)


add(
    "linear_factor",
    "closed form",
    lambda: mvn(MEASURED, 0.0, LOADINGS @ LOADINGS.T + 0.36 * np.eye(4)),
    _linear_factor,
    {"y": MEASURED},
    families=("mean_field", "full_rank", "low_rank"),
)

GROUPS = np.array(
    [[1.0, 1.4, 0.7], [-0.2, 0.3, 0.1], [2.2, 1.7, 2.6], [0.4, 0.9, -0.1], [1.9, 1.2, 1.6]]
)


def _random_effects(y: Tensor, index: Tensor | None = None) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("group", 5, subsample=index):
        effect = pyro.sample("effect", dist.Normal(mean, 1.0))
        pyro.sample(
            "y",
            dist.Normal(effect.unsqueeze(-1), 0.5).expand([*effect.shape, 3]).to_event(1),
            obs=y,
        )


def _random_effects_evidence() -> float:
    same = np.kron(np.eye(5), np.ones((3, 3)))
    return mvn(GROUPS.reshape(-1), 0.0, 0.25 * np.eye(15) + same + 4.0)


add(
    "random_effects",
    "closed form",
    _random_effects_evidence,
    _random_effects,
    {"y": GROUPS},
    batched=("y",),
    families=("mean_field", "full_rank", "amortized"),
    amortize=lambda tensors: tensors["y"].mean(-1, keepdim=True),
)


def _line(x: Tensor, y: Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.7), obs=y)


DESIGN = np.column_stack([np.ones(8), np.linspace(-1, 1, 8)])
add(
    "line",
    "closed form",
    lambda: mvn(VALUES, 0.0, 4.0 * DESIGN @ DESIGN.T + 0.49 * np.eye(8)),
    _line,
    {"x": DESIGN, "y": VALUES},
)
