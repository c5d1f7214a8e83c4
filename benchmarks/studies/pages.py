"""Parts of a page that are made again and parts that a person wrote: both live in one Markdown file.

A part lies between `<!-- NAME -->` and `<!-- /NAME -->`. Writers of whole pages keep the part `notes` of the page they
replace; writers of one table replace that part and leave the rest of the page alone.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.run.store import write_atomic
from zoo.errors import UsageError

__all__ = ["notes", "part", "replace_part"]


def part(text: str, name: str) -> str | None:
    """Return the text between the marks of a part, None where the page has none.

    Raises:
        UsageError: a part is opened and not closed.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in text:
        return None
    inside, closed, _ = text.partition(begin)[2].partition(end)
    if not closed:
        raise UsageError(f"A page opens the part {begin.strip()} and does not close it; add a line {end}.")
    return inside


def notes(path: Path) -> list[str]:
    """Return the lines of the part `notes` of a page with their marks, to be put into its next version; empty without one."""
    inside = part(path.read_text(encoding="utf-8"), "notes") if path.exists() else None
    return [] if inside is None else ["<!-- notes -->", *inside.splitlines(), "<!-- /notes -->", ""]


def replace_part(path: Path, name: str, inside: str) -> None:
    """Replace one part of a page and leave the rest as it is.

    Raises:
        UsageError: the page has no such part.
    """
    text = path.read_text(encoding="utf-8")
    old = part(text, name)
    if old is None:
        raise UsageError(f"{path.name} has no part {name!r}; add the lines <!-- {name} --> and <!-- /{name} --> where it belongs.")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    write_atomic(path, text.replace(begin + old + end, begin + inside.rstrip("\n") + "\n" + end))
