"""Coordinate ascent (CAVI) for latent Dirichlet allocation: bound, updates, starts.

For q(topic_k) = Dirichlet(lambda_k), q(mixture_d) = Dirichlet(gamma_d) and the best q of every
token's topic given these,

    bound = sum_dv c_dv log sum_k exp(E log mixture_dk + E log topic_kv)
            - KL(q(mixture) || p) - KL(q(topic) || p)     [nats]

is a lower bound on log p(words), for the words in their order. Both updates below increase it:

    gamma_dk  = alpha + exp(E log mixture_dk) sum_v r_dv exp(E log topic_kv),
    lambda_kv = beta + exp(E log topic_kv) sum_d r_dv exp(E log mixture_dk),
    r_dv      = c_dv / sum_k exp(...)

A pass over the corpus takes three matrix products. The optimum depends on the initial topics, so
many starts are run for a few passes, and the best of them to convergence.

Source: Blei, Ng and Jordan (2003), JMLR 3, 993-1022; Hoffman, Blei and Bach (2010), Online
learning for LDA, NeurIPS 23.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Ascent", "ascend", "bound", "log_means", "mixtures_given"]

TINY = 1e-300
SCREENING = 40  # passes of every start


class Ascent(NamedTuple):
    """Concentrations of topics `[topic, word]` and mixtures `[document, topic]`.

    `bound` is in nats; `agreeing` is the number of finalists close to the best.
    """

    topics: Tensor
    mixtures: Tensor
    bound: float
    passes: int
    converged: bool
    agreeing: int = 1


def log_means(concentration: Tensor) -> Tensor:
    """Return E log p under Dirichlet distributions along the last axis."""
    return concentration.digamma() - concentration.sum(-1, keepdim=True).digamma()


def _divergence(q: Tensor, p: Tensor) -> Tensor:
    """Return the sum of KL(Dirichlet(q) || Dirichlet(p)) over all but the last axis, in nats."""
    constants = q.sum(-1).lgamma() - q.lgamma().sum(-1) - p.sum(-1).lgamma() + p.lgamma().sum(-1)
    return (constants + ((q - p) * log_means(q)).sum(-1)).sum()


def bound(counts: Tensor, topics: Tensor, mixtures: Tensor, beta: Tensor, alpha: Tensor) -> float:
    """Return the bound above in nats, for the words in their order."""
    chance = log_means(mixtures).exp() @ log_means(topics).exp()
    fit = torch.special.xlogy(counts, chance.clamp(min=TINY)).sum()
    return float(fit - _divergence(topics, beta) - _divergence(mixtures, alpha))


def mixtures_given(
    counts: Tensor, log_topics: Tensor, alpha: Tensor, mixtures: Tensor, passes: int
) -> Tensor:
    """Update the concentrations of mixtures with fixed topics, each document separately."""
    topics = log_topics.exp()
    for _ in range(passes):
        share = log_means(mixtures).exp()
        mixtures = alpha + share * ((counts / (share @ topics).clamp(min=TINY)) @ topics.T)
    return mixtures


class _State(NamedTuple):
    topics: Tensor
    mixtures: Tensor


def _pass(counts: Tensor, state: _State, beta: Tensor, alpha: Tensor) -> _State:
    topics = log_means(state.topics).exp()
    mixtures = mixtures_given(counts, topics.log(), alpha, state.mixtures, 1)
    share = log_means(mixtures).exp()
    ratio = counts / (share @ topics).clamp(min=TINY)
    return _State(beta + topics * (share.T @ ratio), mixtures)


def _begin(counts: Tensor, beta: Tensor, alpha: Tensor, generator: torch.Generator) -> _State:
    """Start with topics that are each the words of a few random documents, and even mixtures."""
    few = max(1, min(8, len(counts) // len(beta)))
    picked = torch.stack(
        [torch.randperm(len(counts), generator=generator)[:few] for _ in range(len(beta))]
    )
    words = counts[picked].sum(1)
    even = counts.sum() / len(beta) / counts.shape[1]
    noise = 0.5 + torch.rand(beta.shape, dtype=counts.dtype, generator=generator)
    mass = counts.sum() / len(beta)
    topics = (
        beta + 0.5 * mass * words / words.sum(1, keepdim=True).clamp(min=1) + 0.5 * even * noise
    )
    return _State(
        topics,
        (alpha + counts.sum(1, keepdim=True) / len(beta)).expand(-1, len(beta)).contiguous(),
    )


def ascend(
    counts: Tensor,
    beta: Tensor,
    alpha: Tensor,
    generator: torch.Generator,
    *,
    starts: int = 20,
    finalists: int = 3,
    passes: int = 1000,
) -> Ascent:
    """Return the best local optimum of several starts.

    Args:
        counts: `[document, word]`.
        beta: prior concentrations of the topics `[topic, word]`.
        alpha: prior concentrations of the mixtures `[document, topic]`.
        generator: source of the starts.
        starts: number of random starts, each run for a few passes.
        finalists: how many of them are run to convergence.
        passes: maximal number of passes of a finalist.
    """
    begun, spent = [], 0
    for _ in range(starts):
        state = _begin(counts, beta, alpha, generator)
        for _ in range(SCREENING):
            state = _pass(counts, state, beta, alpha)
        begun.append((bound(counts, *state, beta, alpha), state))
        spent += SCREENING
    begun.sort(key=lambda b: -b[0])
    ends = []
    for value, state in begun[:finalists]:
        ends.append(_finish(counts, state, value, beta, alpha, passes))
        spent += ends[-1].passes
    best = max(ends, key=lambda e: e.bound)
    near = sum(best.bound - e.bound < 0.5 for e in ends)
    return best._replace(passes=spent, agreeing=near)


def _finish(
    counts: Tensor, state: _State, value: float, beta: Tensor, alpha: Tensor, passes: int
) -> Ascent:
    """Run until ten passes gain less than a relative 1e-8 of the bound."""
    used = 0
    while used < passes:
        for _ in range(10):
            state = _pass(counts, state, beta, alpha)
        used += 10
        before, value = value, bound(counts, *state, beta, alpha)
        if value - before < 1e-8 * abs(value):
            return Ascent(state.topics, state.mixtures, value, used, True)
    return Ascent(state.topics, state.mixtures, value, used, False)
