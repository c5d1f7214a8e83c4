import sys
from pathlib import Path

import pytest

from benchmarks import run

sys.path.insert(0, str(Path(__file__).parent))  # planting.py and other helpers beside the tests


@pytest.fixture(autouse=True)
def nothing_beside(monkeypatch):
    """Let no run of a test compile for the next one in the background: the tests have the processors to themselves."""
    monkeypatch.setattr(run, "beside", lambda work: None)
