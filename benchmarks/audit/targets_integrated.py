"""Programs whose evidence is a sum over discrete values, or an integral by quadrature.

The sums are plain loops, the quadrature is scipy's.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import integrate, stats
from scipy.special import betaln, logsumexp
from torch import Tensor

from benchmarks.audit.target_table import add, as_tensor, mvn
from benchmarks.audit.targets_conjugate import VALUES, WAITS

POINTS = [-1.8, 0.4, 1.9, 2.6, -0.7]


def _two_classes(y: Tensor) -> None:
    location = pyro.sample("location", dist.Normal(1.0, 1.5))
    with pyro.plate("row", len(y)):
        label = pyro.sample(
            "label", dist.Categorical(torch.tensor([0.35, 0.65])), infer={"enumerate": "parallel"}
        )
        pyro.sample(
            "y", dist.Normal(torch.where(label == 0, torch.tensor(-1.0), location), 0.8), obs=y
        )


def _two_classes_evidence() -> float:
    """Sum over the 2^5 assignments; given one, the second class is jointly normal."""
    terms = []
    for labels in itertools.product((0, 1), repeat=5):
        first = [v for v, k in zip(POINTS, labels, strict=True) if k == 0]
        second = [v for v, k in zip(POINTS, labels, strict=True) if k == 1]
        term = (
            len(first) * math.log(0.35)
            + len(second) * math.log(0.65)
            + stats.norm.logpdf(first, -1.0, 0.8).sum()
        )
        terms.append(
            term + (mvn(second, 1.0, 0.64 * np.eye(len(second)) + 2.25) if second else 0.0)
        )
    return float(logsumexp(terms))


add(
    "two_classes",
    "enumeration of 32 assignments",
    _two_classes_evidence,
    _two_classes,
    {"y": POINTS},
)


def _mixed_share(y: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(2.0 * label - 0.5, 0.9), obs=y)


def _mixed_share_evidence() -> float:
    terms = []
    for labels in itertools.product((0, 1), repeat=5):
        ones = sum(labels)
        likelihood = stats.norm.logpdf(POINTS, 2.0 * np.array(labels) - 0.5, 0.9).sum()
        terms.append(likelihood + betaln(2 + ones, 7 - ones) - betaln(2, 2))
    return float(logsumexp(terms))


add(
    "mixed_share",
    "enumeration of 32 assignments",
    _mixed_share_evidence,
    _mixed_share,
    {"y": POINTS},
)

CHAIN = [0.3, 1.8, 2.2, -0.4]
STAY = ((0.8, 0.2), (0.3, 0.7))


def _hidden_markov(y: Tensor) -> None:
    """Marginalize the states by the forward algorithm; the location of state 1 is unknown."""
    location = pyro.sample("location", dist.Normal(1.5, 1.0))
    rows = as_tensor(STAY).log()
    levels = torch.stack([torch.zeros_like(location), location], -1)
    emission = torch.distributions.Normal(levels, 0.7).log_prob(y.unsqueeze(-1))  # [time, state]
    forward = emission[0] + math.log(0.5)
    for t in range(1, len(CHAIN)):
        forward = (forward.unsqueeze(-1) + rows).logsumexp(-2) + emission[t]
    pyro.factor("likelihood", forward.logsumexp(-1))


def _hidden_markov_evidence() -> float:
    terms = []
    for states in itertools.product((0, 1), repeat=4):
        path = math.log(0.5) + sum(math.log(STAY[a][b]) for a, b in itertools.pairwise(states))
        zeros = [v for v, s in zip(CHAIN, states, strict=True) if s == 0]
        ones = [v for v, s in zip(CHAIN, states, strict=True) if s == 1]
        term = (
            path
            + stats.norm.logpdf(zeros, 0.0, 0.7).sum()
            + (mvn(ones, 1.5, 0.49 * np.eye(len(ones)) + 1.0) if ones else 0.0)
        )
        terms.append(term)
    return float(logsumexp(terms))


add(
    "hidden_markov",
    "enumeration of 16 paths",
    _hidden_markov_evidence,
    _hidden_markov,
    {"y": CHAIN},
)


def _half_normal_scale(y: Tensor, index: Tensor | None = None) -> None:
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("row", len(VALUES), subsample=index):
        pyro.sample("y", dist.Normal(1.0, scale), obs=y)


def _half_normal_scale_evidence() -> float:
    def integrand(s: float) -> float:
        return float(
            np.exp(stats.halfnorm.logpdf(s, scale=2.0) + stats.norm.logpdf(VALUES, 1.0, s).sum())
        )

    return math.log(
        integrate.quad(integrand, 0, 40, points=[0.5, 1, 2, 4], epsabs=0, epsrel=1e-10, limit=200)[
            0
        ]
    )


add(
    "half_normal_scale",
    "scipy.integrate.quad",
    _half_normal_scale_evidence,
    _half_normal_scale,
    {"y": VALUES},
    batched=("y",),
)


def _probit_interval(y: Tensor) -> None:
    angle = pyro.sample("angle", dist.Uniform(-2.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample(
            "y", dist.Bernoulli(probs=torch.distributions.Normal(0.0, 1.0).cdf(angle)), obs=y
        )


def _probit_interval_evidence() -> float:
    def integrand(a: float) -> float:
        p = stats.norm.cdf(a)
        return float(p**4 * (1 - p) ** 2 / 5.0)

    return math.log(integrate.quad(integrand, -2, 3, epsabs=0, epsrel=1e-11)[0])


add(
    "probit_interval",
    "scipy.integrate.quad",
    _probit_interval_evidence,
    _probit_interval,
    {"y": [1.0, 1.0, 0.0, 1.0, 0.0, 1.0]},
)

DOSE = [-0.9, -0.3, -0.1, 0.7, 1.2]
DIED = [0.0, 1.0, 0.0, 1.0, 1.0]


def _logistic(x: Tensor, y: Tensor, index: Tensor | None = None) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 1.5))
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(DOSE), subsample=index):
        pyro.sample("y", dist.Bernoulli(logits=level + slope * x), obs=y)


def _logistic_evidence() -> float:
    constant = math.log(2 * math.pi * 1.5 * 2)

    def integrand(b: float, a: float) -> float:
        # plain floats: it is called tens of thousands of times
        total = -0.5 * ((a / 1.5) ** 2 + (b / 2) ** 2) - constant
        for x, y in zip(DOSE, DIED, strict=True):
            logit = a + b * x
            total += y * logit - max(logit, 0.0) - math.log1p(math.exp(-abs(logit)))
        return math.exp(total)

    return math.log(integrate.dblquad(integrand, -13, 13, -17, 17, epsabs=1e-12, epsrel=1e-9)[0])


add(
    "logistic",
    "scipy.integrate.dblquad",
    _logistic_evidence,
    _logistic,
    {"x": DOSE, "y": DIED},
    batched=("x", "y"),
)


def _gamma_shape(y: Tensor) -> None:
    shape = pyro.sample("shape", dist.LogNormal(0.0, 0.7))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Gamma(shape, 1.3), obs=y)


def _gamma_shape_evidence() -> float:
    def integrand(v: float) -> float:
        return float(
            np.exp(
                stats.norm.logpdf(v, 0.0, 0.7)
                + stats.gamma.logpdf(WAITS, math.exp(v), scale=1 / 1.3).sum()
            )
        )

    return math.log(integrate.quad(integrand, -7, 6, epsabs=0, epsrel=1e-10, limit=200)[0])


add("gamma_shape", "scipy.integrate.quad", _gamma_shape_evidence, _gamma_shape, {"y": WAITS})
