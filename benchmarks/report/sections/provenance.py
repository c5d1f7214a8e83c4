"""Provenance of data, reference and draws, folded."""

from __future__ import annotations

from markupsafe import Markup

from benchmarks.report.blocks import fragment
from benchmarks.report.components import View
from benchmarks.report.section import ReportSection
from benchmarks.report.tables import provenance

__all__ = ["SECTION"]


def html(view: View) -> Markup:
    """Render labeled lines."""
    return fragment("sections/provenance.jinja", lines=provenance(view.report))


SECTION = ReportSection(
    name="provenance",
    about="where data, reference and draws came from, folded",
    order=110,
    html=html,
)
