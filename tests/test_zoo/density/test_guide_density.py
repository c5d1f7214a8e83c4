"""The density of a guide that draws a continuous site after a discrete one."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of

from zoo.density import guide_density as module
from zoo.density.guide_density import enumerated, order_of, summed_out
from zoo.errors import ProgramError

Y = torch.zeros((), dtype=torch.float64)


def program(y):
    k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    z = pyro.sample("z", dist.Normal(2.0 * k, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def before(y):
    k = pyro.sample("k", dist.Bernoulli(0.3))
    pyro.sample("z", dist.Normal(3.0 * k - 1.0, 0.5))


def after(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("k", dist.Bernoulli(logits=z))


def smooth(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_the_order_is_that_of_a_discrete_site_and_a_later_continuous_one():
    density = density_of(program, y=Y)
    assert order_of(before, density) == ("k", "z")
    assert order_of(after, density) is None
    assert order_of(before, density_of(smooth, y=Y)) is None

    def helped(y):
        k = pyro.sample("k", dist.Bernoulli(0.3))
        pyro.sample("help", dist.Normal(k, 1.0), infer={"is_auxiliary": True})

    assert order_of(helped, density) is None


def test_the_first_discrete_site_is_the_one_named():
    def two(y):
        a = pyro.sample("a", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        b = pyro.sample("b", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("z", dist.Normal(a + b, 1.0))

    def guide(y):
        pyro.sample("b", dist.Bernoulli(0.5))
        pyro.sample("a", dist.Bernoulli(0.5))
        pyro.sample("z", dist.Normal(0.0, 1.0))

    assert order_of(guide, density_of(two, y=Y)) == ("b", "z")


def test_finding_the_order_leaves_the_random_numbers_alone():
    density = density_of(program, y=Y)
    state = torch.get_rng_state()
    order_of(before, density)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


def test_the_sum_over_the_discrete_site_is_a_mixture():
    density = density_of(program, y=Y)
    found = summed_out(before, density)
    for z in (-1.3, 0.4, 2.5):
        terms = [
            math.log(p) - 0.5 * ((z - m) / 0.5) ** 2 - math.log(0.5 * math.sqrt(2 * math.pi))
            for p, m in ((0.7, -1.0), (0.3, 2.0))
        ]
        value = found(torch.tensor([z], dtype=torch.float64))
        assert float(value) == pytest.approx(np.logaddexp(*terms))
    assert summed_out(after, density) is None


def test_the_density_of_the_last_guide_is_kept():
    density = density_of(program, y=Y)
    found = summed_out(before, density)
    assert summed_out(before, density) is found
    assert density.of_guide == (before, found)
    assert summed_out(after, density) is None
    assert density.of_guide == (after, None)
    assert summed_out(before, density) is not found


def test_discrete_sites_before_continuous_ones_are_enumerated_in_the_guide():
    density = density_of(program, y=Y)

    def drawn(guide):
        with pyro.poutine.enum(first_available_dim=-1), torch.no_grad():
            trace = pyro.poutine.trace(enumerated(guide, density)).get_trace(y=Y)
        return trace.nodes["k"]["value"].shape

    assert drawn(before) == (2,)
    assert drawn(after) == ()


def refused(guide):
    with pytest.raises(ProgramError) as caught:
        summed_out(guide, density_of(program, y=Y))
    message = str(caught.value)
    start = "The guide draws 'z' after the discrete site 'k', which cannot be summed out of it: "
    end = (
        ". Draw discrete sites last, or give 'k' a distribution whose values can be enumerated and"
        " statements that take all of them at once, such as"
        " torch.cat([x.expand(*k.shape[:-1], -1), k], -1) in place of torch.cat([x, k], -1)."
    )
    assert message.startswith(start)
    assert message.endswith(end)
    return message[len(start) : -len(end)]


def test_a_further_site_is_no_part_of_the_sum():
    def further(y):
        k = pyro.sample("k", dist.Bernoulli(0.3))
        pyro.sample("z", dist.Normal(k, 0.5))
        pyro.sample("b", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    assert refused(further) == "it has the further site 'a'"


def test_statements_that_take_one_value_are_named():
    def branching(y):
        k = pyro.sample("k", dist.Bernoulli(0.3))
        pyro.sample("z", dist.Normal(1.0 if k > 0 else 0.0, 0.5))

    assert "one value" in refused(branching) or "ambiguous" in refused(branching)


def test_infinite_support_is_the_reason_as_it_is_said_elsewhere():
    def counting(y):
        k = pyro.sample("k", dist.Poisson(0.3))
        pyro.sample("z", dist.Normal(k, 0.5))

    with pytest.raises(ProgramError, match=r"^Discrete site 'k' \(Poisson\) has infinite support"):
        summed_out(counting, density_of(program, y=Y))


def test_a_fault_of_this_project_is_raised_as_it_is(monkeypatch):
    def broken(*_):
        raise KeyError("ours")

    monkeypatch.setattr(module, "_try_elbo", broken)
    monkeypatch.setattr(module, "is_own_fault", lambda error: isinstance(error, KeyError))
    with pytest.raises(KeyError, match="ours"):
        summed_out(before, density_of(program, y=Y))
    monkeypatch.setattr(module, "is_own_fault", lambda error: False)
    assert refused(before) == "'ours'"
