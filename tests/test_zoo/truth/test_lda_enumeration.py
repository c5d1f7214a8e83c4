"""The exact posterior of a tiny corpus, against a sum over all assignments of its tokens."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import gammaln

from zoo.errors import UsageError
from zoo.truth import lda_enumeration as module
from zoo.truth.lda_enumeration import TopicTables

COUNTS = np.array([[2, 1, 0], [0, 1, 2]])
ALPHA, BETA = 0.7, 0.4


def log_beta(a):
    return gammaln(a).sum(-1) - gammaln(a.sum(-1))


def assignments(counts, topics, alpha=ALPHA, beta=BETA):
    """Every assignment of tokens to topics with log p(words, z), and its counts n_dvk."""
    tokens = [(d, v) for d, row in enumerate(counts) for v, c in enumerate(row) for _ in range(c)]
    for z in itertools.product(range(topics), repeat=len(tokens)):
        table = np.zeros((*counts.shape, topics), dtype=int)
        for (d, v), k in zip(tokens, z, strict=True):
            table[d, v, k] += 1
        total = (log_beta(alpha + table.sum(1)) - log_beta(np.full(topics, alpha))).sum()
        words = table.sum(0).T  # [topic, word]
        total += (log_beta(beta + words) - log_beta(np.full(counts.shape[1], beta))).sum()
        yield tokens, z, table, total


def summed(counts, topics, what=lambda tokens, z, table: 1.0):
    return sum(
        math.exp(total) * what(tokens, z, table)
        for tokens, z, table, total in assignments(counts, topics)
    )


@pytest.mark.parametrize("topics", [2, 3])
def test_the_evidence_is_the_sum_over_all_assignments(topics):
    tables = TopicTables(COUNTS, topics, ALPHA, BETA)
    assert tables.log_evidence == pytest.approx(math.log(summed(COUNTS, topics)), rel=1e-12)


def test_with_one_topic_the_evidence_is_that_of_the_words():
    """The mixtures are certain, and the table is the count of each word."""
    found = TopicTables(COUNTS, 1, ALPHA, BETA).log_evidence
    expected = log_beta(BETA + COUNTS.sum(0)) - log_beta(np.full(3, BETA))
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_mean_of_a_function_of_two_documents():
    tables = TopicTables(COUNTS, 2, ALPHA, BETA)
    factors = {d: tables.documents[d][0][:, 1, 0] for d in (0, 1)}
    expected = summed(COUNTS, 2, lambda t, z, n: n[0, 1, 0] * n[1, 1, 0]) / summed(COUNTS, 2)
    assert tables.expect(factors) == pytest.approx(expected, rel=1e-12)
    assert tables.expect({}) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [((0, 0), (0, 0)), ((0, 0), (0, 1)), ((0, 1), (1, 1)), ((0, 0), (1, 2)), ((1, 2), (1, 1))],
)
def test_the_chance_that_two_tokens_share_a_topic(first, second):
    def same(tokens, z, table):
        a = tokens.index(first)
        b = next(i for i, t in enumerate(tokens) if t == second and i != a)
        return float(z[a] == z[b])

    for topics in (2, 3):
        found = TopicTables(COUNTS, topics, ALPHA, BETA).co_assignment(first, second)
        expected = summed(COUNTS, topics, same) / summed(COUNTS, topics)
        assert found == pytest.approx(expected, rel=1e-12)


def test_draws_of_topics_and_mixtures_have_the_exact_moments():
    """E of sums of squares, which do not depend on the order of topics; 5 standard errors."""
    tables = TopicTables(COUNTS, 2, ALPHA, BETA)
    topics, mixtures = tables.sample(4000, seed=0)
    assert topics.shape == (4000, 2, 3)
    assert mixtures.shape == (4000, 2, 2)
    np.testing.assert_allclose(topics.sum(-1), 1.0)
    np.testing.assert_allclose(mixtures.sum(-1), 1.0)

    def square(concentration):
        total = concentration.sum(-1, keepdims=True)
        return concentration * (concentration + 1) / (total * (total + 1))

    whole = summed(COUNTS, 2)
    squares = summed(COUNTS, 2, lambda t, z, n: square(ALPHA + n.sum(1))) / whole
    found = mixtures**2
    error = found.std(0) / math.sqrt(4000)
    assert (np.abs(found.mean(0) - squares) < 5 * error).all()
    squares = summed(COUNTS, 2, lambda t, z, n: square(BETA + n.sum(0).T)) / whole
    found = topics**2
    error = found.std(0) / math.sqrt(4000)
    assert (np.abs(found.mean(0) - squares) < 5 * error).all()
    # a topic and the share of it in a document belong together
    cross = summed(
        COUNTS,
        2,
        lambda t, z, n: (
            (ALPHA + n[0, :, 0].sum())
            / (2 * ALPHA + 3)
            * (BETA + n[:, 0, 0].sum())
            / (3 * BETA + n[:, :, 0].sum())
        ),
    )
    found = mixtures[:, 0, 0] * topics[:, 0, 0]
    assert abs(found.mean() - cross / whole) < 5 * found.std() / math.sqrt(4000)


def test_a_seed_gives_its_draws():
    tables = TopicTables(COUNTS, 2, ALPHA, BETA)
    one, again, other = (tables.sample(5, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.allclose(one, other)


def test_a_corpus_with_too_many_tables_is_refused(monkeypatch):
    """Words occur 2, 2 and 2 times: 3^3 tables of two topics, 3^6 of three."""
    monkeypatch.setattr(module, "LARGEST", 27)
    assert TopicTables(COUNTS, 2, ALPHA, BETA).size == 27
    with pytest.raises(UsageError) as caught:
        TopicTables(COUNTS, 3, ALPHA, BETA)
    assert str(caught.value) == (
        "The corpus has up to 729 count tables; accepted: at most 27, shorten it."
    )
    assert TopicTables(COUNTS[:1], 2, ALPHA, BETA).size == 3 * 2 * 1


def test_compositions_are_all_ordered_sums():
    found = module._compositions(2, 3)
    assert sorted(map(tuple, found)) == sorted(
        (a, b, 2 - a - b) for a in range(3) for b in range(3 - a)
    )
    assert [tuple(c) for c in module._compositions(3, 1)] == [(3,)]
    assert [tuple(c) for c in module._compositions(0, 2)] == [(0, 0)]


def test_codes_and_tables_are_inverse():
    tables = TopicTables(COUNTS, 3, ALPHA, BETA)
    found = tables._tables(tables.codes)
    assert (found.sum(2) == COUNTS.sum(0)).all()
    assert (found >= 0).all()
    assert np.array_equal(tables._codes(found), tables.codes)


def test_a_document_is_added_to_every_sum_that_is_reached():
    found = module._add(np.array([1.0, 0.0, 2.0, 0, 0]), np.array([0, 2, 1]), np.array([1, 3, 0]))
    assert found.tolist() == [1.0, 0.0, 2.0 + 3.0, 0.0, 6.0]


def test_dirichlet_draws_of_tiny_concentrations_are_positive_and_have_the_mean():
    stream = np.random.default_rng(0)
    tiny = module._dirichlet(np.full((2000, 2), 0.05), stream)
    assert (tiny >= 0).all()
    np.testing.assert_allclose(tiny.sum(-1), 1.0)
    # var of a share: m (1 - m) / (total + 1)
    share = module._dirichlet(np.tile([1.0, 3.0], (4000, 1)), stream)[:, 0]
    assert abs(share.mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 5 / 4000)
    assert share.var() == pytest.approx(0.25 * 0.75 / 5, rel=0.15)
    assert tiny[:, 0].var() == pytest.approx(0.25 / 1.1, rel=0.1)
