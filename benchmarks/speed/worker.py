"""One side of one target in its own fresh process with one thread, driven by messages."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks.speed.sides import Settings, make
from zoo.errors import InfrastructureError

__all__ = ["SINGLE_THREAD", "PeerError", "Worker", "keep_priority"]

SINGLE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "true",
}


class PeerError(InfrastructureError):
    """A side failed; the message is that of its process."""


def keep_priority() -> None:
    """Give the new session the priority of its process.

    Linux shares processors between sessions first, then within them.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(os.nice(0)), encoding="ascii")


def _serve(
    connection: Connection, environment: Mapping[str, str], log: str, made: tuple[Any, ...]
) -> None:
    os.setsid()  # a peer may leave a pool behind; `close` ends the whole group
    keep_priority()
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    try:
        side = make(*made)
        connection.send(("ok", tuple(side.measures)))
        while True:
            name, arguments = connection.recv()
            if name == "close":
                return
            connection.send(("ok", getattr(side, name)(*arguments)))
    except EOFError:
        return
    except BaseException as error:
        traceback.print_exc()
        connection.send(
            ("error", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}")
        )


class Worker:
    """A running side; `ask` sends one request and waits for the answer.

    Args:
        side: `ours`, `pyro`, `numpyro`, `stan` or `pymc`.
        target: name of the target, its form and, for peers, its arrays.
        settings: shared by all sides of the run.
        folder: folder of its log and its caches.
        environment: environment variables of this process, added to those that set one thread.

    Raises:
        PeerError: the side cannot be built.
    """

    def __init__(
        self,
        side: str,
        target: tuple[str, str, Mapping[str, NDArray[Any]] | None],
        settings: Settings,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.side, self.log = side, folder / f"{target[0]}-{side}.log"
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        variables = {**SINGLE_THREAD, **(environment or {})}
        arguments = (theirs, variables, str(self.log), (side, *target, settings))
        begun = time.perf_counter()
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)  # some libraries read them at interpreter start
        try:
            self._process = context.Process(target=_serve, args=arguments)
            self._process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        theirs.close()
        self.seconds: dict[str, float] = {}
        self.measures: tuple[str, ...] = self._answer(240)
        self.seconds["start"] = time.perf_counter() - begun

    def _answer(self, timeout: float) -> Any:
        try:
            if not self._connection.poll(timeout):
                raise PeerError(
                    f"{self.side} did not answer within {timeout:.0f} s; see {self.log.name}."
                )
            status, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise PeerError(f"{self.side} ended without an answer; see {self.log.name}.") from None
        if status == "error":
            raise PeerError(f"{self.side}: {value}")
        return value

    def ask(self, name: str, *arguments: Any, timeout: float = 600) -> Any:
        """Call a method of the side.

        Raises:
            PeerError: it failed, ended or took too long.
        """
        try:
            self._connection.send((name, arguments))
        except (BrokenPipeError, OSError):
            raise PeerError(f"{self.side} has ended; see {self.log.name}.") from None
        return self._answer(timeout)

    def prepare(self, measure: str) -> dict[str, Any]:
        """Prepare a measure and add the seconds it took."""
        begun = time.perf_counter()
        record: dict[str, Any] = self.ask("prepare", measure)
        self.seconds[measure] = time.perf_counter() - begun
        return record

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError, OSError):
            self._connection.send(("close", ()))
        self._process.join(5)
        if self._process.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()
        self._connection.close()
