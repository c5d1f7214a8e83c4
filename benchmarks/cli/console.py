"""Output of results to stdout: JSON documents, lines and tables."""

from __future__ import annotations

import io
import shutil
import sys
from typing import Any

from benchmarks.run.store import strict_json
from zoo.errors import printable

__all__ = ["print_json", "print_table", "say"]


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
    console = Rich(file=io.StringIO(), width=width, highlight=False, force_jupyter=False)
    console.print(grid)
    sys.stdout.writelines(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
