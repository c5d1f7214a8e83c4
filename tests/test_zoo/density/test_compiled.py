"""Compiled forms of a density: their graphs run here uncompiled, in the place of compiled ones."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of
from torch import nn

from zoo.compiler.compile import Function, Record
from zoo.compiler.policy import Work
from zoo.compiler.trace import TraceFailure, trace
from zoo.density import compiled as module
from zoo.density.compiled import compile_density, points_at_once

Y = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64)


def program(y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", 3):
        z = pyro.sample("z", dist.StudentT(4.0, 0.0, scale))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def points(n, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(n, dim, generator=generator, dtype=torch.float64)


class Asked(list):
    """What `compile_function` was asked for; it answers with the traced graph, as if compiled."""

    package = "a file"

    def __call__(self, function, examples, checks, *, traced, mode, **others):
        self.append(
            SimpleNamespace(examples=examples, checks=checks, mode=mode, calls=0, others=others)
        )
        mine = self[-1]
        made = Function(
            eager=function,
            examples=tuple(examples),
            record=Record(used=False, reason="off", compile_seconds=0.5, cached=True),
        )
        if mode == "off":
            return made
        graph = traced()

        def run(inputs):
            mine.calls += 1
            return graph(*inputs)

        made.traced, made.run, made.package = graph, run, self.package
        made.record = Record(used=True, reason="compiled", compile_seconds=2.0, cached=False)
        return made


@pytest.fixture
def asked(monkeypatch):
    made = Asked()
    monkeypatch.setattr(module, "compile_function", made)
    return made


@pytest.fixture
def density():
    return density_of(program, y=Y)


# -- how many points -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "dim", "expected"),
    [
        ([], 1, 4096),
        ([()], 16, 4096),
        ([()], 17, 3855),  # 65,536 // 17
        ([(3,), (3, 2)], 4, 4096),
        ([(3,), (3, 10)], 4, 1985),  # 65,536 // 33
        ([(3, 100)], 4, 512),
        ([(3,)], 200, 512),
        ([(1000,), (40, 2)], 4, 400),  # 400,000 // 1,000
        ([(100_000, 20)], 4, 4),
        ([(400_000,)], 4, 1),
        ([(400_001,)], 4, 1),
    ],
)
def test_the_points_of_one_eager_batch(shapes, dim, expected):
    """The larger of what the rows allow, up to 512, and what the numbers allow, up to 4,096."""
    tensors = {str(i): torch.zeros(()).expand(s) for i, s in enumerate(shapes)}
    assert points_at_once({**tensors, "text": "no tensor"}, dim) == expected


# -- the gradient --------------------------------------------------------------------------------


def test_the_gradient_is_compiled_at_points_of_its_own(asked, density):
    made = compile_density(density, "on", expected_calls=77)
    (one,) = asked
    assert (one.mode, one.others) == ("on", {"expected_calls": 77, "one_point": True})
    assert [x.shape for x in one.examples] == [(4,)]
    assert [len(c) for c in one.checks] == [1, 1, 1]
    four = [one.examples[0], *(c[0] for c in one.checks)]
    assert len({tuple(p.tolist()) for p in four}) == 4
    assert 0.1 < float(torch.stack(four).std()) < 0.8
    value, gradient = made.value_and_gradient(points(1)[0])
    expected = density.eager_gradient(points(1)[0])
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(gradient, expected[1])
    assert one.calls == 1
    assert density.gradient_evaluations == 0
    assert compile_density(density).expected_calls == 50_000
    assert asked[-1].mode == "auto"


def test_the_record_is_that_of_the_gradient_with_the_seconds_of_all_forms(asked, density):
    made = compile_density(density, "on")
    assert made.record == Record(used=True, reason="compiled", compile_seconds=2.0, cached=False)
    made.batch(points(2))
    assert made.record["compile_seconds"] == 4.0
    off = compile_density(density, "off").record
    assert off == Record(used=False, reason="off", compile_seconds=0.5, cached=True)


def test_the_graph_is_traced_once(asked, density):
    made = compile_density(density, "on")
    assert made.graph() is made.graph()
    assert made.graph() is made._forms["gradient"].traced


# -- batches -------------------------------------------------------------------------------------


def test_a_batch_is_padded_to_calls_of_64_points(asked, density):
    made = compile_density(density, "on")
    for n, calls in ((1, 1), (64, 2), (65, 4), (130, 7)):
        torch.testing.assert_close(made.batch(points(n)), density.eager_batch()(points(n)))
        assert asked[-1].calls == calls
    batch = asked[-1]
    assert len(asked) == 2
    assert [x.shape for x in batch.examples] == [(64, 4)]
    assert [c[0].shape for c in batch.checks] == [(64, 4)] * 3
    assert not any(torch.equal(c[0], batch.examples[0]) for c in batch.checks)
    assert batch.mode == "on"
    u = points(65)
    value, gradient = made.batch_value_and_gradient(u)
    torch.testing.assert_close(value, density.eager_batch()(u))
    expected = torch.stack([density.eager_gradient(row)[1] for row in u])
    torch.testing.assert_close(gradient, expected)
    assert (len(asked), asked[-1].calls) == (3, 2)


def test_a_batch_has_no_history_and_a_differentiable_one_has(asked, density):
    u = points(3).requires_grad_(True)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    expected = torch.stack([density.eager_gradient(row)[1] for row in u.detach()])
    for mode in ("on", "off"):
        made = compile_density(density, mode)
        assert not made.batch(u).requires_grad
        value = made.differentiable_batch(u)
        torch.testing.assert_close(value.detach(), density.eager_batch()(u.detach()))
        (slope,) = torch.autograd.grad((weights * value).sum(), u)
        torch.testing.assert_close(slope, weights[:, None] * expected)
        assert not made.differentiable_batch(u.detach()).requires_grad
        with torch.no_grad():
            assert not made.differentiable_batch(u).requires_grad


def test_a_recursion_in_c_is_called_point_by_point(asked, density):
    asked.package = None
    made = compile_density(density, "on")
    assert made.by_points is True
    u = points(5)
    torch.testing.assert_close(made.batch(u), density.eager_batch()(u))
    value, gradient = made.batch_value_and_gradient(u)
    torch.testing.assert_close(value, density.eager_batch()(u))
    assert gradient.shape == (5, 4)
    assert (len(asked), asked[0].calls) == (1, 10)
    asked.package = "a file"
    assert compile_density(density, "on").by_points is False
    assert compile_density(density, "off").by_points is False


# -- when a batch pays ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "share", "vectorized"),
    [("batch", 0.5, True), ("batch_gradient", 1.0, True), ("batch", 0.5, False)],
)
def test_an_eager_batch_is_charged_its_estimated_time(asked, density, name, share, vectorized):
    """Operations once if vectorized, else per point; numbers per point."""
    made = compile_density(density, "auto")
    made._work = Work(1000, 50)
    if not vectorized:
        density.eager_batch()
        density._batch = SimpleNamespace(vectorized=False)
    made._rent(name, 7)
    calls = 1000 if vectorized else 7000
    assert made._spent[name] == pytest.approx(share * Work(calls, 350).seconds)
    made._rent(name, 7)
    assert made._spent[name] == pytest.approx(2 * share * Work(calls, 350).seconds)


def test_the_work_of_a_batch_is_measured_at_one_point(asked, density):
    made = compile_density(density, "auto")
    made._rent("batch", 1)
    assert made._work == density.work()
    off = compile_density(density, "off")
    off._rent("batch", 10**9)
    assert off._spent == {"batch": 0.0, "batch_gradient": 0.0}


@pytest.mark.parametrize("name", ["batch", "batch_gradient"])
def test_a_batch_is_compiled_once_eager_ones_have_cost_three_seconds(asked, density, name):
    made = compile_density(density, "auto")
    run = made.batch if name == "batch" else made.batch_value_and_gradient
    made._spent[name] = 3.0
    run(points(2))
    assert len(asked) == 1
    assert made._spent[name] > 3.0
    run(points(2))
    assert len(asked) == 2
    never = compile_density(density, "off")
    never._spent[name] = 9.0
    assert never._form(name) is None


@pytest.mark.parametrize(
    ("operations", "points_expected", "compiled"),
    [(1000, 10**9, True), (1000, 0, False), (1000, 512, False)],
)
def test_a_batch_is_compiled_at_once_where_the_forecast_pays(
    asked, density, operations, points_expected, compiled
):
    """Gradients at a billion points take longer than three seconds; values were not forecast."""
    made = compile_density(density, "auto", expected_points=points_expected)
    made._work = Work(operations, 50)
    before = len(asked)
    made.batch_value_and_gradient(points(2))
    assert len(asked) == before + compiled
    made.batch(points(2))
    assert len(asked) == before + compiled


def test_a_forecast_counts_vectorized_calls_of_512_points(density):
    made = compile_density(density, "auto", expected_points=1025)
    made._work = Work(1000, 50)
    density.eager_batch()
    assert made._eager_seconds("batch_gradient", 1025, 3) == Work(3000, 50 * 1025).seconds
    rate = Work(1000, 50 * 512).seconds / 512
    edge = int(3.0 / rate)
    for number, pays in ((edge - 2048, False), (edge + 2048, True)):
        made.expected_points = number
        assert made._pays("batch_gradient") is pays
        assert not made._pays("batch")


def test_a_differentiable_batch_is_charged_too(asked, density):
    made = compile_density(density, "auto")
    made.differentiable_batch(points(3).requires_grad_(True))
    assert made._spent["batch"] == 0.0
    assert made._spent["batch_gradient"] > 0.0
    before = made._spent["batch_gradient"]
    made.differentiable_batch(points(3).requires_grad_(True))
    assert made._spent["batch_gradient"] == pytest.approx(2 * before)


def test_a_graph_that_cannot_be_mapped_is_traced_as_a_batch(monkeypatch, asked, density):
    def never(*_):
        raise TraceFailure("no rule")

    monkeypatch.setattr(module, "vectorize", never)
    made = compile_density(density, "on")
    torch.testing.assert_close(made.batch(points(2)), density.eager_batch()(points(2)))
    density._batch = SimpleNamespace(vectorized=False)
    with pytest.raises(TraceFailure, match="no rule"):
        made._map(lambda u: [u], [points(1)], (0,))


# -- the Hessian ---------------------------------------------------------------------------------


def test_a_hessian_of_the_graph_equals_the_eager_one(monkeypatch, asked, density):
    u = points(1)[0]
    truth = density.eager_hessian(u)
    eager = []
    monkeypatch.setattr(density, "eager_hessian", lambda v: eager.append(v) or truth)
    assert compile_density(density, "on").hessian(u) is truth  # 4 dimensions are few
    monkeypatch.setattr(module, "HESSIAN_DIM", 5)
    assert compile_density(density, "on").hessian(u) is truth
    assert len(eager) == 2
    monkeypatch.setattr(module, "HESSIAN_DIM", 4)
    made = compile_density(density, "on")
    torch.testing.assert_close(made.hessian(u), truth)
    columns = made._columns
    made.hessian(u)
    assert made._columns is columns
    assert len(eager) == 2
    assert compile_density(density, "off").hessian(u) is truth


@pytest.mark.parametrize("how", ["wrong", "raises"])
def test_a_hessian_that_fails_its_check_is_the_eager_one(monkeypatch, asked, density, how):
    monkeypatch.setattr(module, "HESSIAN_DIM", 4)
    if how == "wrong":
        monkeypatch.setattr(module, "close", lambda *_: False)
    else:
        made_of = trace

        def failing(function, examples):
            if examples[0].shape == (4,) and function.__name__ == "<lambda>":
                raise TraceFailure("no")
            return made_of(function, examples)

        monkeypatch.setattr(module, "trace", failing)
    made = compile_density(density, "on")
    assert made._differentiate_twice() is None
    u = points(1)[0]
    torch.testing.assert_close(made.hessian(u), density.eager_hessian(u))


# -- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_gradient_of_arrays_is_counted_and_checks_the_shape(asked, density, mode):
    made = compile_density(density, mode)
    made.native_gradient = lambda: None
    gradient = made.numpy_gradient()
    u = points(1)[0]
    for k in (1, 2):
        value, slope = gradient(u.numpy())
        assert value == pytest.approx(float(density.eager_gradient(u)[0]))
        np.testing.assert_allclose(slope, density.eager_gradient(u)[1])
        assert density.gradient_evaluations == k
    with pytest.raises(ValueError, match=r"^Expected an array of shape \(4,\), got \(1,\)\.$"):
        gradient(np.zeros(1))
    assert density.gradient_evaluations == 2


def test_the_native_gradient_is_checked_at_three_points(asked, density):
    made = compile_density(density, "on")
    seen = []
    made._forms["gradient"].native = lambda checks: seen.append(checks) or "graph"
    assert made.native_gradient() == "graph"
    assert [c[0].tolist() for c in seen[0]] == [c[0].tolist() for c in asked[0].checks]


def test_a_gradient_by_the_c_interface_copies_in_and_out(density):
    """The function gets the dimension, addresses of point, gradient and value, and its data."""

    @ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)
    def square(dim, point, slope, value, data):
        u = (ctypes.c_double * dim).from_address(point)
        out = (ctypes.c_double * dim).from_address(slope)
        for i in range(dim):
            out[i] = 2 * u[i]
        ctypes.c_double.from_address(value).value = sum(x * x for x in u) + data
        return 0

    graph = SimpleNamespace(
        dim=3, data=5, failed=False, gradient=ctypes.cast(square, ctypes.c_void_p).value
    )
    run = module._native(graph, density)
    value, slope = run(np.array([1.0, 2.0, 3.0]))
    assert value == 19.0
    assert slope.tolist() == [2.0, 4.0, 6.0]
    run(np.zeros(3))
    assert slope.tolist() == [2.0, 4.0, 6.0], "a copy"
    assert density.gradient_evaluations == 2
    with pytest.raises(ValueError, match=r"^Expected an array of shape \(3,\), got \(2,\)\.$"):
        run(np.zeros(2))
    value, _ = run(np.full(3, np.nan))
    assert np.isnan(value)
    graph.failed = True
    assert run(np.zeros(3))[0] == 5.0
    with pytest.raises(RuntimeError, match="the compiled graph failed at run time"):
        run(np.full(3, np.nan))


# -- weights that change -------------------------------------------------------------------------


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, y):
        z = pyro.sample("z", dist.Normal(self.loc, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_after_a_change_of_weights_everything_is_traced_again(asked, mode):
    model = Weighted()
    density = density_of(model, y=torch.zeros((), dtype=torch.float64))
    made = compile_density(density, mode)
    made.graph()
    u = torch.ones(1, dtype=torch.float64)
    before = made.value_and_gradient(u)[0]
    made.batch(u[None])
    forms = len(asked)
    with torch.no_grad():
        model.loc.fill_(3.0)
    assert float(made.batch(u[None])) == pytest.approx(float(before) - 1.5)
    assert float(made.value_and_gradient(u)[0]) == pytest.approx(float(before) - 1.5)
    assert asked[forms].mode == mode
    assert made.record["used"] is (mode == "on")
