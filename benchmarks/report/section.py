"""Records of report sections, and the sections by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from zoo.errors import UsageError
from zoo.fields import FUNCTION, NAME_SET, NUMBER, TEXT, checked
from zoo.registry.members import Members

if TYPE_CHECKING:
    from markupsafe import Markup

    from benchmarks.report.components import View
    from benchmarks.report.inputs import EntryReport
    from zoo.types import ModelEntry

__all__ = ["GROUP", "SECTIONS", "ReportSection", "broken", "sections_of", "shown", "warn"]

T = TypeVar("T")

GROUP = "posterior_zoo.sections"  # entry point: `my_section = "my_package.my_module:SECTION"`


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """A part of the report of one entry.

    Registered by a record in a file of `benchmarks/report/sections/` or `panels/`, or by a
    plug-in.

    Attributes:
        name: its name, and the stem of its file.
        about: what it shows, in one line.
        order: its position; built-in sections have 10, 20, ... (`docs/add_a_report_section.md`).
        html: `view -> Markup`, None if there is nothing to show. Text that is not `Markup` is
            escaped; no script runs and nothing is fetched. `view.report` is the entry's report,
            `benchmarks.report.blocks` has figures and tables.
        markdown: `report -> text` in Markdown, None if there is nothing to show; untrusted text
            must pass through `escape`.
        entries: names of the entries it is for; empty for all.
        tags: tags that an entry must have, all of them.

    Raises:
        UsageError: a field of a wrong type, a name that is not an identifier, an empty line, or
            neither HTML nor Markdown.
    """

    name: str
    about: str
    order: float
    html: Callable[[View], Markup | str | None] | None = None
    markdown: Callable[[EntryReport], str | None] | None = None
    entries: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Validate the fields."""
        checked(self, name=TEXT, about=TEXT, order=NUMBER, html=FUNCTION | None)
        checked(self, markdown=FUNCTION | None, entries=NAME_SET, tags=NAME_SET)
        if not self.name.isidentifier():
            raise UsageError(
                f"A report section is called {self.name!r};"
                " accepted: letters, digits and _, such as my_section."
            )
        if not self.about.strip():
            raise UsageError(
                f"The report section {self.name!r} does not say what it shows; fill in about."
            )
        if self.html is None and self.markdown is None:
            raise UsageError(
                f"The report section {self.name!r} has neither html nor markdown; give one."
            )

    def applies(self, entry: ModelEntry) -> bool:
        """Return whether the section is for this entry."""
        return (not self.entries or entry.name in self.entries) and self.tags <= entry.tags


SECTIONS: Members[ReportSection] = Members(
    ReportSection,
    noun="report section",
    group=GROUP,
    folders=("benchmarks.report.sections", "benchmarks.report.panels"),
    attribute="SECTION",
)


def sections_of(entry: ModelEntry) -> list[ReportSection]:
    """Return the sections of an entry in their order."""
    found, _ = SECTIONS.usable()
    return sorted((s for s in found if s.applies(entry)), key=lambda s: (s.order, s.name))


def broken() -> list[str]:
    """Return one sentence for each plug-in section that cannot be loaded."""
    return SECTIONS.usable()[1]


def shown(
    section: ReportSection, render: Callable[[T], str | None] | None, subject: T
) -> tuple[str | None, str]:
    """Return what a section shows, or the sentence that replaces it if it fails.

    Args:
        section: the section.
        render: its `html` or `markdown`.
        subject: the view or report passed to it.
    """
    if render is None:
        return None, ""
    try:
        found = render(subject)
        if found is not None and not isinstance(found, str):
            raise TypeError(f"it returned a {type(found).__name__}, not text or None")
    except Exception as error:  # one faulty section must not break the report
        line = (str(error).splitlines() or [""])[0]
        return (
            None,
            f"The section {section.name} of this entry failed: {type(error).__name__}: {line}",
        )
    return found, ""


def warn(sentence: str) -> None:
    """Print on stderr what a report could not show."""
    print(f"zoo: warning: {sentence}", file=sys.stderr, flush=True)
