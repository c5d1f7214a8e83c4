"""Progress of long calls from Python: lines on stderr, where somebody reads them."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable

from zoo.errors import in_command
from zoo.fields import Kind

__all__ = [
    "PROGRESS",
    "Late",
    "Parts",
    "Say",
    "StepProgress",
    "Steps",
    "Waiting",
    "silent",
    "speaker",
    "steps_of",
]

Say = Callable[[str], None]
StepProgress = Callable[[int, int, float], None]

PROGRESS = Kind(
    accepted=(
        "True, False, a function, or None (lines on a terminal and in a notebook, elsewhere after"
        " half a minute)"
    ),
    holds=lambda value: value is None or isinstance(value, bool) or callable(value),
)
FIRST, WAITED = 5.0, 30.0  # seconds before the first line of a fit, and of something that waits
UNWATCHED = 30.0  # seconds before the first line on a stream that is no terminal and no notebook


def is_heard() -> bool:
    """Whether lines of this call may be written to stderr.

    Those of commands and worker processes may not: whoever started them tells of them.
    """
    return not (sys.stderr is None or in_command() or multiprocessing.parent_process() is not None)


def is_watched() -> bool:
    """Whether stderr of this call is a terminal or the output of a notebook's cell."""
    stream = sys.stderr
    if not is_heard():
        return False
    notebook = type(stream).__module__.partition(".")[0] == "ipykernel"
    return notebook or stream.isatty()


def speaker(progress: Say | bool | None, name: str = "") -> Say:
    """Return what receives the lines: a function, stderr, or nobody.

    Args:
        progress: the function; True for stderr, False for nobody, None for stderr: of every line
            where it is a terminal or a notebook, elsewhere of few (`Late`).
        name: of the call, put before a late line that does not name it.
    """
    if callable(progress):
        return progress
    if progress is None and is_heard() and not is_watched():
        return Late(name)
    return _print if (is_watched() if progress is None else progress) else silent


class Late:
    """Passes a line to stderr after half a minute, and whenever that time has doubled.

    A script whose stderr is a file is not silent for minutes, and a short one says nothing.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.begun, self.told = time.monotonic(), UNWATCHED

    def __call__(self, line: str) -> None:
        """Hear a line."""
        since = time.monotonic() - self.begun
        if since >= self.told:
            self.told = 2 * since
            _print(
                f"{self.name}: still running after {since:.0f} s; {line}" if self.name else line
            )


def _first(say: Say) -> float:
    """Return the seconds before the first line of a call that tells how far it is."""
    return UNWATCHED if isinstance(say, Late) else FIRST


def silent(line: str) -> None:
    """Drop a line."""


def _print(line: str) -> None:
    print(f"zoo: {line}", file=sys.stderr, flush=True)


class Waiting:
    """Says that something still runs after half a minute, and whenever that time has doubled."""

    def __init__(self, name: str, say: Say) -> None:
        self.name, self.say = name, say
        self.begun, self.told = time.monotonic(), WAITED

    def __call__(self) -> None:
        """Hear that it still runs."""
        since = time.monotonic() - self.begun
        if since >= self.told:
            self.told = 2 * since
            self.say(f"{self.name}: still running after {since:.0f} s")


class Steps:
    """Lines of one fit: that it begins, how far it is after five seconds and twice that, its end.

    It begins with the compilation of its step, of which there are no steps to tell.
    """

    def __init__(self, name: str, starts: int, say: Say) -> None:
        self.name, self.starts, self.say = name, starts, say
        self.begun, self.told = time.monotonic(), _first(say)
        self.start, self.last = 1, 0

    def begin(self, note: str = "") -> None:
        """Tell that it begins, with a note on its steps."""
        times = f", {self.starts} starts" if self.starts > 1 else ""
        self.say(f"{self.name}: fitting{times}{note}")

    def __call__(self, step: int, steps: int, loss: float) -> None:
        """Hear of a step and its loss in nats."""
        self.start += step <= self.last
        self.last = step
        since = time.monotonic() - self.begun
        if since >= self.told:
            self.told = 2 * since
            which = f"start {self.start} of {self.starts}, " if self.starts > 1 else ""
            self.say(
                f"{self.name}: {which}step {step:,} of at most {steps:,}, loss {loss:.6g} nats,"
                f" {since:.0f} s"
            )

    def end(self, status: str) -> None:
        """Tell how the fit ended."""
        self.say(f"{self.name}: {status}, {time.monotonic() - self.begun:.1f} s")


class Parts:
    """Lines of one call: its begin, where it is after five seconds and twice that, its end."""

    def __init__(self, name: str, say: Say) -> None:
        self.name, self.say = name, say
        self.begun, self.told = time.monotonic(), _first(say)

    def begin(self, what: str) -> None:
        """Tell what is done."""
        self.say(f"{self.name}: {what}")

    def __call__(self, part: str) -> None:
        """Hear what begins now."""
        since = time.monotonic() - self.begun
        if since >= self.told:
            self.told = 2 * since
            self.say(f"{self.name}: {part}, {since:.0f} s")

    def end(self) -> None:
        """Tell that it is done."""
        self.say(f"{self.name}: done, {time.monotonic() - self.begun:.1f} s")


def steps_of(name: str, starts: int, progress: StepProgress | bool | None) -> Steps | None:
    """Return the lines of a fit if somebody reads them; None also for a function of the caller."""
    say = silent if callable(progress) else speaker(progress)
    return None if say is silent else Steps(name, starts, say)
