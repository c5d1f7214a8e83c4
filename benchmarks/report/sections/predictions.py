"""Class probabilities of each posterior beside those of methods that are not posteriors."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from benchmarks.report import predictions
from benchmarks.report.blocks import anchor, escape, fragment, picture
from benchmarks.report.components import View
from benchmarks.report.inputs import EntryReport
from benchmarks.report.section import ReportSection
from benchmarks.report.words import definition

__all__ = ["SECTION"]


def _predictions(view: View) -> dict[str, Any] | None:
    """Return the table of class probabilities with its figures, or why there is none.

    None for entries without the hook.
    """
    found = view.report.predictions
    if found is None:
        return None
    if found.error:
        return {
            "error": found.error,
            "heads": [],
            "rows": [],
            "figures": [],
            "wide": None,
            "note": "",
        }
    name, key = anchor(view.report), view.report.entry.key
    text = (
        "On the line a method is as often right as it is sure; below it is overconfident."
        " Ten bins of equal size."
    )
    marks = dict(view.marks)
    pictures = [
        picture(
            predictions.diagram(found, marks, posteriors=kind),
            f"{name}-r{int(kind)}",
            f"Reliability diagram of {which} on {key}.",
            f"Reliability: {which}",
            text,
        )
        for kind, which in ((False, "point estimates and ensembles"), (True, "posteriors"))
    ]
    wide = picture(
        predictions.examples(found, marks),
        f"{name}-x",
        f"Class probabilities of each method on test images of {key}.",
        "Where the methods differ most from the truth",
        f"Bars: the predictive of {found.truth}. Marks: each method.",
    )
    rows = [
        (row.method, row.posterior, row.about, predictions.cells(found, row)) for row in found.rows
    ]
    return {
        "error": "",
        "heads": predictions.heads(found),
        "rows": rows,
        "figures": [p for p in pictures if p is not None],
        "wide": wide,
        "note": predictions.caption(found),
    }


def html(view: View) -> Markup | None:
    """Render the table with its figures."""
    found = _predictions(view)
    return None if found is None else fragment("sections/predictions.jinja", found=found)


def markdown(report: EntryReport) -> str | None:
    """Return the table."""
    found = report.predictions
    if found is None:
        return None
    if found.error:
        return escape(found.error)
    names = [name or definition(key).term for key, name in predictions.heads(found)]
    lines = [
        escape(predictions.caption(found)),
        "",
        "| method | " + " | ".join(map(escape, names)) + " |",
    ]
    lines += ["|---" * (len(names) + 1) + "|"]
    for row in found.rows:
        method = escape(row.method) if row.posterior else f"*{escape(row.method)}*"
        lines.append(
            f"| {method} | " + " | ".join(map(escape, predictions.cells(found, row))) + " |"
        )
    return "\n".join(lines)


SECTION = ReportSection(
    name="predictions",
    about="class probabilities of posteriors and other methods",
    order=70,
    html=html,
    markdown=markdown,
)
