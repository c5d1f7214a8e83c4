"""Functions of draws: exact values, and what does not change with labels, signs or rotations."""

import math

import pytest
import torch
from torch.distributions import constraints

from zoo.distributions.circular import Circle
from zoo.errors import UnknownNameError, UsageError
from zoo.quantities import (
    chances,
    circular_mean,
    circular_sd,
    co_assignment,
    cos_site,
    held_entries,
    invariant,
    log_odds,
    log_site,
    of_site,
    plain,
    predictive_at,
    shared_classes,
    sin_site,
    site,
    sorted_by,
)
from zoo.types import Data, Quantity

DATA = Data(train={})
X = torch.tensor([[1.0, 4.0], [2.0, 0.5], [3.0, 9.0]])
DRAWS = {"x": X}


@pytest.mark.parametrize(
    ("of", "expected"), [(site, X), (log_site, X.log()), (sin_site, X.sin()), (cos_site, X.cos())]
)
def test_a_function_of_a_site(of, expected):
    assert torch.equal(of("x")(DRAWS, DATA), expected)
    with pytest.raises(UnknownNameError, match=r"Unknown site 'y'.*accepted: x"):
        of("y")(DRAWS, DATA)


def test_the_mean_and_sd_of_angles_do_not_depend_on_the_cut():
    """Angles of +-0.1 around pi: their mean is pi, R = cos 0.1."""
    angles = torch.tensor([[math.pi - 0.1, -math.pi + 0.1], [0.3, 0.3]], dtype=torch.float64)
    mean, sd = circular_mean(angles, 1), circular_sd(angles, 1)
    assert abs(float(mean[0])) == pytest.approx(math.pi)
    assert float(mean[1]) == pytest.approx(0.3)
    assert float(sd[0]) == pytest.approx(math.sqrt(-2 * math.log(math.cos(0.1))))
    assert float(sd[1]) == pytest.approx(0.0, abs=1e-7)
    assert torch.equal(circular_mean(angles.T), mean)
    assert torch.equal(circular_sd(angles.T), sd)


def test_classes_are_sorted_by_another_site():
    draws = {
        "loc": torch.tensor([[3.0, 1.0, 2.0], [0.0, -1.0, 5.0]]),
        "weight": torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]),
        "table": torch.arange(12.0).reshape(2, 3, 2),
    }
    assert sorted_by("weight", "loc")(draws, DATA).tolist() == [
        pytest.approx([0.2, 0.7, 0.1]),
        pytest.approx([0.4, 0.3, 0.3]),
    ]
    found = sorted_by("table", "loc")(draws, DATA)
    assert found.tolist() == [[[2, 3], [4, 5], [0, 1]], [[8, 9], [6, 7], [10, 11]]]
    logs = sorted_by("weight", "loc", log=True)(draws, DATA)
    torch.testing.assert_close(logs.exp(), sorted_by("weight", "loc")(draws, DATA))
    with pytest.raises(UnknownNameError):
        sorted_by("weight", "other")(draws, DATA)


P = torch.tensor([[[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]], [[0.6, 0.4], [0.1, 0.9], [0.3, 0.7]]])


def test_the_chance_that_rows_share_a_class():
    found = co_assignment(lambda draws, data: P, [(0, 1), (2, 0)])(DRAWS, DATA)
    expected = [[0.5, 0.2], [0.06 + 0.36, 0.18 + 0.28]]
    torch.testing.assert_close(found, torch.tensor(expected))
    both = shared_classes(P)
    assert both.shape == (3, 3)
    assert float(both[0, 1]) == pytest.approx((0.5 + 0.42) / 2)
    assert float(both[2, 0]) == pytest.approx((0.2 + 0.46) / 2)
    assert float(both[0, 0]) == pytest.approx((0.04 + 0.64 + 0.36 + 0.16) / 2)
    torch.testing.assert_close(shared_classes(P[:, None]), both)


def test_the_log_odds_of_one_class():
    """Unnormalized weights (1, 2, 3) and (4, 5, 6): 32 of 90 share a class."""
    a, b = torch.tensor([[1.0, 2.0, 3.0]]).log(), torch.tensor([[4.0, 5.0, 6.0]]).log()
    assert float(log_odds(a, b)) == pytest.approx(math.log(32 / (90 - 32)), rel=1e-6)
    assert log_odds(a.expand(4, 2, 3), b).shape == (4, 2)


def test_a_prediction_at_fixed_inputs():
    fn = predictive_at(lambda draws, at: draws["x"][:, :1] * at, [1.0, 2.0])
    assert fn(DRAWS, DATA).tolist() == [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]


def test_a_site_as_it_is_and_the_chances_of_classes():
    found = plain("x", ("row",))
    assert (found.dims, found.description) == (("row",), "x")
    assert torch.equal(found.fn(DRAWS, DATA), X)
    found = chances("k", 3, ("row",))
    assert (found.dims, found.description) == (("row", "k_value"), "probabilities of k")
    value = found.fn({"k": torch.tensor([[0.0, 2.0]])}, DATA)
    assert value.tolist() == [[[1, 0, 0], [0, 0, 1]]]
    assert value.dtype == torch.float32


# -- by support ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("support", "labels"),
    [
        (constraints.real, ["x"]),
        (constraints.unit_interval, ["x"]),
        (constraints.simplex, ["x"]),
        (constraints.greater_than(1.0), ["x"]),
        (constraints.positive, ["log x"]),
        (constraints.nonnegative, ["log x"]),
        (constraints.greater_than(0.0), ["log x"]),
        (constraints.independent(constraints.positive, 1), ["log x"]),
        (Circle(), ["sin x", "cos x"]),
    ],
)
def test_the_quantities_of_a_site_by_its_support(support, labels):
    found = of_site("x", support, (2,), ("row",))
    assert list(found) == labels
    for label, quantity in found.items():
        assert quantity.dims == ("row",)
        function = {"log": torch.log, "sin": torch.sin, "cos": torch.cos}.get(label[:3])
        expected = function(X) if function else X
        assert torch.equal(quantity.fn(DRAWS, DATA), expected)
        assert quantity.even is (label == "cos x")
        words = {"log x": "log of x", "sin x": "sine of x", "cos x": "cosine of x"}
        assert quantity.description == words.get(label, "x")


@pytest.mark.parametrize(
    ("support", "entries"),
    [
        (constraints.corr_cholesky, [3, 6, 7]),
        (constraints.lower_cholesky, [0, 3, 4, 6, 7, 8]),
        (constraints.positive_definite, [0, 3, 4, 6, 7, 8]),
        (constraints.lower_triangular, [0, 3, 4, 6, 7, 8]),
        (constraints.symmetric, [0, 3, 4, 6, 7, 8]),
        (constraints.positive_semidefinite, [0, 3, 4, 6, 7, 8]),
    ],
)
def test_a_matrix_has_its_free_entries_row_by_row(support, entries):
    matrix = torch.arange(18.0).reshape(2, 3, 3)
    found = of_site("x", support, (4, 3, 3), ("group", "i", "j"))["x"]
    assert found.dims == ("group", "x_entry")
    assert found.description == "free entries of x, row by row"
    value = found.fn({"x": matrix}, DATA)
    assert value.tolist() == [entries, [e + 9 for e in entries]]


def test_every_axis_of_a_site_has_a_name():
    with pytest.raises(UsageError) as caught:
        of_site("x", constraints.real, (2, 3), ("row",))
    assert str(caught.value) == (
        "Site 'x' has shape (2, 3) but dims ('row',); name every axis once."
    )


# -- parts and symmetries ------------------------------------------------------------------------


def test_loose_entries_are_left_out():
    quantity = Quantity(fn=site("x"), dims=("a", "b", "c"), description="what")
    value = torch.arange(24.0).reshape(2, 2, 3, 2)
    loose = torch.tensor([[True, False, True], [False, True, True]])
    found = held_entries(quantity, loose)
    assert found.dims == ("held_a_b", "c")
    assert found.description == "what, entries that a term holds"
    assert found.fn({"x": value}, DATA).tolist() == [
        [[2.0, 3.0], [6.0, 7.0]],
        [[14.0, 15.0], [18.0, 19.0]],
    ]
    assert held_entries(quantity, torch.ones(2, 3, dtype=torch.bool)) is None


TABLE = torch.tensor([[[3.0, -4.0], [1.0, 2.0]]])  # [draw, a, b]


def changed(kind, axis, *, even=False):
    quantity = Quantity(fn=site("x"), dims=("a", "b"), description="x", even=even)
    label, found = invariant("x", quantity, kind, axis)
    return label, found, found.fn({"x": TABLE}, DATA)[0].tolist()


def test_signs_leave_absolute_values():
    label, found, value = changed("sign", None)
    assert (label, found.description, found.even) == ("abs x", "abs x", True)
    assert value == [[3.0, 4.0], [1.0, 2.0]]
    label, found, value = changed("sign", None, even=True)
    assert label == "x"
    assert value == TABLE[0].tolist()


def test_labels_leave_sorted_values():
    label, found, value = changed("label", 1)
    assert (label, found.description, found.dims) == ("sorted x", "sorted x", ("a", "b"))
    assert value == [[-4.0, 3.0], [1.0, 2.0]]
    assert changed("label", 2)[2] == [[1.0, -4.0], [3.0, 2.0]]
    assert found.even is False


def test_rotations_leave_lengths():
    label, found, value = changed("rotation", 1)
    assert (label, found.description, found.dims) == ("length of x", "length of x", ("a",))
    assert value == pytest.approx([5.0, math.sqrt(5.0)])
    assert found.even is True
    _, found, value = changed("rotation", 2)
    assert found.dims == ("b",)
    assert value == pytest.approx([math.sqrt(10.0), math.sqrt(20.0)])


@pytest.mark.parametrize(("kind", "axis"), [("label", None), ("rotation", 3)])
def test_a_quantity_with_other_axes_is_shown_without_being_judged(kind, axis):
    label, found, value = changed(kind, axis)
    assert label == "x"
    assert found.judged is False
    assert value == TABLE[0].tolist()
