"""The verdicts as a table for the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

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

    width = max(width, 60)
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        force_jupyter=False,  # there rich would print the table itself, and return nothing
        no_color=not color,
        highlight=False,
        color_system="standard" if color else None,
    )
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    order = columns(run)
    rows: list[tuple[str, str, Cell, str, str] | None] = []
    for entry in run.entries:
        found = cells(entry)
        kind, state, grade = reference_words(entry)
        for i, method in enumerate(m for m in order if m in found):
            cell: Cell = found[method]
            detail = "; ".join(t for t in (f"{cell.where} {cell.number}".strip(), cell.note) if t)
            left, right = (
                (entry.entry.key, f"{kind}, unusable" if grade == "bad" else kind)
                if i == 0
                else ("", "")
            )
            rows.append((left, method, cell, detail, right))
        rows.append(None)
    shown = [(r[0], r[1], r[2].word, *r[3:]) for r in rows if r is not None]
    for name, size in _widths(shown, width).items():
        grid.add_column(name, overflow="fold", width=size)
    for row in rows:
        if row is None:
            grid.add_row()
            continue
        left, method, cell, detail, right = row
        word = Text(cell.word, style=verdict_of(cell.verdict).style)
        grid.add_row(Text(left), Text(method), word, Text(detail), Text(right, style="dim"))
    console.print(grid)
    for entry in run.entries:
        console.print(f"[bold]{escape(entry.entry.key)}[/bold]")
        told = sentence(entry)
        console.print(Padding(Text(told), (0, 0, 0, 2)))
        kind, state, grade = reference_words(entry)
        if grade != "good" and state.removeprefix("unusable: ").rstrip(".") not in told:
            console.print(Padding(Text(f"Reference: {state}"), (0, 0, 0, 2)))
    text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


# columns with their usual and their smallest width
COLUMNS = {
    "entry": (18, 12),
    "method": (10, 10),
    "verdict": (10, 9),
    "what decided it": (30, 10),
    "reference": (9, 9),
}


def _widths(rows: Sequence[tuple[str, ...]], width: int) -> dict[str, int]:
    """Return the width of every column.

    rich would cut the last columns of a table that is too wide: here the longest ones are folded.
    """
    found = {
        name: max([usual, *(len(row[i]) for row in rows)])
        for i, (name, (usual, _)) in enumerate(COLUMNS.items())
    }
    excess = sum(found.values()) + 2 * len(found) - width
    for name in ("what decided it", "entry", "reference", "verdict", "method"):
        taken = max(0, min(excess, found[name] - COLUMNS[name][1]))
        found[name] -= taken
        excess -= taken
    return found
