"""The base of tempered SMC: densities against scipy, gradients, and draws with their shares."""

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.mcmc.base_mixture import Component, Mixture
from benchmarks.mcmc.batched_hmc import Streams
from benchmarks.mcmc.metric import Metric
from tests.test_benchmarks.mcmc.test_metric import factor_draws
from zoo.errors import UsageError


def component(name="guide", share=1.0, at=0.0, dim=3, freedom=7, seed=0):
    metric = Metric.of(factor_draws(500, dim, seed)[0])
    center = torch.full((dim,), at, dtype=torch.float64)
    return Component(name=name, share=share, center=center, metric=metric, freedom=freedom)


@pytest.fixture
def mixture():
    return Mixture([component(share=0.6), component("mode", 0.4, 20.0, freedom=3, seed=1)], 1000)


def scipy_log(c, x):
    factor = c.metric.push(torch.eye(c.metric.dim, dtype=torch.float64)).T.numpy()
    law = stats.multivariate_t(c.center.numpy(), factor @ factor.T, df=c.freedom)
    return law.logpdf(x.numpy())


def test_densities_are_those_of_scipy(mixture):
    x = mixture.draw(Streams([3]))[::50]
    one, other = (scipy_log(c, x) for c in mixture.components)
    value, _ = mixture.value_and_gradient(x)
    np.testing.assert_allclose(value, np.logaddexp(np.log(0.6) + one, np.log(0.4) + other))
    np.testing.assert_allclose(mixture.components[1].log_prob(x), other)


def test_gradients_are_derivatives(mixture):
    x = mixture.draw(Streams([3]))[::50].requires_grad_(True)
    value, slope = mixture.value_and_gradient(x)
    (truth,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope.detach(), truth)


def test_weights_of_draws_integrate_a_density(mixture):
    """The mean of N(x) / q(x) over stratified draws is 1, the integral of the normal N."""
    x = mixture.draw(Streams(range(20)))
    scale = mixture.components[1].metric.scale.numpy()
    law = stats.multivariate_normal([20.0, 20.0, 20.0], np.diag((0.3 * scale) ** 2))
    weight = np.exp(law.logpdf(x.numpy()) - mixture.value_and_gradient(x)[0].numpy())
    islands = weight.reshape(20, 1000).mean(1)
    assert abs(islands.mean() - 1) < 4 * islands.std(ddof=1) / 20**0.5
    assert islands.std(ddof=1) < 0.5


def test_every_island_has_the_stated_shares(mixture):
    assert mixture.counts == (600, 400)
    near = mixture.nearest(mixture.draw(Streams([0, 1]))).reshape(2, 1000)
    assert ((near == 1).double().mean(1) - 0.4).abs().max() < 0.1
    assert sum(Mixture([component(share=s) for s in (0.6, 0.3, 0.1)], 1024).counts) == 1024


def test_an_empty_base_is_refused():
    with pytest.raises(UsageError, match="0 components and 10 particles; accepted: at least one"):
        Mixture([], 10)


def test_draws_are_those_of_a_t_distribution():
    """Squared distances over the dimension follow F(dim, freedom)."""
    part = component(dim=3, freedom=7)
    x = part.draw(Streams([1]), 4000)
    square = part.metric.whiten(x - part.center).square().sum(1) / 3
    assert stats.kstest(square.numpy(), stats.f(3, 7).cdf).pvalue > 1e-3
