"""Tables of families on the pages of the models, by `zoo compare NAME --quick --no-nuts`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.pages import part
from benchmarks.studies.record import Rendered, Study, Work

__all__ = ["STUDY"]

PAGES = "docs/models/"
PART = "families"  # the part of a page that holds the table


def _entries() -> tuple[str, ...]:
    """Return the models whose page here has a part for the table."""
    pages = sorted(Path(PAGES).glob("*.md"))
    return tuple(p.stem for p in pages if part(p.read_text(encoding="utf-8"), PART) is not None)


def _measure(name: str, work: Work) -> Any:
    from benchmarks.studies.model_pages.measure import measure

    return measure(name, work)


def _render(rows: Mapping[str, Any]) -> Rendered:
    from benchmarks.studies.model_pages.render import table

    tables = {name: table(name, cells) for name, cells in rows.items()}
    sections = "".join(f"\n## {name}\n\n{text}\n" for name, text in tables.items())
    parts = {f"{PAGES}{name}.md": {PART: text} for name, text in tables.items()}
    return Rendered(text=f"# Families on the pages of the models\n{sections}", parts=parts)


STUDY = Study(
    name="model_pages",
    title="The table of families on the page of each model",
    page=PAGES,
    seconds=1800,
    quick_seconds=600,
    parts=_entries,
    measure=_measure,
    render=_render,
)
