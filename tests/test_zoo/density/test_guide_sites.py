"""The sites of a guide against those of its program, and where the guide writes them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from zoo.density.defects import KL_WEIGHT
from zoo.density.guide_sites import Wanted, fault_of_sites, sites_of

WANTED = {"z": Wanted((4, 2), 1), "scale": Wanted((), 0)}


def guide_of(**sites):
    """Draw standard normals of these shapes, the last axis of which is an event."""

    def guide(y):
        for name, shape in sites.items():
            law = dist.Normal(torch.zeros(shape), 1.0)
            pyro.sample(name, law.to_event(1) if shape else law)

    return guide


def fault(wanted=WANTED, **sites):
    return fault_of_sites(guide_of(**sites), {"y": 1}, wanted, {"kind": None}, "mine", ("seen",))


LINE = guide_of().__code__.co_firstlineno + 3
WHERE = f"test_guide_sites.py:{LINE}: pyro.sample(name, law.to_event(1) if shape else law)"


def test_a_guide_of_all_sites_has_no_fault():
    assert fault(z=(4, 2), scale=()) == ""
    assert fault(z=(4, 2), scale=(), kind=()) == ""


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ({"z": (4, 2)}, "misses the latent site 'scale'; add pyro.sample('scale', ...)."),
        ({}, "misses the latent site 'scale'; add pyro.sample('scale', ...)."),
        ({"z": (4, 2), "scale": (), "q": ()}, "draws 'q', which the program lacks; rename it or"
         " mark it auxiliary."),
        ({"zz": (4, 2), "scale": ()}, "draws 'zz' where the program has the latent site 'z', in"
         f" `{WHERE}`; give both the same name."),
        ({"other": (4, 2), "scale": ()}, "draws 'other' where the program has the latent site 'z',"
         f" in `{WHERE}`; give both the same name."),
        ({"scal": ()}, "draws 'scal' where the program has the latent site 'scale', in"
         f" `{WHERE}`; give both the same name."),
        ({"z": (4, 2), "seen": ()}, f"has the site 'seen', in `{WHERE}`, which the program"
         " observes; a guide draws latent values only, so leave it out."),
        ({"z": (4, 3), "scale": ()}, f"draws 'z' with the event shape (3,), in `{WHERE}`, the"
         " program with (2,); give both the same shape."),
        ({"z": (5, 2), "scale": ()}, f"draws 'z' with the shape (5, 2), in `{WHERE}`, the program"
         " with (4, 2); give both the same shape."),
        ({"z": (4, 2), "scale": (1,)}, f"draws 'scale' with the event shape (1,), in `{WHERE}`,"
         " the program with (); give both the same shape."),
    ],
)  # fmt: skip
def test_what_a_guide_draws_otherwise_is_one_sentence(sites, said):
    assert fault(**sites) == f"The guide 'mine' {said}"


def test_auxiliary_sites_are_the_guides_own():
    def guide(y):
        pyro.sample("help", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        guide_of(z=(4, 2), scale=())(y)

    assert fault_of_sites(guide, {"y": 1}, WANTED, {}, "mine") == ""


def test_a_shape_has_an_event_and_a_batch():
    assert Wanted((4, 2), 1).event == (2,)
    assert Wanted((4, 2), 1).batch == (4,)
    assert Wanted((4, 2), 0).event == ()
    assert Wanted((4, 2), 0).batch == (4, 2)


def test_looking_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    fault(zz=(4, 2), scale=())
    assert torch.equal(torch.get_rng_state(), before)


# -- supports ------------------------------------------------------------------------------------


def against(theirs, own):
    """Compare a site of a guide with one of a program."""

    def draw(law):
        return lambda: pyro.sample("s", law)

    trace = pyro.poutine.trace(draw(theirs)).get_trace()
    discrete = bool(theirs.support.is_discrete)
    sites = sites_of(trace, ["s", "absent"])
    assert list(sites) == ["s"]
    given = ({}, sites) if discrete else (sites, {})
    return fault_of_sites(draw(own), {}, *given, "mine")


ZERO, TWO = torch.zeros(2), torch.ones(2)


@pytest.mark.parametrize(
    ("theirs", "own", "words"),
    [
        (dist.Dirichlet(TWO), dist.Normal(ZERO, 1.0).to_event(1), "Normal a simplex"),
        (dist.HalfNormal(1.0), dist.Normal(50.0, 1e-3), "Normal positive values"),
        (dist.LogNormal(ZERO, 1.0).to_event(1), dist.Normal(5 * TWO, 1.0).to_event(1),
         "Normal positive values"),
        (dist.Beta(1.0, 1.0), dist.Uniform(3.0, 4.0), "Uniform the unit interval"),
        (dist.Beta(1.0, 1.0), dist.Delta(torch.tensor(2.0)), "Delta the unit interval"),
        (dist.Uniform(ZERO, TWO), dist.Normal(ZERO, 1.0), "Normal Interval"),
        (dist.Categorical(torch.ones(2)), dist.Categorical(torch.ones(3)),
         "Categorical IntegerInterval(lower_bound=0, upper_bound=1)"),
    ],
)  # fmt: skip
def test_values_outside_the_support_of_the_program_are_refused(theirs, own, words):
    law, _, allowed = words.partition(" ")
    said = against(theirs, own)
    start = "The guide 'mine' draws 's' from "
    assert said.startswith(f"{start}{law}, whose values leave the support of the program's site")
    assert said.endswith(f"; accepted: a distribution over {allowed}.")
    assert "`test_guide_sites.py:" in said


@pytest.mark.parametrize(
    ("theirs", "own"),
    [
        (dist.Normal(ZERO, 1.0), dist.Normal(ZERO, 1.0)),
        (dist.Normal(0.0, 1.0), dist.LogNormal(0.0, 1.0)),
        (dist.HalfNormal(1.0), dist.LogNormal(0.0, 1.0)),
        (dist.HalfNormal(1.0), dist.Delta(torch.tensor(2.0))),
        (dist.Beta(1.0, 1.0), dist.Uniform(0.25, 0.5)),
        (dist.Dirichlet(TWO), dist.Dirichlet(3 * TWO)),
        (dist.LKJCholesky(2, 1.0), dist.LKJCholesky(2, 3.0)),
        (dist.Categorical(torch.ones(3)), dist.Categorical(torch.ones(2))),
        (dist.VonMises(0.0, 1.0), dist.Normal(0.0, 1.0)),
    ],
)
def test_values_inside_the_support_of_the_program_are_accepted(theirs, own):
    assert against(theirs, own) == ""


# -- terms that are no log q ---------------------------------------------------------------------


def weighed(y):
    with poutine.scale(scale=3.0):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def weighed_by_tensor(y):
    with poutine.scale(scale=torch.tensor(0.1)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def masked(y):
    pyro.sample("z", dist.Normal(0.0, 1.0).mask(False))


def masked_in_part(y):
    with pyro.plate("row", 3), poutine.mask(mask=torch.tensor([True, False, True])):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def with_factor(y):
    pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("bonus", torch.tensor(2.0), has_rsample=True)


def given(y):
    pyro.sample("z", dist.Normal(0.0, 1.0), obs=torch.tensor(0.5))


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        (weighed, "weighs the term of 'z' by 3 (poutine.scale), in `test_guide_sites.py:{}:"
         " pyro.sample(\"z\", dist.Normal(0.0, 1.0))`, so that its ELBO is no bound; leave the"
         f" weight out. {KL_WEIGHT}"),
        (weighed_by_tensor, "weighs the term of 'z' by 0.1 (poutine.scale), in"
         " `test_guide_sites.py:{}: pyro.sample(\"z\", dist.Normal(0.0, 1.0))`, so that its ELBO"
         f" is no bound; leave the weight out. {KL_WEIGHT}"),
        (with_factor, "has the factor 'bonus', in `test_guide_sites.py:{}: pyro.factor(\"bonus\","
         " torch.tensor(2.0), has_rsample=True)`, so that its log q is no density and its ELBO no"
         " bound; leave pyro.factor out."),
        (given, "gives a value to the latent site 'z', in `test_guide_sites.py:{}:"
         " pyro.sample(\"z\", dist.Normal(0.0, 1.0), obs=torch.tensor(0.5))`, so that it draws"
         " none; leave obs= out."),
    ],
)  # fmt: skip
def test_a_term_that_is_no_log_q_is_refused(guide, said):
    line = guide.__code__.co_firstlineno + (1 if guide is given else 2)
    found = fault_of_sites(guide, {"y": 1}, {"z": Wanted((), 0)}, {}, "mine")
    assert found == "The guide 'mine' " + said.format(line)


@pytest.mark.parametrize(
    ("mask", "refused"),
    [
        (None, False),
        (True, True),
        (torch.tensor([True, True, False]), True),
        (torch.tensor([True, False, True]), False),
        (torch.tensor([False, False, True]), False),
        (False, False),
    ],
    ids=str,
)
def test_a_mask_that_the_program_lacks_is_refused(mask, refused):
    wanted = {"z": Wanted((3,), 0, None, mask)}
    found = fault_of_sites(masked_in_part, {"y": 1}, wanted, {}, "mine")
    assert found.startswith("The guide 'mine' masks 'z' where the program does not, in `") is (
        refused
    )
    assert bool(found) is refused


def test_a_site_without_any_term_is_refused():
    wanted = {"z": Wanted((), 0, None, True)}
    assert "masks 'z'" in fault_of_sites(masked, {"y": 1}, wanted, {}, "mine")


def test_the_weight_of_a_minibatch_is_no_fault():
    def guide(y):
        with pyro.plate("row", 6, subsample=torch.tensor([0, 4])):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    assert fault_of_sites(guide, {"y": 1}, {"z": Wanted((2,), 0)}, {}, "mine") == ""


def test_masks_of_a_program_are_kept():
    trace = poutine.trace(masked_in_part).get_trace(1)
    assert sites_of(trace, ["z"])["z"].mask.tolist() == [True, False, True]
