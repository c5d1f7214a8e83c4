"""Progress of a run: callbacks, and a console that prints them to stderr."""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

__all__ = ["Console", "Events", "Quiet"]

FIRST = 30.0  # seconds of a stage before a line says that it is running


class Events:
    """Progress callbacks, no-ops by default; the command line draws bars with them."""

    def say(self, sentence: str) -> None:
        """Report a sentence."""

    def warn(self, sentence: str) -> None:
        """Report a warning."""

    def begin(self, label: str, total: int) -> None:
        """Begin a stage of `total` tasks."""

    def done(self, label: str, status: str, sentence: str, seconds: float) -> None:
        """Report the end of one task."""

    def waiting(self) -> None:
        """Hear about once a second that tasks are running."""

    def finish(self) -> None:
        """End the last stage."""


class Quiet(Events):
    """No progress, but every warning: as a `RuntimeWarning`."""

    def warn(self, sentence: str) -> None:
        """Issue a warning."""
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)


class Console(Events):
    """Progress on stderr: a bar on a terminal, plain lines elsewhere, as in a notebook."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._total = 0
        self._number = 0
        self._begun = self._told = 0.0

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self._print(f"zoo: {sentence}")

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        self._print(f"zoo: warning: {sentence}")

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def begin(self, label: str, total: int) -> None:
        """Start a progress bar on a terminal; elsewhere `done` prints lines."""
        self._total, self._number = total, 0
        self._begun, self._told = time.monotonic(), FIRST
        if sys.stderr.isatty():
            from rich.console import Console as Rich
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(
                *columns, console=Rich(file=sys.stderr, force_jupyter=False), transient=True
            )
            self._task = self._bar.add_task(label, total=total)
            self._bar.start()

    def done(self, label: str, status: str, sentence: str, seconds: float) -> None:
        """Print one finished task and advance the bar."""
        self._number += 1
        more = f"; {sentence}" if sentence and status != "ok" else ""
        words = f"[{self._number}/{self._total}] {label}: {status}, {seconds:.1f} s{more}"
        self._print(words)
        if self._bar is not None:
            self._bar.advance(self._task)

    def waiting(self) -> None:
        """Print a line after half a minute, and whenever that time has doubled, without a bar."""
        since = time.monotonic() - self._begun
        if self._bar is None and since >= self._told:
            self._told = 2 * since
            self.say(f"still running after {since:.0f} s, {self._number} of {self._total} done")

    def finish(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
