"""Reports of a run: a self-contained HTML page, Markdown, and a table for the terminal.

Rendering is a pure function of its input: it uses no clock, disk or random numbers and gives the
same bytes every time.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.report.html import html
from benchmarks.report.inputs import EntryReport, FitSummary, ReportInput, method_names
from benchmarks.report.markdown import markdown
from benchmarks.report.section import warn
from benchmarks.report.terminal import table
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
    """Return the report as one HTML document without external requests or scripts.

    Args:
        run: entries with their comparisons, and the run's metadata.
        jobs: processes that draw entries at once.
        say: called with a sentence for each section that could not be shown; by default stderr.

    Returns:
        The document as text; its bytes depend only on `run`.
    """
    return html(run, jobs, say or warn)


def render_markdown(
    run: ReportInput, limit: int = 60_000, say: Callable[[str], None] | None = None
) -> str:
    """Return the report as Markdown of at most `limit` characters, for a pull request.

    Args:
        run: entries with their comparisons, and the run's metadata.
        limit: maximum length; folded details are dropped entry by entry until the text fits.
        say: called with a sentence for each section that could not be shown; by default stderr.
    """
    return markdown(run, limit, say or warn)


def render_table(run: ReportInput, width: int | None = None, color: bool | None = None) -> str:
    """Return the verdicts as a table for the terminal.

    Args:
        run: entries with their comparisons.
        width: columns of the terminal; None for 100.
        color: whether to use ANSI colors; None means no.
    """
    return table(run, width or 100, bool(color))
