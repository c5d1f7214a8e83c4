"""Gaussian mixture: latent classes of iris flowers from petal length, class summed out.

The petals of 150 iris flowers of unknown species were measured to the nearest millimeter. Setosa
(about 1.5 cm) is separate; versicolor (4.3 cm) and virginica (5.6 cm) overlap, which makes the
option K=3 much harder than K=2.

    weight       ~ Dirichlet(5, ..., 5)
    location_k   ~ Normal(4, 2),                     k = 1..K     # cm
    scale_k      ~ LogNormal(log 0.5, 0.5)                        # cm, 90 % of it in 0.22..1.14
    label_i      ~ Categorical(weight),              i = 1..150   # summed out by enumeration
    petal_i      ~ Normal(location_{label_i}, scale_{label_i})    # cm

Thirteen flowers share the value 1.4 and thirteen 1.5. A class centered on m equal values with
scale s has likelihood s^-m, so a half-normal or half-Cauchy scale would make the posterior
improper; the log-normal density falls faster than any power of s and keeps it proper. Labels are
free: raw sites mean nothing, and every quantity below is invariant under permutations of the
classes. The posterior has K! identical modes; an approximation to one of them is as good as to
all, except that its bound on the evidence is low by log K!.

References:
    Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of Eugenics 7(2),
    179-188. Stephens (2000), Dealing with label switching in mixture models, JRSS B 62(4),
    795-809. Day (1969), Estimating the components of a mixture of normal distributions, Biometrika
    56(3), 463-474.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from zoo.datasets import read
from zoo.errors import UsageError
from zoo.models.mixtures._classes import Classes
from zoo.quantities import log_odds, sorted_by
from zoo.types import Data, ModelEntry, Program, Quantity

CONCENTRATION = 5.0
LOCATION_MEAN, LOCATION_SCALE = 4.0, 2.0  # cm
SCALE_MEDIAN, SCALE_LOG_SD = 0.5, 0.5  # cm, nats
# Pairs of measured values (cm) for which sharing a class is uncertain, per K: the largest setosa
# with an ordinary one (with K=2 it is the only uncertain flower), and for K=3 the gap beside
# setosa and the overlap of the other two.
PAIRS = {2: ((1.4, 1.9),), 3: ((1.9, 3.0), (3.3, 4.5), (4.5, 5.0), (5.0, 5.6))}


def make_data(seed: int, K: int) -> Data:
    """Return the petal lengths; real data do not depend on the seed.

    Raises:
        UsageError: K is neither 2 nor 3.
    """
    if K not in PAIRS:
        raise UsageError(f"Option K of gaussian_mixture got {K}; accepted: 2 or 3 classes.")
    table = read("iris")
    return Data(
        train={"petal": table.column("petal_length")},
        observed=("petal",),
        coords={
            "class": [str(k) for k in range(1, K + 1)],
            "pair": [f"{a} and {b} cm" for a, b in PAIRS[K]],
        },
        dims={"petal": ("flower",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def build(data: Data, K: int) -> Program:
    """Return the mixture program with an enumerated class per flower."""
    flowers = len(data.train["petal"])

    def program(petal: Tensor | None = None) -> None:
        weight = pyro.sample("weight", dist.Dirichlet(torch.full((K,), CONCENTRATION)))  # [class]
        with pyro.plate("class", K):
            location = pyro.sample(
                "location", dist.Normal(LOCATION_MEAN, LOCATION_SCALE)
            )  # [class], cm
            scale = pyro.sample(
                "scale", dist.LogNormal(math.log(SCALE_MEDIAN), SCALE_LOG_SD)
            )  # [class], cm
        with pyro.plate("flower", flowers):
            label = pyro.sample("label", dist.Categorical(weight), infer={"enumerate": "parallel"})
            pyro.sample(
                "petal",
                dist.Normal(Vindex(location)[..., label], Vindex(scale)[..., label]),
                obs=petal,
            )

    return program


def log_joint(draws: Mapping[str, Tensor], petal: Tensor) -> Tensor:
    """Return log weight_k + log Normal(petal | class k), `[*sample, *petal, class]`, nats."""
    within = (..., *(None,) * petal.ndim, slice(None))
    parts = torch.distributions.Normal(draws["location"][within], draws["scale"][within])
    return draws["weight"].log()[within] + parts.log_prob(petal.unsqueeze(-1))


def responsibilities(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the class probabilities of each flower given a draw, `[*sample, flower, class]`."""
    return log_joint(draws, data.train["petal"]).softmax(-1)


def co_assignment(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    r"""Return the log odds that two petal lengths share a class, `[*sample, pair]`, in nats.

    With responsibilities r_k(a) proportional to weight_k Normal(a | location_k, scale_k), the
    probability of a shared class is sum_k r_k(a) r_k(b). It is within 1e-2 of 0 or 1 for most
    pairs, with a very skewed posterior, so it enters as log odds: log sum_k r_k(a) r_k(b) - log
    sum_{k != l} r_k(a) r_l(b).
    """
    joint = log_joint(
        draws, torch.tensor(PAIRS[draws["location"].shape[-1]], dtype=torch.float64)
    )  # [*sample, pair, 2, class]
    return log_odds(joint[..., 0, :], joint[..., 1, :])


CLASSES = Classes(responsibilities=responsibilities)

ENTRY = ModelEntry(
    name="gaussian_mixture",
    title="Mixture of normals on iris petal lengths, class summed out",
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
            fn=sorted_by("scale", "location", log=True),
            dims=("class",),
            description="log class scales, ordered by location, log cm",
        ),
        "co_assignment": Quantity(
            fn=co_assignment,
            dims=("pair",),
            description="log odds that two petal lengths share a class, nats",
        ),
    },
    reference="stored",
    options={"K": 2},
    tags=frozenset({"mixture", "discrete", "enumeration"}),
    cites=(
        (
            "Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of"
            " Eugenics 7(2), 179-188"
        ),
        "Stephens (2000), Dealing with label switching in mixture models, JRSS B 62(4), 795-809",
    ),
)
