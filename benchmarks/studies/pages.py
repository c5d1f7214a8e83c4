"""Generated and handwritten parts of one Markdown page.

A part is enclosed in `<!-- NAME -->` and `<!-- /NAME -->`. Writers of whole pages keep the part
`notes` of the page they replace; writers of one table replace that part and leave the rest
unchanged.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.run.store import write_atomic
from zoo.errors import UsageError

__all__ = ["EMPTY_NOTES", "fold", "keep_notes", "part", "replace_part", "with_part"]

EMPTY_NOTES = ("<!-- notes -->", "<!-- /notes -->")  # in a rendered page
WIDTH = 98
BLOCK = re.compile(r"^```(?s:.*?)^```$|^(?:(?![#|!<\n]).+\n?)+", re.MULTILINE)  # code, or prose
WORD = re.compile(r"(?:`[^`]*`|\S)+")  # code is not broken at its blanks


def part(text: str, name: str) -> str | None:
    """Return the text between the marks of a part, None if the page has none.

    Raises:
        UsageError: a part is opened and not closed.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in text:
        return None
    inside, closed, _ = text.partition(begin)[2].partition(end)
    if not closed:
        raise UsageError(
            f"A page opens the part {begin.strip()} and does not close it; add a line {end}."
        )
    return inside


def with_part(text: str, name: str, inside: str) -> str:
    """Return a page with one part replaced, unchanged if it has no such part."""
    old = part(text, name)
    if old is None:
        return text
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    new = inside.rstrip("\n")
    return text.replace(begin + old + end, begin + new + ("\n" if new else "") + end)


def keep_notes(text: str, old: Path) -> str:
    """Return a page with the handwritten notes of its earlier version."""
    inside = part(old.read_text(encoding="utf-8"), "notes") if old.is_file() else None
    return text if inside is None else with_part(text, "notes", inside)


def replace_part(path: Path, name: str, inside: str) -> None:
    """Replace one part of a page and leave the rest unchanged.

    Raises:
        UsageError: the page has no such part.
    """
    text = path.read_text(encoding="utf-8")
    if part(text, name) is None:
        raise UsageError(
            f"{path.name} has no part {name!r}; add the lines <!-- {name} --> and <!-- /{name} -->"
            " where it belongs."
        )
    write_atomic(path, with_part(text, name, inside))


def fold(text: str) -> str:
    """Return Markdown with the lines of its paragraphs and items below 100 characters.

    Tables, headings, pictures, comments and code stay as they are.
    """
    return BLOCK.sub(lambda m: m[0] if m[0].startswith("```") else _folded(m[0]), text)


def _folded(block: str) -> str:
    items = re.split(r"^(?=\* )", block.rstrip("\n"), flags=re.MULTILINE)
    lines = [line for item in items if item for line in _lines(item)]
    return "\n".join(lines) + "\n" * block.endswith("\n")


def _lines(paragraph: str) -> list[str]:
    indent = "  " if paragraph.startswith("* ") else ""
    first, *words = WORD.findall(paragraph)
    lines = [first]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append(indent + word)
        else:
            lines[-1] += f" {word}"
    return lines
