"""ELBO, evidence and importance sums of weights that are written down."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.metrics import weights
from benchmarks.metrics.components import Component

LOG_W = np.log([1.0, 2.0, 3.0, 6.0])


def test_the_elbo_is_the_mean_log_weight_with_its_error():
    found = weights.elbo(np.array([1.0, 2.0, 4.0, 5.0]))
    assert found["value_nats"] == 3.0
    assert found["se"] == pytest.approx(np.sqrt(10 / 3 / 4))


def test_the_evidence_is_the_log_of_the_mean_weight_with_its_relative_error():
    found = weights.log_evidence(LOG_W + 700.0)
    assert found["bound_nats"] == pytest.approx(700 + np.log(3.0))
    # sd of 1, 2, 3, 6 is sqrt(14 / 3); the mean is 3, of four draws
    assert found["bound_se"] == pytest.approx(np.sqrt(14 / 3) / 3 / 2)
    assert found["exact"] is None
    assert found["error"] is None
    known = weights.log_evidence(LOG_W, exact=0.0)
    assert known["exact"] == 0.0
    assert known["error"] == pytest.approx(np.log(3.0))


def test_the_importance_ess_is_one_over_the_sum_of_squared_shares():
    assert weights.importance_ess(LOG_W - 900.0) == pytest.approx(144 / 50)
    assert weights.importance_ess(np.full(7, -3.0)) == pytest.approx(7.0)


@pytest.fixture
def smoothed(monkeypatch):
    monkeypatch.setattr(weights, "pareto_k", lambda log_weights: (np.array(0.3), LOG_W[None]))


def one(draws):
    draws = np.asarray(draws, dtype=float)
    return SimpleNamespace(flat=draws, mean=draws.mean(0), sd=draws.std(0))


METHOD = one([[0.0], [1.0], [2.0], [3.0]])
NAMED = [Component(quantity="x", index=(), label="x")]


@pytest.mark.usefixtures("smoothed")
def test_reweighted_moments_are_sums_over_smoothed_weights_in_sds_of_the_reference():
    """Weights 1, 2, 3, 6 of 12: mean 26 / 12; second moment 68 / 12."""
    reference = SimpleNamespace(mean=np.array([1.0]), sd=np.array([2.0]))
    found = weights.pareto(np.zeros(1000), METHOD, NAMED, reference)
    assert (found.value, found.draws, found.threshold) == (0.3, 1000, pytest.approx(2 / 3))
    assert found.importance_ess == pytest.approx(144 / 50)
    sd = np.sqrt(68 / 12 - (26 / 12) ** 2)
    assert found.reweighted == {"x": pytest.approx((0.25, (26 / 12 - 1) / 2))}
    assert found.reweighted_sd == {"x": pytest.approx((np.sqrt(1.25) / 2, sd / 2))}


@pytest.mark.usefixtures("smoothed")
def test_without_a_reference_moments_are_relative_to_the_draws():
    found = weights.pareto(np.zeros(4), METHOD, NAMED)
    own = np.sqrt(1.25)
    assert found.threshold == 0.0  # ten draws say nothing
    assert found.reweighted == {"x": pytest.approx((0.0, (26 / 12 - 1.5) / own))}
    assert found.reweighted_sd["x"][0] == pytest.approx(1.0)
