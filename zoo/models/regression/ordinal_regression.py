"""Ordinal regression: where 944 US voters of 1996 place themselves between two parties.

Party identification has seven ordered answers, from strong Democrat to strong Republican. The
predictors are the voter's own ideology, age, education and income, standardized (divisor n).

    share        ~ Dirichlet(1, ..., 1)                      # of the answers, average person
    cut_k        = logit(share_1 + ... + share_k),           k = 1..6
    weight_j     ~ Normal(0, 1),                             j = 1..4
    answer_i     ~ OrderedLogistic(x_i . weight, cut),       i = 1..944

Cut points need an order and a proper prior. Both come from the shares that the cut points imply
for a person at zero: flat over the simplex, which as a density of the cut points is the induced
Dirichlet prior. The shares are sites, the cut points quantities. With 944 rows the posterior is
close to normal in the unconstrained coordinates; adjacent cut points are strongly correlated (up
to 0.9), which a guide with independent coordinates cannot represent.

References:
    McCullagh (1980), Regression models for ordinal data, JRSS B 42(2), 109-142.
    Betancourt (2019), Ordinal regression (the induced Dirichlet prior).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.datasets import read, standardize
from zoo.quantities import site
from zoo.types import Data, ModelEntry, Program, Quantity

FEATURES = ("ideology", "age", "education", "income")
ANSWERS = 7


def make_data(seed: int) -> Data:
    """Return the survey; real data do not depend on the seed."""
    table = read("anes96")
    return Data(
        train={"x": standardize(table.select(FEATURES)), "answer": table.column("party").long()},
        observed=("answer",),
        coords={"feature": FEATURES, "cut": [f"{k}|{k + 1}" for k in range(ANSWERS - 1)]},
        dims={"x": ("person", "feature"), "answer": ("person",), "weight": ("feature",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def cut_points(share: Tensor) -> Tensor:
    """Return the logits of the cumulative shares, `[*batch, 7] -> [*batch, 6]`."""
    below, above = share.cumsum(-1)[..., :-1], share.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    return below.log() - above.log()  # 1 - below would lose digits for small last shares


def build(data: Data) -> Program:
    """Return the proportional-odds program."""

    def program(x: Tensor, answer: Tensor | None = None) -> None:
        share = pyro.sample("share", dist.Dirichlet(torch.ones(ANSWERS)))  # [answer]
        weight = pyro.sample(
            "weight", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1)
        )  # [feature]
        cuts = cut_points(share).unsqueeze(-2)
        with pyro.plate("person", x.shape[0]):
            reach = torch.sigmoid(
                cuts - (x @ weight).unsqueeze(-1)
            )  # [person, cut], P(answer <= k)
            edges = torch.nn.functional.pad(
                torch.nn.functional.pad(reach, (1, 0)), (0, 1), value=1.0
            )
            pyro.sample("answer", dist.Categorical(edges.diff(dim=-1)), obs=answer)

    return program


def cuts(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the cut points, `[*sample, cut]`, log odds."""
    return cut_points(draws["share"])


ENTRY = ModelEntry(
    name="ordinal_regression",
    title="Proportional odds for party identification, 1996",
    make_data=make_data,
    build=build,
    quantities={
        "weight": Quantity(
            fn=site("weight"),
            dims=("feature",),
            description="shift towards the Republicans per sd of a feature, log odds",
        ),
        "cut": Quantity(
            fn=cuts, dims=("cut",), description="cut point between two answers, log odds"
        ),
    },
    reference="stored",
    tags=frozenset({"regression", "ordinal"}),
    cites=("McCullagh (1980), Regression models for ordinal data, JRSS B 42(2), 109-142",),
)
