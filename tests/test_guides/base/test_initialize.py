"""The start of an optimization: its first point, its fixed-noise fit, its whitening."""

import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of

from guides.base import initialize as module
from guides.base.initialize import find_start, first_point, plain_start, unit_points
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.types import Data

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
FACTOR = torch.tensor([[2.0, 0, 0], [1.0, 3.0, 0], [-1.0, 0.5, 0.4]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T
PRECISION = COVARIANCE.inverse()


def normal(u):
    """The log density of a normal up to a constant, `[n, dim] -> [n]`."""
    return -0.5 * (((u - MEAN) @ PRECISION) * (u - MEAN)).sum(-1)


class Plain:
    """A log density from a function of `[n, dim]`."""

    def __init__(self, function, dim=3):
        self.function, self.dim, self.dtype = function, dim, torch.float64
        self.discrete, self.sites = ("some",), ()  # not local: units are not searched

    def batch_function(self):
        return self.function

    def hessian(self, u):
        def at(v):
            return self.function(v[None])[0]

        return torch.autograd.functional.hessian(at, u)

    def nonfinite_sites(self, point):
        return f"a point of {len(point)}"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def beyond(limit):
    """Finite only where some coordinate is farther out than a limit."""

    def function(u):
        far = u.abs().amax(-1)
        return torch.where(far > limit, -(u**2).sum(-1), torch.nan)

    return Plain(function, dim=50)


@pytest.mark.parametrize(
    ("limit", "radius", "tried"),
    [
        (-1.0, 0.1, 1),
        (0.05, 0.1, 1),
        (0.3, 0.1, 7),  # 0.5 follows four at the radius, 0.01 and 0
        (0.7, 0.1, 8),
        (1.5, 0.1, 9),
        (3.0, 0.1, 10),
        (3.0, 4.0, 1),
    ],
)
def test_the_first_point_is_tried_at_growing_radii(limit, radius, tried):
    point, spent = first_point(beyond(limit), generator(), radius)
    assert spent == tried
    largest = max(radius if tried == 1 else {7: 0.5, 8: 1.0, 9: 2.0, 10: 4.0}[tried], 0.0)
    assert max(limit, 0.8 * largest) < float(point.abs().max()) <= largest
    assert float(point.min()) < 0 < float(point.max())


@pytest.mark.parametrize(("radius", "tried", "size"), [(0.1, 5, 0.01), (0.02, 5, 0.01)])
def test_the_first_point_is_tried_near_zero_before_far_away(radius, tried, size):
    near = Plain(lambda u: torch.where(u.abs().amax(-1) <= 0.011, -u.sum(-1), torch.inf), dim=50)
    point, spent = first_point(near, generator(), radius)
    assert spent == tried
    assert 0.8 * size < float(point.abs().max()) <= size
    at_zero = Plain(lambda u: torch.where(u.abs().amax(-1) == 0, -u.sum(-1), torch.nan), dim=50)
    point, spent = first_point(at_zero, generator(), radius)
    assert (spent, float(point.abs().max())) == (6, 0.0)


def test_the_first_point_has_a_finite_gradient_too():
    """sqrt(|u|) has the value 0 and an infinite slope at 0: the point is not there."""
    steep = Plain(lambda u: -(0 * u).abs().sqrt().sum(-1))
    with pytest.raises(FitError):
        first_point(steep, generator(), 0.1)


def test_without_a_finite_point_the_message_names_the_site():
    never = Plain(lambda u: torch.nan * u.sum(-1))
    with pytest.raises(FitError) as caught:
        first_point(never, generator(), 0.1)
    assert str(caught.value) == (
        "The log density or its gradient is not finite at any of 10 starting points (radius 0 to 4"
        " in unconstrained space), first at a point of 3; check that site's scale, its data and"
        " its support."
    )


def test_a_plain_start_is_standard_normals_at_no_cost():
    start = plain_start(Plain(normal))
    assert start.loc.tolist() == [0.0] * 3
    assert start.scale.tolist() == [1.0] * 3
    assert start.loc.dtype == torch.float64
    assert (start.factor, start.gradients) == (None, 0)
    assert start.sentence == "started from standard normals"


# -- units ---------------------------------------------------------------------------------------


def units(n=3, stray=False, stuck=False):
    """Codes of n units whose squares are observed: two modes each, at +-2."""

    def program(y, index=None):
        with pyro.plate("unit", n, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z.square(), 0.1).to_event(1), obs=y)
        if stray:
            pyro.sample("other", dist.Normal(0.0, 1.0), obs=torch.zeros(()))

    y = torch.linspace(0.1, 2.0, 2 * n, dtype=torch.float64).reshape(n, 2)
    data = Data(train={"y": y}, observed=("y",), batched=("y",), size=n)
    return LogDensity(program, data), y


def test_each_unit_starts_at_its_own_best_of_the_draws_and_the_point(monkeypatch):
    density, y = units()
    point = torch.full((6,), 0.1, dtype=torch.float64)
    found, spent = unit_points(density, point, generator(3))
    draws = torch.cat([point[None], torch.randn(256, 6, generator=generator(3)).double()])
    draws[1:] = torch.randn(256, 6, generator=generator(3), dtype=torch.float64)
    for unit in range(3):
        own = draws.reshape(-1, 3, 2)[:, unit]
        height = torch.distributions.Normal(own**2, 0.1).log_prob(y[unit]).sum(-1)
        height += torch.distributions.Normal(0.0, 1.0).log_prob(own).sum(-1)
        assert torch.equal(found.reshape(3, 2)[unit], own[height.argmax()])
    assert spent == 257
    monkeypatch.setattr(module, "AT_ONCE", 2)  # fewer than the units: one draw at a time
    assert torch.equal(unit_points(density, point, generator(3))[0], found)
    monkeypatch.setattr(module, "EVALUATIONS", 31)
    assert unit_points(density, point, generator(3))[1] == 11  # 31 // 3, and the point


def test_the_given_point_is_one_of_the_candidates_and_nan_is_none():
    density, y = units()
    best = y.sqrt().reshape(-1)
    found, _ = unit_points(density, best, generator())
    height = density.batch(torch.stack([best, found]))
    assert float(height[1]) >= float(height[0])
    kept = found.reshape(3, 2) == best.reshape(3, 2)
    assert bool(kept.any())


def test_a_unit_whose_height_is_nan_is_not_chosen():
    def program(y, index=None):
        with pyro.plate("unit", 2, subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("f", torch.where(z > 0, torch.log(z.clamp(max=0)), -z.abs()) + 0 * y)

    data = Data(train={"y": torch.zeros(2).double()}, batched=("y",), size=2)
    density = LogDensity(program, data)
    found, _ = unit_points(density, torch.full((2,), -3.0).double(), generator())
    assert bool(((found < 0) & (found > -0.1)).all())


def test_units_are_not_searched_where_a_value_or_a_term_is_nobody_s():
    point = torch.full((6,), 0.1, dtype=torch.float64)
    density, _ = units(stray=True)
    found, spent = unit_points(density, point, generator())
    assert found is point
    assert spent == 0

    def shared(y):
        pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    density = density_of(shared, y=torch.zeros((), dtype=torch.float64))
    assert unit_points(density, point[:1], generator())[1] == 0


def test_units_are_not_searched_point_by_point(monkeypatch):
    density, _ = units()
    monkeypatch.setattr(density, "batch_function", lambda: SimpleNamespace(vectorized=False))
    assert unit_points(density, torch.zeros(6).double(), generator())[1] == 0


# -- the fit and the whitening -------------------------------------------------------------------


def noise(pairs=8, dim=3):
    half = torch.randn(pairs, dim, generator=generator(), dtype=torch.float64)
    return torch.cat([half, -half]) / half.square().mean(0).sqrt()


def test_a_fixed_noise_fit_of_a_normal_is_its_mean_and_the_conditional_spread():
    """With noise of mean 0 and mean square 1, b = -1/2 log of the precision's diagonal.

    Exactly so where the columns of the noise are orthogonal; here they are those of Hadamard.
    """
    half = torch.tensor([[1.0, 1, 1], [1, -1, 1], [1, 1, -1], [1, -1, -1]], dtype=torch.float64)
    both = torch.cat([half, -half])
    calls = []

    def counted(u):
        calls.append(len(u))
        return normal(u)

    origin, identity = torch.zeros(3).double(), torch.eye(3).double()
    loc, spread, spent = module._fixed_noise_fit(
        counted, origin, identity, torch.full_like(origin, -2.0), both, 400
    )
    torch.testing.assert_close(loc, MEAN, atol=1e-3, rtol=0)
    torch.testing.assert_close(spread, PRECISION.diagonal().rsqrt(), atol=0, rtol=1e-3)
    assert spent == sum(calls)
    loc, spread, _ = module._fixed_noise_fit(
        normal, MEAN + 1, FACTOR, torch.zeros_like(origin), both, 400
    )
    torch.testing.assert_close(loc, MEAN, atol=1e-3, rtol=0)
    torch.testing.assert_close(spread, torch.ones(3).double(), atol=0, rtol=1e-3)


def test_a_fixed_noise_fit_ends_after_so_many_evaluations():
    origin = torch.full((3,), 50.0).double()
    *_, few = module._fixed_noise_fit(
        normal, origin, torch.eye(3).double(), torch.zeros(3).double(), noise(), 3
    )
    *_, many = module._fixed_noise_fit(
        normal, origin, torch.eye(3).double(), torch.zeros(3).double(), noise(), 400
    )
    assert 3 * 16 <= few <= 24 * 16 < many  # scipy ends the line search it is in


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 9.0), (-1.0, -12.0)])
def test_a_scale_that_runs_away_stops_at_its_bound(sign, expected):
    """Where the density is flat the scale grows e^9 times; in a needle it shrinks e^-12."""

    def function(u):
        return 0 * u.sum(-1) if sign > 0 else -1e12 * u.square().sum(-1)

    start = torch.tensor([0.5], dtype=torch.float64)
    _, spread, _ = module._fixed_noise_fit(
        function, torch.zeros(1).double(), torch.eye(1).double(), start, noise(dim=1), 400
    )
    assert float(spread.log()) == pytest.approx(0.5 + expected, abs=1e-6)


def test_a_density_that_is_nowhere_finite_leaves_the_fit_where_it_began():
    origin, log_scale = MEAN.clone(), torch.full_like(MEAN, -2.0)
    loc, spread, spent = module._fixed_noise_fit(
        lambda u: torch.nan * u.sum(-1), origin, torch.eye(3).double(), log_scale, noise(), 50
    )
    assert torch.equal(loc, origin)
    assert torch.equal(spread, log_scale.exp())
    assert spent >= 16


def test_an_infinite_gradient_is_no_better_than_an_infinite_density():
    origin = torch.zeros(3).double()
    loc, *_ = module._fixed_noise_fit(
        lambda u: -(0 * u).abs().sqrt().sum(-1), origin, torch.eye(3).double(), origin, noise(), 9
    )
    assert torch.equal(loc, origin)


def test_the_bound_of_a_normal_over_common_noise():
    """mean_j log p(m + L e_j) + log |L|, in numpy."""
    points = MEAN + 1 + noise() @ FACTOR.T
    expected = float(normal(points).mean()) + math.log(2.0 * 3.0 * 0.4)
    found = module._elbo(normal, MEAN + 1, FACTOR, noise())
    assert found == pytest.approx(expected, rel=1e-12)
    assert module._elbo(lambda u: torch.nan * u[:, 0], MEAN, FACTOR, noise()) == -math.inf


def test_the_whitening_of_a_normal_is_its_own_factor():
    scale = torch.tensor([2.0, 0.5, 0.3], dtype=torch.float64)
    factor, spent = module._whitening(Plain(normal), normal, MEAN, scale, noise())
    torch.testing.assert_close(factor, FACTOR)
    assert spent == 3 + 5 * 16


def test_the_whitening_floors_the_curvature_in_units_of_the_scales():
    """log p = a^2 / 2 - 8 b^2 in a box that the noise leaves where the spread is too large.

    The curvature of a is -1; of the floors 1e-6, 0.01, 0.1, 0.5 that of the best bound is taken,
    here 0.5, an sd of sqrt 2 scales.
    """

    def saddle(u):
        a, b = u[:, 0], u[:, 1]
        return 0.5 * a**2 - 8 * b**2 - 0.2 * a**4

    eps = noise(dim=2)
    scale = torch.tensor([0.9, 0.25], dtype=torch.float64)
    factor, _ = module._whitening(
        Plain(saddle, dim=2), saddle, torch.zeros(2).double(), scale, eps
    )
    bounds = {
        floor: module._elbo(
            saddle, torch.zeros(2).double(), torch.diag(torch.tensor([s, 0.25]).double()), eps
        )
        for floor, s in [(f, 0.9 / math.sqrt(f)) for f in (1e-6, 0.01, 0.1, 0.5)] + [(None, 0.9)]
    }
    best = max(bounds, key=bounds.get)
    assert best in (0.5, None)
    expected = 0.9 if best is None else 0.9 / math.sqrt(0.5)
    torch.testing.assert_close(factor, torch.diag(torch.tensor([expected, 0.25]).double()))


def test_without_a_hessian_the_factor_is_the_scales(monkeypatch):
    scale = torch.tensor([2.0, 0.5, 0.3], dtype=torch.float64)
    broken = SimpleNamespace(dim=3, hessian=lambda u: torch.full((3, 3), torch.nan).double())
    factor, spent = module._whitening(broken, normal, MEAN, scale, noise())
    assert torch.equal(factor, torch.diag(scale))
    assert spent == 3
    monkeypatch.setattr(module, "HESSIAN_LIMIT", 2)
    factor, spent = module._whitening(Plain(normal), normal, MEAN, scale, noise())
    assert torch.equal(factor, torch.diag(scale))
    assert spent == 0


def counting(function):
    calls = [0]

    def counted(u):
        calls[0] += len(u)
        return function(u)

    return counted, calls


@pytest.mark.parametrize("seed", [0, 1])
def test_the_start_of_a_normal_is_that_normal(seed):
    counted, calls = counting(normal)
    start = find_start(Plain(counted), generator(seed))
    torch.testing.assert_close(start.loc, MEAN, atol=0.05, rtol=0)
    torch.testing.assert_close(start.tril @ start.tril.T, COVARIANCE, atol=0.05, rtol=0.02)
    np.testing.assert_allclose(start.scale, PRECISION.diagonal().rsqrt(), rtol=0.3)
    assert start.sentence == (
        f"started from a fixed-noise mean field after {start.gradients} gradients"
    )
    assert 0.8 * calls[0] < start.gradients < 1.2 * calls[0]


def test_the_scales_of_a_start_are_the_conditional_ones_where_these_are_better():
    """One evaluation leaves the scales at e^-2; the Hessian of a normal is right everywhere."""
    start = find_start(Plain(normal), generator(), evaluations=1)
    torch.testing.assert_close(start.scale, PRECISION.diagonal().rsqrt())
    torch.testing.assert_close(start.tril, FACTOR)


def test_a_large_start_is_a_mean_field(monkeypatch):
    monkeypatch.setattr(module, "HESSIAN_LIMIT", 2)
    start = find_start(Plain(normal), generator())
    torch.testing.assert_close(start.loc, MEAN, atol=1e-2, rtol=0)
    assert torch.equal(start.tril, torch.diag(start.scale))


def test_a_start_begins_within_its_radius():
    """One evaluation moves nothing: the location is still the first point."""
    seen = []

    def function(u):
        seen.append(u.detach().clone())
        return normal(u)

    find_start(Plain(function), generator(), radius=7.0, evaluations=1)
    assert 3.5 < float(seen[0].abs().max()) <= 7.0
    seen.clear()
    find_start(Plain(function), generator(), evaluations=1)
    assert float(seen[0].abs().max()) <= 0.1


def test_the_start_of_a_density_with_a_thin_valley_is_whitened_twice():
    """A banana: the second fit moves the location along the valley, and the bound improves."""

    def banana(u):
        a, b = u[:, 0], u[:, 1]
        return -0.5 * (a / 2) ** 2 - 0.5 * ((b - 0.5 * a**2) / 0.1) ** 2

    density = Plain(banana, dim=2)
    start = find_start(density, generator())
    eps = noise(pairs=500, dim=2)
    bound = module._elbo(banana, start.loc, start.tril, eps)
    diagonal = module._elbo(banana, start.loc, torch.diag(start.scale), eps)
    assert bound > -6.0
    assert bound >= diagonal - 1.0
