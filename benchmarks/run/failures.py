"""Failures of a run: rows that gave nothing usable, and why there are no chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.run.cell import NUTS

__all__ = ["chains_failed", "failures"]

UNCOMPARED = "it has not been compared; repeat the command that made the run"


def chains_failed(cells: Sequence[dict[str, Any]]) -> str:
    """Return why the NUTS row of an entry failed, empty if it did not or was not run."""
    rows = [c for c in cells if c["method"] == NUTS]
    if not rows or any(c["status"] in ("ok", "not_converged", "unusable") for c in rows):
        return ""
    return str(rows[0]["sentence"])


def failures(cells: list[dict[str, Any]]) -> list[str]:
    """Return which gates failed: fits without usable draws, and unusable references."""
    failed = []
    for cell in cells:
        row = f"{cell['entry']} {cell['method']}" + (
            f" seed {cell['seed']}" if cell["seed"] else ""
        )
        if cell["status"] not in ("ok", "not_converged") or cell["verdict"] in (
            None,
            "fit_failed",
        ):
            failed.append(f"{row}: {cell['status']}: {cell['sentence'] or UNCOMPARED}")
        elif cell["verdict"] == "reference_unusable":
            failed.append(f"{row}: {cell['sentence']}")
    return failed
