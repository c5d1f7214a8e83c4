"""Reports: a run as one self-contained HTML page, as Markdown for a pull request, and as a table for the terminal.

Rendering is a pure function of its input: no clock, no disk, no random numbers, the same bytes
every time.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.report.inputs import EntryReport, FitSummary, ReportInput, method_names
from benchmarks.types import PredictiveCheck

__all__ = [
    "EntryReport",
    "FitSummary",
    "PredictiveCheck",
    "ReportInput",
    "method_names",
    "render_html",
    "render_markdown",
    "render_table",
]


def render_html(run: ReportInput, jobs: int = 1, say: Callable[[str], None] | None = None) -> str:
    """Return the report as one HTML document that makes no outside request and runs no script.

    Args:
        run: entries with their comparisons, and the run's metadata.
        jobs: processes that draw entries at once.
        say: hears of sections that could not be shown, stderr by default.

    Returns:
        The document as text; its bytes depend on nothing but `run`.
    """
    from benchmarks.report.html import html
    from benchmarks.report.section import warn

    return html(run, jobs, say or warn)


def render_markdown(
    run: ReportInput, limit: int = 60_000, say: Callable[[str], None] | None = None
) -> str:
    """Return the report as Markdown of at most `limit` characters, for a pull request.

    Args:
        run: entries with their comparisons, and the run's metadata.
        limit: most characters; folded details are dropped entry by entry until the text fits.
        say: hears of sections that could not be shown, stderr by default.
    """
    from benchmarks.report.markdown import markdown
    from benchmarks.report.section import warn

    return markdown(run, limit, say or warn)


def render_table(run: ReportInput, width: int | None = None, color: bool | None = None) -> str:
    """Return the verdicts as a table for the terminal.

    Args:
        run: entries with their comparisons.
        width: columns of the terminal; None for 100.
        color: whether to use ANSI colors; None means no.
    """
    from benchmarks.report.terminal import table

    return table(run, width or 100, bool(color))
