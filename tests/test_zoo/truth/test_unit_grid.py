"""Exact posteriors of the rows of a program, on a grid."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of

from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.truth import unit_grid as module
from zoo.truth.unit_grid import exact_units, flat, grid_of
from zoo.types import Data

Y = torch.tensor([0.6, -1.4, 2.2, 0.0], dtype=torch.float64)


def conjugate(width=1, noise=0.5):
    """z ~ N(1, 1) in each of `width` coordinates, y ~ N(z_1, noise): log p(y) in closed form."""

    def program(y, index=None):
        with pyro.plate("unit", 4, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.ones(width), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z[..., 0], noise), obs=y)

    return LogDensity(program, Data(train={"y": Y}, observed=("y",), batched=("y",), size=4))


def evidence():
    return torch.distributions.Normal(1.0, math.sqrt(1.25)).log_prob(Y)


def test_the_prior_is_part_of_the_terms():
    assert flat(torch.ones(3, 2)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("width", "points"), [(1, 1001), (2, 101), (3, 31)])
def test_the_grid_of_a_program_has_its_default_points(width, points):
    grid = grid_of(conjugate(width))
    assert (grid.latent, grid.number) == (width, points)
    assert grid_of(conjugate(width), 7).number == 7


def test_the_box_is_that_of_the_prior_of_some_rows():
    """A normal around 1 falls by 24.5 nats at 8, one of the radii tried."""
    assert grid_of(conjugate(), 5).half_width == pytest.approx(8.0)


def test_the_evidence_of_rows_is_that_of_the_normal():
    grid = grid_of(conjugate(), 201)
    x = torch.arange(4.0, dtype=torch.float64)[:, None]
    torch.testing.assert_close(grid.log_evidence(x), evidence())


def test_a_program_with_shared_values_has_no_grid():
    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    density = density_of(program, y=Y[0])
    assert exact_units(density) is None
    for found, sites in ((density, "['m']"), (conjugate(4), "['z']")):
        with pytest.raises(FitError) as caught:
            grid_of(found)
        assert str(caught.value) == (
            "A grid needs 1 to 3 latent values per row and none outside the plate of the rows; the"
            f" sites are {sites}."
        )


def test_the_exact_posterior_of_every_row():
    """Mean (1 + y / 0.25) / 5 and variance 1/5; draws of 4 rows in one go."""
    found = exact_units(conjugate())
    assert found.log_evidence == pytest.approx(float(evidence().sum()), rel=1e-7)
    draws = found.sample(3000, 5)["z"]
    assert draws.shape == (3000, 4, 1)
    mean, sd = (1 + Y / 0.25) / 5, math.sqrt(0.2)
    assert bool(((draws.mean(0)[:, 0] - mean).abs() < 5 * sd / math.sqrt(3000)).all())
    np.testing.assert_allclose(draws.std(0)[:, 0], sd, rtol=0.08)
    correlation = np.corrcoef(draws[..., 0].numpy().T) - np.eye(4)
    assert np.abs(correlation).max() < 5 / math.sqrt(3000), "rows have noise of their own"
    assert torch.equal(draws[:3], found.sample(3000, 5)["z"][:3])
    assert not torch.equal(draws[:3], found.sample(3000, 6)["z"][:3])


def test_two_sites_of_a_row_are_put_where_they_belong():
    """scale and z of each row, whose prior means are far apart; no data."""

    def program(y, index=None):
        with pyro.plate("unit", 4, subsample=index):
            pyro.sample("low", dist.Normal(-2.0, 0.5))
            pyro.sample("high", dist.Normal(2.0, 0.5))
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    density = LogDensity(program, Data(train={"y": Y}, observed=("y",), batched=("y",), size=4))
    draws = exact_units(density).sample(200, 0)
    assert draws["low"].shape == draws["high"].shape == (200, 4)
    assert bool((draws["low"].mean(0) < -1.8).all())
    assert bool((draws["high"].mean(0) > 1.8).all())


@pytest.mark.parametrize(("width", "points"), [(1, 801), (2, 161), (3, 49)])
def test_draws_come_from_a_finer_grid_around_each_row(width, points):
    assert module.FINE[width] == points
    assert module.PRIORS == 8


def test_a_grid_that_is_not_fine_enough_gives_nothing(monkeypatch):
    class Coarse:
        def sufficient(self, x):
            return self

        def check(self, x):
            return type("Check", (), {"ok": False})

    monkeypatch.setattr(module, "grid_of", lambda density: Coarse())
    assert exact_units(conjugate()) is None
