"""The search on fixed draws: bad starts, curvature that does not exist, single precision."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from guides.base import fixed_search
from guides.base.fixed_draws import FixedDraws, Place
from guides.base.fixed_search import search
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.types import Data

LIMITS = {"target": 0.03, "budget": 3000}


def density_of(program, dtype=torch.float64):
    return LogDensity(program, Data(train={}), dtype=dtype)


def scaled():
    """Normals with sds 0.001 and 1,000, with a correlation of 0.9."""
    scales = torch.tensor([1e-3, 1e3])
    cov = torch.outer(scales, scales) * torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    pyro.sample("x", dist.MultivariateNormal(torch.tensor([2.0, 3000.0]), cov))


def draws_of(density, number=16):
    return FixedDraws(density, "matched", number, torch.Generator().manual_seed(1))


def found_in(density, **limits):
    generator = torch.Generator().manual_seed(2)
    return search(density, draws_of(density), generator, **{**LIMITS, **limits})


def test_units_do_not_matter():
    density = density_of(scaled)
    found = found_in(density)
    narrow = torch.tensor([1e-3, 1e3], dtype=torch.float64) * (1 - 0.9**2) ** 0.5
    torch.testing.assert_close(
        found.place.scale / narrow, torch.ones(2).double(), rtol=1e-4, atol=0
    )
    loc = torch.tensor([2.0, 3000.0], dtype=torch.float64)
    assert float(((found.place.loc - loc) / narrow).abs().max()) < 1e-3
    assert found.error < 1e-3
    assert density.gradient_evaluations < 1500


def test_single_precision_ends_too():
    def program():
        pyro.sample("x", dist.MultivariateNormal(torch.ones(3), torch.eye(3) + 0.5))

    found = found_in(density_of(program, torch.float32))
    assert found.place.loc.dtype == torch.float32
    assert float((found.place.loc - 1).abs().max()) < 1e-2
    assert found.hessian.decrement(found.slopes.gradient) < 1e-3


def test_a_far_start_with_wrong_units_is_left():
    density = density_of(scaled)
    draws = draws_of(density)
    far = Place(torch.tensor([2.01, 0.0]).double(), torch.tensor([-5.0, 4.0]).double())
    root = torch.diag(torch.tensor([1e-2, 1e2, 1.0, 1.0]).double())
    place, slopes, hessian = fixed_search._settle(draws, far, root, None)
    assert hessian.decrement(slopes.gradient) <= fixed_search.SETTLED
    assert float(place.loc[1]) == pytest.approx(3000.0, abs=1.0)


def test_a_hessian_that_is_not_finite_is_an_error(monkeypatch):
    monkeypatch.setattr(FixedDraws, "hessian", lambda self, place, draws=None: None)
    with pytest.raises(FitError, match="Hessian of the ELBO on fixed draws is not finite"):
        found_in(density_of(scaled))


def test_values_that_are_not_finite_are_never_the_best():
    def half_line():
        x = pyro.sample("x", dist.Normal(0.5, 0.2))
        pyro.factor("wall", torch.where(x > 0.0, 0.0, float("nan")).double())

    found = found_in(density_of(half_line))
    assert found.slopes.finite
    assert float(found.place.loc) == pytest.approx(0.5, abs=0.1)


def test_the_budget_ends_the_growth_but_not_the_first_descent():
    density = density_of(scaled)
    draws = FixedDraws(density, "independent", 8, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    found = search(density, draws, generator, target=1e-3, budget=1)
    assert len(draws.noise) == 8
    assert found.error > 1e-3
    assert found.hessian.decrement(found.slopes.gradient) <= 1e-6
