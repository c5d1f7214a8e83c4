"""Angles: the wrapped normal against its series, and the chart of the circle."""

import math

import pytest
import torch
from scipy import stats

from zoo.distributions.circular import Chart, WrappedNormal, wrapped

F = torch.float64
CIRCLE = torch.linspace(-math.pi, math.pi, 20_001, dtype=F)[:-1]


@pytest.mark.parametrize("scale", [1e-2, 0.3, 1.0, 1.999, 2.0, 2.001, 5.0, 1e3])
def test_the_wrapped_normal_is_the_sum_over_turns(scale):
    density = WrappedNormal(torch.tensor(8.0, dtype=F), scale).log_prob(CIRCLE).exp()
    assert float(density.mean()) * 2 * math.pi == pytest.approx(1.0, abs=1e-12)
    if scale <= 5.0:
        turns = 2 * math.pi * torch.arange(-60, 61, dtype=F)
        expected = stats.norm.pdf(CIRCLE[::500, None] + turns, 8.0, scale).sum(-1)
        assert torch.allclose(density[::500], torch.from_numpy(expected), rtol=1e-10, atol=1e-14)


def test_its_gradient_is_that_of_differences():
    def value(loc, scale):
        return WrappedNormal(loc, scale).log_prob(torch.tensor([-3.0, 0.1, 2.5], dtype=F))

    for scale in (1e-3, 0.5, 1.99, 2.01, 50.0):
        point = torch.tensor(2.9, dtype=F), torch.tensor(scale, dtype=F)
        slopes = torch.autograd.functional.jacobian(value, point)
        step = 1e-7 * scale
        for i, slope in enumerate(slopes):
            ahead = [p + step * (i == j) for j, p in enumerate(point)]
            behind = [p - step * (i == j) for j, p in enumerate(point)]
            expected = (value(*ahead) - value(*behind)) / (2 * step)
            assert torch.isfinite(slope).all()
            assert torch.allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_its_draws_are_wound_and_differentiable():
    scale = torch.tensor(3.0, dtype=F, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = WrappedNormal(3.0, scale).expand((2,)).rsample((5000,))
    assert draws.shape == (5000, 2)
    assert bool(((draws >= -math.pi) & (draws < math.pi)).all())
    (slope,) = torch.autograd.grad(draws.sum(), scale)
    assert float(slope) != 0.0


@pytest.mark.parametrize("center", [0.0, 3.1, -math.pi])
def test_the_chart_covers_the_circle_once(center):
    chart = Chart(torch.tensor(center, dtype=F))
    u = torch.linspace(-5, 5, 41, dtype=F)
    theta = chart(u)
    assert bool(((theta >= -math.pi) & (theta < math.pi)).all())
    assert torch.allclose(chart.inv(theta), u, rtol=0, atol=1e-9)
    assert torch.allclose(chart.inv(theta + 4 * math.pi), u, rtol=0, atol=1e-8)
    slope = torch.autograd.functional.jacobian(lambda x: chart(x).sum(), u)
    assert torch.allclose(chart.log_abs_det_jacobian(u, theta), slope.log(), atol=1e-10)
    cut = wrapped(torch.tensor(center + math.pi, dtype=F))
    assert bool(torch.isfinite(chart.inv(cut)))


def test_angles_inside_stay_as_they_are():
    assert torch.equal(wrapped(CIRCLE), CIRCLE)
    assert float(wrapped(torch.tensor(math.pi, dtype=F))) == -math.pi
