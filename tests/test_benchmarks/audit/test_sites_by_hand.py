"""Integrals, Jacobians and free coordinates of sites, against closed forms."""

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, constraints

from benchmarks.audit import sites
from zoo.contract.subject import Skipped


def integral(fn):
    return sites.integral({"fn": fn})


# --- integrals


@pytest.mark.parametrize(
    "fn",
    [
        dist.Normal(torch.tensor([0.0, 100.0]).double(), torch.tensor([1e-3, 50.0]).double()),
        dist.Gamma(torch.tensor(2.0).double(), torch.tensor(3.0).double()),
        dist.Uniform(torch.tensor(-1.0).double(), torch.tensor(5.0).double()),
        dist.Poisson(torch.tensor([0.3, 40.0]).double()),
        dist.Bernoulli(torch.tensor([0.1, 0.9]).double()),
        dist.Categorical(torch.tensor([0.2, 0.3, 0.5]).double()),
        dist.Binomial(torch.tensor([3.0, 7.0]).double(), torch.tensor(0.4).double()),
        dist.Normal(torch.zeros(3).double(), 1.0).to_event(1),
    ],
)
def test_a_proper_density_has_the_integral_one(fn):
    inner = fn.base_dist if isinstance(fn, dist.Independent) else fn
    found = integral(fn)
    assert found.shape == inner.batch_shape
    assert torch.allclose(found, torch.ones_like(found), atol=1e-5)


class Doubled(dist.Normal):
    """A density that was not normalized: exactly twice a normal."""

    def log_prob(self, value):
        return super().log_prob(value) + math.log(2.0)


class Missing(dist.Poisson):
    """A distribution of counts whose probabilities above five are lost."""

    def log_prob(self, value):
        return torch.where(value > 5, -math.inf, super().log_prob(value))


def test_a_density_that_is_not_normalized_has_its_own_integral():
    assert float(integral(Doubled(torch.tensor(1.0).double(), 2.0))) == pytest.approx(2.0)
    rate = torch.tensor(4.0).double()
    kept = sum(math.exp(-4) * 4.0**k / math.factorial(k) for k in range(6))
    assert float(integral(Missing(rate))) == pytest.approx(kept)


@pytest.mark.parametrize(
    "fn",
    [
        dist.MultivariateNormal(torch.zeros(2), torch.eye(2)),
        dist.Delta(torch.tensor(1.0)),
        dist.Unit(torch.tensor(0.5)),
        dist.ImproperUniform(constraints.real, (), ()),
        dist.Normal(torch.zeros(10**7), 1.0),
        dist.Poisson(torch.tensor(1e9)),
    ],
)
def test_what_cannot_be_integrated_is_none(fn):
    assert integral(fn) is None


# --- free coordinates


def test_all_but_the_last_of_a_simplex_are_free():
    value = torch.arange(6.0).reshape(2, 3)
    assert sites._free("s", value, 6) is value
    assert sites._free("s", value, 4).tolist() == [[0, 1], [3, 4]]
    assert sites._free("s", torch.tensor([0.2, 0.8]), 1).tolist() == [pytest.approx(0.2)]


def test_the_lower_triangle_of_a_factor_is_free():
    value = torch.arange(9.0).reshape(3, 3)
    assert sites._free("L", value, 6).tolist() == [0, 3, 4, 6, 7, 8]
    assert sites._free("L", value, 3).tolist() == [3, 6, 7]
    two = torch.arange(18.0).reshape(2, 3, 3)
    assert sites._free("L", two, 6).tolist() == [[3, 6, 7], [12, 15, 16]]


@pytest.mark.parametrize(
    ("value", "number"), [(torch.zeros(3, 3), 5), (torch.zeros(2, 3), 5), (torch.zeros(4), 2)]
)
def test_other_forms_are_skipped(value, number):
    with pytest.raises(Skipped) as caught:
        sites._free("odd", value, number)
    assert str(caught.value) == (
        f"Site 'odd' has {value.numel()} values with {number} free ones, in a form that this check"
        " does not know."
    )


def site(support, start, stop):
    transform = biject_to(support)
    return SimpleNamespace(name="s", transform=transform, part=lambda u: u[start:stop])


def test_the_jacobian_is_that_of_all_sites_together():
    """exp has log |det| = sum of u; a simplex that of its own transform."""
    u = torch.tensor([0.3, -0.7, 0.2, 0.9]).double()
    positive = site(constraints.positive, 0, 2)
    simplex = site(constraints.simplex, 2, 4)
    density = SimpleNamespace(sites=[positive])
    assert float(sites.auto_jacobian(density, u)) == pytest.approx(-0.4)
    raw = u[2:4]
    own = simplex.transform.log_abs_det_jacobian(raw, simplex.transform(raw)).sum()
    both = SimpleNamespace(sites=[positive, simplex])
    assert float(sites.auto_jacobian(both, u)) == pytest.approx(-0.4 + float(own))


# --- the joint density


def test_masked_terms_do_not_count_and_all_others_do():
    y = torch.tensor([0.5, -1.0, 2.0]).double()
    seen = torch.tensor([True, False, True])

    def program(y):
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0).double(), 2.0))
        with pyro.plate("row", 3), pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    subject = SimpleNamespace(
        entry=SimpleNamespace(dtype=torch.float64),
        program=program,
        data=SimpleNamespace(train={"y": y}),
        density=SimpleNamespace(dtype=torch.float64),
        sites=lambda trace: [
            n
            for n in trace.nodes.values()
            if n["type"] == "sample"
            and not isinstance(n["fn"], pyro.poutine.subsample_messenger._Subsample)
        ],
    )
    loc = torch.tensor(0.7).double()
    expected = dist.Normal(0.0, 2.0).log_prob(loc) + dist.Normal(0.7, 1.0).log_prob(y[seen]).sum()
    assert float(sites.log_joint(subject, {"loc": loc})) == pytest.approx(float(expected))
    trace = sites.run_at(subject, {"loc": loc}, {"y": y + 1})
    assert torch.equal(trace.nodes["y"]["value"], y + 1)
    assert trace.nodes["loc"]["value"] is loc


@pytest.mark.parametrize(("values", "summed"), [(19_999, True), (20_000, True), (20_001, False)])
def test_a_count_is_summed_up_to_twenty_thousand_values(values, summed):
    """Beyond, a sum over all values takes long, and is said to be unknown."""
    probability = torch.tensor([0.5, 1.0, 0.25]).double() / values
    fn = SimpleNamespace(
        batch_shape=torch.Size([3]),
        event_shape=torch.Size(),
        has_enumerate_support=False,
        support=constraints.integer_interval(0, values - 1),
        sample=lambda shape: torch.zeros(*shape, 3),
        log_prob=lambda value: probability.log() + 0 * value,
    )
    found = integral(fn)
    if summed:
        assert torch.allclose(found, torch.tensor([0.5, 1.0, 0.25]).double())
    else:
        assert found is None
