"""Twelve flowers in K classes: a mixture with exact evidence by summing all labelings.

The data are every thirteenth flower of Fisher's table, petal length in cm, with the species taken
as unknown. Priors are conjugate:

    weight      ~ Dirichlet(2, ..., 2)
    variance_k  ~ InverseGamma(3, 1),                 k = 1..K      # cm^2, prior mean 0.5
    location_k  ~ Normal(4, sqrt(variance_k / 0.1)),  k = 1..K      # cm
    label_i     ~ Categorical(weight),                i = 1..12     # summed out by enumeration
    petal_i     ~ Normal(location_{label_i}, sqrt(variance_{label_i}))             # cm

Given labels c, weights, variances and locations integrate to closed forms, so that with S_k the
flowers of class k

    p(petal, c) = DirichletMultinomial(n_1..n_K) prod_k m(S_k),
    m(S) = (2 pi)^(-n/2) sqrt(0.1 / (0.1 + n)) Gamma(3 + n/2) / Gamma(3) 1^3 / b_S^(3 + n/2),

and the evidence, every probability that two flowers share a class, and independent exact draws
follow from one sum over K^12 labelings (4,096 and 531,441). Labels are free: the posterior has K!
modes, one per numbering of the classes. A guide in one of them is right about every quantity, but
its bound on the log evidence is low by up to log K! (0.69 nats for K=2, 1.79 for K=3), in full if
the modes do not overlap.

References:
    Nobile (1994), Bayesian analysis of finite mixture distributions, PhD thesis, Carnegie Mellon
    University, ch. 4. Fisher (1936), The use of multiple measurements in taxonomic problems,
    Annals of Eugenics 7(2), 179-188.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from zoo.datasets import read
from zoo.errors import UsageError
from zoo.models.mixtures._classes import Classes
from zoo.quantities import log_odds, sorted_by
from zoo.seeds import seeded
from zoo.types import Analytic, Data, ModelEntry, Moments, Program, Quantity

CONCENTRATION = 2.0
LOCATION_MEAN, LOCATION_PRECISION = 4.0, 0.1  # cm; weight of the prior in rows
SHAPE, RATE = 3.0, 1.0  # of the variances, cm^2
STEP, ROWS = 13, 12
# flowers in order of petal length: neighbors, and pairs across the gaps
PAIRS = ((0, 3), (0, 4), (4, 8), (5, 9), (7, 8))


def make_data(seed: int, K: int) -> Data:
    """Return the twelve petal lengths in increasing order; real data do not depend on the seed.

    Raises:
        UsageError: K is neither 2 nor 3.
    """
    if K not in (2, 3):
        raise UsageError(f"Option K of gaussian_mixture_exact got {K}; accepted: 2 or 3 classes.")
    table = read("iris")
    petal = table.column("petal_length")[::STEP].sort().values
    assert len(petal) == ROWS
    return Data(
        train={"petal": petal},
        observed=("petal",),
        coords={
            "class": [str(k) for k in range(1, K + 1)],
            "pair": [f"{petal[i]:.1f} and {petal[j]:.1f} cm" for i, j in PAIRS],
        },
        dims={"petal": ("flower",)},
        source=table.provenance.source + "; every thirteenth row",
        licence=table.provenance.licence,
    )


def build(data: Data, K: int) -> Program:
    """Return the conjugate mixture program with an enumerated class per flower."""
    flowers = len(data.train["petal"])

    def program(petal: Tensor | None = None) -> None:
        weight = pyro.sample("weight", dist.Dirichlet(torch.full((K,), CONCENTRATION)))  # [class]
        with pyro.plate("class", K):
            variance = pyro.sample("variance", dist.InverseGamma(SHAPE, RATE))  # [class], cm^2
            location = pyro.sample(
                "location", dist.Normal(LOCATION_MEAN, (variance / LOCATION_PRECISION).sqrt())
            )  # [class], cm
        with pyro.plate("flower", flowers):
            label = pyro.sample("label", dist.Categorical(weight), infer={"enumerate": "parallel"})
            pyro.sample(
                "petal",
                dist.Normal(Vindex(location)[..., label], Vindex(variance)[..., label].sqrt()),
                obs=petal,
            )

    return program


class Partitions(NamedTuple):
    """Every labeling of the rows with its probability, and the posterior of a class per subset."""

    labels: Tensor  # [labeling, row]
    subset: Tensor  # [labeling, class], the rows of a class as a bit mask
    probability: Tensor  # [labeling]
    log_evidence: float
    mean: Tensor  # [subset], posterior mean of the location, cm
    precision: Tensor  # [subset], weight of the location in rows
    shape: Tensor  # [subset], of the inverse-gamma posterior of the variance
    rate: Tensor  # [subset]
    size: Tensor  # [subset], rows


def partitions(data: Data, K: int) -> Partitions:
    """Return all K^n labelings with posterior probabilities and log evidence in nats; cached."""
    return _partitions(tuple(data.train["petal"].tolist()), K)


@lru_cache(maxsize=4)
def _partitions(petal: tuple[float, ...], K: int) -> Partitions:
    y, rows = torch.tensor(petal, dtype=torch.float64), len(petal)
    member = ((torch.arange(2**rows)[:, None] >> torch.arange(rows)) & 1).double()  # [subset, row]
    count, total, squares = member.sum(-1), member @ y, member @ y.square()
    precision = LOCATION_PRECISION + count
    mean = (LOCATION_PRECISION * LOCATION_MEAN + total) / precision
    shape = SHAPE + count / 2
    rate = RATE + 0.5 * (
        squares + LOCATION_PRECISION * LOCATION_MEAN**2 - precision * mean.square()
    ).clamp(min=0.0)
    log_marginal = (
        -0.5 * count * math.log(2 * math.pi)
        + 0.5 * (LOCATION_PRECISION / precision).log()
        + shape.lgamma()
        - math.lgamma(SHAPE)
        + SHAPE * math.log(RATE)
        - shape * rate.log()
    )
    labels = (torch.arange(K**rows)[:, None] // K ** torch.arange(rows)) % K  # [labeling, row]
    subset = torch.stack(
        [((labels == k) << torch.arange(rows)).sum(-1) for k in range(K)], -1
    )  # [labeling, class]
    sizes = (CONCENTRATION + count).lgamma() - math.lgamma(CONCENTRATION)
    log_joint = (
        (log_marginal + sizes)[subset].sum(-1)
        + math.lgamma(K * CONCENTRATION)
        - math.lgamma(K * CONCENTRATION + rows)
    )
    log_evidence = log_joint.logsumexp(0)
    return Partitions(
        labels,
        subset,
        (log_joint - log_evidence).exp(),
        float(log_evidence),
        mean,
        precision,
        shape,
        rate,
        count,
    )


def co_clustering(data: Data, K: int) -> Tensor:
    """Return the exact probability that two flowers share a class, `[flower, flower]`."""
    p = partitions(data, K)
    return torch.stack(
        [
            (p.probability[:, None] * (p.labels == p.labels[:, i, None])).sum(0)
            for i in range(p.labels.shape[1])
        ]
    )


def log_joint(draws: Mapping[str, Tensor], petal: Tensor) -> Tensor:
    """Return log weight_k + log Normal(petal | class k), `[*sample, flower, class]`, nats."""
    parts = torch.distributions.Normal(
        draws["location"].unsqueeze(-2), draws["variance"].sqrt().unsqueeze(-2)
    )
    return draws["weight"].log().unsqueeze(-2) + parts.log_prob(petal.unsqueeze(-1))


def responsibilities(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the class probabilities of each flower given a draw, `[*sample, flower, class]`."""
    return log_joint(draws, data.train["petal"]).softmax(-1)


def co_assignment(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    r"""Return the log odds that two flowers share a class given a draw, `[*sample, pair]`, nats.

    They are log sum_k r_k(a) r_k(b) - log sum_{k != l} r_k(a) r_l(b); the probability itself is
    close to 0 or 1 for most pairs.
    """
    log_r = log_joint(draws, data.train["petal"])  # [*sample, flower, class]
    return log_odds(log_r[..., [i for i, _ in PAIRS], :], log_r[..., [j for _, j in PAIRS], :])


def mixture_mean(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the mean of the mixture, sum_k weight_k location_k, `[*sample]`, cm."""
    return (draws["weight"] * draws["location"]).sum(-1)


def log_scale(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return log standard deviations ordered by location, `[*sample, class]`, log cm."""
    return 0.5 * sorted_by("variance", "location", log=True)(draws, data)


@lru_cache(maxsize=4)
def _mean_moments(petal: tuple[float, ...], K: int) -> Moments:
    """Return mean and sd of sum_k weight_k location_k.

    Given a labeling, weights are Dirichlet, locations are t, and both are independent.
    """
    p = _partitions(petal, K)
    alpha, mean = CONCENTRATION + p.size[p.subset], p.mean[p.subset]  # [labeling, class]
    variance = (p.rate / (p.shape - 1) / p.precision)[p.subset]  # of the locations
    size = float(K * CONCENTRATION + len(petal))
    # E[w_k w_l] = (a_k a_l + [k = l] a_k) / (size (size + 1)); E[location_k location_l] likewise
    squared = (
        (alpha * mean).sum(-1).square()
        + (alpha * mean.square() + alpha * (alpha + 1) * variance).sum(-1)
    ) / (size * (size + 1))
    center = (p.probability * (alpha * mean).sum(-1)).sum() / size
    zero = torch.zeros((), dtype=center.dtype)
    return Moments(center, zero, ((p.probability * squared).sum() - center.square()).sqrt(), zero)


def analytic(data: Data, K: int) -> Analytic:
    """Return exact draws, exact moments of the mixture's mean, and the log evidence in nats."""
    p = partitions(data, K)
    cumulative = p.probability.cumsum(0)

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        with seeded(seed):
            chosen = torch.searchsorted(
                cumulative, torch.rand(n, dtype=torch.float64) * cumulative[-1]
            ).clamp(max=len(cumulative) - 1)
            subset = p.subset[chosen]  # [n, class]
            weight = torch.distributions.Dirichlet(CONCENTRATION + p.size[subset]).sample()
            drawn = (
                p.rate[subset]
                / torch.distributions.Gamma(
                    p.shape[subset], torch.ones_like(p.shape[subset])
                ).sample()
            )
            noise = torch.randn(n, K, dtype=torch.float64)
        return {
            "weight": weight,
            "variance": drawn,
            "location": p.mean[subset] + (drawn / p.precision[subset]).sqrt() * noise,
        }

    moments = {"mixture_mean": _mean_moments(tuple(data.train["petal"].tolist()), K)}
    return Analytic(sample=sample, moments=moments, log_evidence=p.log_evidence)


CLASSES = Classes(responsibilities=responsibilities, co_clustering=co_clustering)

ENTRY = ModelEntry(
    name="gaussian_mixture_exact",
    title="Conjugate mixture of normals on twelve flowers, evidence exact by enumeration",
    make_data=make_data,
    build=build,
    quantities={
        "location": Quantity(
            fn=sorted_by("location", "location"),
            dims=("class",),
            description="class locations in increasing order, cm",
        ),
        "weight": Quantity(
            fn=sorted_by("weight", "location"),
            dims=("class",),
            description="class weights, ordered by location",
        ),
        "log_scale": Quantity(
            fn=log_scale,
            dims=("class",),
            description="log standard deviations, ordered by location, log cm",
        ),
        "co_assignment": Quantity(
            fn=co_assignment,
            dims=("pair",),
            description="log odds that two flowers share a class, nats",
        ),
        "mixture_mean": Quantity(
            fn=mixture_mean, description="mean petal length of the mixture, cm"
        ),
    },
    reference="analytic",
    families=(*ModelEntry.families, "class_network"),
    analytic=analytic,
    options={"K": 2},
    amortize=lambda tensors: tensors["petal"].unsqueeze(-1),
    tags=frozenset({"mixture", "discrete", "enumeration", "conjugate", "exact evidence"}),
    cites=(
        (
            "Nobile (1994), Bayesian analysis of finite mixture distributions, PhD thesis,"
            " Carnegie Mellon University"
        ),
    ),
    notices=(
        (
            "Labels are free: a guide in one of the K! modes has a bound that is low by up to log"
            " K! nats."
        ),
    ),
)
