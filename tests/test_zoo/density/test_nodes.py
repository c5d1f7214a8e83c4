"""The distribution inside others, and the sites by which plates choose their units."""

import pyro
import pyro.distributions as dist
import torch

from zoo.density.nodes import base_of, is_subsample, share_of


def test_the_innermost_distribution_is_found_in_all_its_coats():
    plain = dist.Gamma(torch.ones(2), 1.0)
    assert base_of(plain) is plain
    assert base_of(plain.to_event(1).mask(False)) is plain
    moved = dist.TransformedDistribution(plain, [torch.distributions.ExpTransform()])
    assert type(base_of(moved.to_event(1))) is dist.Gamma


def test_the_site_of_a_plate_is_no_site_of_the_program():
    def program():
        with pyro.plate("row", 3):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    trace = pyro.poutine.trace(program).get_trace()
    assert is_subsample(trace.nodes["row"]["fn"]) is True
    assert is_subsample(trace.nodes["z"]["fn"]) is False


def test_a_unit_of_a_minibatch_stands_for_several():
    def program(index):
        with pyro.plate("row", 6, subsample=index):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    for index, share in ((torch.tensor([4, 1]), 3.0), (None, 1.0)):
        trace = pyro.poutine.trace(program).get_trace(index)
        (frame,) = trace.nodes["z"]["cond_indep_stack"]
        assert share_of(frame) == share
