"""Equal draws from weighted ones: probabilities by hand, and counts over seeds."""

import numpy as np
import pytest

from benchmarks.metrics.resample import capped_mass, inclusion, largest, systematic

WEIGHTS = np.array([0.125, 0.5, 0.125, 0.25])


def test_probabilities_are_proportional_to_weights_up_to_one():
    assert inclusion(WEIGHTS, 2) == pytest.approx([0.25, 1.0, 0.25, 0.5])
    # the heaviest is certain, and the others share what is left: c = 2 / 0.5
    assert inclusion(WEIGHTS, 3) == pytest.approx([0.5, 1.0, 0.5, 1.0])
    assert inclusion(WEIGHTS, 4) == pytest.approx(np.ones(4))


@pytest.mark.parametrize("n", [1, 7, 60, 200])
def test_they_sum_to_the_number_of_draws(n):
    weights = np.random.default_rng(0).pareto(1.5, 300)
    found = inclusion(weights / weights.sum(), n)
    assert found.sum() == pytest.approx(n, rel=1e-12)
    assert found.max() <= 1
    free = found < 1
    scales = found[free] / weights[free]
    assert scales == pytest.approx(np.full(len(scales), scales[0]))


def test_the_capped_mass_is_the_distance_between_weights_and_what_is_drawn():
    assert capped_mass(WEIGHTS, 2) == 0
    assert capped_mass(WEIGHTS, 3) == pytest.approx(0.5 - 1 / 3)
    assert capped_mass(WEIGHTS, 4) == pytest.approx(0.25)
    for n in (2, 3, 4):
        distance = 0.5 * np.abs(inclusion(WEIGHTS, n) / n - WEIGHTS).sum()
        assert capped_mass(WEIGHTS, n) == pytest.approx(distance)


def test_the_largest_number_keeps_the_capped_mass():
    assert [largest(WEIGHTS, 10, c) for c in (0.0, 0.1, 0.17, 0.3)] == [2, 2, 3, 4]
    assert largest(WEIGHTS, 3, 0.3) == 3
    assert largest(np.array([0.999, 0.001]), 10, 0.01) == 1
    assert largest(WEIGHTS, 0, 0.3) == 0


def test_every_draw_is_taken_at_most_once_and_as_often_as_its_probability_says():
    weights = np.random.default_rng(1).pareto(2.0, 40)
    wanted = inclusion(weights / weights.sum(), 15)
    assert (wanted == 1).any()
    seeds, counts = 4000, np.zeros(40)
    for seed in range(seeds):
        taken = systematic(wanted, seed)
        assert len(taken) == len(set(taken.tolist())) == 15
        counts[taken] += 1
    error = np.sqrt(wanted * (1 - wanted) / seeds)
    assert (np.abs(counts / seeds - wanted) <= 5 * error + 1e-12).all()


def test_means_of_what_is_taken_vary_like_those_of_independent_draws():
    """Weighted draws, then a choice among them: together 1 / n, where nothing is capped."""
    n, size, means = 40, 200, []
    for seed in range(1500):
        x = np.random.default_rng([2, seed]).uniform(-1, 1, size)
        weights = 1 + 0.8 * x  # of a density that rises by this factor
        probabilities = inclusion(weights / weights.sum(), n)
        means.append(x[systematic(probabilities, seed)].mean())
    mean, variance = 0.8 / 3, 1 / 3 - (0.8 / 3) ** 2
    assert np.mean(means) == pytest.approx(mean, abs=5 * np.sqrt(variance / n / 1500))
    assert np.var(means) * n / variance == pytest.approx(1.0, abs=5 * np.sqrt(2 / 1500))
