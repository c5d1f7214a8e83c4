"""Heads: per-datum parameters to a distribution over the local values of a unit."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import MultivariateNormal

from guides.base.heads import DiagonalHead, FlowHead, TriangularHead, _coupling, make_head

UNITS, N = 2, 4


def numbers(head, seed=0):
    generator = torch.Generator().manual_seed(seed)
    out = 0.5 * torch.randn(UNITS, head.numbers, generator=generator, dtype=torch.float64)
    noise = torch.randn(N, UNITS, head.width, generator=generator, dtype=torch.float64)
    return out, noise


def stirred(width, seed=1, **options):
    """A flow whose couplings do something."""
    torch.manual_seed(seed)
    head = FlowHead(width, **options).double()
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(0.7 * torch.randn(p.shape))
    return head


@pytest.mark.parametrize(
    ("kind", "type_", "expected"),
    [("diagonal", DiagonalHead, 6), ("full", TriangularHead, 9), ("flow", FlowHead, 17)],
)
def test_a_head_of_three_values_by_name(kind, type_, expected):
    head = make_head(kind, 3, torch.float64)
    assert type(head) is type_
    assert (head.width, head.numbers) == (3, expected)
    assert all(p.dtype == torch.float64 for p in head.parameters())


def test_a_flow_has_four_layers_of_couplings_that_alternate():
    head = make_head("flow", 3, torch.float32)
    assert head.kept == [[0, 2], [1], [0, 2], [1]]
    assert head.moved == [[1], [0, 2], [1], [0, 2]]
    first, second = head.couplings[0], head.couplings[1]
    assert (first[0].in_features, first[0].out_features, first[2].out_features) == (10, 24, 2)
    assert (second[0].in_features, second[2].in_features, second[2].out_features) == (9, 24, 4)


def test_a_flow_of_one_value_couples_nothing():
    head = FlowHead(1).double()
    assert (head.kept, head.moved, len(head.couplings)) == ([], [], 0)
    out, noise = numbers(head)
    plain = TriangularHead(1)
    assert torch.equal(head.draw(out, noise), plain.draw(out[:, :2], noise))
    assert torch.equal(head.log_prob(out, noise), plain.log_prob(out[:, :2], noise))


def test_a_diagonal_head_is_independent_normals():
    head = DiagonalHead(2)
    out, noise = numbers(head)
    loc, sd = out[:, :2].numpy(), np.exp(out[:, 2:].numpy())
    w = head.draw(out, noise)
    np.testing.assert_allclose(w, loc + sd * noise.numpy(), rtol=1e-12)
    expected = scipy.stats.norm(loc, sd).logpdf(w.numpy()).sum(-1)
    np.testing.assert_allclose(head.log_prob(out, w), expected, rtol=1e-12)


def matrix(row, d):
    """The factor of one unit, from its numbers in the documented order."""
    tril, place = np.diag(np.exp(row[d : 2 * d])), 2 * d
    for i in range(d):
        for j in range(i):
            tril[i, j] = row[place]
            place += 1
    assert place == len(row)
    return tril


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_full_head_is_a_normal_with_this_factor(width):
    head = TriangularHead(width)
    out, noise = numbers(head)
    w = head.draw(out, noise)
    for unit in range(UNITS):
        row = out[unit].numpy()
        tril = matrix(row, width)
        expected = row[:width] + noise[:, unit].numpy() @ tril.T
        np.testing.assert_allclose(w[:, unit], expected, rtol=1e-12)
        law = MultivariateNormal(
            out[unit, :width], scale_tril=torch.as_tensor(tril, dtype=torch.float64)
        )
        torch.testing.assert_close(head.log_prob(out, w)[:, unit], law.log_prob(w[:, unit]))
    torch.testing.assert_close(head.solve(out, w), noise)


def test_a_flow_is_the_normal_at_first_up_to_the_small_weights_of_its_networks():
    torch.manual_seed(0)
    head = FlowHead(3).double()
    out, noise = numbers(head)
    normal = TriangularHead(3).draw(out[:, :9], noise)
    moved = (head.draw(out, noise) - normal).detach().abs().max()
    assert 0 < float(moved) < 0.1


def test_the_last_layer_of_a_coupling_is_small_and_without_bias():
    """torch draws weights of a layer of 24 inputs within 24^-1/2 of zero."""
    last = _coupling(3, 24, 50)[2]
    assert not last.bias.any()
    assert 0.0015 < float(last.weight.detach().abs().max()) <= 0.01 * 24**-0.5
    assert last.weight.requires_grad
    assert isinstance(_coupling(3, 24, 2)[1], torch.nn.Tanh)


@pytest.mark.parametrize(("width", "layers"), [(2, 4), (3, 3)])
def test_the_density_of_a_flow_is_that_of_its_draws(width, layers):
    """log q(w) = log N(eps) - log |det dw/deps|, the determinant by automatic differentiation."""
    head = stirred(width, layers=layers, hidden=5, context=2)
    out, noise = numbers(head)
    assert out.shape[1] == 2 * width + width * (width - 1) // 2 + 2
    w = head.draw(out, noise)
    found = head.log_prob(out, w).detach()
    assert found.shape == (N, UNITS)
    for unit in range(UNITS):
        for n in range(N):

            def one(eps, unit=unit):
                return head.draw(out[unit][None], eps[None, None])[0, 0]

            determinant = torch.autograd.functional.jacobian(one, noise[n, unit]).det().abs()
            expected = scipy.stats.norm.logpdf(noise[n, unit].numpy()).sum()
            expected -= float(determinant.log())
            assert float(found[n, unit]) == pytest.approx(expected, rel=1e-9)


def test_the_couplings_of_a_flow_read_the_context_of_their_unit():
    head = stirred(2, hidden=5, context=2)
    out, noise = numbers(head)
    other = out.clone()
    other[0, -1] += 1.0
    before, after = head.draw(out, noise), head.draw(other, noise)
    assert not torch.isclose(before[:, 0], after[:, 0]).any(-1).any()
    assert torch.equal(before[:, 1], after[:, 1])


def test_the_log_scale_of_a_coupling_is_at_most_three_and_unbounded_near_zero():
    found = FlowHead.bounded(torch.tensor([-100.0, 0.0, 1.5, 100.0], dtype=torch.float64))
    expected = [-3.0, 0.0, 3 * np.tanh(0.5), 3.0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["diagonal", "full", "flow"])
def test_sticking_the_landing_keeps_the_value_and_the_path_only(kind):
    head = stirred(2) if kind == "flow" else make_head(kind, 2, torch.float64)
    out, noise = numbers(head)
    out.requires_grad_(True)
    w = (1 * noise).requires_grad_(True)
    value = head.log_prob_stl(out, w)
    torch.testing.assert_close(value, head.log_prob(out, w))
    torch.testing.assert_close(head(out, w), head.log_prob(out, w))
    value.sum().backward()
    assert out.grad is None
    assert all(p.grad is None for p in head.parameters())
    assert bool((w.grad != 0).all())
