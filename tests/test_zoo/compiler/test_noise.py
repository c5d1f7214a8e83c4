"""Recorded draws are those of torch's own stream, and a graph holds none of its own."""

import math

import pytest
import torch

from zoo.compiler.noise import NoiseError, recorded, replayed
from zoo.compiler.trace import TraceFailure, trace


def everything(dtype):
    """Call every method and factory that fills a tensor, in several shapes."""
    like = torch.zeros(3, 2, dtype=dtype)
    return [
        torch.randn(5, dtype=dtype),
        torch.empty(4, 5, dtype=dtype).normal_(),
        torch.empty(40, dtype=dtype).normal_(2.0, 0.5),
        torch.empty(2, dtype=dtype).normal_(mean=1.0, std=3.0),
        torch.rand((2, 3), dtype=dtype),
        torch.empty(17, dtype=dtype).uniform_(-1.0, 1.0),
        torch.empty((), dtype=dtype).exponential_(2.0),
        torch.randn_like(like),
        torch.rand_like(like),
        torch.empty(7, dtype=dtype).cauchy_(),
        torch.empty(7, dtype=dtype).log_normal_(0.0, 0.3),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fresh_numbers_are_those_of_torchs_own_stream(dtype):
    torch.manual_seed(5)
    plain = everything(dtype)
    torch.manual_seed(5)
    with recorded() as draws:
        seen = everything(dtype)
    stream = torch.Generator().manual_seed(5)
    fresh = [draw.fresh(stream) for draw in draws]
    assert len(draws) == len(plain)
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain, fresh, strict=True))
    with replayed(draws, [x + 1 for x in fresh]):
        again = everything(dtype)
    assert all(torch.equal(a + 1, b) for a, b in zip(plain, again, strict=True))


def test_distributions_draw_what_was_recorded():
    def drawn():
        one = torch.ones((), dtype=torch.float64)
        d = torch.distributions
        return [
            d.Normal(one, 2 * one).rsample((3,)),
            d.Laplace(one, one).rsample(),
            d.Uniform(-one, one).rsample((2,)),
            d.LogNormal(one, one).rsample(),
            d.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()).rsample(),
            d.RelaxedBernoulli(one, logits=one).rsample(),
            d.Exponential(one).rsample(),
            d.Gumbel(one, one).rsample(),
            d.HalfCauchy(one).rsample(),
        ]

    torch.manual_seed(2)
    with recorded() as draws:
        plain = drawn()
    stream = torch.Generator().manual_seed(2)
    with replayed(draws, [draw.fresh(stream) for draw in draws]):
        again = drawn()
    assert len(draws) == 9
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_other_draws_than_the_recorded_ones_are_refused():
    with recorded() as draws:
        torch.randn(3)
    numbers = [torch.zeros(3)]
    with pytest.raises(NoiseError, match="more random numbers"), replayed(draws, numbers):
        [torch.randn(3) for _ in range(2)]
    with pytest.raises(NoiseError, match="fewer"), replayed(draws, numbers):
        pass
    double = {"dtype": torch.float64}
    for make, options in ((torch.rand, {}), (torch.randn, double)):
        with pytest.raises(NoiseError, match="other"), replayed(draws, numbers):
            make(3, **options)
    with pytest.raises(NoiseError, match="other"), replayed(draws, numbers):
        torch.randn(4)
    with pytest.raises(NoiseError, match="other"), replayed(draws, numbers):
        torch.empty(3).normal_(0.0, 2.0)


def test_who_does_not_use_what_a_call_returns_has_no_numbers():
    with recorded() as draws:
        torch.empty(3).normal_()
    with replayed(draws, [torch.ones(3)]):
        place = torch.empty(3)
        place.normal_()
    assert all(math.isnan(x) for x in place)


def test_a_graph_takes_the_numbers_as_inputs():
    def of(x, *numbers):
        with replayed(draws, numbers):
            return [x * torch.randn(3) + torch.empty(3).exponential_(2.0)]

    with recorded() as draws:
        torch.randn(3)
        torch.empty(3).exponential_(2.0)
    numbers = [torch.randn(3), torch.rand(3)]
    graph = trace(of, [torch.ones(3), *numbers])
    others = [torch.full((3,), 2.0), torch.tensor([1.0, 2.0, 3.0]), torch.ones(3)]
    assert torch.equal(graph(*others)[0], torch.tensor([3.0, 5.0, 7.0]))


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.bernoulli(x.sigmoid()),
        lambda x: torch._standard_gamma(x.exp()),
        lambda x: x + torch.randn(3, generator=torch.Generator().manual_seed(0)),
        lambda x: torch.nn.functional.dropout(x, 0.5),
        lambda x: x + torch.randperm(3),
        lambda x: x + torch.randn(3),  # constant numbers in a graph
    ],
)
def test_a_graph_with_draws_of_its_own_is_refused(draw):
    with pytest.raises(TraceFailure, match="random numbers"):
        trace(lambda x: [draw(x)], [torch.ones(3)])
