"""The flow: its log q is the density of its draws, it contains full-rank normals, it bends."""

import math

import pytest
import torch
from scipy import integrate

import guides
from guides.contract import checks
from guides.families.flow import FlowGuide
from zoo.errors import UsageError


def bent(dim, *, layers=4, size=0.3):
    """A flow with every parameter away from its identity start."""
    guide = FlowGuide(dim, layers=layers, hidden=8, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(
                size * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            )
        guide.origin.copy_(torch.linspace(-1, 1, dim, dtype=torch.float64))
        guide.tril.copy_(
            torch.eye(dim, dtype=torch.float64) * 0.7
            + 0.2 * torch.ones(dim, dim, dtype=torch.float64).tril(-1)
        )
    return guide


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_log_q_is_the_change_of_variables(dim):
    guide = bent(dim)
    noise = torch.randn(4, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, log_q = guide.sample(noise)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(
            lambda e: guide.sample(e[None])[0][0], noise[i]
        )
        normal = -0.5 * noise[i].square().sum() - 0.5 * dim * math.log(2 * math.pi)
        assert log_q[i].item() == pytest.approx(
            (normal - torch.linalg.slogdet(jacobian)[1]).item(), abs=1e-10
        )
    assert torch.allclose(guide.log_prob_flat(u), log_q, atol=1e-10)


def test_the_density_integrates_to_one():
    guide = bent(1)
    total, _ = integrate.quad(
        lambda v: math.exp(guide.log_prob_flat(torch.tensor([[v]], dtype=torch.float64)).item()),
        -40,
        40,
        limit=300,
    )
    assert total == pytest.approx(1.0, abs=1e-6)


def test_a_wrong_jacobian_would_be_seen(monkeypatch):
    guide = bent(3)
    u, log_q = guide.sample(torch.randn(4, 3, dtype=torch.float64))
    original = guide._coupling
    monkeypatch.setattr(
        guide,
        "_coupling",
        lambda p, layer, x: (original(p, layer, x)[0] * 1.01, original(p, layer, x)[1]),
    )
    assert (guide.log_prob_flat(u) - log_q).abs().max() > 1e-4


def test_sticking_leaves_the_value_and_removes_the_score():
    guide = bent(3)
    noise = torch.randn(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, plain = guide.sample(noise)
    _, stuck = guide.sample(noise, stl=True)
    assert torch.allclose(plain, stuck, atol=1e-9)
    # The two gradients of E[log q] differ by the score, whose mean is 0 and whose size is not.
    names, values = zip(*guide.named_parameters(), strict=True)
    differences = []
    for part in (plain - stuck).split(100):
        grads = torch.autograd.grad(part.mean(), values, retain_graph=True)
        differences.append(torch.cat([g.flatten() for g in grads]))
    score = torch.stack(differences)
    z = score.mean(0) / (score.std(0) / len(score) ** 0.5).clamp(min=1e-12)
    assert score.abs().max() > 1e-3
    assert z.abs().max() < 5
    assert len(names) == 9


def test_it_starts_as_the_full_rank_normal():
    guide = FlowGuide(3, layers=4, hidden=8, dtype=torch.float64)
    noise = torch.randn(6, 3, dtype=torch.float64)
    u, log_q = guide.sample(noise)
    assert torch.allclose(u, noise, atol=1e-12)
    assert torch.allclose(
        log_q, torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1), atol=1e-12
    )


def test_the_contract_holds(tiny):
    results = {
        check.name.split(".")[-1]: check.run() for check in checks(tiny.intercepts()[0], "flow")
    }
    assert len(results) == 6
    assert all(result.status != "failed" for result in results.values()), results


def test_it_bends_where_a_normal_cannot():
    """A curved posterior: x ~ N(0, 1), y | x ~ N(x^2, 0.3).

    The evidence is 1, so minus the ELBO is the KL to the posterior.
    """
    import pyro
    import pyro.distributions as dist

    import zoo

    def banana(half=None):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x**2, 0.3))
        pyro.sample("half", dist.Normal(0.0, 1.0), obs=half)

    entry = zoo.from_program(
        banana, {"half": torch.tensor(0.0, dtype=torch.float64)}, name="banana"
    )
    constant = 0.5 * math.log(2 * math.pi)
    options = {"steps": 900, "anneal": 400, "patience": 100, "compile": "off", "num_particles": 16}
    kl = {}
    for family in ("full_rank", "flow"):
        elbo = guides.fit(entry, family, seed=0, **options).elbo
        assert elbo.value_nats <= -constant + 5 * elbo.se  # a bound, whatever the family
        kl[family] = -constant - elbo.value_nats
    assert kl["full_rank"] > 0.5
    assert kl["flow"] < 0.3 * kl["full_rank"]  # 0.22 with this few steps


def test_bad_options_are_refused(tiny):
    with pytest.raises(UsageError, match="layers=-1"):
        guides.fit(tiny.intercepts()[0], "flow", layers=-1)


def test_a_width_that_changes_along_another_axis_is_matched(tiny):
    """y | x ~ Normal(0, exp(x)): the log width of y varies by several units."""
    import pyro
    import pyro.distributions as dist

    from zoo.types import Data

    def funnel(zero, index=None):
        x = pyro.sample("x", dist.Normal(zero, 1.0))
        pyro.sample("y", dist.Normal(zero, x.exp()))

    entry = tiny.entry(
        "funnel", lambda: Data(train={"zero": torch.zeros((), dtype=torch.float64)}), funnel
    )
    settings = {"steps": 500, "patience": 100, "anneal": 200, "num_particles": 32, "lr": 0.02}
    fit = guides.fit(entry, "flow", compile="off", **settings)
    # the evidence is 1; the best normal is 0.3 nats below it
    assert -0.06 < fit.elbo.value_nats - 4 * fit.elbo.se < fit.elbo.value_nats < 0.02
