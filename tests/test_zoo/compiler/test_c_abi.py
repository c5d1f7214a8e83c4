"""Compiled graphs through the C ABI: equal results, error codes, fallback to Python."""

from __future__ import annotations

import ctypes

import pyro
import pyro.distributions as dist
import pytest
import torch

from zoo.compiler import c_abi, torch_private
from zoo.compiler.compile import compile_function
from zoo.density.log_density import LogDensity
from zoo.types import Data


def program(y):
    with pyro.plate("side", 2):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("wall", torch.log(2.5 - x[0]))
    pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)


def compiled_before_without_the_interface():
    """State left by a graph compiled elsewhere: Inductor's choice of C++ writer.

    It is made once per process.
    """
    from torch._inductor.codegen import common
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

    common.init_backend_registration()
    common.device_codegens["cpu"].cpp_wrapper_codegen = CppWrapperCpu


@pytest.fixture(scope="module")
def walled():
    torch.set_num_threads(1)
    compiled_before_without_the_interface()
    with pyro.settings.context(module_local_params=True):
        density = LogDensity(program, Data(train={"y": torch.ones((), dtype=torch.float64)}))
        record = density.compile("on")
    assert record["used"], record
    return density


def test_graphs_get_the_interface_whatever_was_compiled_before():
    from torch._inductor.codegen import common
    from torch._inductor.codegen.cpp_wrapper_cpu_array_ref import CppWrapperCpuArrayRef

    compiled_before_without_the_interface()
    torch_private._register_wrapper()
    assert common.device_codegens["cpu"].cpp_wrapper_codegen is CppWrapperCpuArrayRef


def call(graph, u):
    """Call the C function as a sampler does."""
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)(
        graph.gradient
    )
    x, slope, value = u.clone(), torch.full_like(u, 7.0), ctypes.c_double(7.0)
    code = function(len(u), x.data_ptr(), slope.data_ptr(), ctypes.addressof(value), graph.data)
    return code, value.value, slope


def test_the_c_function_is_the_eager_gradient(walled):
    graph = walled.native_gradient()
    assert graph is not None
    for seed in range(3):
        u = 0.5 * torch.randn(
            2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        code, value, slope = call(graph, u)
        truth, gradient = walled.eager_gradient(u)
        assert code == 0
        assert abs(value - float(truth)) <= 1e-12 * (1 + abs(value))
        assert torch.allclose(slope, gradient, rtol=1e-12, atol=1e-12)
    assert graph.calls == 3


def test_points_without_a_density_are_rejected_not_fatal(walled):
    graph = walled.native_gradient()
    code, value, _ = call(graph, torch.tensor([3.0, 0.0], dtype=torch.float64))
    assert code > 0
    assert value != value
    assert call(graph, torch.zeros(2, dtype=torch.float64))[0] == 0
    assert not graph.failed


def test_another_length_and_a_stopped_graph_end_the_sampler(walled):
    graph = walled.native_gradient()
    assert call(graph, torch.zeros(3, dtype=torch.float64))[0] < 0
    graph.stop()
    code, value, slope = call(graph, torch.zeros(2, dtype=torch.float64))
    assert code == 0
    assert value != value
    assert not slope.any()
    assert not graph.failed


def test_numpy_calls_go_through_it_and_count(walled):
    before = walled.gradient_evaluations
    u = torch.tensor([0.3, -0.2], dtype=torch.float64)
    function = walled.numpy_gradient()
    value, gradient = function(u.numpy())
    again = function(0 * u.numpy())[1]
    truth, slope = walled.eager_gradient(u)
    assert value == pytest.approx(float(truth), abs=1e-12)
    assert torch.allclose(torch.from_numpy(gradient), slope, rtol=1e-12)
    assert not torch.allclose(torch.from_numpy(again), slope)
    assert walled.gradient_evaluations == before + 2


@pytest.mark.parametrize(
    "fault", ["wrong numbers", "no ArrayRef interface", "no compiler", "another processor"]
)
def test_what_does_not_fit_leaves_the_loader(walled, monkeypatch, fault, tmp_path):
    if fault == "wrong numbers":
        honest = c_abi.NativeGraph.__call__
        monkeypatch.setattr(
            c_abi.NativeGraph, "__call__", lambda self, *u: [1.0001 * x for x in honest(self, *u)]
        )
    elif fault == "no ArrayRef interface":
        monkeypatch.setattr(c_abi, "_library", lambda package: ctypes.CDLL(None))
    elif fault == "no compiler":
        monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(c_abi, "_shim", c_abi._shim.__wrapped__)
    else:
        monkeypatch.setattr(
            c_abi.NativeGraph,
            "__init__",
            lambda *args: (_ for _ in ()).throw(OSError("no such instruction")),
        )
    assert walled.native_gradient() is None
    u = torch.tensor([0.3, -0.2], dtype=torch.float64)
    assert torch.allclose(
        torch.from_numpy(walled.numpy_gradient()(u.numpy())[1]),
        walled.eager_gradient(u)[1],
        rtol=1e-12,
    )


def test_the_loop_knows_sizes_only():
    """A leaky sum against numpy: three state rows, two control numbers, three summaries."""

    def step(state, control, constant, noise):
        kept, count, _ = state.unbind(0)
        new = torch.stack([control[0] * kept + constant * noise, count + control[1], kept])
        return [new, torch.stack([new[0].sum(), new[1].sum(), noise.sum()])]

    generator = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((3, 4), (2,), (4,), (4,))
    ]
    checks = [
        [torch.randn(*x.shape, dtype=torch.float64, generator=generator) for x in inputs]
        for _ in range(2)
    ]
    graph = compile_function(step, inputs, checks, mode="on").native(checks)
    state, before = inputs[0].clone(), inputs[0].clone()
    controls = torch.rand(5, 2, dtype=torch.float64, generator=generator)
    noise = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    noise[4, 2] = float("inf")
    expected, summaries, rows = inputs[0], [], []
    for i in range(4):
        previous = expected
        expected, summary = step(expected, controls[i], inputs[2], noise[i])
        summaries.append(summary)
        rows.append(expected[0])
    done, numbers, history = graph.steps(state, before, controls, [noise])
    assert done == 4
    assert torch.allclose(numbers[:4], torch.stack(summaries), rtol=1e-14)
    assert not numbers[4].isfinite().all()
    assert torch.allclose(history[:4], torch.stack(rows), rtol=1e-14)
    assert torch.allclose(state, expected, rtol=1e-14)
    assert torch.allclose(before, previous, rtol=1e-14)
