"""Fixtures of the tests of the guides."""

import pytest
import torch
from support import tiny as tiny_module

from zoo.compiler import compile as compiled


@pytest.fixture
def tiny():
    return tiny_module


@pytest.fixture
def uncompiled(monkeypatch):
    """Interpret traced graphs node by node instead of compiling them; all else is unchanged."""

    def build(function, make, checks):
        graph = make()

        def run(inputs):
            with torch.no_grad(), compiled.default_of(graph.examples):
                return list(graph.graph(*inputs, *graph.constants))

        compiled._check(function, run, checks)
        return graph, run, None, False

    monkeypatch.setattr(compiled, "_build", build)


@pytest.fixture(autouse=True)
def _hear_again():
    compiled._said.clear()
