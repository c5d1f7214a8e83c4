"""The sites of a guide against those of its program, and where the guide writes them."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from zoo.density.guide_sites import Shape, fault_of_sites

WANTED = {"z": Shape((4, 2), 1), "scale": Shape((), 0)}


def guide_of(**sites):
    """Draw standard normals of these shapes, the last axis of which is an event."""

    def guide(y):
        for name, shape in sites.items():
            law = dist.Normal(torch.zeros(shape), 1.0)
            pyro.sample(name, law.to_event(1) if shape else law)

    return guide


def fault(wanted=WANTED, discrete=("kind",), **sites):
    return fault_of_sites(guide_of(**sites), {"y": 1}, wanted, discrete, "mine")


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

    assert fault_of_sites(guide, {"y": 1}, WANTED, (), "mine") == ""


def test_a_shape_has_an_event_and_a_batch():
    assert Shape((4, 2), 1).event == (2,)
    assert Shape((4, 2), 1).batch == (4,)
    assert Shape((4, 2), 0).event == ()
    assert Shape((4, 2), 0).batch == (4, 2)


def test_looking_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    fault(zz=(4, 2), scale=())
    assert torch.equal(torch.get_rng_state(), before)
