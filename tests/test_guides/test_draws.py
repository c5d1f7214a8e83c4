"""Draws have the spread of their guide, bounds their error, and encoders move as a whole."""

import pytest
import torch

import guides
from guides.draws import estimate_elbo, weighted_draws
from guides.families.flow import FlowGuide
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.types import Data


@pytest.fixture
def density(tiny):
    entry, _ = tiny.gaussian(d=2)
    data = entry.load_data()
    return LogDensity(entry.program(data), data, dtype=entry.dtype)


@pytest.fixture
def guide():
    """An untrained flow is the normal of its buffers."""
    made = FlowGuide(2, layers=2, hidden=4, dtype=torch.float64)
    made.origin.copy_(torch.tensor([1.0, 1.0]))
    made.tril.copy_(torch.tensor([[0.8, 0.0], [0.5, 0.6]]))
    return made


def test_draws_of_a_flat_guide_have_its_own_sd(density, guide):
    number = 10_000
    with session(torch.float64):
        u, log_p, log_q = weighted_draws(guide, density, number, seed=0)
    covariance = guide.tril @ guide.tril.T
    sd = covariance.diagonal().sqrt()
    assert ((u.std(0) / sd - 1).abs() < 4 / (2 * number) ** 0.5).all()
    assert ((u.mean(0) - guide.origin).abs() < 4 * sd / number**0.5).all()
    known = torch.distributions.MultivariateNormal(guide.origin, covariance)
    torch.testing.assert_close(log_q, known.log_prob(u))
    torch.testing.assert_close(log_p, density.batch(u))


def test_the_error_of_a_bound_is_that_of_its_mean(density, guide):
    with session(torch.float64):
        many = [estimate_elbo(guide, density, 400, seed) for seed in range(100)]
        few = [estimate_elbo(guide, density, 100, seed) for seed in range(100)]
    values = torch.tensor([e.value_nats for e in many])
    # the sd of 100 estimates is known to 7 %
    assert float(values.std()) == pytest.approx(
        sum(e.se for e in many) / len(many), rel=4 / (2 * 100) ** 0.5
    )
    ratio = sum(e.se for e in many) / sum(e.se for e in few)
    assert ratio == pytest.approx(0.5, abs=0.02)
    cov = torch.full((2, 2), 0.9, dtype=torch.float64).fill_diagonal_(1.0)
    p = torch.distributions.MultivariateNormal(torch.ones(2, dtype=torch.float64), cov)
    q = torch.distributions.MultivariateNormal(guide.origin, guide.tril @ guide.tril.T)
    exact = -float(torch.distributions.kl_divergence(q, p))
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 100**0.5


def test_a_transferred_encoder_has_every_buffer_and_maps_alike(tiny):
    """Units in another order are encoded as in the first one."""
    import pyro
    import pyro.distributions as dist

    y = torch.linspace(-3, 5, 8, dtype=torch.float64)

    def program(y, index=None):
        with pyro.plate("row", len(y), subsample=index):
            z = pyro.sample("z", dist.Normal(2.0, 3.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    entry = tiny.entry(
        "local",
        lambda: Data(train={"y": y}, batched=("y",), size=8),
        program,
        amortize=lambda tensors: tensors["y"].unsqueeze(-1),
    )
    fit = guides.fit(
        entry, "amortized", steps=60, patience=10, anneal=20, num_particles=4, compile="off"
    )
    order = torch.tensor([5, 0, 7])
    moved = guides.transfer(fit, Data(train={"y": y[order]}, batched=("y",), size=3)).guide
    own = {n: b for n, b in fit.guide.named_buffers() if n not in ("features", "places")}
    others = dict(moved.named_buffers())
    changed = [n for n in ("feature_mean", "feature_sd", "center", "spread", "base")]
    assert all(torch.equal(own[n], others[n]) for n in changed)
    assert float(own["spread"]) != 1.0  # what is not carried over would be told apart
    assert float(own["feature_sd"]) != 1.0
    for mine, theirs in zip(
        fit.guide.encode(y[order, None]), moved.encode(y[order, None]), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    noise = torch.zeros(1, 8, dtype=torch.float64)
    torch.testing.assert_close(
        fit.guide.sample(noise)[0][0, order], moved.sample(noise[:, :3])[0][0]
    )
