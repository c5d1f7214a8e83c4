"""Verdicts with their reasons: findings, and the checks that add information."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from benchmarks.report.blocks import escape, fragment
from benchmarks.report.components import View
from benchmarks.report.inputs import EntryReport
from benchmarks.report.keys import key
from benchmarks.report.overview import cells, tidy
from benchmarks.report.section import ReportSection
from benchmarks.verdicts import verdict_of

__all__ = ["SECTION"]


def verdicts_of(view: View) -> list[dict[str, Any]]:
    """Return what the report says of each method."""
    found = cells(view.report)
    verdicts = []
    for name in view.names:
        comparison = view.by_name[name]
        lines = [
            tidy(r.sentence)
            for r in comparison.reasons
            if r.sentence.rstrip(".") not in comparison.sentence
        ]
        checks = [(t.passed, tidy(t.sentence)) for t in comparison.trust]
        # With a reference only failed checks add information; without one there are only checks.
        blind = verdict_of(comparison.verdict).blind
        trust = [c for c in checks if blind or c[0] is False]
        folded = [c for c in checks if c not in trust]
        verdicts.append(
            {
                "name": name,
                "cell": found[name],
                "sentence": tidy(comparison.sentence),
                "reasons": lines[:3],
                "more": lines[3:],
                "trust": trust,
                "folded": folded,
                "folded_as": _folded_as(folded, bool(trust)),
                "notes": [
                    n
                    for n in map(tidy, comparison.notes)
                    if not any(n in text for _, text in checks)
                ],
            }
        )
    return verdicts


def _folded_as(checks: list[tuple[bool | None, str]], others: bool) -> str:
    """Summarize the folded checks: how many passed, how many could not be made."""
    passed = sum(1 for ok, _ in checks if ok)
    missing = len(checks) - passed
    parts = (
        [f"{passed} {'other ' if others else ''}trust check{'s' if passed != 1 else ''} passed"]
        if passed
        else []
    )
    return ", ".join([*parts, *([f"{missing} not made"] if missing else [])])


def html(view: View) -> Markup:
    """Render one item per method."""
    keys = {name: key(view.marks[name]) for name in view.names}
    return fragment("sections/findings.jinja", verdicts=verdicts_of(view), keys=keys)


def markdown(report: EntryReport) -> str | None:
    """Return one sentence per method."""
    lines = [f"- **{escape(n)}**: {escape(tidy(c.sentence))}" for n, c in report.named().items()]
    return "\n".join(lines) or None


SECTION = ReportSection(
    name="findings",
    about="the verdicts with their reasons",
    order=20,
    html=html,
    markdown=markdown,
)
