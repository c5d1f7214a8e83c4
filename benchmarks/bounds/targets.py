"""Small programs whose log evidence is known by a route that shares no code with their densities.

Closed forms use scipy's special functions, enumeration plain loops, quadrature scipy's `quad` and `dblquad`; none
evaluates a Pyro program. They are what the bound audit itself is tested on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import integrate, stats
from scipy.special import betaln, gammaln, logsumexp
from torch import Tensor

from zoo.types import Data, ModelEntry, Program, Quantity

__all__ = ["TARGETS", "Target"]

FAMILIES = ("mean_field", "full_rank")


@dataclass(frozen=True, kw_only=True)
class Target:
    """An entry with its log evidence in nats and the route it was computed by."""

    entry: ModelEntry
    log_evidence: Callable[[], float]
    route: str


TARGETS: dict[str, Target] = {}


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _add(
    name: str,
    route: str,
    evidence: Callable[[], float],
    program: Program,
    train: dict[str, Any],
    *,
    observed: tuple[str, ...] = ("y",),
    **fields: Any,
) -> None:
    tensors = {k: _tensor(v) if isinstance(v, list | np.ndarray) else v for k, v in train.items()}
    size = len(tensors[fields["batched"][0]]) if fields.get("batched") else None
    data = Data(train=tensors, observed=observed, batched=fields.pop("batched", ()), size=size, source="chosen by hand", licence="CC0-1.0")
    entry = ModelEntry(
        name=name, title=name.replace("_", " "), make_data=lambda seed: data, build=lambda data: program,
        quantities={"first": Quantity(fn=lambda draws, data: next(iter(draws.values())))}, reference="none",
        families=fields.pop("families", FAMILIES), **fields,
    )  # fmt: skip
    TARGETS[name] = Target(entry=entry, log_evidence=evidence, route=route)


def _mvn(y: Any, mean: Any, covariance: Any) -> float:
    return float(stats.multivariate_normal.logpdf(np.asarray(y), np.broadcast_to(mean, np.shape(y)), covariance))


# -- conjugate -------------------------------------------------------------------------------------------------------


def _beta_binomial(y: Tensor, n: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Binomial(n, probs=share), obs=y)


def _beta_binomial_evidence() -> float:
    y, n = np.array([3.0, 5.0, 2.0]), np.array([10.0, 12.0, 7.0])
    choose = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
    return float(choose.sum() + betaln(2 + y.sum(), 3 + (n - y).sum()) - betaln(2, 3))


_add("beta_binomial", "closed form", _beta_binomial_evidence, _beta_binomial, {"y": [3.0, 5.0, 2.0], "n": [10.0, 12.0, 7.0]})

COUNTS = [3.0, 1.0, 4.0, 1.0, 5.0, 2.0]


def _gamma_poisson(y: Tensor, index: Tensor | None = None) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(COUNTS), subsample=index):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def _gamma_poisson_evidence() -> float:
    y = np.array(COUNTS)
    return float(gammaln(2 + y.sum()) - gammaln(2) - (2 + y.sum()) * math.log(1 + len(y)) - gammaln(y + 1).sum())


_add("gamma_poisson", "closed form", _gamma_poisson_evidence, _gamma_poisson, {"y": COUNTS}, batched=("y",))

VALUES = [1.2, -0.4, 2.3, 0.9, 1.7, 0.1, 3.0, 1.1]


def _normal_normal(y: Tensor, index: Tensor | None = None) -> None:
    mean = pyro.sample("mean", dist.Normal(0.5, 2.0))
    with pyro.plate("row", len(VALUES), subsample=index):
        pyro.sample("y", dist.Normal(mean, 1.5), obs=y)


_add(
    "normal_normal", "closed form", lambda: _mvn(VALUES, 0.5, 2.25 * np.eye(8) + 4.0), _normal_normal, {"y": VALUES}, batched=("y",),
    families=("mean_field", "full_rank", "low_rank", "laplace"),
)  # fmt: skip


def _normal_inverse_gamma(y: Tensor) -> None:
    variance = pyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    mean = pyro.sample("mean", dist.Normal(0.0, (variance / 0.5).sqrt()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, variance.sqrt()), obs=y)


def _normal_inverse_gamma_evidence() -> float:
    """Return the multivariate t: y = mean + noise is normal given the variance, with covariance variance (I + 11' / 0.5)."""
    y = np.array(VALUES)
    return float(stats.multivariate_t.logpdf(y, np.zeros(8), (2.0 / 3.0) * (np.eye(8) + 2.0), df=6))


_add("normal_inverse_gamma", "closed form (multivariate t)", _normal_inverse_gamma_evidence, _normal_inverse_gamma, {"y": VALUES})


def _dirichlet_categorical(y: Tensor) -> None:
    share = pyro.sample("share", dist.Dirichlet(torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(share), obs=y)


def _dirichlet_categorical_evidence() -> float:
    """Return the Dirichlet-multinomial probability of the counts, divided by the number of orders they can come in."""
    counts = np.array([5.0, 2.0, 8.0])
    orders = gammaln(counts.sum() + 1) - gammaln(counts + 1).sum()
    return float(stats.dirichlet_multinomial.logpmf([5, 2, 8], [1.5, 2.0, 3.0], 15) - orders)


_add(
    "dirichlet_categorical", "scipy.stats.dirichlet_multinomial", _dirichlet_categorical_evidence, _dirichlet_categorical,
    {"y": torch.tensor([0] * 5 + [1] * 2 + [2] * 8)},
)  # fmt: skip

WAITS = [0.4, 1.9, 0.2, 0.7]


def _exponential_gamma(y: Tensor, index: Tensor | None = None) -> None:
    rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
    with pyro.plate("row", len(WAITS), subsample=index):
        pyro.sample("y", dist.Exponential(rate), obs=y)


def _exponential_gamma_evidence() -> float:
    return float(3 * math.log(2) + gammaln(3 + 4) - gammaln(3) - (3 + 4) * math.log(2 + sum(WAITS)))


_add("exponential_gamma", "closed form", _exponential_gamma_evidence, _exponential_gamma, {"y": WAITS}, batched=("y",))

LOADINGS = np.array([[1.0, 0.2], [0.5, -0.7], [0.1, 0.9], [0.8, 0.4]])
MEASURED = [1.1, -0.3, 0.8, 1.5]


def _linear_factor(y: Tensor) -> None:
    factor = pyro.sample("factor", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    pyro.sample("y", dist.Normal(_tensor(LOADINGS) @ factor, 0.6).to_event(1), obs=y)


_add(
    "linear_factor", "closed form", lambda: _mvn(MEASURED, 0.0, LOADINGS @ LOADINGS.T + 0.36 * np.eye(4)), _linear_factor, {"y": MEASURED},
    families=("mean_field", "full_rank", "low_rank"),
)  # fmt: skip

GROUPS = np.array([[1.0, 1.4, 0.7], [-0.2, 0.3, 0.1], [2.2, 1.7, 2.6], [0.4, 0.9, -0.1], [1.9, 1.2, 1.6]])


def _random_effects(y: Tensor, index: Tensor | None = None) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("group", 5, subsample=index):
        effect = pyro.sample("effect", dist.Normal(mean, 1.0))
        pyro.sample("y", dist.Normal(effect.unsqueeze(-1), 0.5).expand([*effect.shape, 3]).to_event(1), obs=y)


def _random_effects_evidence() -> float:
    same = np.kron(np.eye(5), np.ones((3, 3)))
    return _mvn(GROUPS.reshape(-1), 0.0, 0.25 * np.eye(15) + same + 4.0)


_add(
    "random_effects", "closed form", _random_effects_evidence, _random_effects, {"y": GROUPS}, batched=("y",),
    families=("mean_field", "full_rank", "amortized"), amortize=lambda tensors: tensors["y"].mean(-1, keepdim=True),
)  # fmt: skip


def _line(x: Tensor, y: Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.7), obs=y)


DESIGN = np.column_stack([np.ones(8), np.linspace(-1, 1, 8)])
_add("line", "closed form", lambda: _mvn(VALUES, 0.0, 4.0 * DESIGN @ DESIGN.T + 0.49 * np.eye(8)), _line, {"x": DESIGN, "y": VALUES})


# -- discrete latent sites, summed by plain loops -----------------------------------------------------------------------

POINTS = [-1.8, 0.4, 1.9, 2.6, -0.7]


def _two_classes(y: Tensor) -> None:
    location = pyro.sample("location", dist.Normal(1.0, 1.5))
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Categorical(torch.tensor([0.35, 0.65])), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(torch.where(label == 0, torch.tensor(-1.0), location), 0.8), obs=y)


def _two_classes_evidence() -> float:
    """Sum over the 2^5 assignments; given one, the points of the second class are jointly normal."""
    terms = []
    for labels in itertools.product((0, 1), repeat=5):
        first = [v for v, k in zip(POINTS, labels, strict=True) if k == 0]
        second = [v for v, k in zip(POINTS, labels, strict=True) if k == 1]
        term = len(first) * math.log(0.35) + len(second) * math.log(0.65) + stats.norm.logpdf(first, -1.0, 0.8).sum()
        terms.append(term + (_mvn(second, 1.0, 0.64 * np.eye(len(second)) + 2.25) if second else 0.0))
    return float(logsumexp(terms))


_add("two_classes", "enumeration of 32 assignments", _two_classes_evidence, _two_classes, {"y": POINTS})


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


_add("mixed_share", "enumeration of 32 assignments", _mixed_share_evidence, _mixed_share, {"y": POINTS})

CHAIN = [0.3, 1.8, 2.2, -0.4]
STAY = ((0.8, 0.2), (0.3, 0.7))


def _hidden_markov(y: Tensor) -> None:
    """Sum the state out step by step; the location of state 1 is unknown."""
    location = pyro.sample("location", dist.Normal(1.5, 1.0))
    rows = _tensor(STAY).log()
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
        term = path + stats.norm.logpdf(zeros, 0.0, 0.7).sum() + (_mvn(ones, 1.5, 0.49 * np.eye(len(ones)) + 1.0) if ones else 0.0)
        terms.append(term)
    return float(logsumexp(terms))


_add("hidden_markov", "enumeration of 16 paths", _hidden_markov_evidence, _hidden_markov, {"y": CHAIN})


# -- scipy's quadrature ------------------------------------------------------------------------------------------------


def _half_normal_scale(y: Tensor, index: Tensor | None = None) -> None:
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("row", len(VALUES), subsample=index):
        pyro.sample("y", dist.Normal(1.0, scale), obs=y)


def _half_normal_scale_evidence() -> float:
    def integrand(s: float) -> float:
        return float(np.exp(stats.halfnorm.logpdf(s, scale=2.0) + stats.norm.logpdf(VALUES, 1.0, s).sum()))

    return math.log(integrate.quad(integrand, 0, 40, points=[0.5, 1, 2, 4], epsabs=0, epsrel=1e-10, limit=200)[0])


_add("half_normal_scale", "scipy.integrate.quad", _half_normal_scale_evidence, _half_normal_scale, {"y": VALUES}, batched=("y",))


def _probit_interval(y: Tensor) -> None:
    angle = pyro.sample("angle", dist.Uniform(-2.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(probs=torch.distributions.Normal(0.0, 1.0).cdf(angle)), obs=y)


def _probit_interval_evidence() -> float:
    def integrand(a: float) -> float:
        p = stats.norm.cdf(a)
        return float(p**4 * (1 - p) ** 2 / 5.0)

    return math.log(integrate.quad(integrand, -2, 3, epsabs=0, epsrel=1e-11)[0])


_add("probit_interval", "scipy.integrate.quad", _probit_interval_evidence, _probit_interval, {"y": [1.0, 1.0, 0.0, 1.0, 0.0, 1.0]})

DOSE = [-0.9, -0.3, -0.1, 0.7, 1.2]
DIED = [0.0, 1.0, 0.0, 1.0, 1.0]


def _logistic(x: Tensor, y: Tensor, index: Tensor | None = None) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 1.5))
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(DOSE), subsample=index):
        pyro.sample("y", dist.Bernoulli(logits=level + slope * x), obs=y)


def _logistic_evidence() -> float:
    x, y = np.array(DOSE), np.array(DIED)

    def integrand(b: float, a: float) -> float:
        logits = a + b * x
        return float(np.exp(stats.norm.logpdf(a, 0, 1.5) + stats.norm.logpdf(b, 0, 2) + (y * logits - np.logaddexp(0, logits)).sum()))

    return math.log(integrate.dblquad(integrand, -13, 13, -17, 17, epsabs=1e-12, epsrel=1e-9)[0])


_add("logistic", "scipy.integrate.dblquad", _logistic_evidence, _logistic, {"x": DOSE, "y": DIED}, batched=("x", "y"))


def _gamma_shape(y: Tensor) -> None:
    shape = pyro.sample("shape", dist.LogNormal(0.0, 0.7))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Gamma(shape, 1.3), obs=y)


def _gamma_shape_evidence() -> float:
    def integrand(v: float) -> float:
        return float(np.exp(stats.norm.logpdf(v, 0.0, 0.7) + stats.gamma.logpdf(WAITS, math.exp(v), scale=1 / 1.3).sum()))

    return math.log(integrate.quad(integrand, -7, 6, epsabs=0, epsrel=1e-10, limit=200)[0])


_add("gamma_shape", "scipy.integrate.quad", _gamma_shape_evidence, _gamma_shape, {"y": WAITS})
