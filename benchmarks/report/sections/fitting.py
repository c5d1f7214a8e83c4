"""Fits of the guides: losses, importance weights and the effect of reweighting."""

from __future__ import annotations

from markupsafe import Markup

from benchmarks.report import figures_fit
from benchmarks.report.alternatives import stops, weights
from benchmarks.report.blocks import Picture, anchor, gallery, picture
from benchmarks.report.components import View
from benchmarks.report.section import ReportSection

__all__ = ["SECTION"]


def pictures(view: View) -> list[Picture]:
    """Return the pictures that can be drawn."""
    fits = view.report.summaries()
    name, key = anchor(view.report), view.report.entry.key
    early = [n for n, f in fits.items() if n in view.marks and f.stop.status != "ok"]
    restarts = any(len(f.restarts) > 1 for f in fits.values())
    above = (
        "the lowest of all methods"
        if view.report.entry.judged is None
        else "its own lowest: some guides are fitted to all units"
    )
    caption = f"Smoothed minus ELBO, above {above}. The marker is where a fit stopped."
    if early:
        caption += f" Did not converge: {', '.join(early)}."
    if restarts:
        caption += " Dashes at the right edge: the final values of all restarts."
    pictures = [
        picture(
            figures_fit.losses(view, fits),
            name + "-l",
            f"Losses of the fits of {key} against optimizer step: {stops(view, fits)}.",
            "Losses",
            caption,
        ),
        picture(
            figures_fit.pareto(view),
            name + "-k",
            f"Pareto k-hat of each method on {key} against its threshold: {weights(view)}.",
            "Importance weights",
            "k-hat grades the reweighted answer, not the fit:"
            " it can look perfect while a mode is missed.",
        ),
        picture(
            figures_fit.reweighting(view),
            name + "-w",
            f"Mean errors on {key} before and after reweighting: {weights(view, moved=True)}.",
            "What reweighting changes",
            "Hollow: as fitted. Filled: reweighted. The gray band is the material line of ±0.15.",
        ),
    ]
    return [p for p in pictures if p is not None]


def html(view: View) -> Markup | None:
    """Render them side by side."""
    return gallery("How the guides were fitted", pictures(view))


SECTION = ReportSection(
    name="fitting",
    about="losses with the stopping point, and importance weights",
    order=40,
    html=html,
)
