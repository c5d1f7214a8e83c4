"""Held-out scores of topics: exact values, order, unbiasedness, no dependence on the split."""

import itertools
import math
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from benchmarks.studies.lda import peers
from benchmarks.studies.lda.heldout import (
    Heldout,
    complete,
    document_completion,
    elbo_bound,
    enumerated,
    left_to_right,
    split_tokens,
)
from zoo.errors import UsageError

TOPICS = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.1, 0.25, 0.6]], dtype=torch.float64)
COUNTS = torch.tensor(
    [[3, 1, 0, 2], [0, 0, 4, 1], [5, 5, 1, 1], [1, 0, 0, 7], [2, 2, 2, 2], [9, 0, 1, 3]],
    dtype=torch.float64,
)
ALPHA = 0.7
SCORES = {
    "elbo_bound": lambda c: elbo_bound(TOPICS, ALPHA, c),
    "document_completion": lambda c: document_completion(TOPICS, ALPHA, c),
    "left_to_right": lambda c: left_to_right(TOPICS, ALPHA, c, particles=20),
    "enumerated": lambda c: enumerated(TOPICS, ALPHA, c),
}


def brute(topics, alpha, row):
    """Sum over every assignment of tokens to topics."""
    words = np.repeat(np.arange(len(row)), row.int().numpy())
    number, terms = len(topics), []
    for z in itertools.product(range(number), repeat=len(words)):
        each = np.bincount(z, minlength=number)
        prior = (
            gammaln(number * alpha)
            - gammaln(number * alpha + len(words))
            + (gammaln(alpha + each) - gammaln(alpha)).sum()
        )
        terms.append(prior + sum(math.log(topics[k, w]) for k, w in zip(z, words, strict=True)))
    return np.logaddexp.reduce(terms)


@pytest.mark.parametrize("number", [2, 3])
def test_enumeration_equals_the_sum_over_assignments(number):
    topics = torch.cat([TOPICS, torch.full((1, 4), 0.25, dtype=torch.float64)])[:number]
    found = enumerated(topics, ALPHA, COUNTS[:2])
    assert found.log_prob.tolist() == pytest.approx(
        [brute(topics, ALPHA, row) for row in COUNTS[:2]], abs=1e-10
    )


def test_the_bound_is_below_the_exact_value_and_near_it():
    exact, bound = enumerated(TOPICS, ALPHA, COUNTS), elbo_bound(TOPICS, ALPHA, COUNTS)
    gap = exact.log_prob - bound.log_prob
    assert (gap > 0).all()
    assert (gap < 1.0).all()


def test_left_to_right_is_unbiased():
    row = COUNTS[2:3]
    truth = float(enumerated(TOPICS, ALPHA, row).log_prob)
    ratio = np.exp(
        [
            float(left_to_right(TOPICS, ALPHA, row, particles=3, moves=1, seed=s).log_prob) - truth
            for s in range(300)
        ]
    )
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 300**0.5
    assert ratio.std() > 0.02  # large enough to reveal a wrong weight


@pytest.mark.parametrize("name", SCORES)
def test_scores_do_not_depend_on_how_the_set_is_cut(name):
    score = SCORES[name]
    whole = score(COUNTS)
    for parts in ([COUNTS[:1], COUNTS[1:]], COUNTS.split(2), COUNTS.split(1)):
        cut = [score(p) for p in parts]
        torch.testing.assert_close(
            torch.cat([c.log_prob for c in cut]), whole.log_prob, rtol=0, atol=1e-9
        )
        value = sum(float(c.log_prob.sum()) for c in cut) / float(
            COUNTS.sum() if name != "document_completion" else whole.tokens.sum()
        )
        assert abs(value - whole.nats_per_token) < 1e-9
    moved = score(COUNTS.flip(0))
    torch.testing.assert_close(moved.log_prob.flip(0), whole.log_prob, rtol=0, atol=1e-9)


def test_relabeling_topics_changes_no_score():
    flipped = TOPICS.flip(0)
    for score in (elbo_bound, document_completion, enumerated):
        torch.testing.assert_close(
            score(flipped, ALPHA, COUNTS).log_prob,
            score(TOPICS, ALPHA, COUNTS).log_prob,
            rtol=0,
            atol=1e-9,
        )


def test_halves_are_halves_and_completion_prefers_the_right_topics():
    known, scored = split_tokens(COUNTS)
    assert torch.equal(known + scored, COUNTS)
    assert (known >= 0).all()
    assert (scored >= 0).all()
    assert torch.equal(known.sum(1), (COUNTS.sum(1) / 2).floor())
    blunt = torch.full((2, 4), 0.25, dtype=torch.float64)
    assert complete(
        blunt, torch.full((6, 2), 0.5, dtype=torch.float64), scored
    ).perplexity == pytest.approx(4.0)
    assert document_completion(TOPICS, ALPHA, COUNTS).perplexity < 4.0


def test_wrong_topics_are_refused():
    with pytest.raises(UsageError, match="sum to 1"):
        elbo_bound(3 * TOPICS, ALPHA, COUNTS)
    with pytest.raises(UsageError, match="differ in words"):
        elbo_bound(TOPICS[:, :3], ALPHA, COUNTS)
    with pytest.raises(UsageError, match="left_to_right"):
        enumerated(torch.full((9, 4), 0.25, dtype=torch.float64), ALPHA, 20 * COUNTS)


def test_the_error_of_a_score_is_that_of_a_ratio_of_sums():
    """With documents of one length it is the textbook error, and it falls with their number."""
    log_prob = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = Heldout(name="x", log_prob=10 * log_prob - 50, tokens=torch.full((400,), 10.0))
    assert found.nats_per_token == pytest.approx(float(log_prob.mean()) - 5)
    assert found.se == pytest.approx(float(log_prob.std()) / 20, rel=0.005)
    four = Heldout(name="x", log_prob=found.log_prob.repeat(4), tokens=found.tokens.repeat(4))
    assert four.se == pytest.approx(found.se / 2)
    # documents of other lengths at one rate per token have no error
    tokens = torch.arange(1.0, 9.0)
    assert Heldout(name="x", log_prob=-3 * tokens, tokens=tokens).se == pytest.approx(0, abs=1e-6)


class FakeModel:
    """What `tomotopy_gibbs` calls of tomotopy: it learns the words of each document."""

    made: ClassVar[list["FakeModel"]] = []

    def __init__(self, **settings):
        self.settings, self.docs, self.trained = settings, [], []
        self.made.append(self)

    def add_doc(self, words):
        self.docs.append(list(words))

    def train(self, sweeps, workers):
        self.trained.append((sweeps, workers, self.burn_in, self.optim_interval))

    @property
    def used_vocabs(self):
        return list(dict.fromkeys(w for doc in self.docs for w in doc))

    def get_topic_word_dist(self, k):
        return [0.7, 0.1, 0.2] if k else [0.1, 0.6, 0.3]


def test_the_peer_gets_every_token_and_its_topics_come_back_by_word(monkeypatch):
    monkeypatch.setitem(sys.modules, "tomotopy", SimpleNamespace(LDAModel=FakeModel))
    counts = torch.tensor([[2, 0, 0, 1], [0, 0, 3, 1], [1, 0, 0, 0]], dtype=torch.float64)
    topics, seconds = peers.tomotopy_gibbs(counts, 2, 0.5, 0.1, seed=4, sweeps=30)
    (model,) = FakeModel.made
    assert model.docs == [["0", "0", "3"], ["2", "2", "2", "3"], ["0"]]
    assert model.settings == {"k": 2, "alpha": 0.5, "eta": 0.1, "seed": 5}
    assert model.trained == [(30, 1, 0, 0)]
    assert seconds >= 0
    unseen = 0.1 / (8 / 2 + 4 * 0.1)  # the prior's share of a word that never occurs
    raw = torch.tensor([[0.1, unseen, 0.3, 0.6], [0.7, unseen, 0.2, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(topics, raw / raw.sum(-1, keepdim=True))
