"""Rows in the coordinates of their own q: values, gradients and maps against closed forms."""

import math

import pytest
import torch

from benchmarks.mcmc import unit_density
from benchmarks.mcmc.unit_density import UnitDensity

ROWS, DIM = 3, 2
CENTERS = torch.tensor([[0.0, 1.0], [5.0, -2.0], [100.0, 3.0]], dtype=torch.float64)
FACTORS = torch.tensor(
    [[[2.0, 0.0], [1.0, 0.5]], [[1.0, 0.0], [0.0, 1.0]], [[0.1, 0.0], [-3.0, 4.0]]],
    dtype=torch.float64,
)


def standard(number=4001):
    """Return draws with mean 0 and covariance 1 exactly, `[n, row, d]`."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(number, DIM, dtype=torch.float64, generator=generator)
    z = z - z.mean(0)
    root = torch.linalg.cholesky(z.T @ z / (number - 1))
    z = torch.linalg.solve_triangular(root, z.T, upper=False).T
    return z[:, None].expand(number, ROWS, DIM)


def log_joint(values):
    """The normal log density of each row with its center and factor, `[n, row]`."""
    return torch.distributions.MultivariateNormal(CENTERS, scale_tril=FACTORS).log_prob(values)


@pytest.fixture
def density():
    draws = CENTERS + torch.einsum("rij,nrj->nri", FACTORS, standard())
    return UnitDensity(log_joint, draws)


def points(number, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS * number, DIM, dtype=torch.float64, generator=generator)


def test_the_coordinates_are_those_of_the_draws_of_each_row(density):
    assert (density.targets, density.dim, density.dtype) == (ROWS, DIM, torch.float64)
    assert torch.allclose(density.center, CENTERS, atol=1e-10)
    assert torch.allclose(density.factor, FACTORS, rtol=1e-6, atol=1e-8)
    assert torch.allclose(
        density.log_det, FACTORS.diagonal(dim1=1, dim2=2).log().sum(1), atol=1e-6
    )


def test_a_normal_is_standard_in_its_own_coordinates(density):
    """Values hold the Jacobian of the map, so that they are those of a standard normal."""
    u = points(5)
    value, slope = density.batch_gradient(u)
    assert torch.allclose(value, -0.5 * u.square().sum(1) - math.log(2 * math.pi), atol=1e-5)
    assert torch.allclose(slope, -u, atol=1e-5)
    assert not value.requires_grad


def test_points_and_values_are_inverse_and_belong_to_their_rows(density):
    u = points(5)
    values = density.values(u)
    assert values.shape == (5, ROWS, DIM)
    by_hand = CENTERS[1] + FACTORS[1] @ u[5 + 2]  # row 1, third point
    assert torch.allclose(values[2, 1], by_hand, atol=1e-6)
    assert torch.allclose(density.points(values), u, atol=1e-10)


def test_points_in_parts_give_the_same_answers_and_are_counted(density, monkeypatch):
    u = points(7)
    whole = density.batch_gradient(u)
    assert density.gradient_evaluations == 21
    sizes = []
    monkeypatch.setattr(
        density, "log_joint", lambda values: (sizes.append(len(values)), log_joint(values))[1]
    )
    for at_once, parts in ((9, [3, 3, 1]), (11, [3, 3, 1]), (2, [1] * 7), (21, [7])):
        monkeypatch.setattr(unit_density, "AT_ONCE", at_once)
        sizes.clear()
        part = density.batch_gradient(u)
        assert sizes == parts
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(whole, part, strict=True))
    assert density.gradient_evaluations == 5 * 21


def test_a_direction_in_which_draws_do_not_vary_has_a_factor_all_the_same():
    draws = standard(11).clone()
    draws[..., 1] = 3 * draws[..., 0]
    density = UnitDensity(log_joint, draws)
    assert density.factor.isfinite().all()
    assert torch.allclose(
        density.factor @ density.factor.mT,
        torch.tensor([[1.0, 3.0], [3.0, 9.0]]).double(),
        rtol=1e-6,
    )
    assert UnitDensity(log_joint, torch.zeros(4, ROWS, DIM).double()).factor.isfinite().all()
