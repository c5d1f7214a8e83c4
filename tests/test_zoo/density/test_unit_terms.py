"""Terms of a log density per unit of the minibatch plate."""

import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from support.densities import density_of

from zoo.density import unit_terms as module
from zoo.density.log_density import LogDensity
from zoo.density.unit_terms import is_local, many_unit_terms, terms_of, unit_terms
from zoo.errors import FitError
from zoo.types import Data

Y = torch.tensor([[0.3, 1.0], [-1.4, 0.2], [2.2, -0.7]], dtype=torch.float64)


def local(mask=False, stray=False):
    """Per unit: a log-normal scale, two normal values, two observations."""

    def program(y, index=None):
        with pyro.plate("unit", 3, subsample=index):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 2.0).to_event(1))
            keep = torch.tensor([True, False, True])
            keep = keep if index is None else keep[index]
            with pyro.poutine.mask(mask=keep if mask else True):
                pyro.sample("y", dist.Normal(z, scale[..., None]).to_event(1), obs=y)
        if stray:
            pyro.factor("stray", torch.zeros(()))

    return LogDensity(program, Data(train={"y": Y}, observed=("y",), batched=("y",), size=3))


def point(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(9, generator=generator, dtype=torch.float64)


def by_hand(u, i):
    """Log likelihood and log prior of unit i; log scale is standard normal."""
    scale, z = math.exp(u[i]), u[3 + 2 * i : 5 + 2 * i].numpy()
    likelihood = scipy.stats.norm.logpdf(Y[i].numpy(), z, scale).sum()
    prior = scipy.stats.norm.logpdf(float(u[i])) + scipy.stats.norm.logpdf(z, 0.0, 2.0).sum()
    return likelihood, prior


def same(terms, u, units):
    np.testing.assert_allclose(terms.likelihood, [by_hand(u, i)[0] for i in units], rtol=1e-8)
    np.testing.assert_allclose(terms.prior, [by_hand(u, i)[1] for i in units], rtol=1e-8)


def test_a_program_is_local_if_every_value_belongs_to_a_unit():
    assert is_local(local()) is True

    def shared(y, index=None):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("unit", 3, subsample=index):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[..., 0])

    def discrete(y, index=None):
        with pyro.plate("unit", 3, subsample=index):
            k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[..., 0])

    data = Data(train={"y": Y}, observed=("y",), batched=("y",), size=3)
    assert is_local(LogDensity(shared, data)) is False
    assert is_local(LogDensity(discrete, data)) is False


def test_the_terms_of_all_units_add_up_to_the_density():
    density, u = local(), point()
    terms = unit_terms(density, u)
    same(terms, u, range(3))
    total = terms.likelihood.sum() + terms.prior.sum()
    assert float(total) == pytest.approx(float(density(u)))


@pytest.mark.parametrize("index", [None, [2, 0], [1]])
@pytest.mark.parametrize("weight", [2.0, torch.tensor([0.5, 2.0, 3.0])], ids=["one", "by row"])
def test_an_authors_weight_counts_and_that_of_the_minibatch_does_not(index, weight):
    chosen = torch.arange(3) if index is None else torch.tensor(index)

    def program(y, index=None):
        w = weight if isinstance(weight, float) or index is None else weight[index]
        with pyro.plate("unit", 3, subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            with pyro.poutine.scale(scale=w):
                pyro.sample("y", dist.Normal(z, 1.0), obs=y[:, 1])

    density = LogDensity(program, Data(train={"y": Y}, observed=("y",), batched=("y",), size=3))
    u = point()[:3]
    given = {"y": Y} if index is None else {"y": Y[chosen], "index": chosen}
    terms = unit_terms(density, u, given)
    each = torch.as_tensor(weight).double().expand(3)[chosen]
    z, law = u[chosen], torch.distributions.Normal
    torch.testing.assert_close(terms.prior, law(0.0, 2.0).log_prob(z))
    torch.testing.assert_close(terms.likelihood, each * law(z, 1.0).log_prob(Y[chosen, 1]))
    whole = density.evaluate(u, given)
    share = 3 / len(chosen)
    assert float(whole) == pytest.approx(share * float((terms.prior + terms.likelihood).sum()))


@pytest.mark.parametrize("index", [[2, 0], [1], [0, 1, 2]])
def test_the_terms_of_a_minibatch_are_those_of_its_units_unscaled(index):
    chosen, u = torch.tensor(index), point()
    terms = unit_terms(local(), u, {"y": Y[chosen], "index": chosen})
    same(terms, u, index)


def test_units_with_values_of_their_own_may_repeat():
    """The values of a unit are in the order of the sites."""
    u, index = point(), torch.tensor([2, 0, 2])
    values = torch.stack([torch.cat([u[i : i + 1], u[3 + 2 * i : 5 + 2 * i]]) for i in index])
    density = local()
    tensors = {"y": Y[index], "index": index}
    same(terms_of(density, values, tensors), u, index.tolist())
    other = values.clone()
    other[2, 0] += 0.5
    changed = terms_of(density, other, tensors)
    assert float(changed.prior[0]) == pytest.approx(by_hand(u, 2)[1])
    assert float(changed.prior[2]) == pytest.approx(
        by_hand(u, 2)[1]
        - scipy.stats.norm.logpdf(float(u[2]))
        + scipy.stats.norm.logpdf(float(u[2]) + 0.5)
    )


def test_masked_observations_count_nothing():
    u = point()
    terms = unit_terms(local(mask=True), u)
    expected = [by_hand(u, 0)[0], 0.0, by_hand(u, 2)[0]]
    np.testing.assert_allclose(terms.likelihood, expected, rtol=1e-8)


def test_many_points_have_the_terms_of_each():
    points = torch.stack([point(s) for s in range(4)])
    terms = many_unit_terms(local(), points)
    assert terms.likelihood.shape == terms.prior.shape == (4, 3)
    for n in range(4):
        same(module.UnitTerms(terms.likelihood[n], terms.prior[n]), points[n], range(3))
    index = torch.tensor([1])
    few = many_unit_terms(local(), points, {"y": Y[index], "index": index})
    same(module.UnitTerms(few.likelihood[3], few.prior[3]), points[3], [1])


def test_a_term_that_belongs_to_no_unit_is_refused():
    with pytest.raises(FitError) as caught:
        unit_terms(local(stray=True), point())
    assert str(caught.value) == (
        "Site 'stray' lies outside the minibatch plate; this objective needs every term to belong"
        " to a unit."
    )


def test_the_plate_of_the_units_is_known_by_its_name():
    """A plate of features has as many entries as the minibatch has units."""

    def program(y, index=None):
        with pyro.plate("unit", 3, dim=-2, subsample=index), pyro.plate("feature", 2, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    density = LogDensity(program, Data(train={"y": Y}, observed=("y",), batched=("y",), size=3))
    u = point()[:6]
    index = torch.tensor([2, 0])
    terms = unit_terms(density, u, {"y": Y[index], "index": index})
    z = u.reshape(3, 2)[index].numpy()
    expected = scipy.stats.norm.logpdf(Y[index].numpy(), z).sum(-1)
    np.testing.assert_allclose(terms.likelihood, expected, rtol=1e-8)
    np.testing.assert_allclose(terms.prior, scipy.stats.norm.logpdf(z).sum(-1), rtol=1e-8)


def frame(name, size, dim, vectorized=True):
    return SimpleNamespace(name=name, size=size, dim=dim, vectorized=vectorized)


@pytest.mark.parametrize(
    ("frames", "axis"),
    [
        ([frame("unit", 2, -1)], 1),
        ([frame("feature", 2, -1), frame("unit", 2, -2)], 2),
        ([frame("feature", 3, -1), frame("unit", 2, -2)], 2),
        ([frame("other", 2, -3)], 3),
        ([frame("other", 5, -2)], 2),
        ([frame("other", 4, -1)], None),
        ([frame("unit", 2, -1, vectorized=False)], None),
        ([], None),
    ],
)
def test_the_axis_of_the_units_of_a_site(frames, axis):
    found = module._unit_frame({"cond_indep_stack": frames}, {"unit"}, (5, 2))
    assert (found and -found.dim) == axis


def test_terms_are_summed_over_every_axis_but_that_of_the_units():
    terms = torch.arange(12.0).reshape(2, 3, 2)
    assert module._per_unit(terms, 2, 3).tolist() == [
        0 + 1 + 6 + 7,
        2 + 3 + 8 + 9,
        4 + 5 + 10 + 11,
    ]
    assert module._per_unit(terms, 1, 2).tolist() == [30.0, 36.0]
    assert module._per_unit(terms, 3, 2).tolist() == [15.0, 51.0]


def test_density_of_a_program_of_tensors_has_no_units():
    def program(y):
        pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    assert is_local(density_of(program, y=Y[0, 0])) is False
