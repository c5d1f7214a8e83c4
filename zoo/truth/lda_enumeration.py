"""The exact posterior of LDA on a tiny corpus, by sums over count tables.

In latent Dirichlet allocation with topics and mixtures integrated out, the topic assignments z of
tokens have

    p(words, z) = prod_d B(alpha + n_d.) / B(alpha) prod_k B(beta + n_k.) / B(beta),
    B(a) = prod_i G(a_i) / G(sum_i a_i),

where n_dk and n_kv count tokens of document d and of word v in topic k. It depends on z only
through the table n_dvk of each document, which prod_v c_dv! / prod_k n_dvk! assignments share; and
the topics' factor depends on the sum of these tables over documents only. So documents are added
one by one to a map from summed table to weight (dynamic programming): 2^18 assignments become
1,792 tables, 3^18 = 387 million become 280 thousand. Given the tables, topics and mixtures are
Dirichlet.

Source: Griffiths and Steyvers (2004), Finding scientific topics, PNAS 101, 5228-5235, for the
collapsed posterior.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import gammaln

from zoo.errors import UsageError

__all__ = ["TopicTables"]

Array = np.ndarray[Any, Any]
LARGEST = 50_000_000  # entries of the map from summed tables to weights


def _compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    """List the ways to write `total` as an ordered sum of `parts` numbers."""
    bars = itertools.combinations(range(total + parts - 1), parts - 1)
    return [tuple(np.diff((-1, *b, total + parts - 1)) - 1) for b in bars]


class TopicTables:
    """All count tables of a corpus, with their weights.

    Args:
        counts: word counts `[document, word]`, small integers.
        topics: K.
        alpha, beta: concentrations of mixtures and topics.

    Raises:
        UsageError: the corpus has too many tables.
    """

    def __init__(self, counts: Array, topics: int, alpha: float, beta: float) -> None:
        self.counts, self.topics, self.alpha, self.beta = counts.astype(int), topics, alpha, beta
        totals = self.counts.sum(0)
        # [word * (K - 1)]; the last topic gets the remaining tokens of a word
        self.radix = np.repeat(totals + 1, topics - 1)
        self.size = math.prod(int(r) for r in self.radix)
        if self.size > LARGEST:
            raise UsageError(
                f"The corpus has up to {self.size:,} count tables; accepted: at most {LARGEST:,},"
                " shorten it."
            )
        self.place = np.concatenate([[1], np.cumprod(self.radix[:-1])]).astype(np.int64)
        self.documents = [self._document(row) for row in self.counts]
        self.sums = [np.zeros(self.size)]
        self.sums[0][0] = 1.0
        for tables, weights in self.documents:
            self.sums.append(_add(self.sums[-1], self._codes(tables), weights))
        self.codes = np.flatnonzero(self.sums[-1])
        self.joint = self.sums[-1][self.codes] * np.exp(
            self._topics_part(self._tables(self.codes))
        )

    @property
    def log_evidence(self) -> float:
        """Log p(words) in nats, for the given order of the tokens."""
        return float(np.log(self.joint.sum()))

    def expect(self, factors: Mapping[int, Array]) -> float:
        """Return the posterior mean of a product of functions of single documents' tables.

        Args:
            factors: the values of each function, `{document: [table]}`; the tables of document d
                are `self.documents[d][0]`, `[table, word, topic]`.
        """
        summed = self.sums[0]
        for d, (tables, weights) in enumerate(self.documents):
            summed = _add(
                summed, self._codes(tables), weights * factors[d] if d in factors else weights
            )
        return float(
            summed[self.codes]
            @ np.exp(self._topics_part(self._tables(self.codes)))
            / self.joint.sum()
        )

    def co_assignment(self, first: tuple[int, int], second: tuple[int, int]) -> float:
        """Return the probability that two tokens, each a pair (document, word), share a topic."""
        (d, v), (e, w) = first, second
        # tokens in the first topic; topics are exchangeable
        a, b = self.documents[d][0][:, v, 0], self.documents[e][0][:, w, 0]
        if d == e:
            pairs = a * (a - 1) if v == w else a * b
            number = self.counts[d, v] * (self.counts[e, w] - (v == w))
            return self.topics * self.expect({d: pairs}) / number
        return self.topics * self.expect({d: a, e: b}) / (self.counts[d, v] * self.counts[e, w])

    def sample(self, number: int, seed: int) -> tuple[Array, Array]:
        """Return independent exact draws of topics and mixtures.

        Args:
            number: number of draws.
            seed: seed of the draws.

        Returns:
            Topics `[draw, topic, word]` and mixtures `[draw, document, topic]`.
        """
        stream = np.random.default_rng(seed)
        cumulative = np.cumsum(self.joint)
        code = self.codes[np.searchsorted(cumulative, stream.random(number) * cumulative[-1])]
        topics = _dirichlet(self.beta + self._tables(code).swapaxes(1, 2), stream)
        mixtures = np.empty((number, len(self.documents), self.topics))
        for d in reversed(range(len(self.documents))):
            tables, weights = self.documents[d]
            codes, before = self._codes(tables), self.sums[d]
            # [draw, table]; unreachable sums have weight 0, so borrows cannot pass
            left = code[:, None] - codes
            chance = np.cumsum(np.where(left >= 0, before[np.maximum(left, 0)], 0.0) * weights, 1)
            chosen = (chance < stream.random((number, 1)) * chance[:, -1:]).sum(1)
            mixtures[:, d] = _dirichlet(self.alpha + tables[chosen].sum(1), stream)
            code = code - codes[chosen]
        return topics, mixtures

    def _document(self, row: Array) -> tuple[Array, Array]:
        """Return all tables `[table, word, topic]` of one document, with their weights.

        A weight is the number of assignments times p(z).
        """
        choices = itertools.product(*(_compositions(int(c), self.topics) for c in row))
        tables = np.array(list(choices))
        orders = gammaln(row + 1).sum() - gammaln(tables + 1).sum((1, 2))
        each = tables.sum(1)  # [table, topic]
        total = self.topics * self.alpha
        mixture = (
            gammaln(self.alpha + each).sum(1)
            - self.topics * gammaln(self.alpha)
            + gammaln(total)
            - gammaln(total + row.sum())
        )
        return tables, np.exp(orders + mixture)

    def _codes(self, tables: Array) -> Array:
        free = tables[:, :, :-1].reshape(len(tables), -1)
        return (free * self.place).sum(1)

    def _tables(self, codes: Array) -> Array:
        """Decode the summed tables `[code, word, topic]`."""
        totals = self.counts.sum(0)
        free = (codes[:, None] // self.place % self.radix).reshape(
            len(codes), len(totals), self.topics - 1
        )
        return np.concatenate([free, totals[:, None] - free.sum(2, keepdims=True)], 2)

    def _topics_part(self, tables: Array) -> Array:
        words = tables.shape[1]
        each = tables.sum(1)  # [code, topic]
        lookup = gammaln(self.beta + np.arange(self.counts.sum() + 1)) - gammaln(self.beta)
        whole = gammaln(words * self.beta) - gammaln(
            words * self.beta + np.arange(self.counts.sum() + 1)
        )
        return lookup[tables].sum((1, 2)) + whole[each].sum(1)


def _add(sums: Array, codes: Array, weights: Array) -> Array:
    """Add one document to a map from summed table to weight."""
    out, reached = np.zeros_like(sums), np.flatnonzero(sums)
    for code, weight in zip(codes, weights, strict=True):
        if weight:
            out[reached + code] += sums[reached] * weight
    return out


def _dirichlet(concentration: Array, stream: np.random.Generator) -> Array:
    """Draw from Dirichlet distributions along the last axis.

    The draws are computed as logarithms, so that small concentrations cannot give 0.
    """
    log_gamma = (
        np.log(stream.standard_gamma(concentration + 1))
        + np.log1p(-stream.random(concentration.shape)) / concentration
    )
    share = np.exp(log_gamma - log_gamma.max(-1, keepdims=True))
    return share / share.sum(-1, keepdims=True)
