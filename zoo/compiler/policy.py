"""How graphs are compiled, and when it pays: decided by the size of a function and by its budget, never by a clock or a cache.

The same run must give the same numbers wherever and whenever it is made, and compiled and eager
numbers differ in their last digits. So `auto` estimates the time of an eager call from the
operations that one call dispatches.
"""

from __future__ import annotations

import logging
import os
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
    "Mode",
    "Work",
    "backend",
    "check_mode",
    "pays",
    "work_of",
]

Mode = Literal["auto", "on", "off"]
MODES: tuple[Mode, ...] = ("auto", "on", "off")

# Figures of an ordinary machine.
EAGER_SECONDS_PER_OPERATION, EAGER_SECONDS_PER_NUMBER = 5e-6, 2e-9
COLD_SECONDS, COLD_SECONDS_PER_OPERATION = (
    1.5,
    0.017,
)  # compiling: 4 s for 140 operations, 14 s for 750, four minutes for 14,000
WARM_SECONDS, TRACE_CALLS = (
    0.5,
    300,
)  # load and check; tracing takes about as long as so many eager calls
SPEEDUP = 8.0  # least eager / compiled ratio seen on programs whose time is overhead
BACKENDS = ("standalone", "aoti", "eager")
BACKEND_VARIABLE = "ZOO_BACKEND"
RUNS = 4  # compiled is what pays within so many runs: the graph stays on the disk
_log = logging.getLogger("zoo")
_said: set[str] = set()


def check_mode(mode: str) -> None:
    """Refuse a word that says neither when nor whether to compile.

    Raises:
        UnknownNameError: always in that case.
    """
    if mode not in MODES:
        raise UnknownNameError("value of compile", mode, MODES)


@dataclass(frozen=True)
class Work:
    """The size of one eager call: operations dispatched, and numbers they return."""

    operations: int
    numbers: int

    @property
    def seconds(self) -> float:
        """What such a call takes on an ordinary machine, by estimate."""
        return (
            EAGER_SECONDS_PER_OPERATION * self.operations + EAGER_SECONDS_PER_NUMBER * self.numbers
        )


class _Counter(TorchDispatchMode):
    """Count what is dispatched."""

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
    """Return the size of `function(*inputs)` by running it once; the same on every machine."""
    with _Counter() as counter:
        function(*inputs)
    return Work(counter.operations, counter.numbers)


def pays(work: Work, calls: int) -> bool:
    """Whether compiling a function of this size for so many calls of each run is worth it."""
    saved = RUNS * work.seconds * calls * (1 - 1 / SPEEDUP)
    return (
        saved
        > WARM_SECONDS
        + TRACE_CALLS * work.seconds
        + COLD_SECONDS
        + COLD_SECONDS_PER_OPERATION * work.operations
    )


def backend() -> str:
    """Return how graphs are compiled: `standalone` libraries, packages for torch's loader (`aoti`), or not at all (`eager`).

    `$ZOO_BACKEND` decides; by default it is `standalone` with versions of torch it was tested
    with, else `aoti`, said once.

    Raises:
        UnknownNameError: another word in `$ZOO_BACKEND`.
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
