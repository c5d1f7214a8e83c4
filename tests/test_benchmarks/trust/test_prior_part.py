"""The prior as a part of a base: its density beside closed forms, and its draws."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints

import zoo
from benchmarks.mcmc.base_mixture import Component, Mixture
from benchmarks.mcmc.batched_hmc import Streams
from benchmarks.mcmc.metric import Metric
from benchmarks.trust import prior_part as module
from benchmarks.trust.prior_part import Direct, direct, prior_part
from zoo.density.log_density import LogDensity
from zoo.types import Data

Y = torch.tensor([0.3, -0.2, 1.5], dtype=torch.float64)
EMPTY = Data(train={})


def f64(value):
    return torch.tensor(value, dtype=torch.float64)


def hierarchy():
    """A scale, and three places of that scale, with one observation each."""
    tau = pyro.sample("tau", dist.HalfNormal(f64(2.0)))
    with pyro.plate("rows", 3):
        theta = pyro.sample("theta", dist.Normal(f64(0.0), tau))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=Y)


def log_prior(u):
    """The same by hand: tau = exp(u_0), theta = u_1, u_2, u_3."""
    tau = u[:, :1].exp()
    scale = torch.distributions.HalfNormal(f64(2.0)).log_prob(tau) + u[:, :1]
    places = torch.distributions.Normal(f64(0.0), tau).log_prob(u[:, 1:])
    return torch.cat([scale, places], 1).sum(1)


def points(n, dim, seed=0):
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_density_is_that_of_the_sites_with_their_jacobian():
    part = prior_part(LogDensity(hierarchy, EMPTY), EMPTY, 0.3)
    u = points(20, 4)
    torch.testing.assert_close(part.log_prob(u), log_prior(u))
    value, slope = part.value_and_gradient(u)
    leaf = u.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(log_prior(leaf).sum(), leaf)
    torch.testing.assert_close(value, log_prior(u))
    torch.testing.assert_close(slope, expected)


def test_weights_and_masks_of_data_change_a_posterior_and_not_its_prior():
    def weighted():
        tau = pyro.sample("tau", dist.HalfNormal(f64(2.0)))
        with pyro.plate("rows", 3):
            theta = pyro.sample("theta", dist.Normal(f64(0.0), tau))
            with poutine.mask(mask=torch.tensor([True, False, True])), poutine.scale(scale=3.0):
                pyro.sample("y", dist.Normal(theta, 1.0), obs=Y)

    u = points(5, 4)
    part = prior_part(LogDensity(weighted, EMPTY), EMPTY, 0.3)
    torch.testing.assert_close(part.log_prob(u), log_prior(u))


@pytest.mark.parametrize(
    "name", ["linear_regression", "eight_schools_centered", "weibull_survival"]
)
def test_what_is_left_of_the_joint_density_is_the_likelihood(name):
    entry = zoo.load(name)
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    u = 0.3 * points(4, density.dim)
    terms = density.pointwise(density.constrain(u))
    likelihood = sum(v.reshape(4, -1).sum(1) for v in terms.values())
    joint = torch.stack([density(row) for row in u])
    torch.testing.assert_close(prior_part(density, data, 0.3).log_prob(u), joint - likelihood)


def test_draws_have_the_density():
    """A beta distribution in logits: mean and sd by quadrature of exp(log pi)."""
    entry = zoo.load("coin")
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    part = prior_part(density, data, 0.3)
    grid = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    weight = part.log_prob(grid[:, None]).exp() * 80 / 40_000
    assert float(weight.sum()) == pytest.approx(1.0, abs=1e-6)
    mean = float((weight * grid).sum())
    sd = float((weight * (grid - mean) ** 2).sum()) ** 0.5
    u = part.draw(Streams([0]), 2000)[:, 0]
    assert abs(float(u.mean()) - mean) < 4.5 * sd / 2000**0.5
    assert float(u.std()) == pytest.approx(sd, rel=0.1)


def test_draws_of_an_island_are_its_own():
    part = prior_part(LogDensity(hierarchy, EMPTY), EMPTY, 0.3)
    two, one = part.draw(Streams([5, 6]), 40), part.draw(Streams([6]), 40)
    assert torch.equal(two[40:], one)
    assert not torch.equal(two[:40], one)
    assert len(two[:, 0].unique()) == 80
    many = part.draw(Streams([7]), 2000)
    tau = many[:, 0].exp()
    assert abs(float(tau.square().mean()) - 4.0) < 4.5 * 4 * 2**0.5 / 2000**0.5


def flat():
    x = pyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    pyro.factor("likelihood", -0.5 * x**2)


def mixed():
    z = pyro.sample("z", dist.Bernoulli(f64(0.3)))
    pyro.sample("x", dist.Normal(3.0 * z, f64(1.0)))


def turning():
    pyro.sample("angle", dist.VonMises(f64(0.0), f64(1.0)))


def masked():
    with poutine.mask(mask=False):
        pyro.sample("x", dist.Normal(f64(0.0), 1.0))
    pyro.sample("y", dist.Normal(f64(0.0), 1.0))


def branching():
    x = pyro.sample("x", dist.Normal(f64(0.0), 1.0))
    pyro.sample("y", dist.Normal(f64(0.0), 1.0 if float(x) > 0 else 2.0), obs=f64(0.5))


def overflowing():
    pyro.sample("x", dist.LogNormal(f64(0.0), 500.0))


@pytest.mark.parametrize("program", [flat, mixed, turning, masked, branching, overflowing])
def test_where_the_density_is_not_that_of_draws_there_is_no_part(program):
    assert prior_part(LogDensity(program, EMPTY), EMPTY, 0.3) is None


def base_of(density, data, center, share=0.3, particles=1024):
    guide = Component(
        name="guide", share=0.6, center=center, metric=Metric.diagonal(torch.ones_like(center))
    )
    return Mixture([guide, prior_part(density, data, share)], particles)


def test_the_evidence_by_draws_of_the_base_alone():
    """A coin: log B(a + heads, b + tails) - log B(a, b), which the entry knows."""
    entry = zoo.load("coin")
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    found = direct(density, base_of(density, data, torch.zeros(1, dtype=torch.float64)), seed=0)
    truth = entry.exact(data).log_evidence
    assert abs(found.value - truth) < 4 * found.se + 1e-3
    assert found.se < 0.05
    assert found.enough
    assert found.confirms(truth + 3 * found.se, 0.0)
    assert found.confirms(truth + 0.5, 0.2)
    assert not found.confirms(truth + 0.5, 0.01)
    # with u_i the weights, 1 / n (sum u)^2 / sum u^2 - 1 is their relative variance
    assert found.se == pytest.approx(math.sqrt(1 / found.ess - 1 / 8192))


def test_draws_without_weight_are_not_enough():
    """Data 40 sds from the prior: one draw has all of the weight."""

    def program():
        x = pyro.sample("x", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x, 1e-3).to_event(1), obs=torch.full((3,), 40.0).double())

    density = LogDensity(program, EMPTY)
    base = base_of(density, EMPTY, torch.zeros(3, dtype=torch.float64), particles=256)
    found = direct(density, base, seed=0, points=512)
    assert found.ess < 5
    assert not found.enough
    assert not found.confirms(found.value, 1.0)


def test_a_density_that_is_zero_everywhere_confirms_nothing(monkeypatch):
    found = Direct(value=-math.inf, ess=0.0, se=math.inf)
    assert not found.confirms(0.0, 0.1)
    assert module.ENOUGH == 100


def test_equal_weights_give_the_evidence_exactly():
    """A program without data whose base is its prior: every weight is one."""
    density = LogDensity(lambda: pyro.sample("x", dist.Normal(f64(1.0), 2.0)), EMPTY)
    base = Mixture([prior_part(density, EMPTY, 1.0)], 64)
    found = direct(density, base, seed=0, points=128)
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.ess == pytest.approx(128.0)
    assert found.se == pytest.approx(0.0, abs=1e-6)
