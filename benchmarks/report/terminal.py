"""The verdicts as a table for the terminal."""

from __future__ import annotations

import io

from benchmarks.report.inputs import ReportInput
from benchmarks.report.overview import Cell, cells, columns, reference_words, sentence
from benchmarks.verdicts import verdict_of

__all__ = ["table"]


def table(run: ReportInput, width: int, color: bool) -> str:
    """Return one row per entry and method, then one sentence per entry.

    A row has the verdict, the number that decided it, and notes.

    Args:
        run: the entries to show.
        width: columns of the terminal.
        color: whether to write ANSI colors.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(
        file=io.StringIO(),
        width=max(width, 60),
        force_terminal=color,
        force_jupyter=False,  # there rich would print the table itself, and return nothing
        no_color=not color,
        highlight=False,
        color_system="standard" if color else None,
    )
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    widest = min(30, max([18, *(len(e.entry.key) for e in run.entries)]))
    for name, least in (
        ("entry", widest),
        ("method", 10),
        ("verdict", 10),
        ("what decided it", 30),
        ("reference", 9),
    ):
        grid.add_column(name, overflow="fold", min_width=least)
    order = columns(run)
    for entry in run.entries:
        found = cells(entry)
        kind, state, grade = reference_words(entry)
        for i, method in enumerate(m for m in order if m in found):
            cell: Cell = found[method]
            detail = "; ".join(t for t in (f"{cell.where} {cell.number}".strip(), cell.note) if t)
            left, right = (
                (entry.entry.key, kind if grade == "good" else f"{kind}: {state}")
                if i == 0
                else ("", "")
            )
            grid.add_row(
                Text(left),
                Text(method),
                Text(cell.word, style=verdict_of(cell.verdict).style),
                Text(detail),
                Text(right, style="dim"),
            )
        grid.add_row()
    console.print(grid)
    for entry in run.entries:
        console.print(f"[bold]{escape(entry.entry.key)}[/bold]")
        console.print(Padding(Text(sentence(entry)), (0, 0, 0, 2)))
    text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
