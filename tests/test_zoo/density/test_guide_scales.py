"""Scales of the sites of a minibatch, in a program and in its guide."""

import pyro
import pyro.distributions as dist
import torch

from zoo.density.guide_scales import fault_of_scales

SIZE, FEW = 60, {"x": torch.zeros(10), "index": torch.arange(10)}


def program(x, index=None):
    with pyro.plate("row", SIZE, subsample=index):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def by_length(x, index=None):
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def fixed(x, index=None):
    with pyro.plate("row", SIZE, subsample=index):
        pyro.sample("z", dist.Normal(torch.zeros(SIZE), 1.0))


def test_equal_scales_have_no_fault():
    assert fault_of_scales(program, program, FEW, SIZE, "own") == ""


def test_a_scale_of_one_for_six_is_told_with_the_cure():
    assert fault_of_scales(program, by_length, FEW, SIZE, "own") == (
        "On a minibatch of 10 of 60 units the guide 'own' scales the site 'z' by 1, the program by"
        " 6, so its ELBO would be wrong; in the guide write pyro.plate(name, 60, subsample=index)"
        " with index=None among its arguments."
    )


def test_a_guide_that_fails_on_a_minibatch_is_told():
    said = fault_of_scales(program, fixed, FEW, SIZE, "own")
    assert said.startswith("The guide 'own' cannot run on a minibatch of 10 of 60 units (")
    assert said.endswith(", or fit all data (batch_size=None).")
