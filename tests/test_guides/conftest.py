"""Make the tiny programs importable as fixtures; the folder is no package."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from zoo.compiler import compile as compiled


def _module(name):
    spec = importlib.util.spec_from_file_location(f"guides_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tiny_module = _module("tiny")
_module("stepping")


@pytest.fixture
def tiny():
    return tiny_module


@pytest.fixture
def uncompiled(monkeypatch):
    """Run traced graphs node by node in place of Inductor's code; everything around them is as it is."""

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
