"""Guides of a user: their arguments, their sites, and what is said before anything is fitted."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import guides
import zoo
from zoo.errors import ProgramError, UsageError

X = torch.linspace(-1.0, 1.0, 12).reshape(6, 2)


def program(x, k=1):
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(k * z, 1.0).to_event(1), obs=x)


def drawn(x, site="z", width=2):
    loc = pyro.param("loc", torch.zeros(width))
    with pyro.plate("row", len(x)):
        pyro.sample(site, dist.Normal(loc, 1.0).to_event(1))


def load(guide, data=None, **given):
    return zoo.from_program(program, data or {"x": X}, guide=guide, **given)


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guide", "data", "said"),
    [
        (
            lambda x, y: drawn(x),
            {"x": X},
            "The guide needs 'y' but data has 'x'; add what is missing to data, or give the"
            " argument a default.",
        ),
        (
            lambda x, k, kk: drawn(x),
            {"x": X, "k": 1},
            "The guide needs 'kk' (did you mean 'k'?) but data has 'x', 'k'; add what is missing"
            " to data, or give the argument a default.",
        ),
        (
            lambda x: drawn(x),
            {"x": X, "k": 1},
            "The guide takes 'x' and not 'k' of data; the program and the guide are"
            " called with the same arguments by name, so write def guide(x, k).",
        ),
        (
            lambda: drawn(X),
            {"x": X},
            "The guide takes nothing and not 'x' of data; the program and the guide are"
            " called with the same arguments by name, so write def guide(x).",
        ),
        (
            lambda batch, k: drawn(batch),
            {"x": X, "k": 1},
            "The guide takes 'batch', 'k' and not 'x' of data; the program and the guide are"
            " called with the same arguments by name, so write def guide(x, k).",
        ),
        (
            lambda program: undefined(program),  # noqa: F821
            {"x": X},
            "The guide takes 'program', which the data do not have (they have 'x'), so it was"
            " called with the program and failed (NameError: name 'undefined' is not defined);"
            " accepted: a function with the model's arguments, or one that makes a guide of the"
            " program.",
        ),
        (
            lambda xx: drawn(xx),
            {"x": X},
            "The guide takes 'xx' (did you mean 'x'?), which the data do not have (they have 'x'),"
            " so it was called with the program and failed (TypeError); accepted: a function with"
            " the model's arguments, or one that makes a guide of the program.",
        ),
        (
            lambda program: None,
            {"x": X},
            "The guide takes 'program', which the data do not have (they have 'x'), so it was"
            " called with the program and returned None; accepted: a function with the model's"
            " arguments, or one that makes a guide of the program.",
        ),
    ],
)
def test_a_guide_that_cannot_be_called_as_the_program_is_refused(guide, data, said):
    with pytest.raises(UsageError) as caught:
        load(guide, data)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "guide",
    [
        lambda x: drawn(x),
        lambda x, y=None: drawn(x),
        lambda x, index=None: drawn(x),
        lambda **given: drawn(**given),
        AutoNormal,
        functools.partial(AutoNormal, init_scale=0.2),
        lambda program: AutoNormal(program),
    ],
)
def test_a_guide_with_the_arguments_of_the_program_is_accepted(guide):
    assert list(load(guide).own_guides) == ["own"]


def test_a_trained_guide_needs_its_arguments_too():
    with pytest.raises(UsageError, match="The guide takes 'y' and not 'x' of data"):
        load(lambda y: drawn(y), trained=True)


def test_making_a_guide_to_try_it_leaves_no_trace():
    before = torch.get_rng_state()

    def made(program):
        torch.randn(3)
        return AutoNormal(program)

    load(made)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(pyro.get_param_store()) == 0


def test_a_family_of_an_own_guide_needs_one():
    with pytest.raises(UsageError) as caught:
        load(None, families=("mean_field", "own"))
    assert str(caught.value) == (
        "families has 'own', a guide of your own, but there is none; pass guide=: a function with"
        " the model's arguments, or an AutoGuide class."
    )
    assert load(lambda x: drawn(x), families=["own"]).families == ("own",)


class Pair(nn.Module):
    """Methods for the program and the guide, as many write them."""

    def model(self, x):
        program(x)

    def guide(self, x):
        drawn(x)


def test_a_module_without_forward_is_asked_for_its_method():
    pair = Pair()
    with pytest.raises(UsageError) as caught:
        zoo.from_program(pair, {"x": X})
    assert str(caught.value) == (
        "The model is a Pair, which has no forward(); pass the method that is the model, such as"
        " pair.model."
    )
    with pytest.raises(UsageError) as caught:
        load(pair)
    assert str(caught.value) == (
        "The guide is a Pair, which has no forward(); pass the method that is the guide, such as"
        " pair.guide."
    )
    assert zoo.from_program(pair.model, {"x": X}, guide=pair.guide).own_guides


def test_a_method_without_its_object_is_named():
    with pytest.raises(UsageError) as caught:
        zoo.from_program(Pair.model, {"x": X})
    assert str(caught.value) == (
        "The model is a method without its object, since it needs 'self'; give that of an object,"
        " such as vae.model of vae = VAE()."
    )


# -- sites ---------------------------------------------------------------------------------------


LINE = drawn.__code__.co_firstlineno + 3
WHERE = f"test_own_guides.py:{LINE}: pyro.sample(site, dist.Normal(loc, 1.0).to_event(1))"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"site": "zz"}, f"draws 'zz' where the program has the latent site 'z', in `{WHERE}`;"
         " give both the same name."),
        ({"width": 3}, f"draws 'z' with the event shape (3,), in `{WHERE}`, the program with (2,);"
         " give both the same shape."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"minibatch": 3}, {"judged": 2}])
def test_other_sites_are_refused_before_a_fit(given, said, options):
    with pytest.raises(ProgramError) as caught:
        load(lambda x: drawn(x, **given), **options)
    assert str(caught.value) == f"The guide 'own' {said}"


def test_a_site_that_the_program_observes_is_left_out():
    def guide(x):
        drawn(x)
        pyro.sample("x", dist.Normal(x, 1.0).to_event(2), obs=x)

    with pytest.raises(ProgramError, match=r"has the site 'x', in .* which the program observes"):
        load(guide)


def test_a_distribution_of_other_values_is_refused():
    def model(x):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale).expand([2]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("scale", dist.Normal(pyro.param("loc", torch.tensor(1.0)), 0.1))

    with pytest.raises(ProgramError, match="draws 'scale' from Normal, whose values leave the"):
        zoo.from_program(model, {"x": X}, guide=guide)


def test_a_guide_that_fails_is_called_a_guide():
    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(ProgramError, match=r"The guide cannot be run on its data .* at site 'z'"):
        load(guide)


def by_length(x):
    with pyro.plate("row", len(x)):
        loc = pyro.param("loc", torch.zeros(len(x), 2))
        pyro.sample("z", dist.Normal(loc, 0.5**0.5).to_event(1))


def test_a_parameter_per_row_has_as_many_values_as_rows_are_compared():
    """The posterior of a row is N(x / 2, 1 / 2); a table of six rows failed on two of them."""
    entry = zoo.from_program(program, {"x": X}, guide=by_length, judged=[4, 1])
    few = entry.judged(entry.load_data())
    options = {"steps": 600, "lr": 0.05, "num_particles": 4, "compile": "off"}
    fit = guides.fit(entry, "own", seed=0, data=few, **options)
    (loc,) = fit.guide.parameter_values().values()
    assert loc.shape == (2, 2)
    torch.testing.assert_close(loc.detach(), X[[4, 1]].double() / 2, rtol=0.0, atol=0.05)
    assert fit.elbo.value_nats == pytest.approx(
        float(dist.Normal(0.0, 2**0.5).log_prob(X[[4, 1]]).sum()), abs=0.02
    )
    whole = guides.fit(entry, "own", seed=0, steps=20, compile="off")
    assert next(iter(whole.guide.parameter_values().values())).shape == (6, 2)


def test_values_trained_for_all_rows_are_none_for_some():
    pyro.get_param_store().clear()
    with pyro.poutine.block():
        by_length(X)
    try:
        with pytest.raises(ProgramError, match=r"values for its 6 rows .* which judged= compares"):
            zoo.from_program(program, {"x": X}, guide=by_length, judged=2, trained=True)
        zoo.from_program(program, {"x": X}, guide=by_length, judged="all", trained=True)
    finally:
        pyro.get_param_store().clear()
