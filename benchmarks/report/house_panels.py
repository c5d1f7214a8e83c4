"""Extra figures of the house's own entries. A model file draws nothing itself: the zoo does not know matplotlib.

An outsider's entry brings `panel=`; for the entries here `house_panel` finds the module that draws them by a tag.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from zoo.types import ModelEntry

__all__ = ["house_panel"]

PANELS = {"mixture": "benchmarks.report.figures_mixture"}  # tag -> module with `panel(report)`


def house_panel(entry: ModelEntry) -> Callable[..., Any] | str | None:
    """Return the panel of an entry: its own, else the one its tags call for, None where there is none."""
    if entry.panel is not None:
        return entry.panel
    for tag, module in PANELS.items():
        if tag in entry.tags and "from_program" not in entry.tags:
            found: Callable[..., Any] = import_module(module).panel
            return found
    return None
