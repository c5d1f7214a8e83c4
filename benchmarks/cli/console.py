"""Output: results to stdout, progress to stderr, as bars on a terminal or plain lines."""

from __future__ import annotations

import io
import shutil
import sys
from typing import Any

from benchmarks.run.progress import Events
from benchmarks.run.store import strict_json
from zoo.errors import printable

__all__ = ["Console", "print_json", "print_table", "say"]


def print_json(document: Any) -> None:
    """Print one strict JSON document."""
    sys.stdout.write(strict_json(document) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line with control characters made harmless."""
    print(printable(text))


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table that fits the terminal, or full lines into a pipe."""
    from rich.console import Console as Rich
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    width = shutil.get_terminal_size((120, 40)).columns if sys.stdout.isatty() else 220
    console = Rich(file=io.StringIO(), width=width, highlight=False)
    console.print(grid)
    sys.stdout.writelines(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


class Console(Events):
    """Progress on stderr."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._total = 0
        self._number = 0

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
            self._bar = Progress(*columns, console=Rich(file=sys.stderr), transient=True)
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

    def finish(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
