"""Item response: abilities of a thousand persons and properties of ten questions.

The model and the data of `item_response_marginal`, with the abilities as sites: 1,020 parameters,
fitted in minibatches.

    discrimination_j ~ LogNormal(0, 0.5),                      j = 1..10
    easiness_j       ~ Normal(0, 1.5)
    ability_i        ~ Normal(0, 1),                           i = 1..1000    # local
    correct_ij       ~ Bernoulli(logit = discrimination_j ability_i + easiness_j)

Ten answers say little about one person (posterior sd about 0.6 of the prior's), so the joint
posterior of the abilities is wide, while a thousand persons determine the questions well. A guide
that makes abilities independent of the questions is overconfident about the questions. `index`
selects a minibatch of persons; the encoder input is the ten answers of a person.

Draws of 1,020 coordinates do not fit a stored reference. `complete` makes them from draws of
`item_response_marginal` by exact draws of the abilities given the questions: for each of at most
1,024 patterns of answers the density of an ability is tabulated at 201 points over -5..5 and
inverted piecewise.

References:
    Birnbaum (1968), Some latent trait models, in Lord and Novick, Statistical Theories of Mental
    Test Scores. Wu, Davis, Domingue, Piech and Goodman (2020), Variational item response theory:
    fast, accurate, and expressive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.models.hierarchical import item_response_marginal as marginal
from zoo.models.hierarchical.item_response_marginal import ITEMS, PERSONS, QUANTITIES
from zoo.truth.completion import completed
from zoo.types import Data, ModelEntry, Program, Quantity

SHOWN = range(0, PERSONS, 40)  # persons whose ability is compared
GRID, REACH = 201, 5.0


def make_data(seed: int) -> Data:
    """Return the answers, one row per person of the minibatch plate."""
    data = marginal.make_data(seed)
    dims = {**data.dims, "ability": ("person",)}
    return replace(
        data,
        batched=("correct",),
        size=PERSONS,
        dims=dims,
        coords={**data.coords, "shown": [str(i + 1) for i in SHOWN]},
    )


def build(data: Data) -> Program:
    """Return the program; with `index`, `correct` holds the rows of a minibatch of persons."""
    size = data.size

    def program(correct: Tensor | None = None, index: Tensor | None = None) -> None:
        discrimination = pyro.sample(
            "discrimination", dist.LogNormal(0.0, 0.5).expand([ITEMS]).to_event(1)
        )  # [item]
        easiness = pyro.sample(
            "easiness", dist.Normal(0.0, 1.5).expand([ITEMS]).to_event(1)
        )  # [item]
        with pyro.plate("person", size, subsample=index):
            ability = pyro.sample("ability", dist.Normal(0.0, 1.0))  # [person]
            logits = discrimination.unsqueeze(-2) * ability.unsqueeze(-1) + easiness.unsqueeze(
                -2
            )  # [person, item]
            pyro.sample("correct", dist.Bernoulli(logits=logits).to_event(1), obs=correct)

    return program


def complete(draws: Mapping[str, Tensor], data: Data) -> dict[str, Tensor]:
    """Complete draws of the questions `[chain, draw, item]` by exact draws of the abilities."""
    generator = torch.Generator().manual_seed(1)
    patterns, which = data.train["correct"].unique(
        dim=0, return_inverse=True
    )  # [pattern, item], [person]
    grid = torch.linspace(-REACH, REACH, GRID, dtype=torch.float64)
    ability = torch.empty(*draws["easiness"].shape[:-1], len(which), dtype=torch.float64)
    for chain in range(ability.shape[0]):
        a, e = (
            draws[k][chain].unsqueeze(-2) for k in ("discrimination", "easiness")
        )  # [draw, 1, item]
        logits = a * grid.unsqueeze(-1) + e  # [draw, node, item]
        log_p = (
            patterns @ logits.mT
            - torch.nn.functional.softplus(logits).sum(-1).unsqueeze(-2)
            - 0.5 * grid.square()
        )
        density = (log_p - log_p.amax(-1, keepdim=True)).exp()  # [draw, pattern, node]
        area = (0.5 * (density[..., 1:] + density[..., :-1])).cumsum(-1)  # trapezoids
        # increasing over pieces and patterns
        share = area / area[..., -1:] + torch.arange(len(patterns), dtype=torch.float64).unsqueeze(
            -1
        )
        uniform = torch.rand(len(a), len(which), dtype=torch.float64, generator=generator)
        # [draw, person], the piece within each person's pattern
        found = torch.searchsorted(share.flatten(1), which + uniform)
        piece = (found - which * (GRID - 1)).clamp(0, GRID - 2)
        place = which * GRID + piece
        left, right = (density.flatten(1).gather(-1, place + k) for k in (0, 1))
        ends = area.flatten(1)
        total = ends.gather(-1, (which * (GRID - 1) + GRID - 2).expand_as(piece))
        below = torch.where(
            piece > 0, ends.gather(-1, which * (GRID - 1) + (piece - 1).clamp(min=0)), 0.0
        )
        # within a piece the density is linear: solve left x + (right - left) x^2 / 2 = rest for
        # x in (0, 1)
        rest = uniform * total - below
        x = 2 * rest / (left + (left.square() + 2 * (right - left) * rest).clamp(min=0).sqrt())
        ability[chain] = grid[piece] + (grid[1] - grid[0]) * x.clamp(0, 1)
    return {**draws, "ability": ability}


def shown_ability(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the abilities of every fortieth person, `[*sample, shown]`."""
    return draws["ability"][..., list(SHOWN)]


def answers(tensors: Mapping[str, Any]) -> Tensor:
    """Return the encoder input of each person: the ten answers, centered, `[person, item]`."""
    seen: Tensor = tensors["correct"] - 0.5
    return seen


ENTRY = ModelEntry(
    name="item_response",
    title="Abilities of a thousand persons from ten answers each",
    make_data=make_data,
    build=build,
    quantities={
        **QUANTITIES,
        "ability": Quantity(
            fn=shown_ability,
            dims=("shown",),
            description="ability of every fortieth person, prior sds",
        ),
    },
    reference="stored",
    published=completed("item_response_marginal", complete),
    families=("mean_field", "low_rank", "amortized"),
    amortize=answers,
    minibatch=100,
    tags=frozenset({"latent_variable", "generated", "minibatch", "large"}),
    cites=(
        (
            "Wu, Davis, Domingue, Piech and Goodman (2020), Variational item response theory:"
            " fast, accurate, and expressive"
        ),
    ),
)
