"""The ELBO on fixed draws: designs, slopes, Hessian, linear response, and what they cost."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from guides.base import fixed_draws
from guides.base.fixed_draws import DESIGNS, FixedDraws, Hessian, Place, linear_response
from guides.base.fixed_search import search
from zoo.density.log_density import LogDensity
from zoo.types import Data

UNLIMITED = {"target": 1e9, "budget": 10**9}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def skewed_density(tilt=0.0):
    """Two log-gamma coordinates that depend on each other, and tilt times the first."""
    y = torch.tensor([3.0, 1.0, 4.0], dtype=torch.float64)

    def program(y, index=None):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        size = pyro.sample("size", dist.Gamma(3.0, 2.0))
        pyro.factor("tilt", tilt * rate.log())
        with pyro.plate("row", 3):
            pyro.sample("y", dist.Poisson(rate * size), obs=y)

    return LogDensity(program, Data(train={"y": y}))


PLACE = Place(
    torch.tensor([0.3, -0.4], dtype=torch.float64), torch.tensor([-0.7, 0.1], dtype=torch.float64)
)


def plain(density, noise):
    """F written down once more, as a differentiable function of (m, xi)."""

    def function(x):
        u = x[:2] + x[2:].exp() * noise
        return -torch.stack([density(row) for row in u]).mean() - x[2:].sum()

    return function


@pytest.mark.parametrize("design", DESIGNS)
def test_value_slopes_and_hessian_are_those_of_the_formula(design):
    density = skewed_density()
    draws = FixedDraws(density, design, 8, generator())
    draws.grow(3)
    function, x = plain(density, draws.noise), torch.cat(PLACE)
    slopes = draws.slopes(PLACE)
    assert slopes.value == pytest.approx(float(function(x)), rel=1e-12)
    assert draws.value(PLACE) == pytest.approx(slopes.value, rel=1e-12)
    expected = torch.autograd.functional.jacobian(function, x)
    torch.testing.assert_close(slopes.gradient, expected, rtol=1e-9, atol=1e-9)
    curvature = torch.autograd.functional.hessian(function, x)
    torch.testing.assert_close(draws.hessian(PLACE).matrix, curvature, rtol=1e-9, atol=1e-9)


def test_differences_take_the_place_of_derivatives_that_do_not_exist(monkeypatch):
    draws = FixedDraws(skewed_density(), "matched", 8, generator())
    exact = draws.hessian(PLACE).matrix

    def broken(self, u, scale):
        raise NotImplementedError

    monkeypatch.setattr(FixedDraws, "_rows", broken)
    torch.testing.assert_close(draws.hessian(PLACE).matrix, exact, rtol=1e-6, atol=1e-6)


def test_every_row_of_every_batch_is_counted():
    density = skewed_density()
    draws = FixedDraws(density, "matched", 8, generator())
    draws.grow(3)
    for act, cost in ((draws.slopes, 24), (draws.hessian, 48), (draws.value, 0)):
        before = density.gradient_evaluations
        act(PLACE)
        assert density.gradient_evaluations - before == cost


def test_the_value_with_a_factor_is_that_of_its_normal():
    density = skewed_density()
    draws = FixedDraws(density, "matched", 8, generator())
    factor = torch.tensor([[0.5, 0.0], [0.3, 0.4]], dtype=torch.float64)
    place = Place(PLACE.loc, factor.diagonal().log())
    heights = density.batch(PLACE.loc + draws.noise @ factor.T)
    expected = -float(heights.mean() + factor.logdet())
    assert draws.value(place, factor) == pytest.approx(expected, rel=1e-12)


# -- designs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["matched", "mirrored"])
def test_odd_moments_of_mirrored_draws_vanish(design):
    z = DESIGNS[design][0](generator(), 12, 3)
    assert z.shape == (12, 3)
    for odd in (z, z**3, z[:, :1] * z[:, 1:2] * z[:, 2:]):
        torch.testing.assert_close(odd.mean(0), torch.zeros_like(odd[0]), rtol=0, atol=1e-14)
    pairs = z.reshape(6, 2, 3).sum(1)  # the mirror images are neighbors, in one unit
    assert float(pairs.abs().max()) == 0


@pytest.mark.parametrize(("number", "all_of_them"), [(6, True), (20, True), (4, False)])
def test_second_moments_of_matched_draws_are_those_of_the_normal(number, all_of_them):
    z = DESIGNS["matched"][0](generator(), number, 3)
    moments = z.T @ z / len(z)
    expected = torch.eye(3, dtype=torch.float64)
    if not all_of_them:  # too few pairs: the variances only
        moments = moments.diagonal().diag()
    torch.testing.assert_close(moments, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("design", DESIGNS)
def test_draws_are_standard_normal_and_follow_their_seed(design):
    make = DESIGNS[design][0]
    z = torch.cat([make(generator(seed), 16, 2) for seed in range(400)])
    assert float(z.mean().abs()) < 0.03
    assert float(z.square().mean()) == pytest.approx(1, abs=0.06)
    assert float((z.abs() < 0.6745).double().mean()) == pytest.approx(0.5, abs=0.06)
    assert torch.equal(make(generator(3), 16, 2), make(generator(3), 16, 2))
    assert not torch.equal(make(generator(3), 16, 2), make(generator(4), 16, 2))


def test_an_odd_number_of_mirrored_draws_is_rounded_up():
    draws = FixedDraws(skewed_density(), "mirrored", 7, generator())
    draws.grow(2)
    assert (draws.size, draws.blocks, len(draws.noise)) == (8, 2, 16)


# -- linear response and errors ------------------------------------------------------------------


def tilted_mean(tilt, seed=5):
    density = skewed_density(tilt)
    draws = FixedDraws(density, "mirrored", 16, generator(seed))
    found = search(density, draws, generator(seed), **UNLIMITED)
    return found


def response_by_tilting():
    """The derivative of the optimal mean with respect to a tilt of log p, on the same draws."""
    step = 1e-3
    ahead, behind = tilted_mean(step), tilted_mean(-step)
    return (ahead.place.loc - behind.place.loc) / (2 * step)


def test_linear_response_is_the_derivative_of_the_mean_by_a_tilt():
    found = tilted_mean(0.0)
    factor = linear_response(found.hessian)
    torch.testing.assert_close((factor @ factor.T)[0], response_by_tilting(), rtol=1e-4, atol=1e-5)
    assert float(factor.triu(1).abs().max()) == 0  # a Cholesky factor


def test_linear_response_without_the_schur_complement_would_be_noticed():
    mm = tilted_mean(0.0).hessian.matrix[:2, :2]
    wrong = mm.inverse()[0]
    assert float((wrong / response_by_tilting() - 1).abs().max()) > 0.01


def test_no_linear_response_where_the_hessian_is_not_definite():
    matrix = torch.diag(torch.tensor([1.0, -0.1, 2.0, 2.0], dtype=torch.float64))
    assert linear_response(Hessian(matrix=matrix, factor=None)) is None
    assert linear_response(Hessian(matrix=matrix.flip(0, 1), factor=None)) is None
    hessian = Hessian(matrix=matrix, factor=None)
    assert hessian.decrement(torch.ones(4, dtype=torch.float64)) == float("inf")
    assert bool(torch.isinf(hessian.errors(torch.ones(5, 4, dtype=torch.float64))).all())
    root = hessian.root()
    torch.testing.assert_close(root @ root.T, matrix.abs().inverse())


def test_one_unit_gives_no_error():
    matrix = torch.eye(4, dtype=torch.float64)
    hessian = Hessian(matrix=matrix, factor=matrix)
    assert bool(torch.isinf(hessian.errors(torch.ones(1, 4, dtype=torch.float64))).all())
    units = torch.tensor([[1.0], [3.0]], dtype=torch.float64).expand(2, 4)
    torch.testing.assert_close(hessian.errors(units), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("design", ["matched", "mirrored", "independent"])
def test_the_stated_error_is_the_spread_over_draws(design):
    density = skewed_density()
    locs, stated = [], []
    for seed in range(20):
        draws = FixedDraws(density, design, 16, generator(seed))
        found = search(density, draws, generator(seed), **UNLIMITED)
        factor = linear_response(found.hessian)
        locs.append(found.place.loc / factor.square().sum(1).sqrt())
        stated.append(found.errors)
    spread = torch.stack(locs).std(0)
    said = torch.stack(stated).square().mean(0).sqrt()
    # 20 optima and a few units each: a factor of 2 is 4 standard errors
    assert float((spread / said).log().abs().max()) < 0.7, (spread, said)
    most = {"matched": 0.02, "mirrored": 0.2, "independent": 0.5}[design]
    assert float(spread.max()) < most


def test_draws_that_are_not_mirrored_would_be_noticed(monkeypatch):
    monkeypatch.setitem(fixed_draws.DESIGNS, "mirrored", (fixed_draws.independent, 2))
    with pytest.raises(AssertionError):
        test_odd_moments_of_mirrored_draws_vanish("mirrored")
