"""Batches of points: the vectorized pass, the loop where it fails, and what is refused."""

import dataclasses

import pyro
import pytest
import torch
from pyro.ops.einsum import torch_log

from zoo.compiler import vectorize
from zoo.compiler.vectorize import Compiled, batched, close, value_and_gradient, vmappable
from zoo.errors import UsageError

POINTS = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.5, 0.0]], dtype=torch.float64)


def squares(x):
    return x.square().sum() + x[0]


@pytest.fixture
def sizes(monkeypatch):
    """The numbers of points of all mapped calls."""
    seen = []
    real = torch.func.vmap

    def counting(function):
        return lambda part: (seen.append(len(part)), real(function)(part))[1]

    monkeypatch.setattr(torch.func, "vmap", counting)
    return seen


def test_a_function_that_can_be_mapped_is_vectorized_but_not_compiled():
    made = batched(squares, dim=2, dtype=torch.float64)
    assert (made.used, made.vectorized, made.reason) == (False, True, "eager")
    assert (made.shape, made.dtype) == ((None, 2), torch.float64)
    assert made(POINTS).tolist() == [6.0, 28.0, 0.75]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.used = True


def test_a_function_that_reads_its_value_runs_point_by_point():
    made = batched(lambda x: x.sum() if x[0].item() < 2 else -x.sum(), dim=2, dtype=torch.float64)
    assert (made.used, made.vectorized) == (False, False)
    assert made.reason == "points one by one: RuntimeError under vmap"
    assert (made.shape, made.dtype) == ((None, 2), torch.float64)
    assert made(POINTS).tolist() == [3.0, 1.0, 0.5]


@pytest.mark.parametrize("wrong", ["value", "gradient"])
def test_a_mapped_function_that_gives_another_answer_is_not_used(monkeypatch, wrong):
    real = torch.func.vmap

    def biased(function):
        def shifted(x):
            more = 1e-6 * x.sum()
            return function(x) + (more.detach() if wrong == "value" else more - more.detach())

        return real(shifted)

    monkeypatch.setattr(torch.func, "vmap", biased)
    made = batched(squares, dim=2, dtype=torch.float64)
    assert (made.used, made.vectorized) == (False, False)
    assert made.reason == "points one by one: vmap failed its self-check"
    assert (made.shape, made.dtype) == ((None, 2), torch.float64)
    assert made(POINTS).tolist() == [6.0, 28.0, 0.75]


def test_points_are_taken_in_parts_of_the_given_size(sizes):
    made = batched(torch.sum, dim=1, dtype=torch.float64, chunk=4)
    sizes.clear()
    assert made(torch.arange(10.0, dtype=torch.float64)[:, None]).tolist() == list(range(10))
    assert sizes == [4, 4, 2]


def test_a_trace_takes_as_many_points_as_one_call_may_have(sizes, monkeypatch):
    """Its graph must not repeat the function for every small part."""
    made = batched(torch.sum, dim=1, dtype=torch.float64, chunk=4)
    sizes.clear()
    monkeypatch.setattr(vectorize, "is_traced", lambda u: True)
    made(torch.zeros(10, 1, dtype=torch.float64))
    assert sizes == [10]
    sizes.clear()
    made(torch.zeros(vectorize.MOST + 1, 1, dtype=torch.float64))
    assert sizes == [vectorize.MOST, 1]


def test_without_a_size_one_call_has_the_most_points(sizes):
    made = batched(torch.sum, dim=1, dtype=torch.float64)
    sizes.clear()
    made(torch.zeros(vectorize.MOST, 1, dtype=torch.float64))
    assert sizes == [vectorize.MOST]


@pytest.mark.parametrize(
    "points",
    [POINTS.float(), POINTS[:, :1], POINTS[0], POINTS[None]],
    ids=["dtype", "width", "one point", "three axes"],
)
def test_other_points_are_refused_by_one_sentence(points):
    made = batched(squares, dim=2, dtype=torch.float64)
    with pytest.raises(UsageError) as caught:
        made(points)
    assert str(caught.value) == (
        f"Expected points of shape (None, 2) and dtype torch.float64, got {tuple(points.shape)}"
        f" and {points.dtype}."
    )


def test_an_axis_without_a_size_takes_any_number():
    made = Compiled(function=lambda u: u, shape=(None, 2, 3), dtype=torch.float32)
    for n in (0, 1, 7):
        assert made(torch.zeros(n, 2, 3)).shape == (n, 2, 3)
    with pytest.raises(UsageError, match=r"shape \(None, 2, 3\)"):
        made(torch.zeros(1, 2, 4))


def test_values_and_gradients_of_points_are_those_of_calculus():
    with torch.no_grad():
        value, gradient = value_and_gradient(lambda u: (u**3).sum(1), POINTS)
    assert value.tolist() == [9.0, -37.0, 0.125]
    assert torch.equal(gradient, 3 * POINTS**2)
    assert not value.requires_grad
    assert not POINTS.requires_grad


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=str
)
def test_tensors_are_close_within_a_part_of_one_plus_the_largest_entry(dtype, tolerance):
    b = torch.tensor([3.0, 0.0], dtype=dtype)
    for size, scale, most in ((b, 0.0, 4), (b, 9.0, 10), (b[1:], 0.0, 1)):
        for share, answer in ((0.9, True), (1.1, False)):
            off = torch.zeros_like(size)
            off[-1] = share * most * tolerance
            assert close(size + off, size, scale) is answer, (most, share)


def test_entries_that_are_not_finite_must_be_the_same():
    inf, nan = float("inf"), float("nan")
    b = torch.tensor([1.0, inf, -inf, nan])
    assert close(b, b.clone())
    for place, other in ((1, -inf), (1, 1e30), (2, inf), (3, 0.0), (0, nan)):
        a = b.clone()
        a[place] = other
        assert not close(a, b)
        assert not close(b, a)
    assert close(torch.tensor([inf]), torch.tensor([inf]))


def test_tensors_of_another_shape_or_kind_are_not_close():
    assert not close(torch.zeros(2), torch.zeros(2, 1))
    assert not close(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert close(torch.tensor([1, 2]), torch.tensor([1, 2]))
    assert not close(torch.tensor([1000000, 2]), torch.tensor([1000000, 3]))
    assert close(torch.zeros(0), torch.zeros(0))


def test_the_logarithm_of_pyro_can_be_mapped_and_is_put_back():
    """Its gradient is 1 / x, and at most 1 / eps at zero, as in Pyro."""
    x = torch.tensor([2.0, 0.0], dtype=torch.float64)
    before = torch_log.safe_log
    pyro.enable_validation(True)
    with vmappable():
        assert not pyro.poutine.util.is_validation_enabled()
        value = torch.func.vmap(torch_log.safe_log)(x)
        slope = torch.func.vmap(torch.func.grad(torch_log.safe_log))(x)
    assert value.tolist() == [pytest.approx(0.6931471805599453), -float("inf")]
    assert slope.tolist() == [0.5, 2.0**52]
    y = x.clone().requires_grad_(True)
    before(y).sum().backward()
    assert torch.equal(slope, y.grad)
    with pytest.raises(ZeroDivisionError), vmappable():
        _ = 1 / 0
    assert torch_log.safe_log is before
    assert pyro.poutine.util.is_validation_enabled()


def test_without_a_scale_the_largest_entry_alone_counts():
    b = torch.zeros(1, dtype=torch.float64)
    assert close(b + 0.9e-9, b)
    assert not close(b + 1.5e-9, b)
