"""Exact draws, evidence and moments of densities over few coordinates."""

import math

import pytest
import torch

from zoo.errors import ProgramError
from zoo.truth import rejection as module
from zoo.truth.rejection import Small

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[4.0, 1.0], [1.0, 0.5]], dtype=torch.float64)


def normal(shift=0.0):
    law = torch.distributions.MultivariateNormal(MEAN, COVARIANCE)
    return lambda u: law.log_prob(u) + shift


def gamma(u):
    """log of a Gamma(3, 2) of exp(u) with its Jacobian: E u = digamma(3) - log 2."""
    return 3 * u[:, 0] - 2 * u[:, 0].exp()


START = torch.zeros(2, dtype=torch.float64)


def test_the_mode_and_the_curvature_of_a_normal():
    found = Small(normal(), START)
    torch.testing.assert_close(found.mode, MEAN)
    torch.testing.assert_close(found.root @ found.root.T, COVARIANCE)
    assert found.dim == 2


def test_the_mode_of_a_skewed_density_is_found_from_far_away():
    """d/du (3 u - 2 e^u) = 0 at u = log 1.5; the steps have at most length 1."""
    found = Small(gamma, torch.tensor([8.0], dtype=torch.float64))
    assert float(found.mode) == pytest.approx(math.log(1.5))
    assert float(found.root) == pytest.approx(1 / math.sqrt(3.0))


def test_a_mode_farther_than_sixty_steps_is_not_found():
    with pytest.raises(ProgramError) as caught:
        Small(lambda u: -0.5 * (u[:, 0] - 61.5) ** 2, torch.zeros(1, dtype=torch.float64))
    assert str(caught.value) == "No mode was found in 60 Newton steps; start closer to it."
    near = Small(lambda u: -0.5 * (u[:, 0] - 58.5) ** 2, torch.zeros(1, dtype=torch.float64))
    assert float(near.mode) == pytest.approx(58.5)


def test_steps_where_the_density_is_convex_go_uphill():
    """-log cosh-like tails are flat: the curvature is floored at 0.1, and its sign dropped."""

    def two_sided(u):
        return -(u[:, 0] ** 4) + 2 * u[:, 0] ** 2  # modes at -1 and 1, convex between

    found = Small(two_sided, torch.tensor([0.3], dtype=torch.float64))
    assert float(found.mode) == pytest.approx(1.0)


def test_the_integral_and_the_moments_of_a_normal():
    found = Small(normal(shift=2.5), START).integral()
    assert found.log_value == pytest.approx(2.5, abs=1e-6)
    torch.testing.assert_close(found.mean, MEAN, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sd, COVARIANCE.diagonal().sqrt(), atol=1e-6, rtol=0)


def test_the_integral_of_a_skewed_density(monkeypatch):
    """Gamma(3) / 2^3 = 1/4; variance of log x is trigamma(3)."""
    small = Small(gamma, torch.zeros(1, dtype=torch.float64))
    found = small.integral()
    three = torch.tensor(3.0, dtype=torch.float64)
    assert found.log_value == pytest.approx(math.log(0.25), abs=1e-4)
    assert float(found.mean) == pytest.approx(float(three.digamma()) - math.log(2.0), abs=1e-4)
    assert float(found.sd) == pytest.approx(float(torch.polygamma(1, three).sqrt()), abs=1e-3)
    monkeypatch.setattr(module, "CHUNK", 4)
    torch.testing.assert_close(small.integral(), found)


@pytest.mark.parametrize("chunk", [256, 7])
def test_draws_of_a_normal_are_independent_and_exact(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    small = Small(normal(), START)
    draws = small.sample(2000, seed=3)
    assert draws.shape == (2000, 2)
    white = torch.linalg.solve_triangular(small.root, (draws - MEAN).T, upper=False).T
    assert bool((white.mean(0).abs() < 5 / math.sqrt(2000)).all())
    second = white.T @ white / 2000
    torch.testing.assert_close(second, torch.eye(2).double(), atol=5 * math.sqrt(2 / 2000), rtol=0)
    fourth = (white**4).mean()  # 3 for a normal, its error sqrt(96 / 4000)
    assert abs(float(fourth) - 3) < 5 * math.sqrt(96 / 4000)
    assert torch.equal(draws, small.sample(2000, seed=3))
    assert not torch.equal(draws[:5], small.sample(5, seed=4))
    assert len(torch.unique(draws, dim=0)) == 2000


def test_draws_of_a_skewed_density_have_its_mean():
    draws = Small(gamma, torch.zeros(1, dtype=torch.float64)).sample(4000, seed=0)
    three = torch.tensor(3.0, dtype=torch.float64)
    mean, sd = float(three.digamma()) - math.log(2.0), float(torch.polygamma(1, three).sqrt())
    assert abs(float(draws.mean()) - mean) < 5 * sd / math.sqrt(4000)
    assert float(draws.std()) == pytest.approx(sd, rel=0.1)


def test_proposals_are_t_with_eight_degrees_of_freedom_widened():
    """Variance 8 / 6 times 1.05^2, in every direction; a t has heavier tails than a normal."""
    found = Small(normal(), START)._propose(20_000, torch.Generator().manual_seed(0))
    assert found.shape == (20_000, 2)
    assert float(found.var()) == pytest.approx(1.05**2 * 8 / 6, rel=0.05)
    kurtosis = float((found**4).mean() / found.square().mean() ** 2)
    assert kurtosis == pytest.approx(3 * 6 / 4, rel=0.15)  # 3 (v - 2) / (v - 4)


def test_the_log_ratio_is_that_of_the_density_to_the_t():
    small = Small(normal(), START)
    noise = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
    t = torch.distributions.StudentT(8.0)  # of two dimensions: by hand
    assert float(t.df) == 8.0
    for i in range(2):
        radius = (noise[i] / 1.05).square().sum()
        expected = normal()((MEAN + small.root @ noise[i])[None]) + 5 * torch.log1p(radius / 8)
        assert float(small._log_ratio(noise)[i]) == pytest.approx(float(expected))


def test_the_bound_is_a_little_above_the_largest_log_ratio():
    small = Small(normal(), START)
    axis = torch.linspace(-6.0, 6.0, 121, dtype=torch.float64)
    largest = float(small._log_ratio(torch.cartesian_prod(axis, axis)).max())
    assert largest <= float(small._bound) <= largest + 0.06
    assert not small._bound.requires_grad


def test_a_draw_above_the_envelope_stops_the_draws():
    small = Small(normal(), START)
    small.__dict__["_bound"] = small._bound - 1.0
    with pytest.raises(ProgramError) as caught:
        small.sample(10, seed=0)
    assert str(caught.value) == "A draw lies above the envelope; widen the envelope or its margin."
