"""Trust and cost: one row per trust figure or cost, one column per method."""

from __future__ import annotations

from markupsafe import Markup

from benchmarks.report.blocks import escape, fragment, parts
from benchmarks.report.components import View
from benchmarks.report.inputs import EntryReport
from benchmarks.report.numbers import count, duration
from benchmarks.report.section import ReportSection
from benchmarks.report.tables import method_table

__all__ = ["SECTION"]


def html(view: View) -> Markup:
    """Render the table, in parts of as many methods as fit beside each other."""
    table = method_table(view)
    tables = [
        {
            "methods": [table["methods"][i] for i in places],
            "rows": [(c, name, [v[i] for i in places]) for c, name, v in table["rows"]],
        }
        for places in parts(table["methods"])
    ]
    return fragment("sections/methods.jinja", tables=tables)


def markdown(report: EntryReport) -> str:
    """Return the cost in one line."""
    costs = (
        f"{escape(n)} {duration(c.posterior.cost.seconds)},"
        f" {count(c.posterior.cost.gradient_evaluations)} gradients"
        for n, c in report.named().items()
    )
    return "Cost: " + "; ".join(costs) + "."


SECTION = ReportSection(
    name="methods",
    about="trust figures and cost of each method",
    order=90,
    html=html,
    markdown=markdown,
)
