"""Make the tiny programs importable as fixtures; the folder is no package."""

import importlib.util
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("guides_tiny", Path(__file__).with_name("tiny.py"))
tiny_module = importlib.util.module_from_spec(_SPEC)
sys.modules["guides_tiny"] = tiny_module
_SPEC.loader.exec_module(tiny_module)


@pytest.fixture
def tiny():
    return tiny_module
