"""Description of the model: its lead, the generative process, and the rest folded."""

from __future__ import annotations

import re
import sys
import textwrap

from markupsafe import Markup

from benchmarks.report.blocks import fragment
from benchmarks.report.components import View
from benchmarks.report.inputs import EntryReport
from benchmarks.report.section import ReportSection

__all__ = ["SECTION", "story"]


def story(report: EntryReport) -> tuple[list[str], str, list[str]]:
    """Split the docstring of a model file into lead, generative process, and rest.

    The process consists of the indented or `~` paragraphs. Programs without a model file have no
    story.
    """
    module = sys.modules.get(getattr(report.entry.build, "__module__", "") or "")
    own = module is not None and (hasattr(module, "ENTRY") or hasattr(module, "ENTRIES"))
    text = textwrap.dedent(module.__doc__ or "").strip() if own and module is not None else ""
    first, _, rest = text.partition("\n")
    text = first + "\n" + textwrap.dedent(rest)
    lead: list[str] = []
    process: list[str] = []
    after: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.strip("\n").splitlines()
        if not lines:
            continue
        if all(line.startswith("  ") for line in lines) or sum(
            "~" in line for line in lines
        ) * 2 >= len(lines):
            process.append(textwrap.dedent("\n".join(lines)))
        elif len(lead) < 2 and not process:
            lead.append(" ".join(line.strip() for line in lines))
        else:
            after.append(" ".join(line.strip() for line in lines))
    return lead, "\n\n".join(process), after


def html(view: View) -> Markup:
    """Render the docstring of the model file."""
    lead, process, after = story(view.report)
    long = max(map(len, process.splitlines()), default=0) > 58
    return fragment("sections/story.jinja", lead=lead, process=process, after=after, long=long)


SECTION = ReportSection(
    name="story", about="what the model is, with its generative process", order=10, html=html
)
