"""Compiled graphs equal the eager program, say why they do not run, refuse bad input."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support import compiled_programs as programs
from torch.fx.experimental.proxy_tensor import make_fx

import zoo
from zoo.compiler import cache
from zoo.compiler import compile as compiled
from zoo.compiler.compile import compile_function
from zoo.compiler.policy import Work, pays, work_of
from zoo.compiler.trace import trace
from zoo.density.compiled import CHUNK
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
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


# -- compiled ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hierarchy():
    torch.set_num_threads(1)
    log_density = density("hierarchy")
    record = log_density.compile("on")
    assert record["used"], record
    return log_density


def test_compiled_gradient_and_its_counter(hierarchy):
    before = hierarchy.gradient_evaluations
    call = hierarchy.numpy_gradient()
    for u in points(3, hierarchy.dim, 5):
        value, gradient = hierarchy.eager_gradient(u)
        got = hierarchy.gradient(u)
        assert_close(got[0], value)
        assert_close(got[1], gradient)
        number, array = call(u.numpy())
        assert isinstance(number, float)
        assert abs(number - value) <= 1e-9 * (1 + abs(value))
        assert_close(torch.from_numpy(array), gradient)
    assert hierarchy.gradient_evaluations == before + 6


def test_torchs_loader_is_given_the_point_alone(hierarchy, monkeypatch):
    """Constants are bound to the graph; passed again, the loader refuses inside the sampler."""
    form = hierarchy._compiled._forms["gradient"]
    assert form.traced.constants
    real, seen = form.run, []
    monkeypatch.setattr(form, "run", lambda inputs: seen.append(len(inputs)) or real(inputs))
    monkeypatch.setattr(type(hierarchy._compiled), "native_gradient", lambda self: None)
    u = torch.linspace(-0.3, 0.4, hierarchy.dim, dtype=torch.float64)
    value, gradient = hierarchy.numpy_gradient()(u.numpy())
    truth, slope = hierarchy.eager_gradient(u)
    assert seen == [1]
    assert value == pytest.approx(float(truth), rel=1e-10)
    assert torch.allclose(torch.from_numpy(gradient), slope, rtol=1e-8)


def test_numpy_gradients_do_not_share_results(hierarchy):
    call = hierarchy.numpy_gradient()
    first = call(np.zeros(hierarchy.dim))[1]
    kept = first.copy()
    call(np.ones(hierarchy.dim))
    assert np.array_equal(first, kept)
    with pytest.raises(ValueError, match="shape"):
        call(np.zeros(1))


def test_enumerated_program_compiles():
    log_density = density("mixture")
    assert log_density.compile("on")["used"], log_density.compiled
    u = points(2, log_density.dim, 9)[1]
    for got, truth in zip(log_density.gradient(u), log_density.eager_gradient(u), strict=True):
        assert_close(got, truth)


@pytest.mark.parametrize("number", [1, CHUNK + 1])
def test_compiled_batch_with_gradient(hierarchy, number):
    u = points(number, hierarchy.dim, 2)
    value, gradient = hierarchy._compiled.batch_value_and_gradient(u)
    truth = [hierarchy.eager_gradient(row) for row in u]
    assert_close(value, torch.stack([t[0] for t in truth]))
    assert_close(gradient, torch.stack([t[1] for t in truth]))


def test_batch_function_stays_differentiable_and_traceable(hierarchy):
    weights, u = (
        torch.tensor([1.0, -2.0, 0.5]).double(),
        points(3, hierarchy.dim, 4).requires_grad_(True),
    )
    function = hierarchy.batch_function()
    (got,) = torch.autograd.grad((weights * function(u)).sum(), u)
    (truth,) = torch.autograd.grad((weights * hierarchy.eager_batch()(u)).sum(), u)
    assert hierarchy._compiled._form("batch_gradient") is not None
    assert_close(got, truth)
    other = points(3, hierarchy.dim, 8)
    graph = make_fx(lambda x: function(x))(u.detach())
    assert_close(graph(other), hierarchy.eager_batch()(other).detach())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda u: u.float(),
        lambda u: u[:-1],
        lambda u: torch.stack([u, u], -1)[:, 0],
        lambda u: u[None],
    ],
    ids=["dtype", "size", "stride", "rank"],
)
def test_compiled_graph_refuses_what_it_would_get_wrong(hierarchy, wrong):
    form = hierarchy._compiled._forms["gradient"]
    assert form.run is not None
    with pytest.raises(UsageError, match="accepted"):
        form(wrong(points(1, hierarchy.dim)[0]))


def _child(pipe, log_density, u):
    pipe.send([t.numpy() for t in log_density.gradient(u)])


def test_a_forked_worker_keeps_the_graph(hierarchy):
    u = points(1, hierarchy.dim, 3)[0]
    here, there = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context("fork").Process(target=_child, args=(there, hierarchy, u))
    worker.start()
    assert here.poll(30), "the forked worker did not answer"
    value, gradient = here.recv()
    worker.join(10)
    assert worker.exitcode == 0
    assert value == hierarchy.gradient(u)[0].item()
    assert np.array_equal(gradient, hierarchy.gradient(u)[1].numpy())


def test_a_graph_failing_at_run_time_is_replaced_by_the_program():
    log_density = density("hierarchy")
    assert log_density.compile("on")["used"]

    def broken(_: object) -> list[torch.Tensor]:
        raise RuntimeError("planted")

    log_density._compiled._forms["gradient"].run = broken
    u = points(1, log_density.dim)[0]
    assert_close(log_density.gradient(u)[1], log_density.eager_gradient(u)[1])
    assert not log_density.compiled["used"]
    assert "planted" in log_density.compiled["reason"]


def test_a_miscompiled_graph_is_not_used(monkeypatch):
    load = compiled._load

    def wrong(*arguments):
        run = load(*arguments)
        return lambda tensors: [t * (1 + 1e-6) for t in run(tensors)]

    monkeypatch.setattr(compiled, "_load", wrong)
    record = density("hierarchy").compile("on")
    assert not record["used"]
    assert "self-check failed" in record["reason"]


# -- falling back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "reason"), [("baked", "self-check failed"), ("branching", "cannot be traced")]
)
def test_programs_that_cannot_be_one_graph_run_as_they_are(program, reason, caplog):
    log_density = LogDensity(
        getattr(programs, program), Data(train={"y": torch.linspace(0, 1, 4).double()})
    )
    with caplog.at_level(logging.WARNING, "zoo"):
        record = log_density.compile("on")
        log_density.compile("on")
    assert not record["used"]
    assert reason in record["reason"]
    assert len(caplog.records) == 1
    u = points(1, log_density.dim)[0]
    assert_close(log_density.gradient(u)[1], log_density.eager_gradient(u)[1])
    assert log_density.numpy_gradient()(u.numpy())[0] == log_density.gradient(u)[0].item()


def test_no_compiler_is_a_reason_not_a_crash(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    record = density("flat_scale").compile("on")
    assert not record["used"]
    assert "no C++ compiler" in record["reason"]


def square(u):
    return [u.sum() ** 2]


@pytest.mark.parametrize(
    ("calls", "reason"),
    [(10, "eager is enough: 10 calls of 2 operations, about 0.0 s"), (2_000_000, "compiled")],
)
def test_auto_compiles_when_it_pays(monkeypatch, tmp_path, calls, reason):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    graph = trace(square, [torch.ones(3).double()])
    monkeypatch.setattr(cache, "store", lambda key, *_: key)
    monkeypatch.setattr(compiled, "_load", lambda *_: lambda tensors: graph(*tensors[:1]))
    out = compile_function(
        square, [torch.ones(3).double()], [list(points(1, 3))], mode="auto", expected_calls=calls
    )
    assert out.record["reason"] == reason
    assert out.record["used"] == (reason == "compiled")


def test_what_pays_by_the_stated_figures():
    """Four eager runs, minus the eighth that compiled ones take, against compilation.

    Compilation includes loading and tracing.
    """
    work = Work(operations=400, numbers=1_000_000)
    assert work.seconds == pytest.approx(400 * 5e-6 + 1e6 * 2e-9)
    price = 0.5 + 300 * work.seconds + 1.5 + 0.017 * 400
    calls = price / (4 * work.seconds * 7 / 8)
    assert [pays(work, int(calls)), pays(work, int(calls) + 1)] == [False, True]


def test_work_counts_operations_and_what_they_return():
    x = torch.ones(5, dtype=torch.float64)
    assert work_of(lambda x: (x + 1).exp().sum(), [x]) == Work(operations=3, numbers=11)


@pytest.mark.parametrize("calls", [2000, 2_000_000])
def test_auto_never_asks_the_disk_or_the_clock(monkeypatch, own_cache, calls):
    """A third run gave other numbers: `auto` used what earlier runs had left in the cache."""

    def run():
        record = compile_function(
            square,
            [torch.ones(3).double()],
            [list(points(1, 3))],
            mode="auto",
            expected_calls=calls,
        ).record
        return record["used"]

    first = run()
    assert compile_function(
        square, [torch.ones(3).double()], [list(points(1, 3))], mode="on"
    ).record["used"]
    monkeypatch.setattr("time.thread_time", lambda: pytest.fail("a clock decides"))
    assert [run(), run()] == [first, first] == [calls > 2000] * 2


def test_unknown_mode_is_refused():
    with pytest.raises(UsageError, match="accepted: auto, off, on"):
        density("hierarchy").compile("yes")


def test_damaged_packages_are_not_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))

    def build(path: str) -> str:
        Path(path).write_bytes(b"package")
        return path

    package = cache.store("a" * 40, build)
    assert cache.find("a" * 40) == package
    assert sorted(p.name for p in package.parent.iterdir()) == [
        "a" * 40 + ".json",
        "a" * 40 + ".pt2",
    ]
    package.write_bytes(b"packag")
    assert cache.find("a" * 40) is None
    package.with_suffix(".json").write_text("{}")
    assert cache.find("a" * 40) is None


# -- slow --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_case_compiles_in_every_form(name):
    log_density = density(name)
    assert log_density.compile("on")["used"], log_density.compiled
    u = points(70, log_density.dim, 6)
    truth = [log_density.eager_gradient(row) for row in u]
    assert_close(log_density.gradient(u[0])[1], truth[0][1])
    assert_close(log_density.batch(u), torch.stack([t[0] for t in truth]))
    assert_close(
        log_density._compiled.batch_value_and_gradient(u)[1], torch.stack([t[1] for t in truth])
    )
    assert all(f.record["used"] for f in log_density._compiled._forms.values())


@pytest.mark.slow
def test_a_second_process_does_not_compile(tmp_path):
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import compiled_programs as p; from"
        " zoo.density.log_density import LogDensity\nd = LogDensity(*p.cases()['flat_scale']);"
        " print(json.dumps(d.compile('on')), 'torch._inductor.compile_fx' in sys.modules)"
    )
    environment = {**os.environ, "ZOO_CACHE_DIR": str(tmp_path)}
    lines = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(Path(programs.__file__).parent)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        record, _, imported = done.stdout.strip().rpartition(" ")
        lines.append((json.loads(record), imported))
    (cold, _), (warm, imported) = lines
    assert cold["used"]
    assert not cold["cached"]
    assert warm["used"]
    assert warm["cached"]
    assert imported == "False"


def covariance(y):
    z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(20), MATRIX))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def precision(y):
    z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(20), precision_matrix=MATRIX))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def cutpoints(y):
    prior = dist.Normal(torch.zeros(4), 1.0).to_event(1)
    c = pyro.sample("c", dist.TransformedDistribution(prior, dist.transforms.OrderedTransform()))
    pyro.sample("y", dist.Normal(c.sum(), 1.0).expand([20]).to_event(1), obs=y)


MATRIX = torch.eye(20, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("program", [covariance, precision, cutpoints])
def test_fixed_matrices_and_ordered_vectors_are_compiled_with_their_batches(program, capfd):
    """A check of a fixed factor has no user; writes into a slice with an open end are mapped."""
    entry = zoo.from_program(program, {"y": torch.linspace(-1, 1, 20, dtype=torch.float64)})
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    assert density.compile("on")["used"], density.compiled["reason"]
    generator = torch.Generator().manual_seed(2)
    u = torch.randn(70, density.dim, dtype=torch.float64, generator=generator)
    truth = torch.stack([density.evaluate(row) for row in u])
    assert torch.allclose(density.batch(u), truth, atol=1e-9)
    text = "".join(capfd.readouterr())
    assert "uncompiled" not in text
    assert "issue" not in text
