"""Topic models: exact sums, agreement of both programs, and label-safe quantities.

The sums are checked by brute force and quadrature.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import gammaln, roots_jacobi

import zoo
from zoo.density.log_density import LogDensity
from zoo.distributions.multivariate import WordCounts
from zoo.errors import DataError, UsageError
from zoo.models.topics import lda_exact
from zoo.models.topics._corpus import topic_quantities
from zoo.models.topics._topics import align, counts_of, hellinger, match
from zoo.truth.lda_enumeration import TopicTables
from zoo.types import Data


def collapsed(words, documents, topics, alpha, beta, vocabulary):
    """Every assignment `[assignment, token]` and log p(words, assignment), by plain loops."""
    z = np.array(list(itertools.product(range(topics), repeat=len(words))))
    log_p = np.zeros(len(z))
    for d in set(documents):
        mine = z[:, documents == d]
        log_p += gammaln(topics * alpha) - gammaln(topics * alpha + mine.shape[1])
        for k in range(topics):
            log_p += gammaln(alpha + (mine == k).sum(1)) - gammaln(alpha)
    for k in range(topics):
        log_p += gammaln(vocabulary * beta) - gammaln(vocabulary * beta + (z == k).sum(1))
        for v in range(vocabulary):
            log_p += gammaln(beta + (z[:, words == v] == k).sum(1)) - gammaln(beta)
    return z, log_p


@pytest.fixture(scope="module")
def exact():
    entry = zoo.load("lda_exact")
    data = entry.load_data()
    return entry, data, entry.exact(data)


@pytest.fixture(scope="module")
def brute(exact):
    data = exact[1]
    return collapsed(
        data.train["words"].reshape(-1).numpy(), np.repeat(np.arange(3), 6), 2, 1.0, 0.5, 5
    )


def test_evidence_equals_the_sum_over_all_262144_assignments(exact, brute):
    log_p = brute[1]
    assert len(log_p) == 2**18
    assert exact[2].log_evidence == pytest.approx(
        log_p.max() + math.log(np.exp(log_p - log_p.max()).sum()), abs=1e-10
    )


def test_co_assignment_equals_brute_force_and_the_draws_agree(exact, brute):
    entry, data, analytic = exact
    z, log_p = brute
    share = np.exp(log_p - log_p.max())
    share /= share.sum()
    tables = TopicTables(counts_of(data.train, 5).numpy(), 2, 1.0, 0.5)
    words = data.train["words"]
    truth = []
    for (d, n), (e, m) in lda_exact.TOKENS:
        truth.append(share[z[:, 6 * d + n] == z[:, 6 * e + m]].sum())
        assert tables.co_assignment((d, int(words[d, n])), (e, int(words[e, m]))) == pytest.approx(
            truth[-1], abs=1e-10
        )
    drawn = entry.quantities["co_assignment"].fn(analytic.sample(8000, 3), data)
    z_scores = (drawn.mean(0) - torch.tensor(truth)) / (drawn.std(0) / 8000**0.5)
    assert z_scores.abs().max() < 5


def test_three_topics_through_tables_equal_brute_force():
    words, documents = np.array([0, 0, 1, 2, 2, 1, 1, 0]), np.repeat([0, 1], 4)
    counts = np.array([[2, 1, 1], [1, 2, 1]])
    z, log_p = collapsed(words, documents, 3, 0.7, 0.4, 3)
    tables = TopicTables(counts, 3, 0.7, 0.4)
    assert tables.log_evidence == pytest.approx(np.logaddexp.reduce(log_p), abs=1e-10)
    share = np.exp(log_p - np.logaddexp.reduce(log_p))
    assert tables.co_assignment((0, 0), (0, 0)) == pytest.approx(
        share[z[:, 0] == z[:, 1]].sum(), abs=1e-10
    )
    assert tables.co_assignment((0, 2), (1, 2)) == pytest.approx(
        share[z[:, 3] == z[:, 4]].sum(), abs=1e-10
    )


def test_evidence_equals_an_integral_that_knows_no_assignments():
    """Two documents of two words, integrated by Gauss-Jacobi rules, exact for polynomials.

    The variables are topics (p, q) and mixtures (s, t).
    """
    alpha, beta = 0.8, 0.5
    (x, wx), (y, wy) = roots_jacobi(8, beta - 1, beta - 1), roots_jacobi(8, alpha - 1, alpha - 1)
    topic, mixture, wx, wy = (x + 1) / 2, (y + 1) / 2, wx / wx.sum(), wy / wy.sum()
    p, q, s = topic[:, None, None], topic[None, :, None], mixture[None, None, :]
    first = s * p + (1 - s) * q  # probability of word 0
    one = (first**2 * wy).sum(-1)  # a document of words 0, 0
    two = (first * (1 - first) * wy).sum(-1)  # of words 0, 1
    integral = np.einsum("i,j,ij,ij", wx, wx, one, two)
    assert TopicTables(np.array([[2, 0], [1, 1]]), 2, alpha, beta).log_evidence == pytest.approx(
        math.log(integral), abs=1e-12
    )


def test_enumerated_and_summed_programs_agree_in_value_and_gradient(exact):
    entry, data, _ = exact
    summed = LogDensity(entry.program(data), data)
    enumerated = LogDensity(entry.with_options(words="enumerated").program(data), data)
    assert enumerated.discrete
    for seed in range(3):
        u = torch.randn(
            summed.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        (a, b), (c, d) = summed.eager_gradient(u), enumerated.eager_gradient(u)
        assert abs(float(a - c)) < 1e-5
        assert float((b - d).abs().max()) < 1e-5


def test_relabeling_topics_changes_no_quantity_and_no_density(exact):
    entry, data, analytic = exact
    draws = analytic.sample(20, 1)
    moved = {"topic": draws["topic"].flip(-2), "mixture": draws["mixture"].flip(-1)}
    density = LogDensity(entry.program(data), data)
    assert not torch.allclose(draws["topic"], moved["topic"])
    for quantity in entry.quantities.values():
        torch.testing.assert_close(
            quantity.fn(draws, data), quantity.fn(moved, data), rtol=1e-10, atol=1e-12
        )
    with torch.no_grad():
        rows = [
            density.log_joint({k: v[0] for k, v in d.items()}, data.train) for d in (draws, moved)
        ]
    assert float(rows[0]) == pytest.approx(float(rows[1]), abs=1e-9)


def test_word_counts_are_a_multinomial():
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.9, 0.1]], dtype=torch.float64)
    counts = torch.tensor([[2.0, 1.0, 4.0], [0.0, 3.0, 0.0]], dtype=torch.float64)
    found = WordCounts(probs, counts.sum(-1)).log_prob(counts)
    expected = [
        scipy.stats.multinomial.logpmf(c, int(c.sum()), p)
        for c, p in zip(counts.numpy(), probs.numpy(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = WordCounts(probs, counts.sum(-1)).sample((4000,))
    assert torch.equal(drawn.sum(-1), counts.sum(-1).expand(4000, 2))
    se = (counts.sum(-1, keepdim=True) * probs * (1 - probs) / 4000).sqrt()
    assert ((drawn.mean(0) - counts.sum(-1, keepdim=True) * probs).abs() <= 5 * se + 1e-12).all()


def test_alignment_undoes_a_shuffle_and_shows_its_cost():
    topics = torch.eye(4, dtype=torch.float64) * 0.9 + 0.025
    shuffled = torch.stack([topics[[2, 0, 3, 1]], topics[[1, 3, 0, 2]], topics])
    found = align(shuffled)
    torch.testing.assert_close(found.topics, topics.expand(3, 4, 4))
    assert found.cost.max() < 1e-7
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert float(hellinger(apart, apart)[0, 1]) == 1.0
    assert match(apart.flip(0), apart)[0].tolist() == [1, 0]
    far = align(torch.stack([apart.mean(0).expand(2, 2), apart]), apart)
    assert far.cost[0] == pytest.approx(math.sqrt(1 - math.sqrt(0.5)))


@pytest.mark.parametrize("options", [{"K": 1}, {"alpha": 0.0}, {"beta": -1.0}, {"words": "drawn"}])
def test_bad_options_are_refused(options):
    with pytest.raises(UsageError, match="accepted"):
        zoo.load("lda_exact", **options).load_data()


def test_a_corpus_too_large_for_tables_is_refused():
    with pytest.raises(UsageError, match="at most"):
        TopicTables(np.full((4, 6), 5), 3, 1.0, 1.0)


def test_an_axis_named_like_its_tensor_is_refused():
    """Files store it as a coordinate of the axis, which would lose the draws of the site."""
    with pytest.raises(DataError, match="rename the axis"):
        Data(train={"topic": torch.ones(2)}, dims={"topic": ("topic",)})


def test_a_component_of_a_topic_entry_is_named_once():
    assert set(topic_quantities([0, 1], [2, 3])) == {
        "word_share",
        "topic_sharing",
        "co_occurrence",
    }
    with pytest.raises(UsageError, match=r"The words are \[2, 2\]; accepted: each of them once"):
        topic_quantities([0, 1], [2, 2])
    with pytest.raises(UsageError, match=r"The documents are \[1, 1\]"):
        topic_quantities([1, 1], [2, 3])
