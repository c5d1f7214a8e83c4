"""Low-rank updates of one layer of the frozen digit classifier: sites, weights and logits.

    form `rank`:        W_2 + s B A,           A [r, 64], B [32, r],   s = 0.5 / sqrt(r)
    form `core`:        W_2 + s U C V^T,       C [r, r],               s = 2
    form `subspace`:    W_2 + s U diag(t) V^T, t [r],                  s = 2
    form `last_layer`:  (W_3, b_3) + s H,      H [class, 33],          s = 1

U and V are the first r singular directions of W_2. Every site is standard normal. The scales are
chosen so that an update of one prior standard deviation is as large as the weights it is added to
(the first singular values of W_2 are about 2, its norm 5, the entries of W_3 about 0.4).

A and B are not identified: (R^-1 A, B R) gives the same update for every invertible R, and for a
rotation R also the same prior. Everything here is therefore a function of the update Delta, the
term added to the weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from zoo.errors import UsageError
from zoo.models.adapters._backbone import backbone

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DIRECTIONS",
    "FORMS",
    "RANKS",
    "adapted",
    "directions",
    "frozen_logits",
    "layer_input",
    "shapes",
    "singular",
    "update",
]

FORMS = ("rank", "core", "subspace", "last_layer")
RANKS = (1, 2, 3, 4)
RANK_SCALE, CORE_SCALE, LAST_SCALE = 0.5, 2.0, 1.0
DIRECTIONS = 4


def shapes(form: str, rank: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the sites of a form.

    Raises:
        UsageError: an unknown form or rank.
    """
    if form not in FORMS:
        raise UsageError(f"Option form of lora_head got {form!r}; accepted: {', '.join(FORMS)}.")
    if rank not in RANKS:
        raise UsageError(f"Option rank of lora_head got {rank}; accepted: 1 to {RANKS[-1]}.")
    sites: dict[str, dict[str, tuple[int, ...]]] = {
        "rank": {"A": (rank, 64), "B": (32, rank)},
        "core": {"core": (rank, rank)},
        "subspace": {"coefficient": (rank,)},
        "last_layer": {"head": (classes, 33)},
    }
    return sites[form]


@functools.cache
def singular(layer: str) -> tuple[Tensor, Tensor]:
    """Return left `[row, k]` and right `[column, k]` singular vectors of a layer, signs fixed."""
    left, _, right = torch.linalg.svd(backbone()[layer], full_matrices=False)
    sign = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    return left * sign, right.T * sign


def layer_input(form: str, hidden: Tensor) -> Tensor:
    """Return the input of the adapted layer for first hidden features `[row, 64]`.

    It is these features, or for `last_layer` the second hidden layer `[row, 32]`.
    """
    if form != "last_layer":
        return hidden
    w = backbone()
    return (torch.tanh(hidden @ w["w2"].T + w["b2"]) * 2.0**30).round() / 2.0**30


def update(draws: Mapping[str, Tensor]) -> Tensor:
    """Return the update of the adapted layer, `[*sample, 32, 64]`, from draws of the sites.

    For `last_layer` the shape is `[*sample, class, 32]`.
    """
    if "head" in draws:
        return LAST_SCALE * draws["head"][..., :32]
    if "B" in draws:
        return RANK_SCALE / draws["A"].shape[-2] ** 0.5 * draws["B"] @ draws["A"]
    left, right = singular("w2")
    if "core" in draws:
        core = draws["core"]
        rank = core.shape[-1]
        return CORE_SCALE * left[:, :rank] @ core @ right[:, :rank].T
    t = draws["coefficient"]
    rank = t.shape[-1]
    return CORE_SCALE * (left[:, :rank] * t.unsqueeze(-2)) @ right[:, :rank].T


def directions(draws: Mapping[str, Tensor]) -> Tensor:
    """Return u_k^T Delta v_k in the layer's first four singular directions, `[*sample, 4]`."""
    last = "head" in draws
    left, right = singular("w3" if last else "w2")
    rows = draws["head"].shape[-2] if last else left.shape[0]
    return torch.einsum(
        "ik,...ij,jk->...k", left[:rows, :DIRECTIONS], update(draws), right[:, :DIRECTIONS]
    )


def adapted(classes: int) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
    """Return the function `logits(draws, x)` of an adapted network with this number of classes.

    It maps draws of the sites `[*sample, *site]` and layer inputs `[row, feature]` to
    `[*sample, row, class]`.
    """
    w = backbone()
    w2, b2, w3, b3 = w["w2"], w["b2"], w["w3"][:classes], w["b3"][:classes]
    left, right = singular("w2")

    def logits(draws: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if "head" in draws:
            head = draws["head"]
            return x @ (w3 + LAST_SCALE * head[..., :32]).mT + (
                b3 + LAST_SCALE * head[..., 32]
            ).unsqueeze(-2)
        if "B" in draws:
            change = RANK_SCALE / draws["A"].shape[-2] ** 0.5 * (x @ draws["A"].mT) @ draws["B"].mT
        elif "core" in draws:
            rank = draws["core"].shape[-1]
            change = CORE_SCALE * (x @ right[:, :rank]) @ draws["core"].mT @ left[:, :rank].T
        else:
            rank = draws["coefficient"].shape[-1]
            change = (
                CORE_SCALE
                * ((x @ right[:, :rank]) * draws["coefficient"].unsqueeze(-2))
                @ left[:, :rank].T
            )
        return torch.tanh(x @ w2.T + b2 + change) @ w3.T + b3

    return logits


def frozen_logits(classes: int, hidden: Tensor) -> Tensor:
    """Return logits `[row, class]` without adapter from first hidden features `[row, 64]`."""
    w = backbone()
    return torch.tanh(hidden @ w["w2"].T + w["b2"]) @ w["w3"][:classes].T + w["b3"][:classes]
