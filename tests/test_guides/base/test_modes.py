"""Climbs end at modes; curvature, mass and direction of a mode have closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of

from guides.base import modes as module
from guides.base.modes import Climb, Curvature, climb, curvature, direction

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[4.0, 1.0], [1.0, 0.5]], dtype=torch.float64)


class Counted:
    """A log density from a function of one point, with its gradients counted."""

    dtype = torch.float64

    def __init__(self, function, dim=2, hessian=None):
        self.function, self.dim, self.calls, self.second = function, dim, 0, hessian

    def gradient(self, u):
        self.calls += 1
        u = u.detach().requires_grad_(True)
        value = self.function(u)
        return value.detach(), torch.autograd.grad(value, u)[0]

    def hessian(self, u):
        if self.second is not None:
            return self.second
        return torch.autograd.functional.hessian(self.function, u)


def normal():
    law = torch.distributions.MultivariateNormal(MEAN, COVARIANCE)
    return Counted(law.log_prob), law


def at(values, *, height=0.0, decrement=0.0):
    values = torch.tensor(values, dtype=torch.float64)
    return Curvature(
        point=values,
        height=height,
        gradient=0 * values,
        values=values,
        vectors=torch.eye(len(values)),
        decrement=decrement,
    )


@pytest.mark.parametrize("scale", [None, torch.tensor([2.0, 0.7], dtype=torch.float64)])
def test_a_climb_of_a_normal_ends_at_its_mean(scale):
    density, law = normal()
    found = climb(density, torch.tensor([5.0, 5.0], dtype=torch.float64), scale=scale)
    assert isinstance(found, Climb)
    torch.testing.assert_close(found.point, MEAN, atol=1e-6, rtol=0)
    assert found.height == pytest.approx(float(law.log_prob(MEAN)), abs=1e-10)
    assert found.gradients == density.calls
    assert found.point.dtype == torch.float64


def steep(u):
    """Rosenbrock's valley: a climb takes tens of gradients."""
    return -100 * (u[1] - u[0] ** 2) ** 2 - (1 - u[0]) ** 2


def test_a_climb_has_rounds_and_most_evaluations():
    begin = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    spent = {}
    for rounds in (1, 2, 3):
        found = climb(Counted(steep), begin, evaluations=4, rounds=rounds)
        spent[rounds] = found.gradients
    assert 4 <= spent[1] <= 25
    assert spent[1] < spent[2] < spent[3]
    assert climb(Counted(steep), begin, evaluations=4).gradients == spent[2]
    whole = climb(Counted(steep), begin)
    torch.testing.assert_close(whole.point, torch.ones(2).double(), atol=1e-5, rtol=0)
    assert whole.gradients > 25


@pytest.mark.parametrize("wall", ["value", "gradient"])
def test_a_climb_turns_back_where_value_or_gradient_is_not_finite(wall):
    """log u - u has its mode at 1; beyond 1.2 there is a wall."""

    class Walled(Counted):
        def gradient(self, u):
            value, gradient = super().gradient(u)
            if float(u[0]) > 1.2 or float(u[0]) <= 0:
                bad = torch.tensor(torch.nan, dtype=torch.float64)
                return (bad, gradient) if wall == "value" else (value, 0 * gradient + bad)
            return value, gradient

    density = Walled(lambda u: (u.abs().log() - u).sum(), dim=1)
    found = climb(density, torch.tensor([0.05], dtype=torch.float64))
    assert float(found.point) == pytest.approx(1.0, abs=1e-5)
    assert found.height == pytest.approx(-1.0, abs=1e-9)


def test_a_climb_that_begins_outside_stays_there_with_no_height():
    density = Counted(lambda u: torch.nan * u.sum())
    found = climb(density, MEAN)
    assert torch.equal(found.point, MEAN)
    assert found.height == -1e12


def test_the_curvature_of_a_normal():
    density, law = normal()
    point = MEAN + torch.tensor([0.3, -0.2], dtype=torch.float64)
    found = curvature(density, point)
    precision = np.linalg.inv(COVARIANCE.numpy())
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(precision), rtol=1e-9)
    rebuilt = found.vectors @ torch.diag(found.values) @ found.vectors.T
    np.testing.assert_allclose(rebuilt, precision, rtol=1e-9)
    away = np.array([0.3, -0.2])
    np.testing.assert_allclose(found.gradient, -precision @ away, rtol=1e-9)
    assert found.decrement == pytest.approx(away @ precision @ away)  # what Newton gains, twice
    assert found.height == pytest.approx(float(law.log_prob(point)))
    assert found.point is point
    assert found.definite is True
    assert found.settled is False
    # the mass of a normal density is 1 at its mean, wherever it is normalized
    assert curvature(density, MEAN).log_mass == pytest.approx(0.0, abs=1e-12)
    assert curvature(density, MEAN).settled is True


def test_the_curvature_of_a_saddle_promises_without_end():
    found = curvature(Counted(lambda u: u[0] ** 2 - u[1] ** 2), torch.ones(2).double())
    assert found.values.tolist() == [-2.0, 2.0]
    assert found.decrement == math.inf
    assert not found.definite
    assert not found.settled
    flat = curvature(Counted(lambda u: -(u[1] ** 2) + 0 * u[0]), torch.ones(2).double())
    assert flat.decrement == math.inf
    assert not flat.definite


def test_differences_of_gradients_replace_a_hessian_that_is_not_finite():
    law = torch.distributions.MultivariateNormal(MEAN, COVARIANCE)
    broken = Counted(law.log_prob, hessian=torch.full((2, 2), torch.nan, dtype=torch.float64))
    found = curvature(broken, MEAN)
    np.testing.assert_allclose(
        found.values, np.linalg.eigvalsh(np.linalg.inv(COVARIANCE.numpy())), rtol=1e-6
    )
    assert broken.calls == 2 * 2 + 1
    fine = Counted(law.log_prob)
    curvature(fine, MEAN)
    assert fine.calls == 1


def test_differences_are_central_symmetric_and_in_units_of_the_point():
    """Of a quartic: the third derivative cancels, the step is 1e-5 (1 + |u|)."""
    seen = []

    class Seen(Counted):
        def gradient(self, u):
            seen.append(u.clone())
            return super().gradient(u)

    point = torch.tensor([3.0, -1.0], dtype=torch.float64)
    density = Seen(lambda u: u[0] ** 4 + u[0] ** 2 * u[1])
    found = module._differences(density, point)
    expected = [[12 * 9.0 - 2.0, 6.0], [6.0, 0.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)
    assert torch.equal(found, found.T)
    moved = torch.stack(seen) - point
    steps = [[4e-5, 0], [0, 2e-5], [-4e-5, 0], [0, -2e-5]]
    np.testing.assert_allclose(moved, steps, rtol=1e-6, atol=1e-15)


def test_a_curvature_that_is_not_finite_either_way_is_none():
    point = torch.zeros(2).double()
    assert curvature(Counted(lambda u: torch.nan * u.sum()), point) is None
    flat = Counted(lambda u: u.sum() * torch.inf, hessian=torch.eye(2).double())
    assert curvature(flat, point) is None, "the gradient is infinite"


@pytest.mark.parametrize(
    ("values", "definite"),
    [
        ([1.0, 2.0], True),
        ([1.0, 1e12], True),
        ([1.0, 1.1e12], False),
        ([0.0, 1.0], False),
        ([-1.0, 1.0], False),
        ([1e-3, 1.0, 5.0], True),
    ],
)
def test_a_precision_is_definite_beyond_rounding(values, definite):
    assert at(values).definite is definite


@pytest.mark.parametrize(
    ("decrement", "settled"), [(0.0, True), (0.01, True), (0.011, False), (math.inf, False)]
)
def test_a_point_is_a_mode_where_newton_promises_next_to_nothing(decrement, settled):
    assert at([1.0, 2.0], decrement=decrement).settled is settled


def test_a_point_that_is_not_definite_is_no_mode():
    assert at([-1.0, 2.0]).settled is False


def test_the_mass_of_a_mode_is_that_of_the_normal_with_its_height_and_curvature():
    expected = -3.0 + 1.5 * math.log(2 * math.pi) - 0.5 * math.log(2.0 * 3.0 * 8.0)
    assert at([2.0, 3.0, 8.0], height=-3.0).log_mass == pytest.approx(expected)


def program(y):
    pyro.sample("m", dist.Normal(0.0, 1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(w.sum(), 1.0), obs=y)


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([1.0, 0, 0, 0, 0], "site 'm'"),
        ([0, 0, 0, -1.0, 0], "site 'w'[2]"),
        ([0.6, 0, 0, -1.0, 0], "site 'w'[2], site 'm'"),
        ([0.5, 0, 0, -1.0, 0], "site 'w'[2], site 'm'"),
        ([0.49, 0, 0, -1.0, 0], "site 'w'[2]"),
        ([0, 0.7, 0.8, 0.9, 1.0], "site 'w'[3], site 'w'[2], site 'w'[1] and 1 more"),
        ([0.6, 0.7, 0.8, 0.9, 1.0], "site 'w'[3], site 'w'[2], site 'w'[1] and 2 more"),
        ([0.1, 0.7, 0.8, 0, 1.0], "site 'w'[3], site 'w'[1], site 'w'[0]"),
    ],
)
def test_a_direction_is_named_by_its_largest_coordinates(vector, said):
    density = density_of(program, y=torch.zeros((), dtype=torch.float64))
    assert direction(density, torch.tensor(vector)) == said


def test_a_site_of_one_number_has_no_index_wherever_it_lies():
    def two(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    density = density_of(two, y=torch.zeros((), dtype=torch.float64))
    assert direction(density, torch.tensor([0.0, 1.0])) == "site 'b'"
