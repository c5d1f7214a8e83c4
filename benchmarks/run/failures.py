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
    """Return which gates failed: fits without usable draws, and unusable references.

    Why a reference is unusable has been said in a warning of its own, so its rows are only named,
    once for each entry.
    """
    failed, unjudged = [], dict[str, list[str]]()
    for cell in cells:
        method = cell["method"] + (f" seed {cell['seed']}" if cell["seed"] else "")
        row = f"{cell['entry']} {method}"
        if cell["status"] == "refused":
            continue  # weights that do not allow a row are a finding on its family, not a failure
        if cell["status"] not in ("ok", "not_converged") or cell["verdict"] in (
            None,
            "fit_failed",
        ):
            failed.append(f"{row}: {cell['status']}: {cell['sentence'] or UNCOMPARED}")
        elif cell["verdict"] == "reference_unusable":
            unjudged.setdefault(cell["entry"], []).append(method)
    return failed + [
        f"{entry}: {', '.join(methods)} cannot be judged, for the reference is unusable"
        for entry, methods in unjudged.items()
    ]
