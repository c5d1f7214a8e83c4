"""Errors of moments and correlations against their formulas, on sides that are written down."""

import numpy as np
import pytest

from benchmarks.metrics import moments
from benchmarks.metrics.components import Component, Side
from benchmarks.metrics.moments import (
    both_vary,
    collapsed,
    compare_correlations,
    draws_needed,
    fixed,
    moment_errors,
    reference_scale,
)
from benchmarks.thresholds import multiplier


def given(draws=None, *, ess=100.0, **fields):
    """Return a side with these moments, `[component]`; those not given are of the draws."""
    number = len(next(iter(fields.values()))) if draws is None else len(draws[0])
    draws = np.zeros((4, number)) if draws is None else np.asarray(draws, dtype=float)
    zero = np.zeros(number)
    known = {"mean": zero, "mean_se": zero, "sd": zero, "sd_se": zero, "tail_se": zero}
    values = {n: np.asarray(fields.get(n, v), dtype=float) for n, v in known.items()}
    ess = np.broadcast_to(np.asarray(ess, dtype=float), (number,))
    return Side(draws=draws[None], independent=True, ess=ess, **values)


def test_errors_and_their_standard_errors_are_the_first_order_formulas():
    method = given(mean=[3.0], mean_se=[0.3], sd=[4.0], sd_se=[0.5])
    reference = given(mean=[1.0], mean_se=[0.4], sd=[5.0], sd_se=[0.25])
    found = moment_errors(method, reference)
    assert found.mean_error == pytest.approx([0.4])
    # (0.09 + 0.16) / 25 + 0.4^2 (0.25 / 5)^2
    assert found.mean_error_se**2 == pytest.approx([0.01 + 0.0004])
    assert found.log_sd_ratio == pytest.approx([np.log(0.8)])
    # (0.5 / 4)^2 + (0.25 / 5)^2
    assert found.log_sd_ratio_se**2 == pytest.approx([0.015625 + 0.0025])


def test_a_point_mass_has_the_smallest_ratio_and_the_error_of_the_reference():
    found = moment_errors(given(sd=[0.0], sd_se=[0.0]), given(sd=[2.0], sd_se=[0.1]))
    assert found.log_sd_ratio == pytest.approx([np.log(1e-12)])
    assert found.log_sd_ratio_se == pytest.approx([0.05])


@pytest.mark.parametrize(
    ("ours", "theirs", "unit"),
    [
        ({"sd": [3.0]}, {"sd": [2.0]}, 2.0),
        ({"sd": [3.0], "mean": [2.0]}, {"sd": [0.0]}, 3.0),
        ({"sd": [3.0], "mean": [-4.0]}, {"sd": [0.0]}, 4.0),
        ({"sd": [0.0], "mean": [7.0]}, {"sd": [0.0], "mean": [7.0]}, 1.0),
        # rounding: an sd of 1e-12 of the mean is none
        ({"sd": [3.0], "mean": [9.0]}, {"sd": [0.9e-11], "mean": [9.0]}, 3.0),
        ({"sd": [3.0], "mean": [9.0]}, {"sd": [1.1e-11], "mean": [9.0]}, 1.1e-11),
        ({"sd": [3.0], "mean": [-9.0]}, {"sd": [0.9e-11], "mean": [-9.0]}, 3.0),
    ],
)
def test_the_unit_is_the_sd_of_the_reference_or_what_else_is_not_zero(ours, theirs, unit):
    assert reference_scale(given(**ours), given(**theirs)) == pytest.approx([unit])


def test_a_method_collapsed_where_only_the_reference_varies():
    method = given(sd=[0.0, 0.9e-9, 1.1e-9, 0.0], mean=[0.0] * 4)
    reference = given(sd=[1.0, 1.0, 1.0, 0.9e-11], mean=[0.0, 0.0, 0.0, 9.0])
    assert collapsed(method, reference).tolist() == [True, True, False, False]
    assert collapsed(given(sd=[0.0], mean=[0.0]), given(sd=[1.1e-11], mean=[-9.0])).all()
    assert not collapsed(given(sd=[0.0], mean=[0.0]), given(sd=[0.9e-11], mean=[-9.0])).any()


def test_a_component_is_fixed_where_both_sides_are_one_constant():
    method = given(sd=[0.0, 0.0, 1.0, 0.0], mean=[2.0, 2.0, 2.0, 2.0])
    reference = given(sd=[0.0, 1.0, 0.0, 0.0], mean=[2.0, 2.0, 2.0, 2.5])
    assert fixed(method, reference).tolist() == [True, False, False, False]


def test_sides_vary_where_neither_is_a_point_beside_the_other():
    ramp = np.arange(4.0)
    ours = np.stack([ramp, ramp, 0 * ramp, 0 * ramp, ramp, 1.1e-9 * ramp], 1)
    theirs = np.stack([ramp, 0 * ramp, ramp, 0 * ramp, 0.9e-9 * ramp, ramp], 1)
    assert both_vary(given(ours), given(theirs)).tolist() == [True, *[False] * 4, True]


def test_draws_needed_are_those_whose_error_is_half_of_the_allowed_variance():
    """Three errors of both sides within 0.15: 0.05 / sqrt 2 for each side."""
    allowed = 0.05 / np.sqrt(2)
    scale = np.array([1.0, 2.0, 1.0, 1.0, 1.0])
    side = given(
        np.zeros((1000, 5)),
        mean_se=[3 * allowed, 4 * allowed, 0.99 * allowed, 0.0, 0.0],
        sd=[1.0, 1.0, 1.0, 2.0, 0.0],
        sd_se=[0.0, 0.0, 0.0, 3 * allowed, 9.0],
    )
    needed = draws_needed(side, scale)
    assert needed == pytest.approx([9000, 4000, 0, 2250, 0], abs=1.5)
    assert needed.dtype == float
    assert (needed == np.round(needed)).all()


# -- correlations --------------------------------------------------------------------------------

CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


def corners(correlation, number=1000):
    """Return pairs of +-1 with exactly this correlation, `[number, 2]`."""
    alike = round(number * (1 + correlation) / 4)
    apart = number // 2 - alike
    return np.repeat(CORNERS, [alike, apart, apart, alike], 0)


def named(number, judged=()):
    return [
        Component(quantity="x", index=(i,), label=f"x[{i}]", judged=i not in judged)
        for i in range(number)
    ]


def test_a_difference_of_correlations_and_its_error_are_those_of_two_signs():
    """Of x, y = +-1 the influence is x y - c, whose sd is sqrt(1 - c^2)."""
    found = compare_correlations(
        given(corners(0.6), ess=[400.0, 100.0]), given(corners(-0.2), ess=[50.0, 200.0]), named(2)
    )
    assert found.pairs == 1
    assert found.labels == ("x[0]", "x[1]")
    assert found.method == pytest.approx(0.6)
    assert found.reference == pytest.approx(-0.2)
    assert found.difference == pytest.approx(0.8)
    assert found.se**2 == pytest.approx(0.64 / 100 + 0.96 / 50)
    assert found.line == pytest.approx(3 * found.se)


def test_the_error_of_a_correlation_counts_how_the_squares_vary():
    """The standardized x, y with c: sd(x y - c (x^2 + y^2) / 2), here by hand on few values."""
    draws = np.array([[2.0, 1.0], [0.0, 0.0], [-2.0, -1.0], [1.0, -2.0], [-1.0, 2.0]])
    x, y = draws.T / np.sqrt(2.0)
    c = np.mean(x * y)
    influence = x * y - c * (x**2 + y**2) / 2
    found = compare_correlations(given(draws, ess=7.0), given(corners(0.0), ess=1e12), named(2))
    assert found.method == pytest.approx(c)
    assert found.se == pytest.approx(np.std(influence) / np.sqrt(7), rel=1e-4)


def test_small_errors_leave_the_line_of_a_fifth():
    found = compare_correlations(
        given(corners(0.3), ess=1e6), given(corners(0.0), ess=1e6), named(2)
    )
    assert found.line == 0.2
    assert found.difference == pytest.approx(0.3)


def test_the_worst_pair_is_that_of_the_largest_difference_for_its_line():
    method = given(np.concatenate([corners(0.4), corners(-0.5)[:, 1:]], 1), ess=1e6)
    x, y, z = method.flat.T
    off = {(0, 1): np.mean(x * y), (0, 2): np.mean(x * z), (1, 2): np.mean(y * z)}
    reference = given(np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]))
    found = compare_correlations(method, reference, named(3))
    worst = max(off, key=lambda pair: abs(off[pair]))
    assert found.labels == tuple(f"x[{i}]" for i in worst)
    assert found.difference == pytest.approx(off[worst])
    assert found.pairs == 3
    assert found.line == pytest.approx(max(0.2, multiplier(3) * found.se))


def test_components_that_do_not_count_or_do_not_vary_are_left_out():
    draws = np.concatenate([corners(0.5), corners(0.5), np.zeros((1000, 1))], 1)
    side = given(draws)
    found = compare_correlations(side, side, named(5, judged={0}))
    assert found.pairs == 3  # of components 1, 2, 3
    assert compare_correlations(side, side, named(5, judged={0, 1, 2})) is None
    assert compare_correlations(side, side, named(5, judged={0, 1})).pairs == 1


@pytest.mark.parametrize(("number", "kept"), [(5, 5), (6, 6), (7, 6)])
def test_of_very_many_components_an_evenly_spaced_subset_is_compared(monkeypatch, number, kept):
    monkeypatch.setattr(moments, "MOST_COMPONENTS", 6)
    draws = np.random.default_rng(0).standard_normal((50, number))
    draws[:, -1] = draws[:, 0]  # the ends are kept
    other = draws.copy()
    other[:, -1] *= -1
    found = compare_correlations(given(draws), given(other), named(number))
    assert found.pairs == kept * (kept - 1) // 2
    assert found.labels == ("x[0]", f"x[{number - 1}]")
    assert found.difference == pytest.approx(2.0)
