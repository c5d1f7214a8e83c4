"""Extra figures of kinds of entries for the report, registered by the tags of their cards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.types import ModelEntry

__all__ = ["PANELS", "Panel", "panel_of"]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Figures that belong to every entry with all of these tags.

    Attributes:
        tags: words of the card, all of which an entry must have.
        figures: `module:function`, imported when a report is made: `function(report)` returns figures, or pairs of a figure and a
            caption; none where it does not fit the entry after all.
    """

    tags: frozenset[str]
    figures: str


PANELS = (
    Panel(tags=frozenset({"mixture", "discrete", "enumeration"}), figures="benchmarks.report.panels.mixture:figures"),
    Panel(tags=frozenset({"topics"}), figures="benchmarks.report.panels.topics:figures"),
    Panel(tags=frozenset({"deep", "learns", "images"}), figures="benchmarks.report.panels.vae:figures"),
)


def panel_of(entry: ModelEntry) -> Callable[..., Any] | None:
    """Return the hook of an entry: its own `panel`, else the first that is registered for its tags, else None."""
    own = entry.panel
    if own is not None and not isinstance(own, str):
        return own
    named = own or next((panel.figures for panel in PANELS if panel.tags <= entry.tags), None)
    if named is None:
        return None
    module, _, name = named.partition(":")
    hook: Callable[..., Any] = getattr(import_module(module), name)
    return hook
