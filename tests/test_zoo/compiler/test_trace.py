"""Traced graphs, uncompiled, equal the eager program: points, batches, Hessian, steps."""

from __future__ import annotations

import pyro
import pytest
import torch
from support import compiled_programs as programs
from torch.fx.experimental.proxy_tensor import make_fx

from zoo.compiler import cache
from zoo.compiler import compile as compiled
from zoo.compiler import trace as tracing
from zoo.compiler.passes import Simplifier
from zoo.compiler.trace import Traced, TraceFailure, trace, vectorize
from zoo.density.compiled import CompiledDensity
from zoo.density.log_density import LogDensity
from zoo.types import Data

CASES = programs.cases()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    compiled._said.clear()
    with pyro.settings.context(module_local_params=True):
        yield
    torch.set_num_threads(before)


def density(name: str) -> LogDensity:
    program, data = CASES[name]
    return LogDensity(program, data)


def points(number: int, dim: int, seed: int = 0) -> torch.Tensor:
    return 0.5 * torch.randn(
        number, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert (a - b).abs().max() <= 1e-9 * (1 + b.abs().max())


# -- graphs, uncompiled ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_graph_of_one_and_of_many_points_equals_the_program(name):
    log_density = density(name)
    graph = CompiledDensity(log_density, "off", 1).graph()
    many = vectorize(graph, 3, (0, 1))
    u = points(3, log_density.dim)
    values, gradients = many(u)
    for i in range(3):
        value, gradient = log_density.eager_gradient(u[i])
        assert gradient.abs().min() > 0  # a zero would hide a detached derivative
        for got in (graph(u[i]), (values[i], gradients[i])):
            assert_close(got[0], value)
            assert_close(got[1], gradient)


def test_minibatch_index_is_an_input():
    log_density = density("minibatch")
    train = log_density.data.train

    def function(u, index):
        point = u.detach().requires_grad_(True)
        value = log_density.evaluate(
            point, {"index": index, **{k: train[k][index] for k in ("x", "y")}}
        )
        return [value.detach(), torch.autograd.grad(value, point)[0]]

    u = points(2, log_density.dim)
    graph = trace(function, [u[0], torch.arange(7)])
    index = torch.tensor([59, 3, 3, 10, 42, 0, 17])
    for got, truth in zip(graph(u[1], index), function(u[1], index), strict=True):
        assert_close(got, truth)
    assert not torch.equal(graph(u[1], index)[0], graph(u[1], index.flip(0) // 2)[0])


def test_what_depends_on_data_only_is_computed_once():
    def operations(graph: torch.fx.GraphModule) -> list[str]:
        return [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]

    form = CompiledDensity(density("counts"), "off", 1)
    before, after = (
        operations(make_fx(lambda u: form.density.eager_gradient(u))(points(1, 5)[0])),
        operations(form.graph().graph),
    )
    assert before.count("aten.lgamma.default") > after.count("aten.lgamma.default")
    assert "aten.lift_fresh_copy.default" in before
    assert "aten.lift_fresh_copy.default" not in after


def test_other_data_of_the_same_shape_is_the_same_graph():
    y = torch.linspace(-1, 1, 9, dtype=torch.float64)

    def key(values: torch.Tensor) -> tuple[str, Traced]:
        graph = CompiledDensity(
            LogDensity(programs.flat_scale, Data(train={"y": values})), "off", 1
        ).graph()
        return cache.graph_key(graph, compiled.OPTIONS), graph

    (first, one), (second, two) = key(y), key(y.exp())
    assert first == second
    assert first != key(y[:8])[0]
    u = points(1, 2)[0]
    assert abs(one(u)[0] - two(u)[0]) > 0.1


def test_a_written_weight_makes_the_graph_stale():
    program, data = programs.Network(), CASES["network"][1]
    form = CompiledDensity(LogDensity(program, data), "off", 1)
    u = points(1, form.density.dim)[0]
    before = form.graph()
    assert not before.stale
    with torch.no_grad():
        next(program.net.parameters()).add_(0.5)
    assert before.stale
    form.value_and_gradient(u)  # detects it, and traces again at the next use
    after = form.graph()
    assert not after.stale
    assert_close(after(u)[1], form.density.eager_gradient(u)[1])
    assert (after(u)[1] - before(u)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mixture", "network", "process"])
def test_hessian_of_the_graph_equals_the_programs(name):
    form = CompiledDensity(density(name), "off", 1)
    u = points(1, form.density.dim, 12)[0]
    columns = form._differentiate_twice()
    assert columns is not None
    truth = form.density.eager_hessian(u)
    assert truth.abs().max() > 1
    assert_close(columns(u), truth)


def test_a_whole_step_is_one_graph():
    """Noise in, loss and next parameters out, with gradients and Adam's update inside.

    They go through `batch_function`.
    """
    function = density("hierarchy").batch_function()

    def step(location, scale, first, second, noise):
        state = torch.stack([location, scale]).requires_grad_(True)
        loss = -(function(state[0] + state[1].exp() * noise).mean() + state[1].sum())
        (gradient,) = torch.autograd.grad(loss, state)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        state = state.detach() - 0.01 * first / (second.sqrt() + 1e-8)
        return [state[0], state[1], first, second, loss.detach()]

    def inputs(seed):
        x = points(15, 10, seed)
        return [x[0], x[1] - 1, x[2:4], x[4:6] ** 2 + 0.1, x[7:15]]

    graph, one, other = trace(step, inputs(1)), inputs(2), inputs(2)
    for seed in range(50):
        noise = 2 * points(8, 10, 100 + seed)
        *one, loss = step(*one[:4], noise)
        *other, same = graph(*other[:4], noise)
        assert abs(loss - same) <= 1e-8 * abs(loss)
    assert_close(other[1], one[1])


def test_no_detach_is_left_but_where_it_is_an_output():
    def slope(u):
        point = u.detach().requires_grad_(True)
        value = (point.exp() * point.detach()).sum()
        return [torch.autograd.grad(value, point)[0], u.detach()]

    u = torch.linspace(-1, 1, 5, dtype=torch.float64)
    graph = trace(slope, [u])
    assert graph.graph.code.count("aten.detach") == 1
    first, second = graph(u + 1)
    # the second factor stays detached
    assert torch.equal(first, (u + 1).exp() * (u + 1))
    assert torch.equal(second, u + 1)


def test_small_factors_are_written_out_of_long_graphs_too(monkeypatch):
    factor = torch.eye(3, dtype=torch.float64) + 0.1

    def solve(u):
        return [
            torch.linalg.solve_triangular(
                (factor + u).tril(), u[:, None] * factor[:, :1], upper=False
            ).sum()
        ]

    def plain(u):
        return [(u * factor).cumsum(0).sum()]

    u = torch.linspace(0.5, 1, 3, dtype=torch.float64)
    steps = []
    monkeypatch.setattr(
        tracing, "Simplifier", lambda *arguments: steps.append(1) or Simplifier(*arguments)
    )
    trace(plain, [u])
    assert steps == [1]
    monkeypatch.setattr(tracing, "LONG", 0)
    graph = trace(solve, [u])
    assert steps == [1, 1]
    assert "solve_triangular" not in graph.graph.code
    assert torch.allclose(graph(u)[0], solve(u)[0], rtol=1e-12)
    trace(plain, [u])
    assert steps == [1, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_a_trace_leaves_torch_as_it_was(fails):
    """Shape notes and lazy graph writing apply only to our traces, also after a failure."""
    from torch.fx import _lazy_graph_module as lazy
    from torch.fx.experimental import proxy_tensor

    before, x = proxy_tensor.set_meta, torch.ones(3, dtype=torch.float64)
    if fails:
        with pytest.raises(TraceFailure):
            trace(lambda u: [u.sum() if float(u[0]) > 0 else u.prod()], [x])
    else:
        assert trace(lambda u: [u.exp().sum()], [x]).nodes == 2
    assert proxy_tensor.set_meta is before
    assert not lazy._use_lazy_graph_module_flag
    graph = proxy_tensor.make_fx(torch.sin)(x)
    assert type(graph).__mro__[1] is torch.fx.GraphModule
    note = next(n for n in graph.graph.nodes if n.op == "call_function").meta
    assert "tensor_meta" in note
    assert note["val"].device == x.device


def written(x: torch.Tensor) -> list[torch.Tensor]:
    """Writes into slices and single places, with and without an end."""
    y = x.clone()
    y[1:3] = x[:2].exp()
    y[-1] = x[0] * x[1]
    y[:-2] = y[:-2] + y[2:].sin()
    table = torch.zeros(3, 5, dtype=x.dtype)
    table[:, 1:-1] = x[:3, None] * x[2:5]
    table[1] = x[:5]
    return [y, table.cumsum(0)]


def test_writes_into_slices_are_joined_and_mapped():
    u = points(7, 6, 5)
    graph = trace(written, [u[0]])
    names = {str(n.target) for n in graph.graph.graph.nodes}
    assert not any("slice_scatter" in n or "select_scatter" in n for n in names)
    truth = [written(row) for row in u]
    for row, expected in zip(u, truth, strict=True):
        for a, b in zip(graph(row), expected, strict=True):
            assert_close(a, b)
    for i, a in enumerate(vectorize(graph, 7, (0, 1))(u)):
        assert_close(a, torch.stack([t[i] for t in truth]))
