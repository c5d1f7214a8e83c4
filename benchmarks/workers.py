"""Independent tasks, each in its own forked process with one torch thread.

Pyro is not thread-safe, and torch with two threads on a busy two-core machine is several times
slower, so the unit of parallel work is a process. It is forked, so that it inherits compiled
graphs and data without copying; it is seeded from its name, so that a result depends neither on
the number of jobs nor on their order; it ends with its parent.

If a graphics card is visible, torch's autograd starts threads for it in the first process that
differentiates, and does not work in processes forked later, whatever they compute on. The command
line hides cards that are not requested. Elsewhere a worker that cannot differentiate says so, and
the tasks run one after another in the calling process.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import pickle
import random
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import numpy as np
import torch

from zoo.errors import LostWorkerError, UsageError, ZooError, spelled
from zoo.seeds import derive_seed, seeded

__all__ = ["Task", "TaskResult", "cores", "one_thread", "run_tasks"]

TaskStatus = Literal["ok", "error", "killed", "timeout"]
PR_SET_PDEATHSIG = 1
PAUSE = 1.0  # seconds between calls of `meanwhile`
CRIPPLED = (
    "Working in one process: this one has used torch's autograd with a graphics card,"
    " so processes it forks cannot; start with CUDA_VISIBLE_DEVICES= in the environment"
    " to use all cores."
)
FAULTS = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS")
_log = logging.getLogger("zoo")


def cores() -> int:
    """Return the cores that this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


@dataclass(frozen=True)
class Task:
    """A named unit of work; `fn` takes no arguments and returns a picklable value.

    Draws are returned as numpy arrays.
    """

    name: str
    fn: Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Result of a task: its value or an error, with wall seconds and peak memory.

    `error` is one sentence; `exception` the exception itself if it could be pickled;
    `peak_memory_mb` is None for a task that ran in the calling process.
    """

    name: str
    status: TaskStatus
    value: Any = None
    error: str | None = None
    exception: BaseException | None = None
    trace: str = ""
    seconds: float = 0.0
    peak_memory_mb: float | None = None

    def unwrap(self) -> Any:
        """Return the value, or raise the task's error; `LostWorkerError` for a lost worker."""
        if self.status == "ok":
            return self.value
        if self.status == "error" and self.exception is not None:
            raise self.exception
        raise LostWorkerError(
            f"Task {self.name!r} ended as {self.status}: {self.error}", status=self.status
        )


@dataclass
class _Running:
    """A live worker: the pipe of its answer and its deadline."""

    position: int
    process: BaseProcess
    pipe: Connection
    started: float
    attempts: int
    deadline: float = field(default=float("inf"))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_tasks(
    tasks: Sequence[Task],
    jobs: int = 2,
    timeout: float | None = None,
    on_done: Callable[[TaskResult], None] | None = None,
    *,
    retries: int = 0,
    in_process: bool = False,
    meanwhile: Callable[[], None] | None = None,
    follow: Callable[[TaskResult], Sequence[Task]] | None = None,
) -> list[TaskResult]:
    """Run every task and return the results in the order of the tasks.

    Args:
        tasks: what to run; names must differ.
        jobs: maximum number of workers at once.
        timeout: seconds after which a task is stopped with status `timeout`.
        on_done: called in this process with each result as it arrives.
        retries: how often a task is restarted whose worker was killed from outside.
        in_process: run one after another in this process (for debuggers); gives the same values.
        meanwhile: called in this process about once a second while workers are busy; workers
            forked later inherit what it loads.
        follow: called in this process with each result, after `on_done`; the tasks it returns run
            next, and their results come last.

    Raises:
        UsageError: two tasks of one name, or fewer than one job.
        KeyboardInterrupt, SystemExit: passed on after every worker has been stopped.
    """
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}; accepted: an integer of at least 1.")
    tasks = list(tasks)
    _names_differ(tasks)
    results: dict[int, TaskResult] = {}
    alone = in_process
    waiting = [(i, 0) for i in range(len(tasks))][::-1]
    running: list[_Running] = []

    def finish(position: int, result: TaskResult) -> None:
        results[position] = result
        if on_done is not None:
            on_done(result)
        more = [] if follow is None else list(follow(result))
        waiting.extend((len(tasks) + i, 0) for i in reversed(range(len(more))))
        tasks.extend(more)
        _names_differ(tasks)

    try:
        with _sigterm_raises():
            while waiting or running:
                while waiting and len(running) < jobs:
                    position, attempts = waiting.pop()
                    if alone:
                        finish(position, _here(tasks[position]))
                        continue
                    running.append(_start(tasks[position], position, attempts, timeout))
                for worker, result in (
                    _collect(tasks, running, None if meanwhile is None else PAUSE)
                    if running
                    else ()
                ):
                    running.remove(worker)
                    if result.error == CRIPPLED:
                        waiting.append((worker.position, worker.attempts))
                        if not alone:
                            _log.warning(CRIPPLED)
                        alone = True
                        continue
                    if result.status == "killed" and worker.attempts < retries:
                        waiting.append((worker.position, worker.attempts + 1))
                        continue
                    finish(worker.position, result)
                if meanwhile is not None and running:
                    meanwhile()
    finally:
        for worker in running:
            _stop(worker)
    return [results[i] for i in range(len(tasks))]


def _names_differ(tasks: Sequence[Task]) -> None:
    if len({t.name for t in tasks}) != len(tasks):
        raise UsageError(f"Tasks need different names, got {[t.name for t in tasks]}.")


def _start(task: Task, position: int, attempts: int, timeout: float | None) -> _Running:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(
        target=_child, args=(task, there, os.getpid()), name=task.name, daemon=False
    )
    with warnings.catch_warnings():
        # Python 3.12 warns about forking beside threads; torch's idle pool is safe because the
        # child uses one thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.stdout.flush()
        sys.stderr.flush()
        process.start()
    there.close()
    now = time.monotonic()
    deadline = float("inf") if timeout is None else now + timeout
    return _Running(
        position=position,
        process=process,
        pipe=here,
        started=now,
        attempts=attempts,
        deadline=deadline,
    )


def _collect(
    tasks: Sequence[Task], running: list[_Running], pause: float | None
) -> list[tuple[_Running, TaskResult]]:
    """Wait until a worker answers, dies or times out, or until the pause is over.

    A dead worker closes its pipe and is noticed at once.
    """
    left = min(w.deadline for w in running) - time.monotonic()
    left = left if pause is None else min(left, pause)
    ready = set(
        wait([w.pipe for w in running], timeout=None if left == float("inf") else max(0.0, left))
    )
    done = []
    for worker in running:
        name = tasks[worker.position].name
        if worker.pipe in ready:
            done.append((worker, _receive(name, worker)))
        elif time.monotonic() >= worker.deadline:
            seconds = time.monotonic() - worker.started
            _stop(worker)
            sentence = f"stopped after {seconds:.0f} s; give it more time or ask for less."
            done.append(
                (worker, TaskResult(name=name, status="timeout", error=sentence, seconds=seconds))
            )
    return done


def _receive(name: str, worker: _Running) -> TaskResult:
    seconds = time.monotonic() - worker.started
    try:
        result: TaskResult = pickle.loads(worker.pipe.recv_bytes())
        worker.process.join()
    except (EOFError, OSError, pickle.UnpicklingError):
        worker.process.join()
        code = worker.process.exitcode or 0
        result = TaskResult(
            name=name,
            status="killed" if code < 0 else "error",
            error=_ending(code),
            seconds=seconds,
        )
    worker.pipe.close()
    worker.process.close()
    return result


def _ending(code: int) -> str:
    """Describe how a process without an answer ended: by which signal, or by exiting."""
    if code >= 0:
        return (
            f"the worker process exited with code {code}; what it runs must return"
            " an answer, not exit."
        )
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a signal without a name
        name = ""
    words = f"signal {-code}" + (f" ({name})" if name else "")
    return f"the worker process was ended by {words}: {_meaning(name)}."


def _meaning(name: str) -> str:
    """Return what a signal means, and what to do."""
    if name in FAULTS:
        eager = spelled("ZOO_BACKEND=eager in the environment", "--compile off")
        return f"a fault in compiled code or in a library; try again with {eager}"
    if name == "SIGKILL":
        return (
            "a user stopped it, or the system did because memory ran out; use fewer"
            f" {spelled('jobs', '--jobs')}, or a smaller model"
        )
    if name == "SIGXCPU":
        return "its limit of processor time was reached; raise it (ulimit -t)"
    return "it came from outside; run it again"


def _stop(worker: _Running) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    worker.process.close()


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143) while workers live.

    A handler of the caller is left in place.
    """
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _child(task: Task, pipe: Connection, parent: int) -> None:
    # Ctrl-C reaches the whole process group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent(parent)
    torch.set_num_threads(1)
    result = (
        _here(task, memory=True)
        if _differentiates()
        else TaskResult(name=task.name, status="killed", error=CRIPPLED)
    )
    try:
        answer = pickle.dumps(result, protocol=5)
        if result.status != "ok":
            pickle.loads(answer)  # an exception may be pickled and yet fail to be unpickled
    except Exception as error:
        if result.status == "ok":
            sentence = (
                f"its result cannot be sent to its parent ({type(error).__name__}: {error});"
                " return numpy arrays and plain values."
            )
            result = TaskResult(
                name=task.name, status="error", error=sentence, seconds=result.seconds
            )
        else:
            result = replace(result, exception=ZooError(result.error))
        answer = pickle.dumps(result, protocol=5)
    pipe.send_bytes(answer)
    pipe.close()


def _differentiates() -> bool:
    """Return whether autograd works in this process."""
    x = torch.ones((), requires_grad=True)
    try:
        torch.autograd.grad(x * x, x)
    except RuntimeError:
        return False
    return True


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process with its parent, so that none is orphaned."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _here(task: Task, *, memory: bool = False) -> TaskResult:
    """Run the task in this process, seeded by its name, and restore the random state."""
    start = time.monotonic()
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    seed = derive_seed("task", task.name)
    value: Any = None
    error: str | None = None
    exception: Exception | None = None
    trace = ""
    try:
        with one_thread(), seeded(seed):
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            value = task.fn()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as caught:
        trace = traceback.format_exc()
        error = (
            str(caught) if isinstance(caught, ZooError) else f"{type(caught).__name__}: {caught}"
        )
        # An exception that is not an `Exception`, such as a panic in Rust, would pass every
        # handler of a failed task.
        exception = caught if isinstance(caught, Exception) else ZooError(error)
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if memory else None
    return TaskResult(
        name=task.name,
        status="ok" if exception is None else "error",
        value=value,
        error=error,
        exception=exception,
        trace=trace,
        seconds=time.monotonic() - start,
        peak_memory_mb=peak,
    )
