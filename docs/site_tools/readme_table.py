"""The table of verdicts in the README, from the run of `make report`.

    PYTHONPATH=docs .venv/bin/python -m site_tools.readme_table out/report

stores what the table shows in `docs/images/report.json`, beside the picture of the same report,
and writes the table into the README. A test compares the two.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "STORED", "stored_of", "table", "with_table"]

ROOT = Path(__file__).resolve().parents[2]
PAGE, STORED = ROOT / "README.md", ROOT / "docs" / "images" / "report.json"
TABLE = re.compile(r"(?<=\n\n)\| entry \|.*?(?=<!-- report:end -->)", re.DOTALL)


def stored_of(folder: Path) -> dict[str, Any]:
    """Return verdict, word, component, number and note of every cell of a run, and references."""
    from benchmarks.report.overview import cells, columns, reference_words
    from benchmarks.run.read import read_run

    report = read_run(folder).report
    return {
        "command": report.meta["command"],
        "methods": columns(report),
        "entries": {
            entry.entry.key: {
                "reference": list(reference_words(entry)[:2]),
                "cells": {
                    method: [cell.verdict, cell.word, cell.where, cell.number, cell.note]
                    for method, cell in cells(entry).items()
                },
            }
            for entry in report.entries
        },
    }


def table(stored: dict[str, Any]) -> str:
    """Return the table in Markdown; a cell that agrees needs no number, gates are left out."""
    methods = stored["methods"]
    lines = [
        "| entry | " + " | ".join(methods) + " | reference |",
        "|---" * (len(methods) + 2) + "|",
    ]
    for name, row in stored["entries"].items():
        shown = [_cell(*row["cells"][m]) if m in row["cells"] else "–" for m in methods]
        kind, state = row["reference"]
        lines.append(f"| {name} | {' | '.join(shown)} | {kind}, {state} |")
    return "\n".join(lines) + "\n"


def _cell(verdict: str, word: str, where: str, number: str, note: str) -> str:
    if verdict == "fit_failed":
        return f"**{word}**, {number}" if number else f"**{word}**"
    found = [] if verdict == "agrees" else [where, number]
    text = " ".join([f"**{word}**", *filter(None, found)])
    return f"{text}, {note.partition(';')[0]}" if note else text


def with_table(page: str, stored: dict[str, Any]) -> str:
    """Return the page with the table of these results."""
    return TABLE.sub(lambda _: table(stored), page)


if __name__ == "__main__":
    found = stored_of(Path(sys.argv[1]))
    STORED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
