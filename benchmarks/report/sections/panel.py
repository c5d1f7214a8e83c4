"""Figures of the card's `panel` hook."""

from __future__ import annotations

from importlib import import_module

from markupsafe import Markup

from benchmarks.report.blocks import gallery, pictures_of
from benchmarks.report.components import View
from benchmarks.report.panels import TITLE
from benchmarks.report.section import ReportSection

__all__ = ["SECTION"]


def html(view: View) -> Markup | None:
    """Call `panel(report)` of the card: a function, or `module:function` as text."""
    hook = view.report.entry.panel
    if hook is None:
        return None
    if isinstance(hook, str):
        module, _, name = hook.partition(":")
        hook = getattr(import_module(module), name)
    return gallery(TITLE, pictures_of(view.report, "x", hook(view.report)))


SECTION = ReportSection(
    name="panel", about="the figures of the card's own `panel` hook", order=80, html=html
)
