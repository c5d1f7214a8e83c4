"""Guides that are Pyro programs: which are scored as given, their sites, and their scales."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of
from torch import nn

from guides.base.own_guides import (
    AS_GIVEN,
    as_given,
    check_scales,
    check_sites,
    is_given,
    on_charts,
)
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.types import Data

N = 4


class Guide(nn.Module):
    """Draws the given sites, once more with a discrete one, within a plate or without."""

    def __init__(self, draw, parameters=1):
        super().__init__()
        self.draw = draw
        for i in range(parameters):
            self.register_parameter(f"p{i}", nn.Parameter(torch.zeros((), dtype=torch.float64)))

    def forward(self, **tensors):
        self.draw(self, **tensors)


@pytest.fixture(autouse=True)
def in_session():
    with session(torch.float64):
        yield


def test_a_guide_as_given_took_no_step():
    assert (AS_GIVEN.status, AS_GIVEN.step) == ("ok", 0)
    assert AS_GIVEN.sentence == "No step was taken: the guide is scored as it was given."


class Owner(nn.Module):
    def __init__(self, networks, values):
        super().__init__()
        self.networks, self.parameter_values = lambda: networks, lambda: values


def test_without_a_step_it_is_said_what_may_be_untrained():
    given = AS_GIVEN.sentence
    owner = Owner({"decoder": None}, {"loc": None})
    values = (
        " The initial values of pyro.param {} are scored; trained=True, when the entry is made,"
        " takes those of Pyro's parameter store."
    )
    nets = " The networks {} are those that were given, trained or not."
    assert as_given(owner, owner, trained=True) is AS_GIVEN
    both = as_given(owner, Owner({"encoder": None}, {"loc": None}), trained=False)
    assert both.sentence == given + values.format("'loc'") + nets.format("'decoder', 'encoder'")
    assert (both.status, both.step) == ("ok", 0)
    only = as_given(print, Owner({}, {"scale": None}), trained=False)
    assert only.sentence == given + values.format("'scale'")
    assert as_given(print, nn.Identity(), trained=False) == AS_GIVEN


def test_a_guide_is_scored_as_it_is_without_steps_or_if_all_of_it_is_frozen():
    free, frozen, half, none = (Guide(None, k) for k in (2, 2, 2, 0))
    for p in frozen.parameters():
        p.requires_grad_(False)
    half.p0.requires_grad_(False)
    assert [is_given(g, 5) for g in (free, frozen, half, none)] == [False, True, False, False]
    assert [is_given(g, 0) for g in (free, frozen, half, none)] == [True] * 4
    assert is_given(free, 1) is False


def program(y, index=None):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("row", N, subsample=index):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        kind = pyro.sample("kind", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(z + kind, 1.0), obs=y)


def density():
    y = torch.zeros(N, dtype=torch.float64)
    return LogDensity(program, Data(train={"y": y}, observed=("y",), batched=("y",), size=N))


def whole(guide, y, index=None, extra=None, m=True, **infer):
    if m:
        pyro.sample("m", dist.Normal(guide.p0 if hasattr(guide, "p0") else 0.0, 1.0))
    with pyro.plate("row", N, subsample=index):
        pyro.sample("z", dist.Normal(0.0, 1.0))
    if extra:
        pyro.sample(extra, dist.Normal(0.0, 1.0), infer=infer)


def wide(y):
    pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))


def test_a_guide_with_the_sites_of_the_program_is_accepted():
    check_sites(Guide(whole), density(), "mine")
    check_sites(
        Guide(lambda g, y: whole(g, y, extra="help", is_auxiliary=True)), density(), "mine"
    )
    check_sites(Guide(lambda g, y: whole(g, y, extra="kind")), density(), "mine")


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        (
            Guide(lambda g, y: whole(g, y, m=False)),
            "The guide 'mine' misses the latent site 'm'; add pyro.sample('m', ...).",
        ),
        (
            Guide(lambda g, y: pyro.sample("q", dist.Normal(g.p0, 1.0))),
            "The guide 'mine' misses the latent site 'm'; add pyro.sample('m', ...).",
        ),
        (
            Guide(lambda g, y: whole(g, y) if y is None else wide(y)),
            "The guide 'mine' draws 'z' with the shape (2,), in `test_own_guides.py:LINE: "
            'pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))`, the program with (4,); give both'
            " the same shape.",
        ),
        (
            Guide(lambda g, y: whole(g, y, extra="mm")),
            "The guide 'mine' draws 'mm', which the program lacks; rename it or mark it"
            " auxiliary.",
        ),
        (
            Guide(whole, 0),
            "The guide 'mine' has no trainable parameter; use pyro.param or PyroParam, or score it"
            " as it is by steps=0.",
        ),
    ],
)
def test_other_sites_than_those_of_the_program_are_refused(guide, said):
    with pytest.raises(FitError) as caught:
        check_sites(guide, density(), "mine")
    line = str(wide.__code__.co_firstlineno + 2)
    assert str(caught.value) == said.replace("LINE", line)


def test_checking_sites_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    check_sites(Guide(whole), density(), "mine")
    assert torch.equal(torch.get_rng_state(), before)


def minibatch():
    return {"y": torch.zeros(2).double(), "index": torch.tensor([3, 1])}


CURE = "write pyro.plate(name, 4, subsample=index) with index=None among its arguments"


def test_a_guide_that_scales_its_sites_as_the_program_does_is_accepted():
    check_scales(program, Guide(whole), minibatch(), N, "mine")


@pytest.mark.parametrize(("factor", "said"), [(4.0, "4"), (1.9, "1.9")])
def test_a_guide_that_scales_a_site_otherwise_is_refused(factor, said):
    def scaled(guide, y, index=None):
        pyro.sample("m", dist.Normal(guide.p0, 1.0))
        with pyro.poutine.scale(scale=factor), pyro.plate("row", 2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(FitError) as caught:
        check_scales(program, Guide(scaled), minibatch(), N, "mine")
    assert str(caught.value) == (
        f"On a minibatch of 2 of 4 units the guide 'mine' scales the site 'z' by {said}, the"
        f" program by 2, so its ELBO would be wrong; in the guide {CURE}."
    )
    with pyro.poutine.scale(scale=2.0):  # a site of the guide only is not compared
        check_scales(program, Guide(lambda g, y, index: None), minibatch(), N, "mine")


def test_a_guide_may_scale_up_to_rounding():
    def close(guide, y, index=None):
        with pyro.poutine.scale(scale=2.0 * (1 + 4e-7)), pyro.plate("row", 2):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("other", dist.Normal(0.0, 1.0))

    check_scales(program, Guide(close), minibatch(), N, "mine")


def test_a_guide_that_takes_no_minibatch_is_refused_with_its_own_error():
    def whole_only(guide, y):
        """No index among its arguments."""

    with pytest.raises(FitError) as caught:
        check_scales(program, Guide(whole_only), minibatch(), N, "mine")
    message = str(caught.value)
    assert message.startswith("The guide 'mine' cannot run on a minibatch of 2 of 4 units (")
    assert "unexpected keyword argument 'index'" in message
    assert message.endswith(f"); {CURE}, or fit all data (batch_size=None).")


class Turning(nn.Module):
    """An angle, with an attribute and a weight of its own."""

    color = "red"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, y):
        angle = pyro.sample("angle", dist.VonMises(0.0, 1.0))
        return pyro.sample("y", dist.Normal(angle.cos(), 1.0), obs=y)


def test_a_program_without_angles_runs_as_it_is():
    assert on_charts(program, density()) is program


def test_a_program_of_angles_runs_on_the_charts_of_its_density():
    turning = Turning()
    found = density_of(turning, y=torch.zeros((), dtype=torch.float64))
    run = on_charts(turning, found)
    assert run is not turning
    assert run.color == "red"
    assert list(run.parameters()) == [], "its weights belong to the program"
    trace = pyro.poutine.trace(run).get_trace(y=torch.ones((), dtype=torch.float64))
    assert float(trace.nodes["y"]["value"]) == 1.0
    assert float(trace.nodes["_RETURN"]["value"]) == 1.0
    support = trace.nodes["angle"]["fn"].support
    assert support is not dist.constraints.real
    far = torch.distributions.biject_to(support)(torch.tensor([-1e3, 1e3]).double())
    assert bool((far.abs() <= math.pi + 1e-9).all())
