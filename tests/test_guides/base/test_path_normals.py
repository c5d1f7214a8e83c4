"""Normals along a path: the inverse Hessian of a dense recursion, and an exact mixture."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from guides.base import path_normals
from guides.base.path_normals import NormalMixture, PathNormal


def quadratic(dim, steps, seed=0):
    """Points and gradients of -log p = x'Px / 2 at random points, and P."""
    g = np.random.default_rng(seed)
    root = g.normal(size=(dim, dim))
    precision = root @ root.T + np.eye(dim)
    points = g.normal(size=(steps + 1, dim))
    return precision, np.diff(points, axis=0), points


def dense_diagonal(alpha, s, y):
    """The diagonal of the BFGS update of diag(1 / alpha), by the matrix itself."""
    b = np.diag(1 / alpha)
    z = np.diag(np.sqrt(alpha)) @ y  # in these coordinates the update of the identity
    t = s / np.sqrt(alpha)
    h = np.eye(len(alpha)) * (z @ z) / (z @ t)
    h += np.outer(z, z) / (z @ t) - (z @ z) / (z @ t) * np.outer(t, t) / (t @ t)
    return 1 / np.diag(np.sqrt(b) @ h @ np.sqrt(b))


def dense_inverse(alpha, pairs):
    """The inverse Hessian by the product form, one pair after another."""
    h = np.diag(alpha)
    for s, y in pairs:
        rho = 1 / (s @ y)
        v = np.eye(len(alpha)) - rho * np.outer(y, s)
        h = v.T @ h @ v + rho * np.outer(s, s)
    return h


@pytest.mark.parametrize(("dim", "pairs"), [(3, 1), (5, 2), (6, 5), (4, 7), (30, 6)])
def test_the_inverse_hessian_is_that_of_the_dense_recursion(dim, pairs):
    precision, steps, points = quadratic(dim, pairs)
    changes = steps @ precision
    alpha = np.ones(dim)
    mine = torch.ones(dim, dtype=torch.float64)
    for s, y in zip(steps, changes, strict=True):
        alpha = dense_diagonal(alpha, s, y)
        mine = path_normals.diagonal(mine, torch.as_tensor(s), torch.as_tensor(y))
    np.testing.assert_allclose(mine, alpha, rtol=1e-8)
    expected = dense_inverse(alpha, list(zip(steps, changes, strict=True)))
    gradient = -precision @ points[-1]
    normal = path_normals.from_pairs(
        mine,
        [torch.as_tensor(s) for s in steps],
        [torch.as_tensor(y) for y in changes],
        torch.as_tensor(points[-1]),
        torch.as_tensor(gradient),
        min(dim, 2 * pairs + 2),
    )
    np.testing.assert_allclose(normal.covariance, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(normal.loc, points[-1] + expected @ gradient, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(normal.sds, np.sqrt(np.diag(expected)), rtol=1e-6)
    vector = np.arange(dim) - 1.0
    product = normal.product(torch.as_tensor(vector))
    np.testing.assert_allclose(product, expected @ vector, rtol=1e-6, atol=1e-8)
    u = points[:2]
    truth = stats.multivariate_normal(normal.loc.numpy(), normal.covariance.numpy())
    np.testing.assert_allclose(normal.log_prob(torch.as_tensor(u)), truth.logpdf(u), rtol=1e-7)
    root = normal.at(torch.eye(dim, dtype=torch.float64)) - normal.loc
    np.testing.assert_allclose(root.T @ root, normal.covariance, rtol=1e-7, atol=1e-9)
    length = float(normal.widest.square().sum())
    assert length == pytest.approx(np.linalg.eigvalsh(expected)[-1], rel=1e-6)


def test_a_normal_lost_to_rounding_is_none():
    one = torch.ones(2, dtype=torch.float64)
    nan = torch.full((2,), torch.nan, dtype=torch.float64)
    assert path_normals.from_pairs(one, [one], [nan], one, one, 2) is None
    assert path_normals.from_pairs(one, [one], [-one], one, one, 2) is None  # no curvature
    assert path_normals.from_pairs(one, [one], [one], one, nan, 2) is None


def mixture():
    guide = NormalMixture(2, 4, 2, torch.float64)
    axis = torch.tensor([[0.6], [0.8]], dtype=torch.float64)
    none = torch.zeros(2, 1, dtype=torch.float64)
    parts = [
        PathNormal(
            loc=torch.tensor(loc, dtype=torch.float64),
            scale=torch.tensor(scale, dtype=torch.float64),
            directions=torch.cat([axis, none], 1),
            stretch=torch.tensor([stretch, 1.0], dtype=torch.float64),
        )
        for loc, scale, stretch in (([0.0, 1.0], [1.0, 2.0], 3.0), ([4.0, -3.0], [0.5, 0.7], 0.2))
    ]
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    guide.fill(parts, weights, torch.tensor([0.01, 0.01], dtype=torch.float64))
    return guide, parts


def test_a_mixture_has_the_density_of_its_normals():
    guide, parts = mixture()
    u = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    logs = [
        np.log(w) + stats.multivariate_normal(p.loc.numpy(), p.covariance.numpy()).logpdf(u)
        for w, p in zip((0.3, 0.7), parts, strict=True)
    ]
    np.testing.assert_allclose(guide.log_prob_flat(u), logsumexp(logs, 0), rtol=1e-9)
    grid = torch.linspace(-30, 30, 1201, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    total = float(guide.log_prob_flat(points).exp().sum()) * 0.05**2
    assert total == pytest.approx(1.0, abs=1e-4)


def test_draws_of_a_mixture_have_its_weights_and_moments():
    guide, parts = mixture()
    noise = torch.randn(40_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u, log_q = guide.sample(noise)
    torch.testing.assert_close(log_q, guide.log_prob_flat(u))
    second = (parts[1].log_prob(u) + np.log(0.7) - log_q).exp()
    assert float(second.mean()) == pytest.approx(0.7, abs=0.01)
    mean = sum(w * p.loc for w, p in zip((0.3, 0.7), parts, strict=True))
    torch.testing.assert_close(u.mean(0), mean, rtol=0, atol=0.08)
    assert [p.loc.tolist() for p in guide.normals] == [p.loc.tolist() for p in parts]
    guide.fill(parts[:1], torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert len(guide.normals) == 1  # the second is not in use any more
    torch.testing.assert_close(guide.log_prob_flat(u), parts[0].log_prob(u))
