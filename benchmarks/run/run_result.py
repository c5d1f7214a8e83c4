"""What an executed plan returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.report.inputs import ReportInput

__all__ = ["RunResult"]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """An executed plan: its folder, cells as JSON, references and report input."""

    path: Path
    cells: list[dict[str, Any]]
    references: dict[str, dict[str, Any]]
    report: ReportInput
    failures: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        """Return folder and size; `report` and `cells` have the content."""
        return f"RunResult({str(self.path)!r}: {len(self.cells)} cells)"

    def document(self) -> dict[str, Any]:
        """Return what `zoo compare --json` prints."""
        return {
            "schema": 1,
            "cells": self.cells,
            "references": self.references,
            "run_dir": str(self.path),
        }
