"""Coverage of intervals whose ends and draws are written down."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.metrics.coverage import interval_coverage

HUNDRED = np.arange(1.0, 101.0)[:, None]


def one(draws, *, ess=100.0, quantiles=None, **fields):
    draws = np.asarray(draws, dtype=float)
    made = {
        "flat": draws,
        "ess": np.array([ess]),
        "quantiles": np.quantile(draws, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
        if quantiles is None
        else np.array(quantiles)[:, None],
        "by_quantiles": None,
        "mean": draws.mean(0),
        "sd": draws.std(0),
    }
    return SimpleNamespace(**{**made, **fields})


@pytest.mark.parametrize(("level", "share"), [(0.9, 0.71), (0.5, 0.21)])
def test_the_share_counts_the_draws_of_the_reference_with_the_ends(level, share):
    method = one(HUNDRED, quantiles=[10.0, 30.0, 40.0, 50.0, 80.0])
    found = interval_coverage(method, one(HUNDRED), level)
    assert found.share == pytest.approx([share])


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_error_has_the_noise_of_both_sides(level):
    method = one(HUNDRED, ess=40.0, quantiles=[10.0, 30.0, 40.0, 80.0, 81.0])
    found = interval_coverage(method, one(HUNDRED, ess=70.0), level)
    own = level * (1 - level)
    share = 0.51 if level == 0.5 else 0.72
    assert found.share == pytest.approx([share])
    # a share near 0 or 1 has no smaller error than the nominal one
    assert found.se**2 == pytest.approx([own / 40 + max(share * (1 - share), own) / 70])
    edge = interval_coverage(one(HUNDRED, quantiles=[200.0] * 5), one(HUNDRED, ess=70.0), level)
    assert edge.share == pytest.approx([0.0])
    assert edge.se**2 == pytest.approx([own / 100 + own / 70])


def test_a_shifted_and_stretched_copy_is_aligned_to_nominal_coverage():
    """The copy's own interval holds nothing of the reference; after alignment it is the same."""
    reference = one(HUNDRED)
    nominal = interval_coverage(reference, reference, 0.9)
    assert nominal.share == nominal.aligned == pytest.approx([0.9])
    found = interval_coverage(one(3 * HUNDRED + 1000), reference, 0.9)
    assert found.share == pytest.approx([0.0])
    assert found.aligned == pytest.approx([0.9])


def test_a_constant_is_aligned_to_the_mean_of_the_reference():
    found = interval_coverage(one(np.full((5, 1), 7.0)), one([[0.0], [1.0], [2.0]]), 0.9)
    assert found.share == pytest.approx([0.0])
    assert found.aligned == pytest.approx([1 / 3])


def test_where_no_variance_exists_median_and_width_align():
    """With the given center 10 and width 2 of both sides nothing is moved."""
    marks = {"by_quantiles": np.array([True]), "mean": np.array([10.0]), "sd": np.array([2.0])}
    method = one(HUNDRED + 7, quantiles=[10.0, 30.0, 40.0, 50.0, 80.0], **marks)
    found = interval_coverage(method, one(HUNDRED, **marks), 0.9)
    assert found.aligned == pytest.approx([0.71])
    moved = interval_coverage(method, one(HUNDRED, **{**marks, "mean": np.array([20.0])}), 0.9)
    assert moved.aligned == pytest.approx([0.71])  # 20, ..., 90
    wide = interval_coverage(method, one(HUNDRED, **{**marks, "sd": np.array([1.0])}), 0.9)
    assert wide.aligned == pytest.approx([0.36])  # 10, ..., 45
