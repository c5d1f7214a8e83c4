"""The short way to Inductor's sources and the public one give libraries of the same numbers; what is not pure takes the public one."""

import sys
from pathlib import Path

import pytest
import torch

from zoo.compiler import compile as compiled
from zoo.compiler import inductor, standalone
from zoo.compiler.trace import trace


def curve(x, y):
    z = torch.logsumexp(torch.nn.functional.softplus(x) + y.cumsum(-1), -1)
    return [z.sum(), torch.lgamma(x.exp()).mean(0), y[..., [1, 0]].tril()]


@pytest.fixture
def example():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(5, 4, dtype=torch.float64, generator=generator) for _ in range(2)]


def built(graph, path):
    with compiled._quiet(), torch.no_grad():
        compiled._alone(graph, str(path))
    return standalone.load(Path(path), graph.constants, graph.outputs)


def test_both_ways_give_the_eager_numbers(example, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="zoo")
    graph = trace(curve, example)
    short = built(graph, tmp_path / "short.so")(example)
    assert not caplog.messages

    def refuse(*arguments):
        raise AttributeError("no such stage")

    monkeypatch.setattr(inductor, "_short", refuse)
    long = built(graph, tmp_path / "long.so")(example)
    assert caplog.messages == ["A graph takes Inductor's long way: no such stage"]
    for a, b, c in zip(short, long, curve(*example), strict=True):
        assert torch.equal(a, b)
        assert torch.allclose(a, c, rtol=1e-12, atol=1e-12)


def test_a_graph_that_writes_into_its_arguments_is_refused(example, tmp_path):
    def write(x, y):
        return (x.clone().add_(y),)

    module = torch.fx.symbolic_trace(write)
    options = {**compiled.OPTIONS, **standalone.SOURCES, "aot_inductor.output_path": str(tmp_path)}
    with pytest.raises(ValueError, match=r"aten.add_.Tensor writes into its arguments"), torch.no_grad():
        inductor._short(module, example, 1, options)


def test_the_compiler_can_be_loaded_ahead(caplog, monkeypatch):
    caplog.set_level("INFO", logger="zoo")
    compiled.load_compiler()
    assert not caplog.messages
    assert "torch._inductor.codegen.cpp" in sys.modules

    def refuse(*arguments):
        raise OSError("no compiler")

    monkeypatch.setattr(inductor, "sources", refuse)
    compiled.load_compiler()
    assert caplog.messages == ["The compiler was not loaded ahead: no compiler"]
