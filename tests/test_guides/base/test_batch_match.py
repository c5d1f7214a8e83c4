"""The update of batch and match against the formulas of the paper, in numpy."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from guides.base.batch_match import LONGEST, WIDEST, Normal, bounded, matched, moments


def papers_update(mean, cov, points, scores, rate):
    """The update in the coordinates of the target, from the equations of Cai et al. (2024)."""
    number, dim = points.shape
    z_bar = sum(points) / number
    g_bar = sum(scores) / number
    c = sum(np.outer(z - z_bar, z - z_bar) for z in points) / number
    gamma = sum(np.outer(g - g_bar, g - g_bar) for g in scores) / number
    u = rate * gamma + rate / (1 + rate) * np.outer(g_bar, g_bar)
    v = cov + rate * c + rate / (1 + rate) * np.outer(mean - z_bar, mean - z_bar)
    root = scipy.linalg.sqrtm(np.eye(dim) + 4 * u @ v)
    new_cov = 2 * v @ np.linalg.inv(np.eye(dim) + root)
    new_mean = mean / (1 + rate) + rate / (1 + rate) * (new_cov @ g_bar + z_bar)
    return new_mean, np.real(new_cov)


def ours(mean, cov, points, scores, rate):
    now = Normal(mean=torch.as_tensor(mean), factor=torch.linalg.cholesky(torch.as_tensor(cov)))
    noise = torch.linalg.solve_triangular(
        now.factor, (torch.as_tensor(points) - now.mean).T, upper=False
    ).T
    found = moments(noise, torch.as_tensor(scores) @ now.factor)
    after = now.moved(*matched(found, rate))
    return after.mean.numpy(), (after.factor @ after.factor.T).numpy()


MEAN, COV = np.array([0.5, -1.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
GOAL, WIDTH = np.array([1.0, 2.0]), np.array([[1.0, -0.7], [-0.7, 3.0]])


def batch(seed=0, number=5, mean=MEAN, cov=COV):
    generator = np.random.default_rng(seed)
    return generator.multivariate_normal(mean, cov, size=number)


def normal_scores(points, goal=GOAL, width=WIDTH):
    return -(points - goal) @ np.linalg.inv(width)


@pytest.mark.parametrize("rate", [0.1, 1.0, 7.0, 300.0])
@pytest.mark.parametrize("number", [2, 5])  # two draws: all covariances are singular
def test_an_update_is_that_of_the_paper(rate, number):
    points = batch(number=number)
    scores = normal_scores(points) + 0.3 * np.sin(3 * points)  # no normal target
    mean, cov = ours(MEAN, COV, points, scores, rate)
    right_mean, right_cov = papers_update(MEAN, COV, points, scores, rate)
    np.testing.assert_allclose(mean, right_mean, rtol=1e-8)
    np.testing.assert_allclose(cov, right_cov, rtol=1e-8)


@pytest.mark.parametrize("rate", [0.1, 1.0, 300.0])
def test_a_normal_target_stays_whatever_the_draws(rate):
    points = batch(number=3, mean=GOAL, cov=WIDTH)
    mean, cov = ours(GOAL, WIDTH, points, normal_scores(points), rate)
    np.testing.assert_allclose(mean, GOAL, rtol=1e-10)
    np.testing.assert_allclose(cov, WIDTH, rtol=1e-10)


def test_one_step_at_a_large_rate_reaches_a_normal_target():
    points = batch(number=3)
    mean, cov = ours(MEAN, COV, points, normal_scores(points), 1e9)
    np.testing.assert_allclose(mean, GOAL, rtol=1e-6)
    np.testing.assert_allclose(cov, WIDTH, rtol=1e-6)
    mean, _ = ours(MEAN, COV, points, normal_scores(points), 1.0)  # a small one does not
    assert np.abs(mean - GOAL).max() > 0.1


def test_a_rate_near_zero_moves_nothing():
    points = batch()
    mean, cov = ours(MEAN, COV, points, normal_scores(points), 1e-12)
    np.testing.assert_allclose(mean, MEAN, atol=1e-9)
    np.testing.assert_allclose(cov, COV, atol=1e-9)


def test_an_ill_conditioned_normal_is_reached():
    """Condition 1e12 in the coordinates of the target; the update sees whitened ones."""
    width = np.diag([1e-6, 1e6]) @ np.array([[1.0, 0.9], [0.9, 1.0]]) @ np.diag([1e-6, 1e6])
    cov = np.diag([4e-12, 1e12])
    points = batch(number=4, mean=np.zeros(2), cov=cov)
    _, found = ours(np.zeros(2), cov, points, normal_scores(points, np.zeros(2), width), 1e9)
    sds = np.sqrt(np.diag(width))
    np.testing.assert_allclose(found / np.outer(sds, sds), width / np.outer(sds, sds), atol=1e-5)
    assert np.array_equal(found, found.T)


def test_a_move_in_bounds_is_not_changed():
    noise = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = moments(noise, 0.5 - 2.0 * noise)
    for ours, plain in zip(bounded(found, 50.0), matched(found, 50.0), strict=True):
        assert torch.equal(ours, plain)


def test_widths_change_by_a_factor_and_the_mean_is_not_held_back():
    """A narrow normal 27 sds of its own away, as seen from one 900 times as wide."""
    noise = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    goal = torch.full((3,), 0.03, dtype=torch.float64)
    mean, factor = bounded(moments(noise, -(noise - goal) * 900.0**2), 1e6)
    torch.testing.assert_close(mean, goal, rtol=1e-3, atol=0)
    torch.testing.assert_close(factor @ factor.T, torch.eye(3).double() / WIDEST**2)


def test_a_level_density_moves_by_a_bounded_length():
    noise = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean, factor = bounded(moments(noise, 1e3 + 0.0 * noise), 5000.0)
    assert float(mean.norm()) == pytest.approx(LONGEST * math.sqrt(3))
    assert float(torch.linalg.svdvals(factor)[0]) == pytest.approx(WIDEST)
