"""Extra figures for entries with certain tags whose card has no `panel` hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.report.blocks import gallery, pictures_of

if TYPE_CHECKING:
    from markupsafe import Markup

    from benchmarks.report.components import View
    from benchmarks.report.inputs import EntryReport

__all__ = ["TITLE", "panel"]

TITLE = "More from this entry"


def panel(
    figures: Callable[[EntryReport], list[tuple[Any, str]]],
) -> Callable[[View], Markup | None]:
    """Return the `html` of a section of figures; None if the card has its own panel."""

    def html(view: View) -> Markup | None:
        if view.report.entry.panel is not None:
            return None
        return gallery(
            TITLE,
            pictures_of(view.report, figures.__module__.rpartition(".")[2], figures(view.report)),
        )

    return html
