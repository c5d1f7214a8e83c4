"""Latent Dirichlet allocation: the program, label-safe quantities, matching of topics.

    topic_k    ~ Dirichlet(beta, ..., beta),          k = 1..K        # over V words
    mixture_d  ~ Dirichlet(alpha, ..., alpha),        d = 1..D        # over K topics
    word_dn    ~ Categorical(sum_k mixture_dk topic_k)   # the topic of each token summed out

Topics have no names: any permutation of them is the same posterior. Raw sites are therefore never
compared, only these probabilities:

    word_share_dv     = sum_k mixture_dk topic_kv        the next token of document d is word v
    topic_sharing_de  = sum_k mixture_dk mixture_ek      tokens of documents d and e share a topic
    co_occurrence_vw  = (1/K) sum_k topic_kv topic_kw    two tokens of a random topic are v and w

Source: Blei, Ng and Jordan (2003), Latent Dirichlet allocation, Journal of Machine Learning
Research 3, 993-1022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from zoo.distributions.multivariate import WordCounts
from zoo.errors import UsageError
from zoo.quantities import QuantityFunction
from zoo.types import Data, Program

__all__ = [
    "Alignment",
    "align",
    "check_settings",
    "co_occurrence",
    "counts_of",
    "counts_program",
    "hellinger",
    "match",
    "tokens_program",
    "topic_sharing",
    "word_share",
]


# Topics are an event, not a plate: the minibatch plate is recognized by its size, and K may equal
# the number of documents.


def check_settings(name: str, *, topics: int, alpha: float, beta: float) -> None:
    """Reject a number of topics or a concentration without a valid model.

    Raises:
        UsageError: fewer than 2 topics, or a concentration that is not positive.
    """
    if topics < 2:
        raise UsageError(f"{name} got K={topics} topics; accepted: at least 2.")
    for label, value in (("alpha", alpha), ("beta", beta)):
        if not 0 < value < float("inf"):
            raise UsageError(f"{name} got {label}={value}; accepted: a positive concentration.")


def counts_program(
    *, documents: int, vocabulary: int, topics: int, alpha: float, beta: float
) -> Program:
    """Return the program on word counts `[document, word]`, topics of tokens summed out.

    `index` selects a minibatch of documents.
    """

    def program(totals: Tensor, counts: Tensor | None = None, index: Tensor | None = None) -> None:
        topic = pyro.sample(
            "topic", dist.Dirichlet(torch.full((topics, vocabulary), beta)).to_event(1)
        )  # [topic, word]
        with pyro.plate("documents", documents, subsample=index):
            mixture = pyro.sample(
                "mixture", dist.Dirichlet(torch.full((topics,), alpha))
            )  # [document, topic]
            pyro.sample(
                "counts", WordCounts(mixture @ topic, totals), obs=counts
            )  # [document, word]

    return program


def tokens_program(
    *,
    documents: int,
    tokens: int,
    vocabulary: int,
    topics: int,
    alpha: float,
    beta: float,
    enumerated: bool,
) -> Program:
    """Return the program on tokens `[document, token]`.

    The topic of each token is summed out by hand, or enumerated by Pyro.
    """

    def program(words: Tensor | None = None, index: Tensor | None = None) -> None:
        topic = pyro.sample(
            "topic", dist.Dirichlet(torch.full((topics, vocabulary), beta)).to_event(1)
        )  # [topic, word]
        with pyro.plate("documents", documents, subsample=index):
            mixture = pyro.sample(
                "mixture", dist.Dirichlet(torch.full((topics,), alpha))
            )  # [document, topic]
            if not enumerated:
                share = (mixture @ topic).unsqueeze(-2)  # [document, 1, word]
                each = share.expand(*share.shape[:-2], tokens, vocabulary)
                pyro.sample("words", dist.Categorical(each).to_event(1), obs=words)
                return
            for n in range(tokens):
                z = pyro.sample(
                    f"assignment_{n}", dist.Categorical(mixture), infer={"enumerate": "parallel"}
                )
                pyro.sample(
                    f"word_{n}",
                    dist.Categorical(Vindex(topic)[..., z, :]),
                    obs=None if words is None else words[..., n],
                )

    return program


def counts_of(tensors: Mapping[str, Any], vocabulary: int) -> Tensor:
    """Return word counts `[document, word]` in float64 from the tensors of either program."""
    if "counts" in tensors:
        counts: Tensor = tensors["counts"]
        return counts.double()
    return torch.nn.functional.one_hot(tensors["words"], vocabulary).double().sum(-2)


# -- what posteriors are compared on -----------------------------------------------------------


def word_share(
    documents: Sequence[int] | None = None, words: Sequence[int] | None = None
) -> QuantityFunction:
    """Return the probability of each word as the next token of each document.

    Args:
        documents: which documents, default all.
        words: which words, default all.

    Returns:
        A function with values `[*sample, document, word]`.
    """

    def fn(draws: Mapping[str, Tensor], data: Data) -> Tensor:
        mixture = (
            draws["mixture"] if documents is None else draws["mixture"][..., list(documents), :]
        )
        topic = draws["topic"] if words is None else draws["topic"][..., list(words)]
        return mixture @ topic

    return fn


def topic_sharing(pairs: Sequence[tuple[int, int]]) -> QuantityFunction:
    """Return the probability that tokens of two documents share a topic, `[*sample, pair]`."""
    left, right = [d for d, _ in pairs], [e for _, e in pairs]

    def fn(draws: Mapping[str, Tensor], data: Data) -> Tensor:
        return (draws["mixture"][..., left, :] * draws["mixture"][..., right, :]).sum(-1)

    return fn


def co_occurrence(pairs: Sequence[tuple[int, int]]) -> QuantityFunction:
    """Return the probability that two tokens of a random topic are a pair of words."""
    left, right = [v for v, _ in pairs], [w for _, w in pairs]

    def fn(draws: Mapping[str, Tensor], data: Data) -> Tensor:
        return (draws["topic"][..., left] * draws["topic"][..., right]).mean(-2)

    return fn


# -- matching topics ---------------------------------------------------------------------------


class Alignment(NamedTuple):
    """Topics of every draw in the order of a pivot, `[draw, topic, word]`.

    With the order, and the mean distance of each draw from the pivot.
    """

    topics: Tensor
    order: Tensor  # [draw, topic]
    cost: Tensor  # [draw], mean Hellinger distance of matched topics, 0 (equal) to 1 (disjoint)


def hellinger(a: Tensor, b: Tensor) -> Tensor:
    r"""Return Hellinger distances between rows of two batches, `[*batch, k, l]`.

    The rows are `[*batch, k, word]` and `[*batch, l, word]`.

    \[ H(p, q) = \sqrt{1 - \sum_v \sqrt{p_v q_v}} \]
    """
    return (1 - a.sqrt() @ b.sqrt().transpose(-1, -2)).clamp(min=0).sqrt()


def match(found: Tensor, wanted: Tensor, distance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Match found topics to wanted ones, both `[topic, word]`, by minimal total distance.

    The distance is Hellinger's by default; the matching is scipy's Hungarian method.

    Returns:
        For each wanted topic the index of the matched found topic, and their distances.
    """
    cost = hellinger(wanted, found) if distance is None else distance  # [wanted, found]
    rows, columns = linear_sum_assignment(cost.numpy())
    order = torch.as_tensor(columns[np.argsort(rows)])
    return order, cost[torch.arange(len(order)), order]


def align(topics: Tensor, pivot: Tensor | None = None) -> Alignment:
    """Permute the topics of every draw `[draw, topic, word]` into the order of a pivot.

    The pivot `[topic, word]` is the last draw by default. A large cost says that a draw has no
    good
    match: the topics of different draws then differ, and an average over the aligned draws is
    meaningless.
    """
    pivot = topics[-1] if pivot is None else pivot
    distances = hellinger(pivot.expand_as(topics), topics)  # [draw, pivot topic, topic]
    orders, costs = [], []
    for distance in distances:
        order, cost = match(pivot, pivot, distance)
        orders.append(order)
        costs.append(cost.mean())
    order = torch.stack(orders)
    return Alignment(
        topics.gather(1, order.unsqueeze(-1).expand_as(topics)), order, torch.stack(costs)
    )
