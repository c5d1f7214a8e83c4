"""The report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from markupsafe import Markup, escape

from benchmarks.report import theme
from benchmarks.report.alternatives import costs
from benchmarks.report.blocks import anchor, environment, paragraph, parts, picture
from benchmarks.report.components import View, make_view
from benchmarks.report.figures_cost import cost, uncompiled
from benchmarks.report.inputs import ReportInput
from benchmarks.report.keys import key
from benchmarks.report.numbers import DASH
from benchmarks.report.overview import cells, columns, reference_words, sentence, tally
from benchmarks.report.section import broken, sections_of, shown, warn
from benchmarks.report.words import glossary
from benchmarks.verdicts import VERDICTS
from benchmarks.workers import Task, run_tasks

__all__ = ["html"]

AXES: tuple[Literal["gradients", "seconds"], ...] = ("gradients", "seconds")


def html(run: ReportInput, jobs: int = 1, say: Callable[[str], None] = warn) -> str:
    """Render the page from `template.html.jinja` and `style.css` in this folder.

    `jobs` workers draw the figures. A section that fails is replaced by one sentence, which is
    also passed to `say`.
    """
    methods = columns(run)
    marks = theme.marks(methods)
    with theme.style():
        views = [make_view(entry, methods) for entry in run.entries]
        tasks = [Task(anchor(view.report), partial(_drawn, view)) for view in views]
        drawn = [
            result.unwrap()
            for result in run_tasks(tasks, jobs, in_process=min(jobs, len(tasks)) < 2)
        ]
    for text in [*broken(), *(text for section, _ in drawn for text in section["failed"])]:
        say(text)
    pages = environment()
    return pages.get_template("template.html.jinja").render(
        style=Markup(
            theme.verdict_css() + _minify(pages.loader.get_source(pages, "style.css")[0])
        ),
        keys={name: key(marks[name]) for name in methods},
        rows=[_row(entry, methods) for entry in run.entries],
        blocks=_blocks(run, methods),
        sentences=[(anchor(e), e.entry.key, sentence(e)) for e in run.entries],
        tally=tally(run),
        verdicts=[(v.word, v.shown, v.meaning) for v in VERDICTS.values()],
        costs=[costs for _, costs in drawn if any(costs["figures"])],
        eager=any(uncompiled(view) for view in views),
        sections=[section for section, _ in drawn],
        glossary=glossary(c for entry in run.entries for c in entry.comparisons),
        meta=_meta(run),
        created=str(run.meta.get("created", "")),
        dash=DASH,
    )


def _drawn(view: View) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the section of one entry and its cost figures."""
    key, name = view.report.entry.key, anchor(view.report)
    figures = [
        picture(
            cost(view, by),
            f"{name}-{by[0]}",
            f"Worst error of each method on {key} against {by}: {costs(view, by)}.",
        )
        for by in AXES
    ]
    return entry_section(view), {"key": key, "anchor": name, "figures": figures}


def entry_section(view: View) -> dict[str, Any]:
    """Return the sections of one entry as markup, in order, and a sentence per failed one."""
    key, parts, failed = view.report.entry.key, [], []
    for section in sections_of(view.report.entry):
        part, failure = shown(section, section.html, view)
        if failure:
            failed.append(f"{key}: {failure}")
            parts.append(paragraph(failure))
        elif part is not None:
            parts.append(escape(part))
    return {
        "anchor": anchor(view.report),
        "key": key,
        "title": view.report.entry.title,
        "parts": parts,
        "failed": failed,
    }


def _blocks(run: ReportInput, methods: list[str]) -> list[dict[str, Any]]:
    """Return the table of verdicts in parts of as many methods as fit beside each other.

    An entry has a row in every part that has one of its methods, and at least in the first.
    """
    blocks: list[dict[str, Any]] = []
    for places in parts(methods):
        shown = [methods[i] for i in places]
        rows = [_row(entry, shown) for entry in run.entries]
        blocks.append(
            {"methods": shown, "rows": [row for row in rows if any(row["cells"]) or not blocks]}
        )
    return blocks


def _row(entry: Any, methods: list[str]) -> dict[str, Any]:
    found = cells(entry)
    kind, state, grade = reference_words(entry)
    return {
        "anchor": anchor(entry),
        "key": entry.entry.key,
        "cells": [found.get(m) for m in methods],
        "reference": (kind, state, grade),
    }


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
    return lines + [("sections left out", text) for text in broken()]


def _minify(sheet: str) -> str:
    return "".join(line.strip() for line in sheet.splitlines() if line.strip())
