"""Held-out scores of documents given topics: three quantities, in nats per token.

The topics may come from any method. For topics phi `[topic, word]` and mixtures theta_d ~
Dirichlet(alpha, ..., alpha), the words of a document in their order have

    log p(w_d | phi) = log E_theta prod_n sum_k theta_k phi_{k, w_dn}

* `elbo_bound`: a lower bound, by coordinate ascent on a Dirichlet q(theta) and q(z).
* `document_completion`: theta from half of the tokens, log sum_k E[theta_k] phi_kw summed over the
  other half: a prediction, not a bound.
* `left_to_right`: an unbiased estimate of p(w_d | phi) by a particle filter over tokens;
  `enumerated` is its exact value.

They answer different questions and are never mixed. Every document is scored separately, with
random numbers that depend only on its words, so that a score does not depend on the order, the
batches or the other documents of an evaluation set.

Source: Wallach, Murray, Salakhutdinov and Mimno (2009), Evaluation methods for topic models, ICML;
Buntine (2009), ACML.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from guides.base.cavi_lda import log_means, mixtures_given
from zoo.errors import UsageError

__all__ = [
    "Heldout",
    "complete",
    "document_completion",
    "elbo_bound",
    "enumerated",
    "infer_mixtures",
    "left_to_right",
    "split_tokens",
]

Array = np.ndarray[Any, Any]
# passes of the coordinate ascent, fixed so that no document waits for another
PASSES = 200
LARGEST = 2_000_000  # count vectors of an enumeration


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """Log probabilities `[document]` in nats, and the number of their tokens `[document]`."""

    name: str
    log_prob: Tensor
    tokens: Tensor

    @property
    def nats_per_token(self) -> float:
        """Mean log probability of a token, nats; higher is better."""
        return float(self.log_prob.sum() / self.tokens.sum())

    @property
    def se(self) -> float:
        """Standard error over documents of `nats_per_token`, a ratio estimate."""
        rest = self.log_prob - self.nats_per_token * self.tokens
        return float((rest.square().sum()).sqrt() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp(-nats per token); lower is better."""
        return float(np.exp(-self.nats_per_token))


def _checked(topics: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float64.

    Raises:
        UsageError: shapes that do not match, or topics that are not distributions over words.
    """
    topics, counts = (
        torch.as_tensor(topics, dtype=torch.float64),
        torch.as_tensor(counts, dtype=torch.float64),
    )
    if topics.ndim != 2 or counts.ndim != 2 or topics.shape[1] != counts.shape[1]:
        raise UsageError(
            f"Topics {tuple(topics.shape)} and counts {tuple(counts.shape)} differ in words; give"
            " [topic, word] and [document, word]."
        )
    if not bool((topics > 0).all()) or not torch.allclose(
        topics.sum(1), torch.ones(len(topics), dtype=torch.float64), atol=1e-6
    ):
        raise UsageError(
            "Topics must be positive and sum to 1 over the words;"
            " divide pseudo-counts by their sum."
        )
    return topics / topics.sum(1, keepdim=True), counts


def infer_mixtures(topics: Tensor, alpha: float, counts: Tensor) -> Tensor:
    """Return the concentrations of q(mixture) `[document, topic]`, given topics.

    A fixed number of passes is made.
    """
    topics, counts = _checked(topics, counts)
    prior = torch.full((len(counts), len(topics)), float(alpha), dtype=torch.float64)
    return mixtures_given(
        counts, topics.log(), prior, prior + counts.sum(1, keepdim=True) / len(topics), PASSES
    )


def elbo_bound(topics: Tensor, alpha: float, counts: Tensor) -> Heldout:
    """Return a lower bound on log p(words in order | topics) for every document."""
    topics, counts = _checked(topics, counts)
    q = infer_mixtures(topics, alpha, counts)
    means = log_means(q)
    fit = torch.special.xlogy(counts, means.exp() @ topics).sum(1)
    prior = torch.full_like(q, float(alpha))
    constants = (
        q.sum(1).lgamma() - q.lgamma().sum(1) - prior.sum(1).lgamma() + prior.lgamma().sum(1)
    )
    return Heldout(
        name="elbo_bound",
        log_prob=fit - constants - ((q - prior) * means).sum(1),
        tokens=counts.sum(1),
    )


def _stream(row: Array, seed: int, role: str) -> np.random.Generator:
    """Return a generator whose seed depends only on the words of one document."""
    text = f"{role}:{seed}:".encode() + np.ascontiguousarray(row, dtype=np.float64).tobytes()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "big"))


def split_tokens(counts: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return two halves of every document's tokens.

    They are drawn without replacement, with random numbers of the document.
    """
    rows = counts.double().numpy()
    first = np.stack(
        [
            _stream(r, seed, "halves").multivariate_hypergeometric(
                r.astype(int), int(r.sum()) // 2
            )
            for r in rows
        ]
    )
    half = torch.as_tensor(first, dtype=torch.float64)
    return half, counts.double() - half


def complete(topics: Tensor, mixtures: Tensor, scored: Tensor) -> Heldout:
    """Return log sum_k mixture_k topic_kw summed over tokens.

    The mixtures `[document, topic]` come from elsewhere (an encoder).
    """
    topics, scored = _checked(topics, scored)
    return Heldout(
        name="document_completion",
        log_prob=torch.special.xlogy(scored, mixtures @ topics).sum(1),
        tokens=scored.sum(1),
    )


def document_completion(topics: Tensor, alpha: float, counts: Tensor, *, seed: int = 0) -> Heldout:
    """Return the log probability of half of each document's tokens.

    The mixture is inferred from the other half.
    """
    known, scored = split_tokens(counts, seed)
    q = infer_mixtures(topics, alpha, known)
    return complete(topics, q / q.sum(1, keepdim=True), scored)


def enumerated(topics: Tensor, alpha: float, counts: Tensor) -> Heldout:
    """Return the exact log p(words in order | topics), a sum over token counts of topics.

    prod_n (sum_k phi_{k, w_n} x_k) is expanded as a polynomial in x, token by token; the
    coefficient of x^n is then weighted with the Dirichlet-multinomial probability of one
    assignment with these counts.

    Raises:
        UsageError: too many topics for documents of this length.
    """
    topics, counts = _checked(topics, counts)
    number, longest = len(topics), int(counts.sum(1).max())
    if (longest + 1) ** (number - 1) > LARGEST:
        raise UsageError(
            f"{number} topics and {longest} tokens have too many count vectors to enumerate;"
            " use left_to_right."
        )
    return Heldout(
        name="enumerated",
        log_prob=torch.tensor(
            [_expand(topics.numpy(), alpha, row) for row in counts.numpy()], dtype=torch.float64
        ),
        tokens=counts.sum(1),
    )


def _expand(topics: Array, alpha: float, row: Array) -> float:
    number, total = len(topics), int(row.sum())
    coefficients, log_scale = np.zeros((total + 1,) * (number - 1)), 0.0
    coefficients[(0,) * (number - 1)] = 1.0
    for word in np.repeat(np.arange(len(row)), row.astype(int)):
        grown = topics[-1, word] * coefficients
        for k in range(number - 1):
            # roll does not wrap: the last entry of an axis is 0 until the last token
            grown += topics[k, word] * np.roll(coefficients, 1, axis=k)
        largest = grown.max()
        coefficients, log_scale = grown / largest, log_scale + np.log(largest)
    each = (
        np.stack(np.meshgrid(*[np.arange(total + 1)] * (number - 1), indexing="ij"))
        if number > 1
        else np.zeros((0, 1))
    )
    rest = total - each.sum(0)
    weight = (
        gammaln(alpha + each).sum(0)
        + gammaln(alpha + np.maximum(rest, 0))
        - number * gammaln(alpha)
    )
    weight += gammaln(number * alpha) - gammaln(number * alpha + total)
    return float(
        np.log((coefficients * np.where(rest >= 0, np.exp(weight), 0.0)).sum()) + log_scale
    )


def left_to_right(
    topics: Tensor,
    alpha: float,
    counts: Tensor,
    *,
    particles: int = 50,
    moves: int = 2,
    seed: int = 0,
) -> Heldout:
    """Return the log of an unbiased estimate of p(words in order | topics) per document.

    A particle holds topics of the tokens so far. Each next token weights the particles by its
    predictive probability, whose mean is the next factor of the estimate. Particles are resampled,
    the topic of the token is drawn, and `moves` earlier topics are redrawn given all others. The
    product of the mean weights is unbiased for any number of particles; its logarithm is low by
    half its variance.

    Args:
        topics: `[topic, word]`.
        alpha: concentration of the mixtures.
        counts: `[document, word]`.
        particles: number per document.
        moves: Gibbs steps per token.
        seed: seed of the random numbers, which otherwise depend only on the document.
    """
    topics, counts = _checked(topics, counts)
    values = [
        _filter(topics.numpy(), alpha, row, particles, moves, seed) for row in counts.numpy()
    ]
    return Heldout(
        name="left_to_right",
        log_prob=torch.tensor(values, dtype=torch.float64),
        tokens=counts.sum(1),
    )


def _filter(
    topics: Array, alpha: float, row: Array, particles: int, moves: int, seed: int
) -> float:
    stream = _stream(row, seed, "particles")
    words = stream.permutation(np.repeat(np.arange(len(row)), row.astype(int)))
    number, everyone = len(topics), np.arange(particles)
    z = np.zeros((particles, len(words)), dtype=int)
    each = np.zeros((particles, number))
    total = 0.0
    for n, word in enumerate(words):
        joint = (alpha + each) * topics[:, word]  # [particle, topic]
        weight = joint.sum(1) / (number * alpha + n)
        total += np.log(weight.mean())
        places = np.cumsum(weight)
        chosen = np.minimum(
            np.searchsorted(places, (everyone + stream.random()) / particles * places[-1]),
            particles - 1,
        )
        z, each, joint = z[chosen], each[chosen], joint[chosen]
        z[:, n] = _pick(joint, stream)
        each[everyone, z[:, n]] += 1
        for _ in range(moves if n else 0):
            at = stream.integers(n + 1, size=particles)
            each[everyone, z[everyone, at]] -= 1
            z[everyone, at] = _pick((alpha + each) * topics[:, words[at]].T, stream)
            each[everyone, z[everyone, at]] += 1
    return total


def _pick(weights: Array, stream: np.random.Generator) -> Array:
    """Draw one column per row with probabilities proportional to the weights."""
    cumulative = np.cumsum(weights, 1)
    return (cumulative < stream.random((len(weights), 1)) * cumulative[:, -1:]).sum(1)
