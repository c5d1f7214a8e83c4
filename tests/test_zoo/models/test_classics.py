"""The funnel and the banana against quadrature and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from support.densities import log_density, normal, points

import zoo
from zoo.models.classics import banana, funnel


def test_moments_of_the_funnel_are_those_of_quadrature() -> None:
    moments = funnel.moments()
    v, z = np.linspace(-25, 25, 1001)[:, None], np.linspace(0, 9, 2001)
    # E[asinh(x)^2 | v]
    inner = 2 * integrate.simpson(np.arcsinh(np.exp(v / 2) * z) ** 2 * stats.norm.pdf(z), x=z)
    square = integrate.simpson(inner * stats.norm.pdf(v[:, 0], scale=3), x=v[:, 0])
    assert moments["asinh_x"].sd[0].item() == pytest.approx(math.sqrt(square), rel=1e-4)
    mean = 2 * integrate.quad(lambda z: math.log(z) * stats.norm.pdf(z), 0, 9)[0]
    var = 2 * integrate.quad(lambda z: (math.log(z) - mean) ** 2 * stats.norm.pdf(z), 0, 9)[0]
    assert moments["log_abs_x"].mean[0].item() == pytest.approx(mean, abs=1e-7)
    assert moments["log_abs_x"].sd[0].item() == pytest.approx(math.sqrt(var + 9 / 4), abs=1e-6)


def test_both_funnels_are_one_distribution() -> None:
    flat, data = log_density(zoo.load("funnel"))
    neck, _ = log_density(zoo.load("funnel_centered"))
    for u in points(4, 10, scale=1.5):
        z = flat.constrain(u)
        x = {"v": z["v"], "x": z["z"] * (z["v"] / 2).exp()}
        assert flat(u).item() == pytest.approx(
            (neck(neck.unconstrain(x)) + 9 * z["v"] / 2).item(), abs=1e-9
        )
        for quantity in funnel.QUANTITIES.values():
            assert torch.allclose(quantity.fn(z, data), quantity.fn(x, data))


def test_documented_mean_field_of_the_funnel() -> None:
    density, _ = log_density(zoo.load("funnel_centered"))
    s2 = 1 / (1 / 9 + 9 / 2)
    sd = torch.tensor([s2**0.5] + [math.exp(-s2 / 4)] * 9, dtype=torch.float64)
    u = points(100_000, 10, scale=1.0) * sd
    gap = -(density.batch(u) - normal(u, 0.0, sd).sum(-1))
    assert sd[0].item() / 3 == pytest.approx(0.155, abs=5e-4)
    assert abs(gap.mean().item() - 1.863) < 5 * gap.std().item() / 316


def test_documented_mean_field_of_the_banana() -> None:
    density, _ = log_density(banana.ENTRY)
    nodes, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(12))
    grid = torch.cartesian_prod(nodes, nodes)
    weight = torch.outer(weights, weights).reshape(-1) / (2 * math.pi)

    def gap(q: np.ndarray) -> float:  # KL(q || p), exact: the integrand is a polynomial
        loc, log_sd = torch.tensor(q[:2]), torch.tensor(q[2:])
        entropy = log_sd.sum() + 1 + math.log(2 * math.pi)
        return float(-(weight @ density.batch(loc + grid * log_sd.exp())) - entropy)

    best = optimize.minimize(gap, np.array([0.0, -2.0, 1.0, 0.1]), method="BFGS")
    assert best.fun == pytest.approx(0.7258, abs=1e-4)
    assert np.exp(best.x[2]) / 10 == pytest.approx(0.3916, abs=1e-3)
    assert np.exp(best.x[3]) / math.sqrt(19) == pytest.approx(0.2294, abs=1e-3)
    assert best.x[1] / math.sqrt(19) == pytest.approx(-0.5827, abs=1e-3)
