"""Climbs and curvature: a ring, a density without a mode, and what is to blame."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
import zoo
from guides.base.modes import climb, curvature, direction
from guides.families.laplace import _end
from zoo.density.log_density import LogDensity


def density_of(program):
    entry = zoo.from_program(program, {})
    data = entry.load_data()
    return entry, LogDensity(entry.program(data), data)


def correlated():
    cov = torch.tensor([[4.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    pyro.sample("x", dist.MultivariateNormal(torch.tensor([3.0, -2.0]).double(), cov))


def test_the_mass_of_a_normal_is_one():
    _, density = density_of(correlated)
    end = climb(density, torch.tensor([50.0, 80.0], dtype=torch.float64))
    found = curvature(density, end.point)
    assert found.settled
    assert found.log_mass == pytest.approx(0.0, abs=1e-8)
    assert torch.allclose(end.point, torch.tensor([3.0, -2.0], dtype=torch.float64), atol=1e-5)
    assert end.gradients == density.gradient_evaluations - density.dim - 1


def test_a_hessian_that_overflows_is_taken_by_differences():
    """The second derivative of `logaddexp` is NaN where its sides differ by 800 nats."""

    def program():
        x = pyro.sample("x", dist.Normal(0.0, 30.0))
        pyro.factor("f", torch.logaddexp(-0.5 * (x - 20) ** 2, -0.5 * (x + 20) ** 2))

    _, density = density_of(program)
    mode = torch.tensor([20 / (1 + 1 / 900)], dtype=torch.float64)
    assert not torch.isfinite(density.eager_hessian(mode)).all()
    found = curvature(density, mode)
    assert found.values.item() == pytest.approx(1 + 1 / 900, rel=1e-6)
    assert found.settled


def ring():
    x = pyro.sample("x", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    pyro.factor("f", -0.5 * ((x.norm() - 5) / 0.3) ** 2)


def test_a_singular_hessian_is_floored_and_marked():
    """On a ring the width across is that of the curvature; along it there is none."""
    entry, _ = density_of(ring)
    fit = guides.fit(entry, "laplace", seed=0)
    assert fit.stop.status == "ok"
    assert "singular there along site 'x'" in fit.stop.sentence
    assert "1 of 2 eigenvalues are floored" in fit.stop.sentence
    x = guides.draw(fit, 4000).draws["x"]
    widths = torch.linalg.eigvalsh(x.T.cov()).sqrt()
    assert 0.27 < float(widths[0]) < 0.33  # 0.3 across, but for the prior
    # log evidence of the ring: 2 pi r dr, width 0.3, prior N(0, 10)
    grid = torch.linspace(0.0, 8.0, 80_001, dtype=torch.float64)
    log_z = float(
        (
            grid.log()
            - 0.5 * ((grid - 5) / 0.3) ** 2
            - grid**2 / 200
            + math.log(2 * math.pi)
            - math.log(2 * math.pi * 100)
        ).logsumexp(0)
        + torch.log(grid[1] - grid[0])
    )
    assert fit.elbo.value_nats <= log_z + 4 * fit.elbo.se
    assert fit.elbo.value_nats > log_z - 3


def test_an_unidentified_sum_is_floored():
    def program(y=None):
        a, b = (
            pyro.sample(name, dist.ImproperUniform(dist.constraints.real, (), ()))
            for name in ("a", "b")
        )
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    fit = guides.fit(zoo.from_program(program, {"y": torch.tensor(1.0)}), "laplace", seed=0)
    assert "floored" in fit.stop.sentence
    draws = guides.draw(fit, 4000).draws
    assert float((draws["a"] + draws["b"]).std()) == pytest.approx(1.0, abs=0.06)


def rising():
    pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.factor("f", b)


def plateau():
    """Level on the left without end, falling on the right: no mode, and no slope either."""
    pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.factor("f", -torch.nn.functional.softplus(b))


def test_a_direction_that_is_level_on_one_side_is_no_mode():
    entry, _ = density_of(plateau)
    fit = guides.fit(entry, "laplace", seed=0)
    assert fit.stop.status == "init_failed"
    assert "No mode from 4 starts" in fit.stop.sentence
    assert "site 'b'" in fit.stop.sentence


def test_a_density_without_a_mode_is_refused_by_the_site_that_runs_away():
    entry, _ = density_of(rising)
    fit = guides.fit(entry, "laplace", seed=0)
    assert fit.stop.status == "init_failed"
    assert fit.stop.sentence.startswith("No mode from 4 starts")
    assert "site 'b' runs away" in fit.stop.sentence
    assert fit.cost.gradient_evaluations < 2000  # what ran away is not climbed again


@pytest.mark.parametrize(
    ("name", "site"), [("eight_schools_centered", "tau"), ("random_intercepts", "group_scale")]
)
def test_a_hierarchy_without_a_mode_names_its_scale(name, site, monkeypatch):
    # a step of one of its climbs takes fourteen gradients, thousands in all
    short = functools.partial(climb, evaluations=600)
    monkeypatch.setattr("guides.families.laplace.climb", short)
    fit = guides.fit(zoo.load(name), "laplace", seed=0)
    assert fit.stop.status == "init_failed"
    assert f"site '{site}' runs away" in fit.stop.sentence


def test_a_saddle_is_left():
    """Two wells at +-2 along y; a start between them settles at the saddle first."""

    def program():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        y = pyro.sample("y", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.factor("f", -((y**2 - 4) ** 2) / 8 + 0.0 * x)

    _, density = density_of(program)
    _, found = _end(density, torch.tensor([0.7, 0.0], dtype=torch.float64))
    assert found.settled
    assert abs(float(found.point[1])) == pytest.approx(2.0, abs=1e-4)


def test_a_direction_is_named_by_what_makes_it_up():
    def program():
        pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    _, density = density_of(program)
    assert direction(density, torch.tensor([0.1, 0.0, 0.9, 0.0])) == "site 'w'[1]"
    assert direction(density, torch.tensor([0.7, 0.0, 0.0, -0.7])) == "site 'm', site 'w'[2]"
    assert direction(density, torch.ones(4)).endswith("and 1 more")
