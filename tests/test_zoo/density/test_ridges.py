"""Endless directions that no coordinate axis shows."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import ImproperUniform, constraints
from support.densities import density_of

from zoo.density import ridges as module
from zoo.density.ridges import flat_sites, has_flat_part, runaway, standardized, unchanging, widest

Y = torch.tensor([0.3, 1.4, 2.2], dtype=torch.float64)


def flat(shape=()):
    return ImproperUniform(constraints.real, (), ()).expand(shape)


class Plain:
    """A log density from a function of one point."""

    dtype = torch.float64

    def __init__(self, function, dim):
        self.function, self.dim, self.calls = function, dim, 0

    def eager_gradient(self, u):
        self.calls += 1
        u = u.detach().requires_grad_(True)
        value = self.function(u)
        return value.detach(), torch.autograd.grad(value, u)[0]


def test_flat_sites_are_those_of_an_improper_prior():
    def program(y):
        a = pyro.sample("a", flat())
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("three", 3):
            c = pyro.sample("c", ImproperUniform(constraints.real, (), ()))
        pyro.sample("y", dist.Normal(a + b + c, 1.0), obs=y)

    density = density_of(program, y=Y)
    assert flat_sites(density) == ["a", "c"]
    assert has_flat_part(density) is True
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(("factor", "found"), [(True, True), (False, False)])
def test_a_factor_is_a_flat_part_and_an_observation_is_none(factor, found):
    def program(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        if factor:
            pyro.factor("f", -a.abs())
        pyro.sample("y", dist.Normal(a, 1.0), obs=y.sum())

    density = density_of(program, y=Y)
    assert has_flat_part(density) is found
    assert flat_sites(density) == []


def test_an_observed_site_is_not_flat():
    density = density_of(lambda y: pyro.sample("a", dist.Normal(0.0, 1.0)), y=Y)
    node = {"is_observed": True, "fn": flat(), "name": "a", "mask": None}
    assert module._is_flat(density, node) is False
    assert module._is_flat(density, {**node, "is_observed": False}) is True
    plain = {**node, "is_observed": False, "fn": dist.Normal(0.0, 1.0)}
    assert module._is_flat(density, plain) is False


@pytest.mark.parametrize("way", ["mask", "handler", "entries"])
def test_a_prior_behind_a_mask_is_flat_where_the_data_hold_its_values(way):
    """Two masked priors of which the data know the sum alone: no posterior, and none was told."""

    def program(y):
        with pyro.poutine.mask(mask=way != "handler"):
            prior = dist.Normal(0.0, 1.0)
            a = pyro.sample("a", prior.mask(False) if way == "mask" else prior)
            hidden = torch.tensor([True, False])
            b = pyro.sample("b", prior.expand([2]).mask(hidden if way == "entries" else False))
        pyro.sample("y", dist.Normal(a + b.sum(), 1.0), obs=y.sum())

    density = density_of(program, y=Y)
    assert flat_sites(density) == (["b"] if way == "entries" else ["a", "b"])
    assert has_flat_part(density) is True
    found = unchanging(density)
    assert len(found) == (0 if way == "entries" else 2)
    assert float((found @ torch.ones(3, dtype=torch.float64)).abs().sum()) < 1e-9


def test_masked_entries_that_nothing_holds_have_a_proper_factor_and_are_not_flat():
    def program(y):
        with pyro.plate("two", 2), pyro.poutine.mask(mask=torch.tensor([True, False])):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[:2])

    density = density_of(program, y=Y)
    assert density.free["z"].tolist() == [False, True]
    assert flat_sites(density) == []
    assert has_flat_part(density) is False


def test_a_density_of_a_sum_is_constant_along_the_difference():
    density = Plain(lambda u: -((u[0] + 2 * u[1] - 1) ** 2) - u[2] ** 2, 3)
    found = unchanging(density)
    assert density.calls == 3 + 8
    assert found.shape == (1, 3)
    expected = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64) / math.sqrt(5.0)
    assert abs(float(found[0] @ expected)) == pytest.approx(1.0, abs=1e-9)
    assert unchanging(Plain(lambda u: -(u**4).sum(), 3)).shape == (0, 3)
    assert unchanging(Plain(lambda u: -(u[0] ** 2), 3)).shape == (2, 3)
    assert unchanging(Plain(lambda u: -(u[0] ** 2) - 1e-12 * u[1] ** 2, 2)).shape == (1, 2)
    assert unchanging(Plain(lambda u: -(u[0] ** 2) - 1e-6 * u[1] ** 2, 2)).shape == (0, 2)


def test_large_vectors_are_not_searched_for_constant_directions(monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    assert unchanging(Plain(lambda u: u[0], 3)).shape == (0, 3)
    assert unchanging(Plain(lambda u: u[0], 2)).shape == (1, 2)


def test_points_where_the_gradient_is_no_number_are_left_out():
    """Half of the points are outside; eight more than coordinates are tried."""
    half = Plain(lambda u: -(u[0] ** 2) * (1.0 if u[1] > 0 else torch.nan), 2)
    assert unchanging(half).shape == (1, 2)
    assert unchanging(Plain(lambda u: torch.nan * u.sum(), 3)).shape == (0, 3)

    def failing(u):
        raise ZeroDivisionError

    assert unchanging(Plain(failing, 2)).shape == (0, 2)


def test_a_climb_that_runs_off_has_a_direction():
    """A separated logistic regression: log sigmoid(3 a + 4 b) has no maximum."""
    separated = Plain(lambda u: 100 * torch.nn.functional.logsigmoid(3 * u[0] + 4 * u[1]), 2)
    found = runaway(separated)
    assert found.shape == (1, 2)
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.8], dtype=torch.float64))
    assert found.dtype == torch.float64


@pytest.mark.parametrize(("mode", "off"), [(24.0, False), (26.0, True), (-26.0, True)])
def test_a_climb_runs_off_beyond_25(mode, off):
    found = runaway(Plain(lambda u: -((u[0] - mode) ** 2), 1))
    assert found.tolist() == ([[math.copysign(1.0, mode)]] if off else [])


def test_a_climb_that_is_nowhere_finite_has_no_direction():
    assert runaway(Plain(lambda u: torch.nan * u.sum(), 2)).shape == (0, 2)


def test_the_widest_directions_are_those_of_the_finite_draws():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([1.0, 100.0, 10.0, 0.1], dtype=torch.float64)
    points = 1e6 + spread * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    points[3, 0] = torch.nan
    points[5, 1] = torch.inf
    found = widest(points)
    assert found.shape == (3, 4)
    for row, axis in enumerate((1, 2, 0)):
        assert abs(float(found[row, axis])) > 0.98
    single = widest(points.float()[:, :2])
    assert single.dtype == torch.float32
    assert widest(points[3:4]).shape == (0, 4)
    assert widest(points[:2]).shape == (2, 4)


def centered(y):
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", 3):
        z = pyro.sample("z", dist.Normal(m, scale))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_sites_of_latent_scale_are_drawn_in_standard_form():
    """log p at z = m + s z' differs by the Jacobian, log s for each of the three."""
    density = density_of(centered, y=Y)
    found = standardized(density)
    assert [s.name for s in found.sites] == ["m", "scale", "z_decentered"]
    m, log_scale, z = 0.5, 0.7, torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    start = torch.tensor([m, log_scale], dtype=torch.float64)
    value = found(torch.cat([start, z]))
    centered_at = density(torch.cat([start, m + math.exp(log_scale) * z]))
    assert float(value) == pytest.approx(float(centered_at) + 3 * log_scale)


def test_without_a_latent_scale_nothing_is_standardized():
    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 5.0))
        pyro.sample("rate", dist.Gamma(2.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", 3):
            z = pyro.sample("z", dist.Normal(m, 2.0))
            pyro.sample("y", dist.Normal(z, scale), obs=y)

    assert standardized(density_of(program, y=Y)) is None
