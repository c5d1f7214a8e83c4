"""Make the tiny programs importable as fixtures; the folder is no package."""

import importlib.util
import sys
from pathlib import Path

import pytest

from zoo import compiled


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


@pytest.fixture(autouse=True)
def _hear_again():
    compiled._said.clear()
