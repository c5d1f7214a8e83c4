"""Global state before and after every test: one thread, validation on, no parameters."""

import gc
import math
import random
import signal
import warnings

import numpy as np
import pytest

# A process that a shell started with `&` ignores SIGINT, and so would all processes of a test that
# are to be interrupted: they would never end.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pyro
    import torch

from guides.optimize import progress

torch.set_num_threads(1)
progress.UNWATCHED = math.inf  # no lines between those of pytest
SEED = 20240601


MANY = 2000  # tests of a session that is worth seconds of preparation


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Leave what collecting makes out of every look for garbage, in forked workers too."""
    gc.disable()
    try:
        result = yield
        if len(session.items) > MANY:
            _load_ahead()
        return result
    finally:
        gc.freeze()
        gc.enable()


def _load_ahead():
    """Import once what dozens of processes forked by tests would each import for themselves.

    The compiler alone takes four seconds. Few tests do without: then this would take longer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import h5netcdf  # noqa: F401
        import matplotlib.pyplot  # noqa: F401
        import nutpie  # noqa: F401
        import sklearn.ensemble
        import sklearn.linear_model  # noqa: F401

        from benchmarks.arviz_bridge import load_arviz
        from zoo.compiler.compile import load_compiler

        load_arviz()
        load_compiler()


def _state():
    return {
        "parameter store": sorted(pyro.get_param_store().keys()),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "validation": pyro.poutine.util.is_validation_enabled(),
        "gradient mode": torch.is_grad_enabled(),
        "handlers": len(pyro.poutine.runtime._PYRO_STACK),
    }


@pytest.fixture(autouse=True)
def clean_state():
    """Seed everything and fail a test that leaves global state other than it found it."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    if torch.cuda.is_available():
        torch.manual_seed(SEED)
    else:  # in a thousandth of the time
        torch.default_generator.manual_seed(SEED)
    pyro.enable_validation(True)
    pyro.get_param_store().clear()
    before = _state()
    yield
    after = _state()
    dirty = [
        f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]
    ]
    pyro.get_param_store().clear()
    pyro.poutine.runtime._PYRO_STACK.clear()
    pyro.enable_validation(True)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_num_threads(1)
    if dirty:
        pytest.fail(f"The test leaves global state changed: {'; '.join(dirty)}", pytrace=False)


@pytest.fixture(scope="module")
def eager():
    """Compile nothing in a module of small runs, where compiling would take longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_BACKEND", "eager")
        yield


@pytest.fixture
def brief(monkeypatch):
    """Give quick runs few steps, draws and points, where quality is not what a test asserts."""
    from support.short_runs import short_chains, short_fits, small_islands

    short_fits(monkeypatch)
    short_chains(monkeypatch)
    small_islands(monkeypatch)


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures of a page empty, where a test reads its texts."""
    from support.short_runs import leave_undrawn

    leave_undrawn(monkeypatch)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache of compiled graphs, beside the precompiled header of the usual one.

    The header takes ten seconds to compile and does not depend on what is compiled after it: where
    this test is the first to need it, it is made in the usual cache, for the others as well.
    """
    from zoo.compiler import cache
    from zoo.compiler.compile import compile_function

    usual, x = cache.directory(), torch.ones(2, dtype=torch.float64)
    if not list(usual.glob("header-*/prefix.h.gch")):
        with monkeypatch.context() as patch:
            patch.delenv("ZOO_BACKEND", raising=False)
            compile_function(lambda x: [x.exp()], [x], [[2 * x]], mode="on")
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    own = cache.directory()
    own.mkdir(mode=0o700)
    for header in usual.glob("header-*/prefix.h.gch"):
        (own / header.parent.name).symlink_to(header.parent, target_is_directory=True)
    return tmp_path


@pytest.fixture
def load_entry():
    """Load an entry, or skip the test if its data are not part of this package and not here."""
    import zoo
    from zoo.errors import UsageError

    def load(name):
        entry = zoo.load(name)
        try:
            entry.load_data()
        except UsageError as error:
            if "POSTERIORDB is not set" not in str(error):
                raise
            pytest.skip("needs a copy of posteriordb; set POSTERIORDB")
        return entry

    return load
