"""A topic model whose evidence is a sum over every assignment of words to topics."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.special import gammaln

from benchmarks.audit.target_table import add
from zoo.models.topics._topics import counts_of, tokens_program

__all__ = ["DOCUMENTS"]

DOCUMENTS = [[0, 0, 1, 2], [2, 2, 1, 2]]
TOPICS, WORDS, ALPHA, BETA = 2, 3, 1.0, 0.8


def _evidence() -> float:
    """Return the log of the sum over 2^8 assignments of Dirichlet-multinomial probabilities."""
    terms = []
    for z in itertools.product(range(TOPICS), repeat=8):
        total = 0.0
        for d in range(2):
            each = [z[4 * d : 4 * d + 4].count(k) for k in range(TOPICS)]
            total += (
                gammaln(TOPICS * ALPHA)
                - gammaln(TOPICS * ALPHA + 4)
                + sum(gammaln(ALPHA + n) - gammaln(ALPHA) for n in each)
            )
        words = DOCUMENTS[0] + DOCUMENTS[1]
        for k in range(TOPICS):
            counts = [
                sum(a == k and w == v for a, w in zip(z, words, strict=True)) for v in range(WORDS)
            ]
            total += (
                gammaln(WORDS * BETA)
                - gammaln(WORDS * BETA + sum(counts))
                + sum(gammaln(BETA + n) - gammaln(BETA) for n in counts)
            )
        terms.append(total)
    return float(np.log(np.exp(np.array(terms) - max(terms)).sum()) + max(terms))


add(
    "topics",
    "enumeration of assignments",
    _evidence,
    tokens_program(
        documents=2,
        tokens=4,
        vocabulary=WORDS,
        topics=TOPICS,
        alpha=ALPHA,
        beta=BETA,
        enumerated=False,
    ),
    {"words": torch.tensor(DOCUMENTS)},
    observed=("words",),
    batched=("words",),
    families=("mean_field", "full_rank", "dirichlet"),
    amortize=lambda tensors: counts_of(tensors, WORDS),
)
