"""Draws of every method over the reference, with the worst components and the worst pair."""

from __future__ import annotations

from markupsafe import Markup

from benchmarks.report import figures_posterior
from benchmarks.report.alternatives import intervals, margin
from benchmarks.report.blocks import Picture, anchor, fragment, picture
from benchmarks.report.components import View
from benchmarks.report.keys import key
from benchmarks.report.overview import reference_words
from benchmarks.report.section import ReportSection

__all__ = ["SECTION"]


def html(view: View) -> Markup | None:
    """Lay out the figures beside and below the forest plot."""
    wide, where = _forest(view), _where(view)
    # A tall forest plot leaves room beside it: put as many figures there as fit its height.
    room = 1 + max(0, round((wide["height"] * 1.3 - 480) / 330)) if wide is not None else 0
    beside, below = where[:room], where[room:]
    # A short one leaves room below it; a single remaining figure joins those beside it.
    free = max(0, round((480 - wide["height"] * 1.3) / 330)) if wide is not None else 0
    under, below = below[:free], below[free:]
    if wide is not None and len(below) == 1:
        beside, below = beside + below, []
    if wide is None and not below:
        return None
    keys = {name: key(view.marks[name]) for name in view.names}
    return fragment(
        "sections/draws.jinja",
        wide=wide,
        under=under,
        beside=beside,
        below=below,
        shown=view.shown,
        keys=keys,
        reference=reference_words(view.report),
    )


def _forest(view: View) -> Picture | None:
    if not view.reference or not view.shown:
        return None
    figure, shown = figures_posterior.forest(view)
    left = len([k for k in view.order if k in view.reference]) - shown
    caption = (
        "Each row is one component, worst first. Gray: the reference's 90 % (light) and 50 %"
        " (dark) intervals and median. Thin and thick lines: the same intervals of each method, in"
        " the order of the key."
    )
    if left > 0:
        caption += f" {left} better component{'s' if left > 1 else ''} not drawn."
    alt = (
        f"Forest plot of {shown} components of {view.report.entry.key}: {', '.join(view.shown)}"
        f" over the reference. {intervals(view, shown)}."
    )
    return picture(
        figure, anchor(view.report) + "-f", alt, "Every method over the reference", caption
    )


def _where(view: View) -> list[Picture]:
    key, pictures = view.report.entry.key, []
    found = figures_posterior.pair(view) if view.shown else None
    if found is not None:
        caption = (
            f"The worst {found[1]}. Gray: 50 and 90 % regions of the truth;"
            " lines: each guide's 90 % ellipse."
        )
        pictures.append(
            picture(
                found[0],
                anchor(view.report) + "-p",
                f"Contours and ellipses for {key}: {found[1]}.",
                "Worst pair",
                caption,
            )
        )
    keys = [k for k in view.order if any(k in view.draws[n] for n in view.shown)][:3]
    for i, component in enumerate(keys):
        label = view.labels[component]
        figure, cut = figures_posterior.marginal(view, component)
        title = ("Worst component", "Second worst", "Third worst")[i] if view.reference else label
        caption = "Cut at three times the reference's peak." if cut else ""
        pictures.append(
            picture(
                figure,
                f"{anchor(view.report)}-m{i}",
                f"Density of {label} under each method: {margin(view, component)}.",
                title,
                caption,
            )
        )
    return [p for p in pictures if p is not None]


SECTION = ReportSection(
    name="draws",
    about="every method over the reference, the worst components and pair",
    order=30,
    html=html,
)
