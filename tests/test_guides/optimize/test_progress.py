"""Lines of long calls from Python: on a terminal and in a notebook, nowhere else by default."""

import io
import multiprocessing
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

import benchmarks
import guides
import zoo
from benchmarks.workers import Task, run_tasks
from guides.optimize import progress as module
from guides.optimize.progress import FIRST, WAITED, Parts, Steps, Waiting, is_watched, speaker
from zoo.errors import UsageError, command_line

pytestmark = pytest.mark.usefixtures("eager")
SHORT = {"steps": 60, "patience": 20, "compile": "off"}


def rows(x):
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Cell(io.StringIO):
    """What a notebook puts in the place of stderr."""


Cell.__module__ = "ipykernel.iostream"


def seen(monkeypatch, stream):
    """Let the module write to a stream; pytest itself puts others in the place of stderr."""
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def entry():
    return zoo.load("coin")


@pytest.fixture(params=[Terminal, Cell])
def watched(request, monkeypatch):
    return seen(monkeypatch, request.param())


@pytest.fixture
def terminal(monkeypatch):
    return seen(monkeypatch, Terminal())


def test_a_fit_tells_that_it_begins_and_ends(entry, watched):
    """It was silent for minutes."""
    guides.fit(entry, "mean_field", **SHORT)
    first, last = watched.getvalue().splitlines()
    assert first == "zoo: coin mean_field: fitting"
    assert last.startswith("zoo: coin mean_field: ok, ")
    assert last.endswith(" s")


def test_a_batch_larger_than_the_data_is_said(terminal):
    entry = zoo.from_program(rows, {"x": torch.zeros(4)}, minibatch=9)
    assert len(entry.notices) == 1
    for size, note in [
        (2, ""),
        (4, ""),
        (5, ", all 4 rows in every step, since batch_size=5 is more"),
    ]:
        terminal.truncate(0)
        guides.fit(entry, "mean_field", batch_size=size, **SHORT)
        first = terminal.getvalue().strip("\0").splitlines()[0]
        assert first == f"zoo: my_model mean_field: fitting{note}"
    terminal.truncate(0)
    guides.fit(entry, "mean_field", **SHORT)  # the entry said it when it was made
    assert terminal.getvalue().strip("\0").splitlines()[0] == "zoo: my_model mean_field: fitting"


def test_a_fit_without_a_step_says_so(terminal):
    def guide(x):
        loc = pyro.param("loc", torch.zeros(4))
        with pyro.plate("row", 4):
            pyro.sample("z", dist.Normal(loc, 1.0))

    entry = zoo.from_program(rows, {"x": torch.zeros(4)}, guide=guide)
    fit = guides.fit(entry, "own", steps=0)
    assert "my_model own: ok, no step was taken, " in terminal.getvalue().splitlines()[1]
    assert fit.stop.sentence == (
        "No step was taken: the guide is scored as it was given. The initial values of pyro.param"
        " 'loc' are scored; trained=True, when the entry is made, takes those of Pyro's parameter"
        " store."
    )
    guides.fit(entry, "own", **SHORT)
    assert "no step" not in terminal.getvalue().splitlines()[3]


def test_a_fit_is_silent_where_nobody_reads_or_wishes_it(entry, terminal, monkeypatch, capsys):
    guides.fit(entry, "mean_field", progress=False, **SHORT)
    with command_line():
        guides.fit(entry, "mean_field", **SHORT)
    heard = []
    guides.fit(entry, "mean_field", progress=lambda *seen: heard.append(seen), **SHORT)
    assert len(heard) > 20
    assert terminal.getvalue() == ""
    monkeypatch.undo()
    guides.fit(entry, "mean_field", **SHORT)
    assert capsys.readouterr().err == ""
    guides.fit(entry, "laplace", progress=True)
    assert "coin laplace: ok" in capsys.readouterr().err


def test_a_script_whose_stderr_is_a_file_says_a_line_after_half_a_minute(entry, monkeypatch):
    """`guides.fit` and `benchmarks.assess` were silent for a minute."""
    file, now = seen(monkeypatch, io.StringIO()), [0.0]
    monkeypatch.setattr(module, "UNWATCHED", 30.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    steps = module.steps_of("coin mean_field", 1, None)
    steps.begin()
    for second in range(130):
        now[0] = float(second)
        steps(second + 1, 6000, 1.5)
    steps.end("ok")
    assert file.getvalue().splitlines() == [
        f"zoo: coin mean_field: step {n + 1} of at most 6,000, loss 1.5 nats, {n} s"
        for n in (30, 60, 120)
    ]
    assert module.steps_of("coin mean_field", 1, False) is None
    with command_line():
        assert speaker(None) is module.silent
    (result,) = run_tasks([Task("worker", lambda: speaker(None) is module.silent)])
    assert result.unwrap() is True


def test_an_assessment_in_a_script_says_that_it_still_runs(entry, monkeypatch):
    monkeypatch.setattr("benchmarks.comparison.assess_steps.MOST_GRADIENTS", 1)
    monkeypatch.setattr("benchmarks.mcmc.short_chains.LENGTHS", (4, 8))
    fit = guides.fit(entry, "laplace", progress=False)
    file = seen(monkeypatch, io.StringIO())
    benchmarks.assess(fit, draws=200, smc=False)
    assert file.getvalue() == ""
    monkeypatch.setattr(module, "UNWATCHED", 0.0)
    benchmarks.assess(fit, draws=200, smc=False)
    first = file.getvalue().splitlines()[0]
    assert first.startswith("zoo: assess coin laplace: still running after 0 s; convergence: ")


def test_workers_and_streams_that_are_closed_are_not_watched(terminal, monkeypatch):
    assert is_watched()
    (result,) = run_tasks([Task("worker", is_watched)])
    assert result.unwrap() is False
    assert multiprocessing.parent_process() is None
    seen(monkeypatch, None)
    assert not is_watched()


def test_steps_are_told_after_a_while_and_ever_less_often(monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    said = []
    steps = Steps("coin mean_field", 2, said.append)
    steps.begin()
    for second in range(100):
        now = float(second)
        steps(second % 50 + 1, 6000, 1234.56789)
    assert said[0] == "coin mean_field: fitting, 2 starts"
    assert said[1] == (
        "coin mean_field: start 1 of 2, step 6 of at most 6,000, loss 1234.57 nats, 5 s"
    )
    assert [line.rpartition(", ")[2] for line in said[1:]] == [
        "5 s",
        "10 s",
        "20 s",
        "40 s",
        "80 s",
    ]
    assert said[-1].startswith("coin mean_field: start 2 of 2, step 31 of")
    assert FIRST == 5


def test_chains_tell_how_far_they_are(entry, watched, monkeypatch):
    monkeypatch.setattr("benchmarks.workers.PAUSE", 0.01)
    monkeypatch.setattr(module, "WAITED", 0.0)
    options = {"chains": 2, "tune": 60, "draws": 20, "min_ess": 0, "compile": "off"}
    benchmarks.run_nuts(entry, **options)
    lines = watched.getvalue().splitlines()
    assert lines[0] == "zoo: coin nuts: 2 chains of 60 + 20 iterations"
    assert sum("coin nuts chain" in line and ": ok, " in line for line in lines) == 2
    assert any("coin nuts: still running after 0 s" in line for line in lines)
    before = watched.getvalue()
    heard = []
    benchmarks.run_nuts(entry, progress=heard.append, **options)
    benchmarks.run_nuts(entry, progress=False, **options)
    assert watched.getvalue() == before
    assert len(heard) == 2  # a line per finished chain


def test_an_assessment_tells_its_steps(entry, terminal, monkeypatch):
    monkeypatch.setattr("benchmarks.comparison.assess_steps.MOST_GRADIENTS", 1)
    monkeypatch.setattr("benchmarks.mcmc.short_chains.LENGTHS", (4, 8))
    fit = guides.fit(entry, "laplace", progress=False)
    found = benchmarks.assess(fit, draws=200, smc=False)
    lines = terminal.getvalue().splitlines()
    assert {c.name for c in found.checks} == {line.split(": ")[1] for line in lines}
    benchmarks.assess(fit, draws=200, smc=False, progress=False)
    assert len(terminal.getvalue().splitlines()) == len(lines)


def test_what_waits_is_told_after_half_a_minute(monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    said = []
    waiting = Waiting("coin nuts", said.append)
    for second in range(130):
        now = float(second)
        waiting()
    assert said == [f"coin nuts: still running after {n} s" for n in (30, 60, 120)]
    assert WAITED == 30


def test_anything_else_is_refused(entry):
    for call in (
        lambda: guides.fit(entry, "laplace", progress="yes"),
        lambda: benchmarks.run_nuts(entry, progress="yes"),
        lambda: benchmarks.assess(guides.fit(entry, "laplace"), progress="yes"),
    ):
        with pytest.raises(
            UsageError, match=r"progress='yes' .*accepted: True, False, a function"
        ):
            call()
    assert speaker(print) is print


def test_parts_of_a_call_are_told_after_five_seconds_and_twice_that(monkeypatch):
    now, heard = [100.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    parts = Parts("report", heard.append)
    parts.begin("3 rows")
    for now[0], part in [(104.9, "a"), (105.0, "b"), (109.9, "c"), (110.0, "d"), (112.0, "e")]:
        parts(part)
    parts.end()
    assert heard == ["report: 3 rows", "report: b, 5 s", "report: d, 10 s", "report: done, 12.0 s"]


@pytest.mark.parametrize(("starts", "said"), [(1, "step 5"), (3, "start 1 of 3, step 5")])
def test_a_start_is_counted_where_there_are_several(starts, said, monkeypatch):
    heard = []
    told = Steps("coin mean_field", starts, say=heard.append)
    told.begin()
    told.told = 0.0
    told(5, 1000, 3.25)
    assert heard[-1].startswith(f"coin mean_field: {said} of at most 1,000, loss 3.25 nats, ")
    assert heard[0] == "coin mean_field: fitting" + (", 3 starts" if starts > 1 else "")
