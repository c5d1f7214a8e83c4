"""What a section of a report says of itself: one frozen record, and the sections by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from benchmarks.members import Members
from zoo.errors import UsageError

if TYPE_CHECKING:
    from markupsafe import Markup

    from benchmarks.report.components import View
    from benchmarks.report.inputs import EntryReport
    from zoo.types import ModelEntry

__all__ = ["GROUP", "SECTIONS", "ReportSection", "broken", "sections_of", "shown", "warn"]

T = TypeVar("T")

GROUP = "posterior_zoo.sections"  # entry points: `my_section = "my_package.my_module:SECTION"`


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """A part of what a report shows of one entry.

    A file in `benchmarks/report/sections/` or `panels/`, or a plug-in, registers itself by one.

    Attributes:
        name: what it is called; the stem of its file.
        about: what it shows, in one line.
        order: where it stands; ours have 10, 20, ... (`docs/add_a_report_section.md`).
        html: `view -> Markup`, None where there is nothing to show. Text that is no `Markup` is
            escaped; no script runs and nothing is fetched. `view.report` is the entry's report,
            `benchmarks.report.blocks` has figures and tables.
        markdown: `report -> text` in Markdown, None where there is nothing to show; text of
            others goes through `escape`.
        entries: names of the entries it is for; empty for all.
        tags: words of the card, all of which an entry must have.

    Raises:
        UsageError: a name that is no identifier, an empty line, or neither HTML nor Markdown.
    """

    name: str
    about: str
    order: float
    html: Callable[[View], Markup | str | None] | None = None
    markdown: Callable[[EntryReport], str | None] | None = None
    entries: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse a record that would fail later and elsewhere."""
        if not self.name.isidentifier():
            raise UsageError(
                f"A report section is called {self.name!r}; accepted: letters, digits and _, such"
                " as my_section."
            )
        if not self.about.strip():
            raise UsageError(
                f"The report section {self.name!r} does not say what it shows; write one line in"
                " about."
            )
        if self.html is None and self.markdown is None:
            raise UsageError(
                f"The report section {self.name!r} has neither html nor markdown; give one of"
                " them, or both."
            )

    def applies(self, entry: ModelEntry) -> bool:
        """Whether the section is for this entry."""
        return (not self.entries or entry.name in self.entries) and self.tags <= entry.tags


SECTIONS: Members[ReportSection] = Members(
    ReportSection,
    noun="report section",
    group=GROUP,
    folders=("report.sections", "report.panels"),
    attribute="SECTION",
)


def sections_of(entry: ModelEntry) -> list[ReportSection]:
    """Return the sections of an entry in their order."""
    found, _ = SECTIONS.usable()
    return sorted((s for s in found if s.applies(entry)), key=lambda s: (s.order, s.name))


def broken() -> list[str]:
    """Return one sentence for each section of an installed package that cannot be loaded."""
    return SECTIONS.usable()[1]


def shown(
    section: ReportSection, render: Callable[[T], str | None] | None, subject: T
) -> tuple[str | None, str]:
    """Return what a section shows, and the sentence that stands in its place where it fails.

    Args:
        section: whose turn it is.
        render: its `html` or `markdown`.
        subject: the view or the report that is given to it.
    """
    if render is None:
        return None, ""
    try:
        found = render(subject)
        if found is not None and not isinstance(found, str):
            raise TypeError(f"it returned a {type(found).__name__}, not text or None")
    except Exception as error:  # a fault in one section must not cost the whole report
        line = (str(error).splitlines() or [""])[0]
        return (
            None,
            f"The section {section.name} of this entry failed: {type(error).__name__}: {line}",
        )
    return found, ""


def warn(sentence: str) -> None:
    """Say on stderr what a report could not show."""
    print(f"zoo: warning: {sentence}", file=sys.stderr, flush=True)
