"""Evidence and means of islands, against numbers worked out by hand and tables of Student's t."""

import math

import pytest
import torch

from benchmarks.mcmc.islands import evidence, island_mean, widening


def test_the_evidence_is_the_log_of_the_mean_of_the_islands_with_a_t_interval():
    """Z-hats 1, 2, 3: mean 2, sd 1; t of 0.975 with two degrees of freedom is 4.3027."""
    found = evidence([math.log(z) - 800 for z in (1.0, 2.0, 3.0)])
    assert found.value == pytest.approx(math.log(2) - 800)
    assert found.se == pytest.approx(0.5 / math.sqrt(3))
    half = 4.302653 * 0.5 / math.sqrt(3)
    assert half > 1
    assert found.low == -math.inf
    assert found.high == pytest.approx(found.value + math.log1p(half))
    assert found.islands == pytest.approx([-800, math.log(2) - 800, math.log(3) - 800])


def test_the_lower_end_is_finite_where_the_interval_of_z_is_above_zero():
    """Z-hats 9, 10, 11, 10: sd sqrt(2 / 3), mean 10; t with three degrees is 3.182446."""
    found = evidence([math.log(z) for z in (9.0, 10.0, 11.0, 10.0)])
    half = 3.182446 * math.sqrt(2 / 3) / 2 / 10
    assert found.low == pytest.approx(math.log(10) + math.log(1 - half), rel=1e-6)
    assert found.high == pytest.approx(math.log(10) + math.log(1 + half), rel=1e-6)


def test_a_single_island_has_an_evidence_without_an_error():
    found = evidence([-3.5])
    assert (found.value, found.se, found.low, found.high) == (-3.5, math.inf, -math.inf, math.inf)
    assert found.known


@pytest.mark.parametrize(("last", "known"), [(0.99, True), (1.0, True), (1.01, False)])
def test_an_evidence_is_known_if_all_islands_lie_within_one_nat(last, known):
    assert evidence([0.5, 0.0, last]).known is known


def test_islands_weigh_as_their_evidence():
    """Z-hats 1 and 3: weights 1/4 and 3/4 of the islands' means 2 and 6."""
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0]], dtype=torch.float64)
    log_z = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64) + 900
    mean, error = island_mean(values, log_z)
    assert float(mean) == pytest.approx(5.0)
    # ((3/4)^2 + (3/4)^2) * 2
    assert float(error) == pytest.approx(math.sqrt(2 * (0.75**2 + 0.75**2)))
    several, errors = island_mean(values[..., None].expand(2, 2, 3), log_z)
    assert several.tolist() == pytest.approx([5.0] * 3)
    assert errors.tolist() == pytest.approx([float(error)] * 3)


def test_an_error_of_few_islands_is_widened_by_the_t_distribution():
    """One-sided 95 %: t with 1, 3 and 7 degrees of freedom over the normal 1.644854."""
    for islands, quantile in ((2, 6.313752), (4, 2.353363), (8, 1.894579)):
        assert widening(islands) == pytest.approx(quantile / 1.644854, rel=1e-6)
