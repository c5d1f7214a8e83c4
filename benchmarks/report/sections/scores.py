"""All scores, folded: one row per component and method, worst component first."""

from __future__ import annotations

from markupsafe import Markup

from benchmarks.report.blocks import escape, fragment
from benchmarks.report.components import Key, View
from benchmarks.report.inputs import EntryReport
from benchmarks.report.numbers import with_error
from benchmarks.report.section import ReportSection
from benchmarks.report.tables import score_table
from benchmarks.report.words import severity
from benchmarks.types import Score

__all__ = ["SECTION"]

MOST_ROWS = 40


def html(view: View) -> Markup:
    """Render the table."""
    return fragment("sections/scores.jinja", table=score_table(view))


def markdown(report: EntryReport) -> str | None:
    """Return mean error and sd ratio of the worst components, one column per method."""
    names = list(report.named())
    table: dict[Key, dict[str, Score]] = {}
    for name, comparison in report.named().items():
        for score in comparison.scores:
            table.setdefault((score.quantity, score.index), {})[name] = score
    ranked = sorted(table.values(), key=lambda row: -max(severity(s) for s in row.values()))
    if not ranked:
        return None
    lines = [
        "| component | " + " | ".join(f"{escape(n)} mean error, sd ratio" for n in names) + " |"
    ]
    lines += ["|---" * (len(names) + 1) + "|"]
    for row in ranked[:MOST_ROWS]:
        label = next(iter(row.values())).label
        lines.append(
            f"| {escape(label)} | " + " | ".join(_score(row.get(n)) for n in names) + " |"
        )
    if len(ranked) > MOST_ROWS:
        lines += ["", f"{len(ranked) - MOST_ROWS} better components are in results.csv."]
    return "\n".join(lines)


def _score(score: Score | None) -> str:
    if score is None:
        return "–"
    return (
        f"{with_error(score.mean_error, score.mean_error_se, sign=True)},"
        f" {with_error(score.sd_ratio, score.sd_ratio_se, times=True)}"
    )


SECTION = ReportSection(
    name="scores",
    about="every score of every component, folded",
    order=100,
    html=html,
    markdown=markdown,
)
