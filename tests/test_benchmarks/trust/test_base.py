"""The base of SMC for a guide: which components it has, where, and how wide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

from benchmarks.trust.base import smc_base
from zoo.density.log_density import LogDensity
from zoo.types import Data


def program():
    """Two modes, 0 and 30, with sds 1 and 0.5."""
    mixture = dist.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64))
    means = torch.tensor([0.0, 30.0], dtype=torch.float64)
    sds = torch.tensor([1.0, 0.5], dtype=torch.float64)
    pyro.sample("x", dist.MixtureSameFamily(mixture, dist.Normal(means, sds)))


def flat():
    x = pyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    pyro.factor("likelihood", -0.5 * x**2)


@pytest.fixture
def draws():
    return torch.randn(1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_components_shares_and_widths(draws):
    density = LogDensity(program, Data(train={}))
    mode = torch.tensor([30.0], dtype=torch.float64)
    base = smc_base(density, Data(train={}), draws, particles=1000, modes=[mode])
    assert [c.name for c in base.components] == ["guide", "mode 1", "prior"]
    assert base.counts == (600, 300, 100)
    guide, far, prior = base.components
    width = [float(c.metric.push(torch.ones(1, 1, dtype=torch.float64))) for c in (guide, far)]
    assert width[0] == pytest.approx(2 * float(draws.std()), rel=1e-6)
    assert width[1] == pytest.approx(2 * 0.5, rel=1e-4)  # twice the sd of the mode's curvature
    assert float(prior.metric.scale) == pytest.approx(15, rel=0.1)
    assert [c.freedom for c in base.components] == [7, 7, 3]


def test_heavy_weights_get_heavy_tails(draws):
    density = LogDensity(program, Data(train={}))
    for k_hat, freedom in ((0.4, 7), (0.8, 3)):
        base = smc_base(density, Data(train={}), draws, particles=100, k_hat=k_hat)
        assert base.components[0].freedom == freedom


def test_an_improper_prior_has_no_component(draws):
    base = smc_base(LogDensity(flat, Data(train={})), Data(train={}), draws, particles=100)
    assert [c.name for c in base.components] == ["guide"]


def test_a_point_that_is_no_mode_is_left_out(draws):
    density = LogDensity(program, Data(train={}))
    between = torch.tensor([15.0], dtype=torch.float64)  # the density is convex here
    base = smc_base(density, Data(train={}), draws, particles=100, modes=[between])
    assert [c.name for c in base.components] == ["guide", "prior"]
