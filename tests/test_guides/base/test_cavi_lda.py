"""Coordinate ascent for topics: the bound, both updates, the starts and the stopping rule."""

import numpy as np
import pytest
import scipy.special
import torch
from torch.distributions import Dirichlet, kl_divergence

from guides.base import cavi_lda as module
from guides.base.cavi_lda import ascend, bound, log_means, mixtures_given

COUNTS = torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.0, 2.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
TOPICS = torch.tensor([[2.0, 0.5, 1.5], [0.7, 3.0, 1.2]], dtype=torch.float64)
MIXTURES = torch.tensor([[2.0, 0.4], [0.6, 1.9], [1.1, 0.8]], dtype=torch.float64)
BETA = torch.full((2, 3), 0.3, dtype=torch.float64)
ALPHA = torch.full((3, 2), 0.9, dtype=torch.float64)


def weights(concentration):
    """exp(E log p) of one Dirichlet, in numpy."""
    c = np.asarray(concentration)
    return np.exp(scipy.special.digamma(c) - scipy.special.digamma(c.sum()))


def test_the_mean_of_a_log_weight_is_a_difference_of_digammas():
    # E log p_i = digamma(a_i) - digamma(sum a); digamma(1) = -g, digamma(2) = 1 - g
    found = log_means(torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=torch.float64))
    expected = [[-1.0, -1.0], [-0.5, -1.5]]  # digamma(3) = 3/2 - g
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_the_divergence_is_the_sum_over_the_rows():
    found = module._divergence(TOPICS, BETA)
    torch.testing.assert_close(found, kl_divergence(Dirichlet(TOPICS), Dirichlet(BETA)).sum())


def test_the_bound_is_the_fit_minus_both_divergences():
    total = 0.0
    for d in range(3):
        for v in range(3):
            chance = sum(weights(MIXTURES[d])[k] * weights(TOPICS[k])[v] for k in range(2))
            total += float(COUNTS[d, v]) * np.log(chance)
    total -= float(kl_divergence(Dirichlet(TOPICS), Dirichlet(BETA)).sum())
    total -= float(kl_divergence(Dirichlet(MIXTURES), Dirichlet(ALPHA)).sum())
    assert bound(COUNTS, TOPICS, MIXTURES, BETA, ALPHA) == pytest.approx(total, rel=1e-12)


def test_a_word_without_any_chance_costs_the_log_of_the_smallest_chance():
    """exp(digamma(1e-3)) underflows; 0 log 0 is 0, and log 1e-300 for each word that is there."""
    topics = torch.tensor([[1.0, 1e-3]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    values = [
        bound(torch.tensor([[2.0, n]], dtype=torch.float64), topics, one, topics, one)
        for n in (0.0, 1.0, 2.0)
    ]
    assert values[0] == pytest.approx(2 * float(log_means(topics)[0, 0]))
    assert values[1] - values[0] == pytest.approx(np.log(1e-300))
    assert values[2] - values[0] == pytest.approx(2 * np.log(1e-300))


def by_hand(mixtures, topics):
    """One update of the mixtures: alpha + share_k sum_v r_v topic_kv."""
    new = np.zeros((3, 2))
    for d in range(3):
        share = weights(mixtures[d])
        for k in range(2):
            total = 0.0
            for v in range(3):
                chance = sum(share[j] * topics[j, v] for j in range(2))
                total += float(COUNTS[d, v]) / chance * topics[k, v]
            new[d, k] = 0.9 + share[k] * total
    return new


def test_mixtures_are_updated_with_fixed_topics_the_number_of_times_asked_for():
    log_topics = log_means(TOPICS)
    once = by_hand(MIXTURES.numpy(), log_topics.exp().numpy())
    twice = by_hand(once, log_topics.exp().numpy())
    for passes, expected in ((0, MIXTURES.numpy()), (1, once), (2, twice)):
        found = mixtures_given(COUNTS, log_topics, ALPHA, MIXTURES, passes)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_pass_updates_mixtures_and_then_topics():
    state = module._pass(COUNTS, module._State(TOPICS, MIXTURES), BETA, ALPHA)
    old = np.stack([weights(t) for t in TOPICS])
    mixtures = by_hand(MIXTURES.numpy(), old)
    share = np.stack([weights(m) for m in mixtures])
    ratio = COUNTS.numpy() / (share @ old)
    np.testing.assert_allclose(state.mixtures, mixtures, rtol=1e-12)
    np.testing.assert_allclose(state.topics, 0.3 + old * (share.T @ ratio), rtol=1e-12)


def test_a_pass_over_a_word_without_any_chance_stays_finite():
    topics = torch.tensor([[1.0, 1e-3]], dtype=torch.float64)
    counts = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    ones = torch.ones(1, 1, dtype=torch.float64)
    state = module._pass(counts, module._State(topics, ones), topics, ones)
    assert state.mixtures.tolist() == [[2.0]]  # the word with a chance, and the prior
    assert state.topics.tolist() == [[2.0, 1e-3]]


@pytest.mark.parametrize(("documents", "few"), [(1, 1), (3, 1), (6, 3), (16, 8), (40, 8)])
def test_a_topic_starts_with_the_words_of_a_few_documents(documents, few):
    """Of documents of one word each, all different, that word has mass / 2 / few in a topic."""
    counts = torch.eye(documents, dtype=torch.float64) * 4
    beta = torch.full((2, documents), 0.3, dtype=torch.float64)
    alpha = torch.full((documents, 2), 0.9, dtype=torch.float64)
    state = module._begin(counts, beta, alpha, torch.Generator().manual_seed(0))
    mass, even = 4 * documents / 2, 2.0  # per topic; per topic and word
    for topic in state.topics - 0.3:
        chosen = topic > 1.5 + 1e-9 if documents > 1 else topic > 0
        assert int(chosen.sum()) == few
        rest = topic - chosen * (0.5 * mass / few)
        assert float(rest.min()) >= 0.25 * even  # half of the even mass, times 0.5 to 1.5
        assert float(rest.max()) <= 0.75 * even
        assert documents < 6 or float(rest.std()) > 0.05
    assert bool((state.mixtures == 0.9 + 2.0).all())
    assert state.mixtures.shape == (documents, 2)


def test_mixtures_start_even_with_the_words_of_their_document():
    state = module._begin(COUNTS, BETA, ALPHA, torch.Generator().manual_seed(0))
    expected = [[2.9, 2.9], [2.9, 2.9], [1.9, 1.9]]  # 0.9 + 4 / 2, 4 / 2, 2 / 2
    torch.testing.assert_close(state.mixtures, torch.tensor(expected, dtype=torch.float64))


def test_a_topic_starts_with_half_its_words_from_documents_and_half_spread_over_all():
    """Of 5 words in 4 equal documents: 0.5 mass n_v / n + 0.5 even noise, noise in 0.5 to 1.5."""
    counts = torch.tensor([[4.0, 0.0, 0.0, 0.0, 6.0]], dtype=torch.float64).expand(4, 5)
    beta = torch.full((2, 5), 0.3, dtype=torch.float64)
    alpha = torch.full((4, 2), 0.9, dtype=torch.float64)
    state = module._begin(counts, beta, alpha, torch.Generator().manual_seed(0))
    words = 0.5 * 20.0 * torch.tensor([0.4, 0.0, 0.0, 0.0, 0.6], dtype=torch.float64)
    noise = (state.topics - 0.3 - words) / (0.5 * 20.0 / 5)
    assert 0.5 <= float(noise.min()) < 0.8
    assert 1.2 < float(noise.max()) <= 1.5


def test_an_empty_document_starts_a_topic_with_even_words():
    counts = torch.zeros(1, 3, dtype=torch.float64)
    beta, alpha = torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    state = module._begin(counts, beta, alpha, torch.Generator().manual_seed(0))
    assert state.topics.tolist() == [[1.0, 1.0, 1.0]]


def test_with_one_topic_the_bound_is_the_evidence_and_every_start_finds_it():
    """p(words in order) = B(beta + n) / B(beta), and q is the posterior."""
    found = ascend(COUNTS, BETA[:1], ALPHA[:, :1], torch.Generator().manual_seed(0), starts=4)
    prior, after = BETA[0].numpy(), (BETA[0] + COUNTS.sum(0)).numpy()
    log_beta = [
        scipy.special.gammaln(a).sum() - scipy.special.gammaln(a.sum()) for a in (prior, after)
    ]
    assert found.bound == pytest.approx(log_beta[1] - log_beta[0], rel=1e-10)
    np.testing.assert_allclose(found.topics[0], after, rtol=1e-12)
    assert found.passes == 4 * 40 + 3 * 10
    assert found.agreeing == 3
    assert found.converged is True


def test_without_passes_the_best_start_is_returned_as_it_is():
    found = ascend(
        COUNTS, BETA, ALPHA, torch.Generator().manual_seed(0), starts=2, finalists=1, passes=0
    )
    assert (found.passes, found.converged, found.agreeing) == (80, False, 1)


DIVIDED = torch.tensor(
    [[9.0, 8.0, 0.0, 0.0], [7.0, 9.0, 0.0, 0.0], [0.0, 0.0, 9.0, 6.0], [0.0, 0.0, 5.0, 9.0]],
    dtype=torch.float64,
)


def starts_of(monkeypatch, *states):
    left = list(states)
    monkeypatch.setattr(module, "_begin", lambda *_: left.pop(0))


def flat_and_good():
    """Topics that are all alike never part; topics of each half of the words are the optimum."""
    even = torch.ones(4, 2, dtype=torch.float64)
    alike = module._State(torch.ones(2, 4, dtype=torch.float64), even)
    halves = torch.tensor([[5.0, 5.0, 1.0, 1.0], [1.0, 1.0, 5.0, 5.0]], dtype=torch.float64)
    return alike, module._State(halves, even)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("finalists", "agreeing", "run"), [(1, 1, 1), (2, 1, 2)])
def test_the_best_starts_of_the_screening_are_the_finalists(
    monkeypatch, order, finalists, agreeing, run
):
    beta, alpha = torch.full((2, 4), 0.3).double(), torch.full((4, 2), 0.5).double()
    states = flat_and_good()
    starts_of(monkeypatch, *(states[i] for i in order))
    found = ascend(DIVIDED, beta, alpha, torch.Generator(), starts=2, finalists=finalists)
    split = found.topics[0, :2].sum() / found.topics[0].sum()
    assert float(split) > 0.9
    assert found.agreeing == agreeing
    assert found.passes >= 80 + 10 * run
    assert found.converged


def test_a_finalist_runs_on_while_ten_passes_gain(monkeypatch):
    """From topics that are nearly alike the symmetry breaks slowly: more than ten passes."""
    beta, alpha = torch.full((2, 4), 0.3).double(), torch.full((4, 2), 0.5).double()
    alike, _ = flat_and_good()
    nearly = alike.topics + torch.tensor([[1e-9, 0, 0, 0], [0, 0, 0, 0]]).double()
    done = module._finish(DIVIDED, module._State(nearly, alike.mixtures), -1e9, beta, alpha, 1000)
    assert done.passes > 10
    assert done.passes % 10 == 0
    assert done.converged is True
    after = bound(DIVIDED, done.topics, done.mixtures, beta, alpha)
    assert done.bound == after
    short = module._finish(DIVIDED, module._State(nearly, alike.mixtures), -1e9, beta, alpha, 10)
    assert (short.passes, short.converged) == (10, False)
    assert short.bound == bound(DIVIDED, short.topics, short.mixtures, beta, alpha)
