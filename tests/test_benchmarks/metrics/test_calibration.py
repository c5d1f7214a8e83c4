"""Metrics of class probabilities against scikit-learn, plain loops and closed forms."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

from benchmarks.metrics import calibration as c


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (500, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # True classes follow sharper probabilities, so that p is underconfident.
    sharp = p**2 / (p**2).sum(1, keepdims=True)
    return p, np.array([random.choice(4, p=row) for row in sharp])


def test_accuracy_and_log_loss_are_those_of_scikit_learn(case):
    p, y = case
    assert c.accuracy(p, y) == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert c.log_loss(p, y) == pytest.approx(log_loss(y, p))


def test_brier_is_that_of_scikit_learn(case):
    p, y = case
    parts = sum(brier_score_loss(y == k, p[:, k]) for k in range(4))
    assert c.brier(p, y) == pytest.approx(parts)
    assert c.brier(np.array([[0.0, 1.0]]), np.array([0])) == 2.0


def test_a_reliability_diagram_is_that_of_scikit_learn(case):
    p, y = case
    right = p.argmax(1) == y
    shares, confidences = calibration_curve(right, p.max(1), n_bins=15)
    found = c.reliability(p, y)
    assert np.allclose(found.accuracy, shares)
    assert np.allclose(found.confidence, confidences)
    assert found.rows.sum() == 500


def test_ece_is_a_plain_loop(case):
    p, y = case
    total = 0.0
    for k in range(15):
        inside = (p.max(1) > k / 15) & (p.max(1) <= (k + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(
                (p.argmax(1) == y)[inside].mean() - p.max(1)[inside].mean()
            )
    assert c.ece(p, y) == pytest.approx(total)


def test_adaptive_bins_hold_equal_numbers(case):
    p, y = case
    rows = c.reliability(p, y, equal_mass=True).rows
    assert len(rows) == 15
    assert rows.max() - rows.min() <= 1
    order = np.argsort(p.max(1), kind="stable")
    by_hand = (
        sum(
            len(part) * abs((p.argmax(1) == y)[part].mean() - p.max(1)[part].mean())
            for part in np.array_split(order, 15)
        )
        / 500
    )
    assert c.adaptive_ece(p, y) == pytest.approx(by_hand, abs=0.01)  # the parts differ by a row


def test_known_calibration_errors():
    certain = np.tile([1.0, 0.0], (10, 1))
    y = np.array([0] * 7 + [1] * 3)
    assert c.ece(certain, y) == pytest.approx(0.3)
    assert c.adaptive_ece(certain, y) > 0.3 - 1e-12
    assert c.ece(np.tile([0.7, 0.3], (10, 1)), y) == pytest.approx(0.0)
    assert c.log_loss(certain, y) == pytest.approx(0.3 * -math.log(1e-12))


def test_auroc_is_that_of_scikit_learn(case):
    p, _ = case
    inside, outside = p[:300], np.round(p[300:] * 0.8 + 0.05, 2)
    inside = np.round(inside, 2)  # with ties
    scores = np.concatenate([inside.max(1), outside.max(1)])
    expected = roc_auc_score(np.r_[np.ones(300), np.zeros(200)], scores)
    assert c.outside_auroc(inside, outside) == pytest.approx(expected)
    assert c.outside_auroc(inside, inside) == pytest.approx(0.5)


def test_total_variation_is_the_largest_difference_of_any_set():
    p, q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.4, 0.4]])
    sets = [[(i >> k) & 1 for k in range(3)] for i in range(8)]
    assert c.total_variation(p, q) == pytest.approx(
        max(float((np.array(s) * (p - q)).sum()) for s in sets)
    )
    assert c.total_variation(p, p) == 0


def test_the_bootstrap_interval_covers_a_binomial_share(case):
    p, y = case
    low, high = c.bootstrap(c.accuracy, p, y, number=800)
    share = c.accuracy(p, y)
    half = 1.645 * math.sqrt(share * (1 - share) / len(y))
    assert low == pytest.approx(share - half, abs=0.01)
    assert high == pytest.approx(share + half, abs=0.01)
    assert (low, high) == c.bootstrap(c.accuracy, p, y, number=800)
