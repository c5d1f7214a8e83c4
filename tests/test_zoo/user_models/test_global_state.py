"""A model file leaves the process as it found it, and the check says what it changed."""

import random

import numpy as np
import pyro
import pytest
import torch
from torch.distributions import Distribution

import zoo
from zoo.contract import checks
from zoo.user_models.global_state import restored, state
from zoo.user_models.scaffold import new_model

CHANGES = {
    "torch.manual_seed(7)": "torch's random state",
    "import numpy; numpy.random.seed(3)": "numpy's random state",
    "import random; random.seed(3)": "python's random state",
    "torch.set_default_dtype(torch.float64)": "the default dtype",
    "torch.set_num_threads(3)": "the number of threads",
    "torch.set_grad_enabled(False)": "gradient mode",
    "torch.autograd.set_detect_anomaly(True)": "anomaly detection",
    "torch.use_deterministic_algorithms(True)": "deterministic algorithms",
    "pyro.enable_validation(False)": "pyro's settings",
    "pyro.settings.set(cholesky_relative_jitter=7.0)": "pyro's settings",
    "pyro.param('left_behind', torch.ones(2))": "the global parameter store",
}


@pytest.fixture(autouse=True)
def unchanged():
    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize("line", CHANGES)
def test_what_a_file_changes_is_restored_and_named_by_the_check(tmp_path, line):
    path = new_model("my_model", tmp_path)
    path.write_text(path.read_text().replace("import torch\n", f"import torch\n{line}\n", 1))
    before = state()
    entry = zoo.load(str(path))
    assert state() == before
    (check,) = [c for c in checks(entry) if c.name == "no_global_state"]
    result = check.run()
    assert result.status == "failed"
    assert f"Loading the file changes {CHANGES[line]}" in result.sentence or (
        CHANGES[line] in result.sentence
    )


def test_a_file_that_changes_nothing_passes(tmp_path):
    entry = zoo.load(str(new_model("my_model", tmp_path)))
    (check,) = [c for c in checks(entry) if c.name == "no_global_state"]
    assert check.run().status == "ok"


def test_state_is_restored_after_an_exception():
    with pytest.raises(ZeroDivisionError), restored() as changed:  # noqa: PT012
        torch.set_default_dtype(torch.float64)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        Distribution.set_default_validate_args(False)
        pyro.param("left_behind", torch.ones(1))
        _ = 1 / 0
    assert {"the default dtype", "numpy's random state", "python's random state"} <= set(changed)
    assert {"torch's validation of arguments", "the global parameter store"} <= set(changed)
