"""Latent classes of tumors or wines from binary answers: is a measurement above its median?

Each measurement of a table becomes one binary answer, x_ij = 1 where row i lies above the median
of column j (ties count as no). The true malignancy or cultivar is not used. Given its class, the
answers of a row are independent:

    weight     ~ Dirichlet(5, ..., 5)
    chance_kj  ~ Beta(2, 2),                        k = 1..K, j = 1..J
    label_i    ~ Categorical(weight),               i = 1..N      # summed out by enumeration
    x_ij       ~ Bernoulli(chance_{label_i, j})

Medians split every column in halves, so that a single class would answer yes with probability 1/2
throughout: the classes can learn only which answers go together. Labels are free; classes are
ordered by their mean probability of yes. Redundant answers (radius, perimeter, area) violate the
independence within a class, and more than two classes are then used to describe that.

References:
    Goodman (1974), Exploratory latent structure analysis, Biometrika 61(2), 215-231.
    Lazarsfeld and Henry (1968), Latent Structure Analysis, Houghton Mifflin.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from zoo.datasets import read
from zoo.errors import UnknownNameError, UsageError
from zoo.models.mixtures._classes import Classes
from zoo.quantities import log_odds
from zoo.types import Data, ModelEntry, Program, Quantity

CONCENTRATION, YES, NO = 5.0, 2.0, 2.0
COLUMNS = {"breast_cancer": 10, "wine": 13}
POINTS = 8  # rows at even ranks of their number of yes, where the model is compared


def make_data(seed: int, data: str, K: int) -> Data:
    """Return the answers; real data do not depend on the seed.

    Raises:
        UnknownNameError: an unknown table.
        UsageError: K is not 2 to 9.
    """
    if data not in COLUMNS:
        raise UnknownNameError("data table", data, COLUMNS)
    if not 2 <= K <= 9:
        raise UsageError(f"Option K of latent_class got {K}; accepted: 2 to 9 classes.")
    table = read(data)
    names = table.columns[: COLUMNS[data]]
    values = table.select(names)
    x = (values > values.quantile(0.5, dim=0)).double()
    rows = points(x)
    return Data(
        train={"x": x},
        observed=("x",),
        coords={
            "class": [str(k) for k in range(1, K + 1)],
            "item": [n.removeprefix("mean_") for n in names],
            "pair": [f"rows {int(i) + 1} and {int(j) + 1}" for i, j in pairwise(rows)],
            "point": [f"row {int(i) + 1}" for i in rows],
        },
        dims={"x": ("row", "item")},
        source=table.provenance.source + "; values above the median of their column",
        licence=table.provenance.licence,
    )


def points(x: Tensor) -> Tensor:
    """Return rows at even ranks of their number of yes, `[point]`."""
    return x.sum(-1).argsort(stable=True)[torch.linspace(0, len(x) - 1, POINTS).round().long()]


def build(given: Data, /, *, data: str, K: int) -> Program:
    """Return the latent-class program with an enumerated class per row."""
    rows, items = given.train["x"].shape

    def program(x: Tensor | None = None) -> None:
        weight = pyro.sample("weight", dist.Dirichlet(torch.full((K,), CONCENTRATION)))  # [class]
        with pyro.plate("class", K):
            chance = pyro.sample(
                "chance", dist.Beta(YES, NO).expand([items]).to_event(1)
            )  # [class, item]
        with pyro.plate("row", rows):
            label = pyro.sample("label", dist.Categorical(weight), infer={"enumerate": "parallel"})
            pyro.sample(
                "x", dist.Bernoulli(probs=Vindex(chance)[..., label, :]).to_event(1), obs=x
            )

    return program


def log_joint(draws: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return log weight_k + log p(answers | class k), `[*sample, row, class]`, in nats.

    Args:
        draws: draws of the sites.
        x: rows `[row, item]`.
    """
    yes, no = draws["chance"].log(), torch.log1p(-draws["chance"])  # [*sample, class, item]
    return draws["weight"].log().unsqueeze(-2) + x @ yes.mT + (1 - x) @ no.mT


def responsibilities(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the class probabilities of each row given a draw, `[*sample, row, class]`."""
    return log_joint(draws, data.train["x"]).softmax(-1)


def at_points(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return `log_joint` at the compared rows, `[*sample, point, class]`."""
    x = data.train["x"]
    return log_joint(draws, x[points(x)])


def log_probability(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log probability of the answers of the compared rows, `[*sample, point]`, nats."""
    return at_points(draws, data).logsumexp(-1)


def co_assignment(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log odds that neighbors share a class given a draw, `[*sample, pair]`, nats.

    Neighbors are compared rows with successive numbers of yes.
    """
    log_r = at_points(draws, data)
    return log_odds(log_r[..., :-1, :], log_r[..., 1:, :])


def _order(draws: Mapping[str, Tensor]) -> Tensor:
    return draws["chance"].mean(-1).argsort(-1)


def weight(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the class weights, ordered by mean probability of yes, `[*sample, class]`."""
    return draws["weight"].gather(-1, _order(draws))


def log_odds_of_yes(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log odds of yes, `[*sample, class, item]`, classes by mean probability of yes."""
    value = draws["chance"].logit()
    return value.gather(-2, _order(draws).unsqueeze(-1).expand(value.shape))


CLASSES = Classes(responsibilities=responsibilities)

ENTRY = ModelEntry(
    name="latent_class",
    title="Latent classes of binary answers, class summed out",
    make_data=make_data,
    build=build,
    quantities={
        "log_odds": Quantity(
            fn=log_odds_of_yes,
            dims=("class", "item"),
            description="log odds of yes, classes by mean chance, nats",
        ),
        "weight": Quantity(
            fn=weight, dims=("class",), description="class weights, classes by mean chance of yes"
        ),
        "co_assignment": Quantity(
            fn=co_assignment,
            dims=("pair",),
            description="log odds that two rows share a class, nats",
        ),
        "log_probability": Quantity(
            fn=log_probability,
            dims=("point",),
            description="log probability of a row's answers, nats",
        ),
    },
    reference="stored",
    families=(*ModelEntry.families, "class_network"),
    options={"data": "breast_cancer", "K": 2},
    amortize=lambda tensors: tensors["x"],
    tags=frozenset({"mixture", "discrete", "enumeration", "amortized"}),
    cites=("Goodman (1974), Exploratory latent structure analysis, Biometrika 61(2), 215-231",),
    notices=(
        (
            "Labels are free: a guide in one of the K! modes has a bound that is low by up to log"
            " K! nats."
        ),
    ),
)
