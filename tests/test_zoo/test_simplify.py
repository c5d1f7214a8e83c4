"""Simplified graphs: the same numbers from less work."""

import pytest
import torch

from zoo import simplify, tracing
from zoo.tracing import trace, vectorize

Y = torch.linspace(-2, 3, 100, dtype=torch.float64)


def mixture(u, wide=2):
    """Log density of a mixture and its gradient, rows by classes."""
    u = u.detach().requires_grad_(True)
    weight, location, scale = u[:wide].log_softmax(-1), u[wide : 2 * wide], u[2 * wide :].exp()
    normal = torch.distributions.Normal(location.expand(100, wide), scale.expand(100, wide), validate_args=False)
    rows = normal.log_prob(Y[:, None])
    value = (rows + torch.log_softmax(weight.expand(100, wide), -1)).logsumexp(-1).sum()
    return [value, *torch.autograd.grad(value, u)]


def elsewhere(wide):
    return 0.7 * torch.randn(3 * wide, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def work(traced, name):
    """Entries on which an operation is done, over the whole graph."""
    nodes = [n for n in traced.graph.graph.nodes if n.op == "call_function" and n.target.overloadpacket.__name__ == name]
    return sum(n.meta["val"].numel() for n in nodes)


@pytest.mark.parametrize("wide", [2, 3, 4, 5])
def test_the_same_numbers_from_less_work(wide, monkeypatch):
    graph = trace(lambda u: mixture(u, wide), [torch.zeros(3 * wide, dtype=torch.float64)])
    u = elsewhere(wide)
    for got, truth in zip(graph(u), mixture(u, wide), strict=True):
        assert (got - truth).abs().max() < 1e-12 * (1 + truth.abs().max())
    many = vectorize(graph, 3, (0, 1))(u.expand(3, -1).contiguous())
    assert torch.allclose(many[1][2], graph(u)[1], rtol=1e-12)
    monkeypatch.setattr(tracing, "_simplify", lambda graph, examples, captured: (graph, captured))
    plain = trace(lambda u: mixture(u, wide), [torch.zeros(3 * wide, dtype=torch.float64)])
    assert work(plain, "log") >= 100 * wide  # of the scale, in every row
    assert work(graph, "log") <= 100 + 2 * wide  # the scale once; one per row remains, of the sum over classes
    assert work(plain, "logsumexp") == 100
    assert work(graph, "logsumexp") == (100 if wide == 5 else 0)  # five classes are no longer a tiny axis


def test_infinite_terms_stay_what_they_are():
    def function(u):
        rows = torch.stack([u[0] + 0 * Y, torch.where(Y > 1, u[1] + 0 * Y, -torch.inf)], -1)
        rows = torch.where(Y[:, None] < 0, -torch.inf, rows + 0.0)
        return [rows.logsumexp(-1)]

    graph = trace(function, [torch.zeros(2, dtype=torch.float64)])
    u = torch.tensor([0.3, -0.4], dtype=torch.float64)
    (got,), (truth,) = graph(u), function(u)
    assert torch.isneginf(truth).any()
    assert torch.equal(torch.isneginf(got), torch.isneginf(truth))
    assert torch.allclose(got, truth, rtol=1e-14)


def test_large_matrices_go_to_the_library(monkeypatch):
    x = torch.randn(40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def function(u):
        u = u.detach().requires_grad_(True)
        value = (x @ u).square().sum()
        return [value, *torch.autograd.grad(value, u)]

    u = torch.ones(10, dtype=torch.float64)
    small = trace(function, [u])
    monkeypatch.setattr(simplify, "LARGE", 400)
    large = trace(function, [u])
    assert (work(small, "mm"), work(large, "mm")) == (0, 50)
    assert torch.allclose(large(2 * u)[1], function(2 * u)[1], rtol=1e-12)


def test_what_cannot_be_simplified_stays_as_it_was(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(simplify, "_pointwise", broken)
    graph = trace(mixture, [torch.zeros(6, dtype=torch.float64)])
    assert work(graph, "logsumexp") == 100
    assert torch.allclose(graph(elsewhere(2))[1], mixture(elsewhere(2))[1], rtol=1e-12)
