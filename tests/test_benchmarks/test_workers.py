"""Workers: results independent of the number of jobs, and workers that die."""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import workers
from benchmarks.run import execute
from benchmarks.workers import Task, TaskResult, run_tasks
from zoo.compiler import cache
from zoo.compiler import compile as compiled
from zoo.errors import (
    DataError,
    InfrastructureError,
    LostWorkerError,
    UnknownNameError,
    UsageError,
    ZooError,
    command_line,
)


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.random()), random.random()  # noqa: NPY002


def test_values_depend_on_the_name_only():
    tasks = [Task(f"t{i}", draw) for i in range(5)]
    alone = [r.value for r in run_tasks(tasks, jobs=1)]
    assert alone == [r.value for r in run_tasks(tasks[::-1], jobs=3)][::-1]
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert alone == [r.value for r in run_tasks(tasks, in_process=True)]
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert len(set(alone)) == 5


@pytest.mark.parametrize(
    "options", [{"in_process": True}, {"jobs": 1}, {"jobs": 2}], ids=["here", "one", "two"]
)
def test_tasks_follow_from_results(options):
    """Two tasks follow one result, and one of them has another: all run once, in order."""
    seen = []

    def follow(result):
        seen.append(result.name)
        return (
            [Task(f"{result.name}{i}", lambda i=i: result.value + i) for i in (1, 2)]
            if result.name in ("a", "a1")
            else []
        )

    results = run_tasks([Task("a", lambda: 1), Task("b", lambda: 10)], follow=follow, **options)
    values = {"a": 1, "b": 10, "a1": 2, "a2": 3, "a11": 3, "a12": 4}
    assert {r.name: r.value for r in results} == values
    assert sorted(seen) == sorted(values)
    if options.get("jobs") != 2:
        assert seen == ["a", "a1", "a11", "a12", "a2", "b"]  # follow-up tasks run next
        assert [r.name for r in results] == list(values)
    with pytest.raises(UsageError, match="different names"):
        run_tasks(
            [Task("a", lambda: 1)],
            follow=lambda r: [Task("a", lambda: 2)] if r.value == 1 else [],
            **options,
        )


def test_large_tensors_come_home_and_cost_is_measured():
    seen: list[TaskResult] = []
    (result,) = run_tasks(
        [Task("big", lambda: {"x": torch.arange(3_000_000, dtype=torch.float64)})],
        on_done=seen.append,
    )
    assert torch.equal(result.unwrap()["x"], torch.arange(3_000_000, dtype=torch.float64))
    assert seen == [result]
    assert result.seconds > 0
    assert result.peak_memory_mb > 24


def test_workers_that_cannot_differentiate_hand_their_tasks_back(monkeypatch, caplog):
    """As with a graphics card, where torch refuses autograd in forked processes."""
    tasks, parent = [Task(f"t{i}", lambda: (draw(), os.getpid())) for i in range(4)], os.getpid()
    wanted = [r.value[0] for r in run_tasks(tasks)]
    monkeypatch.setattr(workers, "_differentiates", lambda: os.getpid() == parent)
    seen: list[str] = []
    results = run_tasks(tasks, jobs=2, on_done=lambda r: seen.append(r.name))
    assert [r.value for r in results] == [(value, parent) for value in wanted]
    assert sorted(seen) == ["t0", "t1", "t2", "t3"]
    assert caplog.text.count("Working in one process") == 1


def test_autograd_is_tried_as_a_model_would_use_it(monkeypatch):
    assert workers._differentiates()

    def refuse(*args: object) -> None:
        raise RuntimeError(
            "Unable to handle autograd's threading in combination with fork-based multiprocessing."
        )

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    assert not workers._differentiates()


def test_each_worker_has_one_thread():
    assert [
        r.value
        for r in run_tasks([Task("a", torch.get_num_threads), Task("b", torch.get_num_threads)])
    ] == [1, 1]


def test_an_error_keeps_its_class_and_the_others_finish():
    def fail() -> None:
        raise DataError("Row 3 is empty; drop it.")

    bad, good = run_tasks([Task("bad", fail), Task("good", draw)])
    assert (bad.status, good.status) == ("error", "ok")
    assert bad.error == "Row 3 is empty; drop it."
    assert "fail" in bad.trace
    with pytest.raises(DataError, match="Row 3"):
        bad.unwrap()


def test_a_result_that_cannot_be_pickled_is_an_error():
    (result,) = run_tasks([Task("lambda", lambda: lambda: 1)])
    assert result.status == "error"
    assert "cannot be sent to its parent" in (result.error or "")


def test_a_killed_worker_is_noticed_and_the_suite_goes_on():
    bad, good = run_tasks(
        [Task("bad", lambda: os.kill(os.getpid(), signal.SIGKILL)), Task("good", draw)], jobs=1
    )
    assert (bad.status, good.status) == ("killed", "ok")
    assert "ended by signal 9 (SIGKILL)" in (bad.error or "")
    with pytest.raises(InfrastructureError, match="killed"):
        bad.unwrap()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            signal.SIGKILL,
            (
                "signal 9 (SIGKILL): a user stopped it, or the system did because memory ran"
                " out; use fewer jobs"
            ),
        ),
        (
            signal.SIGSEGV,
            (
                "signal 11 (SIGSEGV): a fault in compiled code or in a library; try again with"
                " ZOO_BACKEND=eager in the environment"
            ),
        ),
        (signal.SIGABRT, "signal 6 (SIGABRT): a fault in compiled code"),
        (signal.SIGBUS, "signal 7 (SIGBUS): a fault in compiled code"),
        (signal.SIGTERM, "signal 15 (SIGTERM): it came from outside"),
        (signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}: it came from outside"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(int(value)),
)
def test_a_signal_is_named_with_what_it_can_mean(number, words):
    """By its actual number; only SIGKILL is said to be due to memory."""

    def die() -> None:
        faulthandler.disable()  # pytest's own would fill the screen
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)

    (bad,) = run_tasks([Task("bad", die)])
    assert bad.status == "killed"
    assert bad.error is not None
    assert bad.error.startswith(f"the worker process was ended by {words}")
    assert ("memory" in bad.error) == (number == signal.SIGKILL)
    with pytest.raises(
        LostWorkerError, match="Task 'bad' ended as killed: the worker process was ended by signal"
    ) as caught:
        bad.unwrap()
    assert caught.value.status == "killed"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("leave", "code"),
    [(lambda: os._exit(7), 7), (lambda: os._exit(0), 0), (lambda: sys.exit(7), 7)],
    ids=["_exit", "without an answer", "sys.exit"],
)
def test_a_worker_that_exits_is_neither_killed_nor_out_of_memory(leave, code, tmp_path):
    def work() -> None:
        (tmp_path / str(os.getpid())).touch()
        leave()

    bad, good = run_tasks([Task("bad", work), Task("good", draw)], retries=1)
    assert (bad.status, good.status) == ("error", "ok")
    assert (
        bad.error == f"the worker process exited with code {code}; what it runs must return an"
        " answer, not exit."
    )
    assert len(list(tmp_path.iterdir())) == 1  # it would exit again
    with pytest.raises(LostWorkerError, match="ended as error: the worker process exited"):
        bad.unwrap()


class Panic(BaseException):
    """An exception as raised by Rust libraries: not an `Exception`."""


class Fussy(Exception):
    """Can be pickled but not unpickled: its arguments are not those it was made from."""

    def __init__(self, table: str, row: int) -> None:
        super().__init__(f"no row {row} in {table}")


@pytest.mark.parametrize("options", [{"in_process": True}, {"jobs": 2}], ids=["here", "workers"])
def test_whatever_is_raised_becomes_a_failed_result(options):
    class Local(Exception):
        """Cannot be pickled."""

    raised = {
        "panic": Panic("poisoned"),
        "fussy": Fussy("prices", 3),
        "local": Local("lost"),
        "name": UnknownNameError("table", "x", ["y"]),
    }

    def fail(error: BaseException) -> None:
        raise error

    results = run_tasks(
        [*(Task(n, lambda e=e: fail(e)) for n, e in raised.items()), Task("good", draw)], **options
    )
    assert [r.status for r in results] == ["error"] * 4 + ["ok"]
    sentences = [
        "Panic: poisoned",
        "Fussy: no row 3 in prices",
        "Local: lost",
        "Unknown table 'x'; accepted: y.",
    ]
    assert [r.error for r in results[:4]] == sentences
    assert all("in fail" in r.trace for r in results[:4])
    for result, sentence in zip(results[:4], sentences, strict=True):
        with pytest.raises(Exception, match=sentence.rpartition(": ")[2]) as caught:
            result.unwrap()
        assert not isinstance(caught.value, InfrastructureError)
    assert isinstance(results[0].exception, ZooError)
    assert type(results[3].exception) is UnknownNameError


def test_ctrl_c_and_exits_pass_through_tasks_that_run_here():
    def fail(error: BaseException) -> None:
        raise error

    for kind in (KeyboardInterrupt, SystemExit):
        with pytest.raises(kind):
            run_tasks([Task("a", lambda kind=kind: fail(kind()))], in_process=True)


def test_a_killed_worker_can_be_retried(tmp_path):
    def dies_once() -> str:
        if not (tmp_path / "been").exists():
            (tmp_path / "been").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "second life"

    (result,) = run_tasks([Task("phoenix", dies_once)], retries=1)
    assert result.value == "second life"


def test_a_slow_worker_is_stopped():
    slow, good = run_tasks(
        [Task("slow", lambda: time.sleep(60)), Task("good", draw)], jobs=2, timeout=0.3
    )
    assert (slow.status, good.status) == ("timeout", "ok")


def test_bad_requests_are_refused():
    with pytest.raises(UsageError, match="different names"):
        run_tasks([Task("a", draw), Task("a", draw)])
    with pytest.raises(UsageError, match="jobs is 0"):
        run_tasks([Task("a", draw)], jobs=0)


SCRIPT = """
import os, time
from benchmarks.workers import Task, run_tasks
def work():
    # one write: print may make two, with that of the other worker in between
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)
try:
    run_tasks([Task("a", work), Task("b", work)], jobs=2)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise SystemExit(130)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_signals_leave_no_worker_behind(number, code):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.send_signal(number)
        process.communicate()
    assert process.returncode == code
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_is_loaded_meanwhile_travels_into_later_workers(monkeypatch):
    loaded: list[str] = []
    monkeypatch.setattr(workers, "PAUSE", 0.05)
    tasks = [Task("first", lambda: time.sleep(0.4)), Task("second", lambda: len(loaded))]
    results = run_tasks(tasks, jobs=1, meanwhile=lambda: loaded.append("compiler"))
    assert results[1].unwrap() >= 2
    assert run_tasks([Task("alone", lambda: 1)], jobs=1)[0].unwrap() == 1


def test_the_compiler_is_loaded_once_after_a_worker_has_compiled(monkeypatch):
    found, loads = [3], list[int]()
    monkeypatch.setattr(cache, "count", lambda: found[0])
    monkeypatch.setattr(compiled, "load_compiler", lambda: loads.append(found[0]))
    ahead = execute._compiler_ahead()
    ahead()
    assert loads == []
    found[0] = 4
    ahead()
    ahead()
    assert loads == [4]


def test_only_chains_that_outlast_the_rest_run_side_by_side():
    def cell(name, method):
        return SimpleNamespace(name=name, method=method)

    cells = [cell("a", "nuts"), cell("b", "nuts"), cell("c", "full_rank"), cell("d", "mean_field")]
    seconds = {"a": 50.0, "b": 8.0, "c": 30.0, "d": 10.0}
    assert execute._worth_all_workers(cells, seconds, 1) == set()
    assert execute._worth_all_workers(cells, seconds, 2) == {"a"}  # 50 s against 48 s
    assert execute._worth_all_workers(cells, {**seconds, "c": 40.0}, 2) == set()
    assert execute._worth_all_workers(cells, seconds, 16) == {"a", "b"}
    assert execute._worth_all_workers(cells[1:2], {"b": 8.0}, 2) == {"b"}


@pytest.mark.parametrize("options", [{"in_process": True}, {"jobs": 1}], ids=["here", "forked"])
def test_every_global_stream_is_seeded_whatever_was_drawn_before(options):
    """A method that draws from torch's, numpy's or Python's own stream repeats by its name."""
    found = []
    for before in (1, 2):
        torch.manual_seed(before)
        np.random.seed(before)  # noqa: NPY002
        random.seed(before)
        tasks = [Task("a", draw), Task("b", draw)]
        found.append([r.value for r in run_tasks(tasks, **options)])
    assert found[0] == found[1]
    for first, second in zip(*found[0], strict=True):
        assert first != second  # each stream has another seed in another task


def test_a_lost_worker_of_a_command_names_its_options():
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with command_line():
        (bad,) = run_tasks([Task("bad", die)])
    assert "use fewer --jobs" in (bad.error or "")
