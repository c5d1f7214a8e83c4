"""Changes of chains between two times: their size and its error, by hand and over repetitions."""

import numpy as np
import pytest

from benchmarks.mcmc.paired import HalfTime, changes, memory_of

BEFORE = np.array([[0.0], [2.0], [4.0], [2.0]])
AFTER = np.array([[1.0], [3.0], [9.0], [3.0]])


def test_a_change_is_in_sds_of_where_the_chains_are_now():
    e, _, r, _ = changes(BEFORE, AFTER)
    sd0, sd1 = np.sqrt(8 / 3), np.sqrt(12.0)
    assert e == pytest.approx([(2 - 4) / sd1])
    assert r == pytest.approx([np.log(sd0 / sd1)])


def test_the_errors_are_those_of_the_influence_of_every_chain():
    e, e_se, _, r_se = changes(BEFORE, AFTER)
    ends = (AFTER - 4) ** 2 / 12
    starts = (BEFORE - 2) ** 2 / (8 / 3)
    of_mean = (BEFORE - AFTER) / np.sqrt(12) - e * ends / 2
    assert e_se == pytest.approx(of_mean.std(0, ddof=1) / 2)
    assert r_se == pytest.approx((starts - ends).std(0, ddof=1) / 2 / 2)


def test_errors_are_the_spread_over_repetitions():
    rng = np.random.default_rng(0)
    start = rng.standard_normal((400, 1000))
    end = 1.0 + 0.8 * start + 0.6 * rng.standard_normal((400, 1000))
    e, e_se, r, r_se = changes(start, end)
    assert e.mean() == pytest.approx(-1, abs=0.015)
    assert e_se.mean() == pytest.approx(e.std(), rel=0.08)
    assert r_se.mean() == pytest.approx(r.std(), rel=0.08)


def test_chains_that_do_not_move_have_not_changed():
    """Of a constant there is no rounding error either; another constant is a change."""
    still = np.full((4, 1), 0.1)
    assert all(v == 0 for v in changes(still, still + 1e-14))
    e, _, r, _ = changes(still, still + 1.0)
    assert e == pytest.approx([-1.0])
    assert r == pytest.approx([np.log(1e-12)])


@pytest.mark.parametrize("size", [1.0, 0.1])
def test_where_all_chains_end_in_one_point_the_unit_is_the_earlier_sd(size):
    e, _, r, r_se = changes(size * BEFORE, np.full((4, 1), 5.0))
    sd0 = np.sqrt(8 / 3)
    assert e == pytest.approx([(2 * size - 5) / (size * sd0)])
    assert r == pytest.approx([0.0])
    assert np.isfinite(r_se).all()
    # and from one point to many, the ratio is as small as can be told
    e, _, r, _ = changes(np.full((4, 1), 5.0), BEFORE)
    assert e == pytest.approx([3 / sd0])
    assert r == pytest.approx([np.log(1e-12)])


# -- memory ---------------------------------------------------------------------------------------


def test_the_memory_is_the_correlation_of_start_and_end():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 20, 3))
    b[:, 0] = -2 * a[:, 0] + 7
    b[:, 2] = 5.0  # where nothing varies nothing is remembered
    found = memory_of(a, b)
    assert found == pytest.approx([-1.0, np.corrcoef(a[:, 1], b[:, 1])[0, 1], 0.0])


def test_chains_that_stay_in_their_modes_are_not_said_to_remember():
    """Correlations are taken within modes; those between two modes far apart would be one."""
    rng = np.random.default_rng(2)
    modes = np.array([0, 1] * 50)
    a, b = (100 * modes[:, None] + rng.standard_normal((100, 1)) for _ in range(2))
    assert memory_of(a, b) > 0.99
    own = memory_of(a, b, modes)
    assert abs(own) < 0.3
    x, y = (
        np.concatenate([v[modes == m, 0] - v[modes == m, 0].mean() for m in (0, 1)])
        for v in (a, b)
    )
    assert own == pytest.approx([np.corrcoef(x, y)[0, 1]])


def test_rows_have_modes_of_their_own():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 12, 4))  # two rows of two components
    modes = np.stack([np.arange(12) % 2, np.arange(12) // 6], 1)
    found = memory_of(a, b, modes)
    assert found.tolist() == [
        *memory_of(a[:, :2], b[:, :2], modes[:, 0]),
        *memory_of(a[:, 2:], b[:, 2:], modes[:, 1]),
    ]


def test_values_at_half_time_are_the_latest_at_half_or_earlier():
    half = HalfTime()
    for t in (10, 15, 20, 30, 40):
        half.add(t, np.array([[float(t)]]))
    assert half.before(80) == 40.0
    assert half.before(79) == 20.0
    assert half.before(40) == 20.0
    half.add(80, np.array([[80.0]]))
    assert half.before(100) == 40.0
    assert half.before(160) == 80.0
    with pytest.raises(ValueError, match="empty"):
        half.before(79)  # earlier looks are not kept
