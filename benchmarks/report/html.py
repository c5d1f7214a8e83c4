"""The report as one self-contained HTML page."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from markupsafe import Markup, escape

from benchmarks.report import theme
from benchmarks.report.components import View, make_view
from benchmarks.report.figures_cost import cost, uncompiled
from benchmarks.report.inputs import ReportInput
from benchmarks.report.numbers import DASH
from benchmarks.report.overview import cells, columns, reference_words, sentence, tally
from benchmarks.report.sections import anchor, entry_section, picture
from benchmarks.report.words import COLUMNS, GLOSSARY
from benchmarks.verdicts import VERDICTS
from benchmarks.workers import Task, run_tasks

__all__ = ["html"]


def html(run: ReportInput, jobs: int = 1) -> str:
    """Render the page from `template.html.jinja` and `style.css`, which lie beside this file; pictures are drawn by `jobs` workers."""
    import jinja2

    methods = columns(run)
    marks = theme.marks(methods)
    with theme.style():
        views = [make_view(entry, methods) for entry in run.entries]
        tasks = [Task(anchor(view.report), partial(_drawn, view)) for view in views]
        drawn = [result.unwrap() for result in run_tasks(tasks, jobs, in_process=min(jobs, len(tasks)) < 2)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("benchmarks.report", "."), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["code"] = _code
    environment.filters["pieces"] = lambda text: re.findall(r"[^_/\[,]*[_/\[,]?", str(text))[:-1]
    sheet = environment.loader.get_source(environment, "style.css")[0] if environment.loader is not None else ""
    return environment.get_template("template.html.jinja").render(
        style=Markup(theme.verdict_css() + _minify(sheet)),
        methods=methods,
        keys={name: key(marks[name]) for name in methods},
        rows=[_row(entry, methods) for entry in run.entries],
        sentences=[(anchor(e), e.entry.key, sentence(e)) for e in run.entries],
        tally=tally(run),
        verdicts=[(v.word, v.shown, v.meaning) for v in VERDICTS.values()],
        costs=[costs for _, costs in drawn if any(costs["figures"])],
        eager=any(uncompiled(view) for view in views),
        sections=[section for section, _ in drawn],
        columns=COLUMNS,
        glossary=GLOSSARY,
        meta=_meta(run),
        created=str(run.meta.get("created", "")),
        dash=DASH,
    )


def _drawn(view: View) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the section of one entry and its pictures of cost."""
    key, name = view.report.entry.key, anchor(view.report)
    figures = [
        picture(cost(view, by), f"{name}-{by[0]}", f"Worst mean error of each method on {key} against {by}.")
        for by in ("gradients", "seconds")
    ]
    return entry_section(view), {"key": key, "anchor": name, "figures": figures}


def _row(entry: Any, methods: list[str]) -> dict[str, Any]:
    found = cells(entry)
    kind, state, grade = reference_words(entry)
    return {"anchor": anchor(entry), "key": entry.entry.key, "cells": [found.get(m) for m in methods], "reference": (kind, state, grade)}


def _meta(run: ReportInput) -> list[tuple[str, str]]:
    """Flatten the metadata to lines of text."""
    lines = []
    for name, value in run.meta.items():
        if isinstance(value, dict):
            text = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, (list, tuple)):
            text = ", ".join(str(v) for v in value)
        else:
            text = str(value)
        lines.append((str(name).replace("_", " "), text))
    return lines


def _code(text: str) -> Markup:
    """Set the words a docstring puts in backticks as code; everything is escaped first."""
    return Markup(re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text))))


def _minify(sheet: str) -> str:
    return "".join(line.strip() for line in sheet.splitlines() if line.strip())


SHAPES = {
    "o": '<circle cx="15" cy="6" r="3.6"/>',
    "s": '<path d="M11.6 2.6h6.8v6.8h-6.8z"/>',
    "^": '<path d="M15 1.8l4.2 7.6h-8.4z"/>',
    "D": '<path d="M15 1.4l4.6 4.6-4.6 4.6-4.6-4.6z"/>',
    "v": '<path d="M15 10.2l4.2-7.6h-8.4z"/>',
    "P": '<path d="M13.4 1.6h3.2v2.8h2.8v3.2h-2.8v2.8h-3.2v-2.8h-2.8v-3.2h2.8z"/>',
    "p": '<path d="M15 1.6l4.2 3.1-1.6 4.9h-5.2l-1.6-4.9z"/>',
    "*": '<path d="M15 .8l1.4 3.4 3.7.3-2.8 2.4.9 3.6-3.2-1.9-3.2 1.9.9-3.6-2.8-2.4 3.7-.3z"/>',
    "d": '<path d="M15 1l2.9 5-2.9 5-2.9-5z"/>',
    "h": '<path d="M15 1.6l3.8 2.2v4.4l-3.8 2.2-3.8-2.2v-4.4z"/>',
    "X": '<path d="M12.6 1.8l2.4 2.3 2.4-2.3 1.9 1.9-2.4 2.3 2.4 2.3-1.9 1.9-2.4-2.3-2.4 2.3-1.9-1.9 2.4-2.3-2.4-2.3z"/>',
}


def key(mark: theme.Mark) -> Markup:
    """Return the swatch of a method: its line and marker in its color."""
    dash = "" if mark.dash == "-" else f' stroke-dasharray="{" ".join(str(v) for v in mark.dash[1])}"'
    color = f"var(--c-{mark.role})"
    return Markup(
        f'<svg class="key" viewBox="0 0 30 12" aria-hidden="true">'
        f'<path d="M1 6h28" style="stroke:{color};fill:none" stroke-width="1.7"{dash}/>'
        f'<g style="fill:{color};stroke:var(--c-paper)" stroke-width=".8">{SHAPES[mark.marker]}</g></svg>'
    )
