"""The report as Markdown for a pull request: verdicts and sentences first, details folded, bounded in length."""

from __future__ import annotations

import re

from benchmarks.report import predictions
from benchmarks.report.components import Key
from benchmarks.report.inputs import EntryReport, ReportInput, method_names
from benchmarks.report.numbers import count, duration, with_error
from benchmarks.report.overview import cells, columns, reference_words, sentence, tally, tidy
from benchmarks.report.words import COLUMNS, severity
from benchmarks.types import Score
from benchmarks.verdicts import verdict_of

__all__ = ["escape", "markdown"]

MOST_ROWS = 40


def escape(text: object) -> str:
    """Make text literal inside a Markdown table: no markup, no HTML, no mention, one line."""
    flat = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|*_`\[\]~#$])", r"\\\1", flat).replace("@", "&#64;")


def markdown(run: ReportInput, limit: int) -> str:
    """Render the report; details of the last entries are dropped first where the text would be longer than `limit`."""
    head = _head(run)
    tail = _tail(run)
    note = "\n_Details of some entries were left out to keep this short; see report.html._\n"
    parts: list[str] = []
    used = len(head) + len(tail) + len(note)
    complete = True
    for entry in run.entries:
        part = _details(entry)
        if used + len(part) > limit:
            complete = False
            continue
        parts.append(part)
        used += len(part)
    text = head + "".join(parts) + ("" if complete else note) + tail
    if len(text) <= limit:
        return text
    cut = text[: limit - len(note)]
    return cut[: cut.rfind("\n")] + note  # a run of hundreds of entries: keep whole lines


def _head(run: ReportInput) -> str:
    lines = ["# How far to trust variational inference here", ""]
    lines += [" · ".join(f"{verdict_of(code).mark} {n} {word}" for code, word, n in tally(run)), ""]
    lines += [f"- **{escape(e.entry.key)}**: {escape(sentence(e))}" for e in run.entries]
    methods = columns(run)
    lines += ["", "| entry | " + " | ".join(escape(m) for m in methods) + " | reference |", "|---" * (len(methods) + 2) + "|"]
    for entry in run.entries:
        found = cells(entry)
        row = [escape(entry.entry.key)]
        for method in methods:
            cell = found.get(method)
            row.append("–" if cell is None else _cell(cell.verdict, cell.word, f"{cell.where} {cell.number}".strip(), cell.note))
        kind, state, _ = reference_words(entry)
        lines.append("| " + " | ".join([*row, f"**{escape(kind)}**<br>{escape(state)}"]) + " |")
    lines += ["", "<sub>Errors in sds of the reference, ± one Monte Carlo standard error. Material: a mean off by more than 0.15, an sd "
              "by more than a factor 1.15.</sub>", ""]  # fmt: skip
    return "\n".join(lines) + "\n"


def _cell(verdict: str, word: str, number: str, note: str) -> str:
    return "<br>".join([f"{verdict_of(verdict).mark} **{word}**", *(escape(t) for t in (number, note) if t)])


def _details(entry: EntryReport) -> str:
    names = method_names(entry.comparisons)
    lines = [f"<details><summary>{escape(entry.entry.key)}: {escape(entry.entry.title)}</summary>", ""]
    lines += [f"- **{escape(n)}**: {escape(tidy(c.sentence))}" for n, c in zip(names, entry.comparisons, strict=True)]
    costs = (
        f"{escape(n)} {duration(c.posterior.cost.seconds)}, {count(c.posterior.cost.gradient_evaluations)} gradients"
        for n, c in zip(names, entry.comparisons, strict=True)
    )
    lines += ["", "Cost: " + "; ".join(costs) + "."]
    table: dict[Key, dict[str, Score]] = {}
    for name, comparison in zip(names, entry.comparisons, strict=True):
        for score in comparison.scores:
            table.setdefault((score.quantity, score.index), {})[name] = score
    ranked = sorted(table.values(), key=lambda row: -max(severity(s) for s in row.values()))
    if ranked:
        lines += [
            "",
            "| component | " + " | ".join(f"{escape(n)} mean error, sd ratio" for n in names) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
    for row in ranked[:MOST_ROWS]:
        label = next(iter(row.values())).label
        lines.append(f"| {escape(label)} | " + " | ".join(_score(row.get(n)) for n in names) + " |")
    if len(ranked) > MOST_ROWS:
        lines += ["", f"{len(ranked) - MOST_ROWS} better components are in results.csv."]
    return "\n".join([*lines, *_predictions(entry), "", "</details>", ""]) + "\n"


def _predictions(entry: EntryReport) -> list[str]:
    found = entry.predictions
    if found is None:
        return []
    if found.error:
        return ["", escape(found.error)]
    names = [name or COLUMNS[key].term for key, name in predictions.heads(found)]
    lines = ["", escape(predictions.caption(found)), "", "| method | " + " | ".join(map(escape, names)) + " |"]
    lines += ["|---" * (len(names) + 1) + "|"]
    for row in found.rows:
        method = escape(row.method) if row.posterior else f"*{escape(row.method)}*"
        lines.append(f"| {method} | " + " | ".join(map(escape, predictions.cells(found, row))) + " |")
    return lines


def _score(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{with_error(score.mean_error, score.mean_error_se, sign=True)}, {with_error(score.sd_ratio, score.sd_ratio_se, times=True)}"


def _tail(run: ReportInput) -> str:
    if not run.meta:
        return ""
    lines = ["<details><summary>How this report was made</summary>", ""]
    for name, value in run.meta.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        lines.append(f"- {escape(str(name).replace('_', ' '))}: {escape(text)}")
    return "\n".join([*lines, "", "</details>", ""])
