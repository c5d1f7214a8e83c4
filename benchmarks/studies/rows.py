"""Rows on disk: stored as soon as they are measured, published as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.run.store import strict_json, write_atomic

__all__ = ["Kept", "csv_rows", "csv_text", "json_rows", "json_text"]


class Kept:
    """Rows by name in one JSON file, each written at once, so that a run can resume."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def rows(self) -> dict[str, Any]:
        """Rows stored so far."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def put(self, name: str, row: Any) -> None:
        """Store a row."""
        write_atomic(self.path, json_text({**self.rows, name: row}))

    def once(self, name: str, make: Callable[[], Any]) -> None:
        """Make and store a row unless it exists."""
        if name not in self.rows:
            self.put(name, make())


def json_text(rows: Mapping[str, Any]) -> str:
    """Return strict JSON with one line per value."""
    return strict_json(rows) + "\n"


def json_rows(path: Path) -> dict[str, Any]:
    """Return the rows of a published JSON file, none if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], number: str = "") -> str:
    """Return a CSV table of some columns; `number` is the float format, by default in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: _text(v, number) for k, v in row.items()})
    return text.getvalue()


def _text(value: Any, number: str) -> Any:
    return format(value, number) if number and isinstance(value, float) else value


def csv_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a published CSV table, none if there is no file.

    Empty cells are None; numbers and truth values are restored.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: _value(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
