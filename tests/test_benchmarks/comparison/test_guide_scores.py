"""Scores that only a guide has: points, weights, ELBO, evidence and what is said if they fail."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.comparison import guide_scores
from benchmarks.comparison.guide_scores import elbo, evidence, heldout, pareto, points, weights
from benchmarks.metrics.components import Component
from zoo.errors import UsageError


def components(number, judged=()):
    return [
        Component(quantity="x", index=(i,), label=f"x[{i}]", judged=i not in judged)
        for i in range(number)
    ]


def side(sd, mean=None):
    sd = np.asarray(sd, dtype=float)
    return SimpleNamespace(sd=sd, mean=np.ones_like(sd) if mean is None else np.asarray(mean))


def drawn(unconstrained=None, dims=("sample",), log_weights=None, test=None):
    return SimpleNamespace(
        sample_dims=dims,
        unconstrained=unconstrained,
        log_weights=log_weights,
        data=SimpleNamespace(test=test),
    )


# -- points --------------------------------------------------------------------------------------


def test_only_a_guide_with_draws_can_be_a_point():
    still = side([0.0, 0.0])
    assert points(drawn(dims=("chain", "draw")), None, components(2), still, None) == []
    assert points(drawn(), None, components(2), None, None) == []


def test_the_sites_that_a_fit_calls_points_come_first():
    fit = SimpleNamespace(points=("z",))
    assert points(drawn(), fit, components(2), side([0.0, 0.0]), side([1.0, 1.0])) == ["z"]


@pytest.mark.parametrize("fit", [None, SimpleNamespace(points=())])
def test_beside_a_reference_a_point_is_a_component_that_only_it_moves(fit):
    found = points(
        drawn(), fit, components(4, judged={3}), side([0.0, 1.0, 0.0, 0.0]), side([1.0, 1, 0, 1])
    )
    assert found == ["x[0]"]  # the third is constant on both sides, the last does not count


def test_without_a_reference_a_constant_counts_only_if_a_coordinate_is_constant():
    """A diagonal of ones is constant by definition."""
    ones, moving = torch.ones(5, 1), torch.arange(5.0)[:, None]
    method = side([0.9e-12, 1.0, 1.1e-12])
    known = [None, components(3), method, None]
    assert points(drawn(torch.cat([moving, ones], 1)), *known) == ["x[0]"]
    assert points(drawn(moving), *known) == []
    assert points(drawn(), *known) == []  # coordinates unknown: every component would have to be


def test_where_coordinates_are_unknown_all_judged_components_must_be_constant():
    method = side([0.0, 1.0, 0.0], mean=[-3.0, 1.0, 0.0])
    assert points(drawn(), None, components(3, judged={1}), method, None) == ["x[0]", "x[2]"]
    assert points(drawn(), None, components(3), method, None) == []


# -- weights -------------------------------------------------------------------------------------


def test_weights_are_those_of_independent_draws_in_double_precision():
    found = weights(drawn(log_weights=torch.tensor([[0.5, -1.0]])))
    assert found.dtype == np.float64
    assert found.tolist() == [0.5, -1.0]
    assert weights(drawn()) is None
    assert weights(drawn(dims=("chain", "draw"), log_weights=torch.zeros(2))) is None


@pytest.mark.parametrize(
    ("log_weights", "said"),
    [
        ([0.0, np.nan, np.inf, 1.0], "No k-hat: 2 of 4 log weights are not finite."),
        ([0.0, np.inf], "No k-hat: 1 of 2 log weights are not finite."),
        ([-np.inf] * 1200, "No k-hat: 1200 of 1,200 log weights are not finite."),
    ],
)
def test_weights_that_are_not_finite_have_no_k_hat(log_weights, said):
    notes = []
    assert pareto(np.array(log_weights), side([1.0]), components(1), None, notes) is None
    assert notes == [said]


def test_draws_of_weight_zero_are_weights(monkeypatch):
    monkeypatch.setattr(guide_scores.metrics, "pareto", lambda *given: given)
    notes, log_weights = [], np.array([0.0, -np.inf])
    method, reference, named = side([1.0]), side([2.0]), components(1)
    found = pareto(log_weights, method, named, reference, notes)
    assert found[0] is log_weights
    assert found[1:] == (method, named, reference)
    assert notes == []


def test_the_elbo_is_that_of_the_fit_or_of_finite_weights():
    own = SimpleNamespace(elbo=SimpleNamespace(value_nats=-2.0, se=0.1))
    assert elbo(own, np.zeros(3)) == {"value_nats": -2.0, "se": 0.1}
    assert elbo(SimpleNamespace(elbo=None), np.array([1.0, 3.0])) == {
        "value_nats": 2.0,
        "se": pytest.approx(1.0),
    }
    assert elbo(None, np.array([1.0, -np.inf])) is None
    assert elbo(None, None) is None


# -- evidence ------------------------------------------------------------------------------------


def truth(log_evidence=None, se=None):
    return SimpleNamespace(log_evidence=log_evidence, log_evidence_se=se)


def test_the_bound_stands_beside_an_exact_evidence():
    found = evidence(np.zeros(4), truth(-1.0))
    assert (found["exact"], found["bound_nats"], found["error"]) == (-1.0, 0.0, 1.0)
    assert "estimate" not in found
    without = evidence(np.zeros(4), truth())
    assert (without["exact"], without["bound_nats"], without["error"]) == (None, 0.0, None)


@pytest.mark.parametrize("log_weights", [None, np.array([0.0, np.nan])])
def test_an_evidence_is_told_without_a_bound(log_weights):
    none = {"bound_nats": None, "bound_se": None, "error": None}
    assert evidence(log_weights, truth(-1.0)) == {"exact": -1.0, **none}
    estimated = {"exact": None, **none, "estimate": -1.0, "estimate_se": 0.2}
    assert evidence(log_weights, truth(-1.0, 0.2)) == estimated
    assert evidence(log_weights, truth()) is None


def test_an_estimated_evidence_is_not_called_exact():
    found = evidence(np.zeros(4), truth(-1.0, 0.2))
    assert (found["exact"], found["error"]) == (None, None)
    assert (found["estimate"], found["estimate_se"]) == (-1.0, 0.2)


# -- held-out data -------------------------------------------------------------------------------


def test_without_held_out_data_there_is_no_density_of_them():
    assert heldout(drawn(), None, None, []) is None


def test_held_out_data_are_scored_by_the_density_at_hand_or_by_that_of_the_fit(monkeypatch):
    monkeypatch.setattr(guide_scores, "heldout_lpd", lambda posterior, density: {"d": density})
    monkeypatch.setattr(guide_scores, "LogDensity", lambda program, data, dtype: (program, dtype))
    posterior = drawn(test={"y": 1})
    posterior.entry = SimpleNamespace(dtype="float64", program=lambda data: "fresh")
    fit = SimpleNamespace(program="trained")
    assert heldout(posterior, fit, "given", []) == {"d": "given"}
    assert heldout(posterior, fit, None, []) == {"d": ("trained", "float64")}
    assert heldout(posterior, None, None, []) == {"d": ("fresh", "float64")}


def test_a_density_that_cannot_be_had_is_one_note(monkeypatch):
    def fails(posterior, density):
        raise UsageError("no rows")

    monkeypatch.setattr(guide_scores, "heldout_lpd", fails)
    posterior, notes = drawn(test={"y": 1}), []
    posterior.entry = None
    assert heldout(posterior, None, "given", notes) is None
    assert notes == ["No held-out density: no rows"]
