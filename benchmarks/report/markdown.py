"""The report as Markdown of bounded length: verdicts first, details folded."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.report.blocks import escape
from benchmarks.report.inputs import EntryReport, ReportInput
from benchmarks.report.overview import cells, columns, reference_words, sentence, tally
from benchmarks.report.section import broken, sections_of, shown, warn
from benchmarks.verdicts import verdict_of

__all__ = ["markdown"]


def markdown(run: ReportInput, limit: int, say: Callable[[str], None] = warn) -> str:
    """Render the report; details of the last entries are dropped first to stay within `limit`.

    A section that fails is replaced by one sentence, which is also passed to `say`.
    """
    for text in broken():
        say(text)
    head = _head(run)
    tail = _tail(run)
    note = "\n_Details of some entries were left out to keep this short; see report.html._\n"
    parts: list[str] = []
    used = len(head) + len(tail) + len(note)
    complete = True
    for entry in run.entries:
        part, failed = _details(entry)
        for text in failed:
            say(text)
        if used + len(part) > limit:
            complete = False
            continue
        parts.append(part)
        used += len(part)
    text = head + "".join(parts) + ("" if complete else note) + tail
    if len(text) <= limit:
        return text
    cut = text[: limit - len(note)]
    return cut[: cut.rfind("\n")] + note  # hundreds of entries: cut at a line end


def _head(run: ReportInput) -> str:
    lines = ["# How far to trust variational inference here", ""]
    lines += [
        " · ".join(f"{verdict_of(code).mark} {n} {word}" for code, word, n in tally(run)),
        "",
    ]
    lines += [f"- **{escape(e.entry.key)}**: {escape(sentence(e))}" for e in run.entries]
    methods = columns(run)
    lines += [
        "",
        "| entry | " + " | ".join(escape(m) for m in methods) + " | reference |",
        "|---" * (len(methods) + 2) + "|",
    ]
    for entry in run.entries:
        found = cells(entry)
        row = [escape(entry.entry.key)]
        for method in methods:
            cell = found.get(method)
            row.append(
                "–"
                if cell is None
                else _cell(
                    cell.verdict, cell.word, f"{cell.where} {cell.number}".strip(), cell.note
                )
            )
        kind, state, _ = reference_words(entry)
        lines.append("| " + " | ".join([*row, f"**{escape(kind)}**<br>{escape(state)}"]) + " |")
    lines += [
        "",
        (
            "<sub>Errors in sds of the reference, or of what the row's sentence names where the"
            " reference does not hold, ± one Monte Carlo standard error. Material: a mean off by"
            " more than 0.15, an sd by more than a factor 1.15.</sub>"
        ),
        "",
    ]
    return "\n".join(lines) + "\n"


def _cell(verdict: str, word: str, number: str, note: str) -> str:
    return "<br>".join(
        [f"{verdict_of(verdict).mark} **{word}**", *(escape(t) for t in (number, note) if t)]
    )


def _details(entry: EntryReport) -> tuple[str, list[str]]:
    """Return the sections of an entry, folded, and a sentence for each that failed."""
    key, parts, failed = entry.entry.key, [], []
    for section in sections_of(entry.entry):
        part, failure = shown(section, section.markdown, entry)
        if failure:
            failed.append(f"{key}: {failure}")
            part = escape(failure)
        if part is not None:
            parts.append(part.strip("\n"))
    head = f"<details><summary>{escape(key)}: {escape(entry.entry.title)}</summary>"
    return "\n\n".join([head, *parts, "</details>"]) + "\n\n", failed


def _tail(run: ReportInput) -> str:
    left_out = broken()
    if not run.meta and not left_out:
        return ""
    lines = ["<details><summary>How this report was made</summary>", ""]
    for name, value in run.meta.items():
        text = (
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        )
        lines.append(f"- {escape(str(name).replace('_', ' '))}: {escape(text)}")
    lines += [f"- sections left out: {escape(text)}" for text in left_out]
    return "\n".join([*lines, "", "</details>", ""])
