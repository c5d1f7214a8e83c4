"""How graphs are compiled, and when it pays.

The decision depends on the size of a function and on its budget, never on a clock or on the state
of the cache: a run must give the same numbers wherever and whenever it is made, and compiled and
eager results differ in their last digits. So `auto` estimates the time of an eager call from the
number of operations it dispatches.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from zoo.compiler import torch_private
from zoo.compiler.torch_private import TorchDispatchMode
from zoo.errors import UnknownNameError

__all__ = [
    "BACKENDS",
    "BACKEND_VARIABLE",
    "MODES",
    "RUNS",
    "Mode",
    "Work",
    "backend",
    "check_mode",
    "compiler_missing",
    "is_recursion",
    "pays",
    "work_of",
]

Mode = Literal["auto", "on", "off"]
MODES: tuple[Mode, ...] = ("auto", "on", "off")

# Measured on an ordinary machine.
EAGER_SECONDS_PER_OPERATION, EAGER_SECONDS_PER_NUMBER = 5e-6, 2e-9
# compiling takes 4 s for 140 operations, 14 s for 750, four minutes for 14,000
COLD_SECONDS, COLD_SECONDS_PER_OPERATION = (1.5, 0.017)
# loading and checking a graph; tracing takes as long as about this number of eager calls
WARM_SECONDS, TRACE_CALLS = (0.5, 300)
SPEEDUP = 8.0  # smallest eager / compiled time ratio seen on overhead-bound programs
BACKENDS = ("standalone", "aoti", "eager")
BACKEND_VARIABLE = "ZOO_BACKEND"
# Long functions of small tensors become plain C, a statement per number.
LONG_OPERATIONS, SMALL_NUMBERS, LONG_SECONDS_PER_OPERATION = 4_000, 32, 0.001
RUNS = 4  # compiling must pay within so many runs, which share the graph on disk
_log = logging.getLogger("zoo")
_said: set[str] = set()


def check_mode(mode: str) -> None:
    """Reject an unknown compilation mode.

    Raises:
        UnknownNameError: the mode is none of `MODES`.
    """
    if mode not in MODES:
        raise UnknownNameError("value of compile", mode, MODES)


@dataclass(frozen=True)
class Work:
    """Size of one eager call: operations dispatched, and entries of their results."""

    operations: int
    numbers: int

    @property
    def seconds(self) -> float:
        """Estimated time of such a call on an ordinary machine."""
        return (
            EAGER_SECONDS_PER_OPERATION * self.operations + EAGER_SECONDS_PER_NUMBER * self.numbers
        )


class _Counter(TorchDispatchMode):
    """Count dispatched operations and the entries of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        self.numbers += sum(
            x.numel()
            for x in (out if isinstance(out, tuple | list) else (out,))
            if isinstance(x, Tensor)
        )
        return out


def work_of(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Work:
    """Measure the size of `function(*inputs)` by running it once; the same on every machine."""
    with _Counter() as counter:
        function(*inputs)
    return Work(counter.operations, counter.numbers)


def pays(work: Work, calls: int, *, one_point: bool = False) -> bool:
    """Whether compiling pays for a function of this size, called so often in each run."""
    saved = RUNS * work.seconds * calls * (1 - 1 / SPEEDUP)
    each = (
        LONG_SECONDS_PER_OPERATION
        if one_point and is_recursion(work)
        else COLD_SECONDS_PER_OPERATION
    )
    return (
        saved > WARM_SECONDS + TRACE_CALLS * work.seconds + COLD_SECONDS + each * work.operations
    )


def is_recursion(work: Work) -> bool:
    """Whether a function consists of many operations on few numbers, as an unrolled loop does."""
    return work.operations >= LONG_OPERATIONS and work.numbers <= SMALL_NUMBERS * work.operations


def backend() -> str:
    """Return the backend: `standalone` libraries, `aoti` (torch's loader) or `eager`.

    `$ZOO_BACKEND` decides. The default is `standalone` with tested versions of torch, else `aoti`,
    which is announced once.

    Raises:
        UnknownNameError: `$ZOO_BACKEND` is set to another word.
    """
    asked = os.environ.get(BACKEND_VARIABLE)
    if asked:
        if asked not in BACKENDS:
            raise UnknownNameError(f"value of {BACKEND_VARIABLE}", asked, BACKENDS)
        return asked
    doubt = torch_private.untested()
    if doubt and doubt not in _said:
        _said.add(doubt)
        _log.warning(
            "Compiling by torch's public route (slower calls, same results): %s; %s=standalone"
            " tries it.",
            doubt,
            BACKEND_VARIABLE,
        )
    return "aoti" if doubt else "standalone"


def compiler_missing() -> str:
    """Return why nothing can be compiled here; empty if a C++ compiler is found."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "cl"]
    return (
        ""
        if any(shutil.which(n) for n in names)
        else f"no C++ compiler ({', '.join(names)}) on the PATH"
    )
