"""Masked entries without a term, and values that Pyro cannot list."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of
from torch.distributions import biject_to

from zoo.density import completion as module
from zoo.density.completion import Completion, entries_counted, finite_support, is_discrete
from zoo.distributions.circular import Circle, WrappedNormal
from zoo.errors import FitError, ProgramError

HALF = torch.tensor([True, False, True])


def normal(x):
    return -0.5 * np.square(x) - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize(
    ("fn", "discrete"),
    [
        (dist.Bernoulli(0.5), True),
        (dist.Poisson(2.0), True),
        (dist.Normal(0.0, 1.0), False),
        (dist.Bernoulli(torch.full((2,), 0.5)).to_event(1), True),
        (object(), False),
    ],
)
def test_a_distribution_is_discrete_by_its_values_or_its_support(fn, discrete):
    assert is_discrete(fn) is discrete


def test_which_entries_count_is_where_every_mask_is_true():
    plain = dist.Normal(torch.zeros(3), 1.0)
    other = torch.tensor([True, True, False])
    assert entries_counted(plain, None) == (plain, None)
    assert entries_counted(plain, True) == (plain, None)
    assert entries_counted(plain, False) == (plain, False)
    assert entries_counted(plain.mask(False), HALF) == (plain, False)
    assert entries_counted(plain.mask(True), None) == (plain, None)
    fn, counted = entries_counted(plain.mask(HALF).mask(other), None)
    assert fn is plain
    assert counted.tolist() == [True, False, False]
    assert entries_counted(plain.mask(other), HALF)[1].tolist() == [True, False, False]
    numbers = entries_counted(plain, torch.tensor([1, 0, 1]))[1]
    assert numbers.dtype == torch.bool
    assert numbers.tolist() == HALF.tolist()


# -- values --------------------------------------------------------------------------------------


def test_the_values_of_counts_are_all_up_to_the_largest_total():
    found = finite_support(dist.Binomial(torch.tensor([2.0, 4.0]), 0.5), "k")
    assert found.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert found.dtype == torch.float32
    assert finite_support(dist.BetaBinomial(1.0, 1.0, 3), "k").tolist() == [0, 1, 2, 3]


def test_the_values_of_a_multinomial_are_all_ways_to_share_its_total():
    """Of 2 over 3 classes there are C(4, 2) = 6, each once."""
    found = finite_support(dist.Multinomial(2, torch.ones(3)), "k")
    assert sorted(found.tolist()) == sorted(
        [float(a), float(b), float(2 - a - b)] for a in range(3) for b in range(3 - a)
    )


def test_the_values_of_an_event_are_all_combinations_of_its_entries():
    fn = dist.Binomial(torch.tensor([[1.0], [1.0]]), torch.full((2, 2), 0.5)).to_event(1)
    found = finite_support(fn, "k")
    assert found.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    three = dist.Categorical(torch.ones(3)).expand([2]).to_event(1)
    assert finite_support(three, "k").tolist() == [[a, b] for a in range(3) for b in range(3)]


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (dist.Poisson(2.0), "Poisson"),
        (dist.NegativeBinomial(3.0, torch.tensor(0.5)), "NegativeBinomial"),
        (dist.Geometric(0.5), "Geometric"),
    ],
)
def test_infinitely_many_values_are_refused_with_the_sum_to_write(fn, kind):
    with pytest.raises(ProgramError) as caught:
        finite_support(fn, "k")
    assert str(caught.value) == (
        f"Discrete site 'k' ({kind}) has infinite support, so it cannot be summed out; write the"
        " sum up to a number K by hand: pyro.sample('k', dist.Categorical(logits=dist."
        f"{kind}(...).log_prob(torch.arange(K + 1.)))), with K so large that the rest does not"
        " matter."
    )


def test_totals_that_differ_by_row_cannot_be_listed_together():
    fn = dist.DirichletMultinomial(torch.ones(2, 3), torch.tensor([2, 3]))
    with pytest.raises(ProgramError) as caught:
        finite_support(fn, "k")
    assert str(caught.value) == (
        "Discrete site 'k' (DirichletMultinomial) has another total in every row, so its values"
        " cannot be listed together; give every row a site of its own."
    )


@pytest.mark.parametrize(
    ("fn", "number"),
    [
        (dist.Binomial(6, 0.5), 7),
        (dist.Multinomial(3, torch.ones(3)), 10),
        (dist.Binomial(1, torch.full((3,), 0.5)).to_event(1), 8),
    ],
)
def test_too_many_values_are_refused(monkeypatch, fn, number):
    monkeypatch.setattr(module, "MOST_VALUES", number)
    assert len(finite_support(fn, "k")) == number
    monkeypatch.setattr(module, "MOST_VALUES", number - 1)
    with pytest.raises(ProgramError) as caught:
        finite_support(fn, "k")
    assert str(caught.value) == (
        f"Discrete site 'k' ({type(fn).__name__}) has {number} values; at most {number - 1} are"
        " summed out. Split it into independent sites inside a plate, or marginalize it by hand."
    )


def test_a_hundred_thousand_values_are_the_most():
    module._refuse_many("k", "Binomial", 100_000)
    with pytest.raises(ProgramError, match=r"has 100,001 values; at most 100,000 are"):
        module._refuse_many("k", "Binomial", 100_001)


def test_what_pyro_lists_is_left_to_it_and_the_rest_is_listed_once():
    known = {}
    plain = dist.Bernoulli(0.5)
    assert module._listed(plain, "b", known) is plain
    assert known == {}
    uneven = dist.Binomial(torch.tensor([1.0, 2.0]), 0.5)
    found = module._listed(uneven, "k", known)
    assert isinstance(found, module._Listed)
    assert known["k"].tolist() == [0.0, 1.0, 2.0]
    again = module._listed(plain, "k", known)
    assert again.base_dist is plain
    assert again.values is known["k"]


def test_the_values_of_a_node_are_those_of_our_list_or_of_pyro():
    made = Completion()
    made.learn({"name": "k", "fn": dist.Binomial(torch.tensor([1.0, 2.0]), 0.5).mask(HALF[:2])})
    assert made.values_of({"name": "k", "fn": None}).tolist() == [0.0, 1.0, 2.0]
    made.learn({"name": "b", "fn": dist.Bernoulli(0.5)})
    assert set(made.values) == {"k"}
    node = {"name": "b", "fn": dist.OneHotCategorical(torch.ones(4, 2))}
    assert sorted(made.values_of(node).tolist()) == [[0.0, 1.0], [1.0, 0.0]]


def test_listed_values_have_an_axis_to_the_left_and_no_chance_above_a_total():
    total = torch.tensor([1.0, 2.0])
    fn = module._Listed(dist.Binomial(total, 0.5), torch.tensor([0.0, 1.0, 2.0]))
    assert fn.has_enumerate_support is True
    assert fn.enumerate_support(expand=False).tolist() == [[0.0], [1.0], [2.0]]
    assert fn.enumerate_support().tolist() == [[0.0] * 2, [1.0] * 2, [2.0] * 2]
    logs = fn.log_prob(fn.enumerate_support())
    expected = [[0.5, 0.25], [0.5, 0.5], [0.0, 0.25]]
    torch.testing.assert_close(logs.exp(), torch.tensor(expected))
    assert float(logs[2, 0]) == -math.inf
    wide = fn.expand([4, 2])
    assert wide.batch_shape == (4, 2)
    assert wide.enumerate_support().shape == (3, 4, 2)
    event = module._Listed(
        dist.Multinomial(1, torch.tensor([0.25, 0.75])), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    )
    torch.testing.assert_close(
        event.log_prob(event.enumerate_support()).exp(), torch.tensor([0.25, 0.75])
    )
    plain = module._Listed(dist.Bernoulli(0.25), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(
        plain.log_prob(torch.tensor([0.0, 1.0])).exp()[1], torch.tensor(0.25)
    )


# -- densities -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "dim"),
    [
        (dist.Gamma(2.0, 1.0).expand([3]), 1),
        (dist.Dirichlet(torch.ones(3, 4)), 3),
        (dist.Normal(0.0, 1.0).expand([3, 2]).to_event(1), 2),
    ],
)
def test_what_is_standard_normal_if_unconstrained_has_the_density_of_its_values(fn, dim):
    """log p(x) = log N(u) - log |dx/du|, one number per entry of the batch."""
    transform = biject_to(fn.support)
    u = torch.linspace(-1.0, 2.0, 3 * dim).reshape(3, dim)
    u = u[:, 0] if dim == 1 else u
    value = transform(u)
    found = module._normal_in(transform, fn)(value)
    assert found.shape == (3,)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(transform, u[i])
        if jacobian.ndim == 0:
            log_det = jacobian.abs().log()
        else:
            log_det = (jacobian[:dim] if jacobian.shape[0] > dim else jacobian).det().abs().log()
        expected = normal(u[i].numpy()).sum() - float(log_det)
        assert float(found[i]) == pytest.approx(expected, rel=1e-4)


def test_a_wrapped_distribution_is_the_other_but_for_its_log_probability():
    base = dist.Gamma(2.0, torch.ones(3))
    fn = module._Filled(base, HALF, lambda value: 7.0)
    assert (fn.batch_shape, fn.event_shape) == ((3,), ())
    assert fn.has_rsample is True
    assert fn.has_enumerate_support is False
    assert fn.support is base.support
    assert fn.sample((2,)).shape == fn.rsample((2,)).shape == (2, 3)
    assert fn.sample().shape == (3,)
    pair = module._Filled(dist.Bernoulli(0.5), False, lambda value: 0.0)
    assert (pair.has_rsample, pair.has_enumerate_support) == (False, True)
    assert pair.enumerate_support().tolist() == [0.0, 1.0]
    assert module._Filled(dist.Bernoulli(torch.full((2,), 0.5)), False, abs).enumerate_support(
        expand=False
    ).shape == (2, 1)


def test_entries_that_do_not_count_have_the_other_log_probability():
    base = dist.Normal(0.0, 1.0).expand([3])
    value = torch.tensor([1.0, 2.0, 3.0])
    fn = module._Filled(base, HALF, lambda v: 10 * v)
    np.testing.assert_allclose(fn.log_prob(value), [normal(1.0), 20.0, normal(3.0)], rtol=1e-6)
    none = module._Filled(base, False, lambda v: -1.0)
    assert none.log_prob(value).tolist() == [-1.0] * 3
    wide = fn.expand([2, 3])
    assert wide.batch_shape == (2, 3)
    assert wide.log_prob(value.expand(2, 3))[:, 1].tolist() == [20.0, 20.0]
    grown = module._Filled(dist.Normal(0.0, 1.0), HALF, lambda v: 0.0)
    assert grown.batch_shape == (3,)
    assert module._Filled(base, HALF, abs).base_dist is base


# -- in a program --------------------------------------------------------------------------------

Y = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64)


def test_a_masked_discrete_entry_adds_no_count_of_its_values():
    """log p = sum of log (p N(y; 1, 1) + q N(y; 0, 1)) over entries; of a masked one, the even
    mean of both."""

    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 3):
            with pyro.poutine.mask(mask=HALF):
                k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(m + k, 1.0), obs=y)

    found = density_of(program, y=Y)
    u = 0.7
    expected = normal(u)
    for y, own in zip(Y.tolist(), HALF.tolist(), strict=True):
        p = 0.3 if own else 0.5
        expected += np.log(p * np.exp(normal(y - u - 1)) + (1 - p) * np.exp(normal(y - u)))
    assert float(found(torch.tensor([u], dtype=torch.float64))) == pytest.approx(expected)


def test_a_masked_continuous_entry_that_nothing_holds_is_a_standard_normal():
    def program(y):
        with pyro.plate("row", 3):
            with pyro.poutine.mask(mask=HALF):
                z = pyro.sample("z", dist.LogNormal(1.0, 1.0))
            pyro.sample("y", dist.Normal(torch.where(HALF, z, 0.0), 1.0), obs=y)

    found = density_of(program, y=Y)
    u = torch.tensor([0.2, 0.8, -0.5], dtype=torch.float64)
    expected = normal(0.2 - 1) + normal(0.8) + normal(-0.5 - 1)
    expected += normal(0.3 - np.exp(0.2)) + normal(-0.4) + normal(0.9 - np.exp(-0.5))
    assert float(found(u)) == pytest.approx(expected)
    assert list(found.completion.free) == ["z"]


def message(fn, name="angle", mask=None, observed=False):
    return {"fn": fn, "name": name, "mask": mask, "is_observed": observed}


def completed(made, msg):
    made._pyro_sample(msg)
    return msg


def test_sites_that_need_nothing_are_left_as_they_are():
    made = Completion()
    made.centers["angle"] = torch.zeros(())
    for fn, extra in (
        (dist.Normal(0.0, 1.0).mask(False), {"name": "other"}),
        (dist.Bernoulli(0.5), {"name": "other"}),
        (dist.Normal(0.0, 1.0), {"observed": True}),
        (object(), {}),
    ):
        msg = completed(made, message(fn, **extra))
        assert msg["fn"] is fn
        assert msg["mask"] is None


def test_a_listed_site_takes_its_mask_in():
    made = Completion()
    uneven = dist.Binomial(torch.tensor([1.0, 2.0]), 0.5)
    msg = completed(made, message(uneven, "k", mask=True))
    assert isinstance(msg["fn"], module._Listed)
    assert msg["mask"] is None
    msg = completed(made, message(uneven, "k", mask=torch.tensor([True, False])))
    assert isinstance(msg["fn"], module._Filled)
    assert msg["mask"] is None
    found = msg["fn"].log_prob(torch.tensor([1.0, 1.0]))
    np.testing.assert_allclose(found, [math.log(0.5), -math.log(3)], rtol=1e-6)


def test_a_free_angle_is_filled_and_on_the_circle():
    made = Completion()
    made.free["angle"] = biject_to(Circle())
    made.centers["angle"] = torch.zeros(3)
    plain = dist.VonMises(torch.zeros(3), 1.0)
    msg = completed(made, message(plain, mask=HALF))
    assert isinstance(msg["fn"], module._OnCircle)
    assert msg["mask"] is None
    assert isinstance(msg["fn"].base_dist, module._Filled)
    unmasked = completed(made, message(plain))
    assert unmasked["fn"] is plain


# -- angles --------------------------------------------------------------------------------------


def test_an_angle_has_the_circle_as_its_support_and_the_same_density():
    center = torch.tensor(0.5)
    fn = module._on_circle(dist.VonMises(0.0, 2.0), "angle", center)
    assert isinstance(fn.support, Circle)
    assert float(fn.support.center) == 0.5
    assert float(fn.log_prob(torch.tensor(0.3))) == float(
        dist.VonMises(0.0, 2.0).log_prob(torch.tensor(0.3))
    )
    wide = fn.expand([2])
    assert wide.batch_shape == (2,)
    assert wide.center is center
    with pytest.raises(AttributeError):
        _ = fn.missing


@pytest.mark.parametrize("events", [0, 1, 2])
def test_a_normal_in_a_guide_is_wound_around_the_circle(events):
    plain = dist.Normal(torch.zeros(2, 3), 0.5)
    fn = module._on_circle(plain.to_event(events) if events else plain, "angle", torch.zeros(()))
    wound = fn.base_dist if events else fn
    assert isinstance(wound, WrappedNormal)
    assert fn.event_dim == events
    assert float(wound.scale.max()) == 0.5


def test_a_point_or_a_finite_choice_of_an_angle_is_left_as_it_is():
    for fn in (dist.Delta(torch.zeros(())), dist.Categorical(torch.ones(2))):
        assert module._on_circle(fn, "angle", torch.zeros(())) is fn


def test_a_guide_that_counts_turns_is_refused():
    with pytest.raises(FitError) as caught:
        module._on_circle(dist.StudentT(3.0).expand([2]).to_event(1), "angle", torch.zeros(()))
    assert str(caught.value) == (
        "The guide draws the angle 'angle' from StudentT, which counts its turns, so its density"
        " is not that of an angle; accepted: Normal (wound around the circle),"
        " zoo.distributions.circular.WrappedNormal, VonMises, or an autoguide."
    )


def test_between_bars_are_counts():
    assert module._between((), 3) == [3.0]
    assert module._between((0, 2), 4) == [0.0, 1.0, 1.0]
