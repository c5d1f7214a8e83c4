"""Posterior predictive checks: observed values beside those replicated by each posterior."""

from __future__ import annotations

from markupsafe import Markup

from benchmarks.report import figures_nuts
from benchmarks.report.alternatives import replications
from benchmarks.report.blocks import Picture, anchor, gallery, picture
from benchmarks.report.components import View
from benchmarks.report.section import ReportSection

__all__ = ["SECTION"]


def pictures(view: View) -> list[Picture]:
    """Return the pictures that can be drawn."""
    text = (
        "Thick: observed. Band: 90 % of the data sets replicated from the posterior. Thin: the"
        " mean of each method's replications."
    )
    pictures = [
        picture(
            figures_nuts.predictive(view, check),
            f"{anchor(view.report)}-c{i}",
            f"Observed and replicated {check.label}: {replications(check)}.",
            f"Predictive check: {check.label}",
            text,
        )
        for i, check in enumerate(view.report.ppc)
    ]
    return [p for p in pictures if p is not None]


def html(view: View) -> Markup | None:
    """Render them side by side."""
    return gallery("Does the model fit the data?", pictures(view))


SECTION = ReportSection(
    name="predictive_checks", about="observed and replicated data", order=60, html=html
)
