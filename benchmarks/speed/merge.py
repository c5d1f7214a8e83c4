"""Merge a repeated measurement of some entries into an earlier document.

New figures replace the old ones, and the document says which are new.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.targets import TARGETS
from zoo.errors import UsageError

__all__ = ["earlier", "merge"]

SAME = ("schema", "quick", "pairs", "settings", "machine", "versions")


def earlier(out: Path) -> dict[str, Any] | None:
    """Return the document of a run in a folder, else that of an unfinished run.

    None for a fresh folder.
    """
    for file in (out / "bench.json", out / "logs" / "partial.json"):
        if file.exists():
            document: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
            return document
    return None


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the old document with its figures replaced by those of the new one.

    Raises:
        UsageError: the runs differ in machine, versions, pairs or settings, so one table would mix
            them.
    """
    for key in SAME:
        if old.get(key) != new.get(key):
            raise UsageError(
                f"The folder holds a run with other {key} ({old.get(key)}); accepted: the same."
                " Give another --out."
            )
    targets = {**old["targets"], **new["targets"]}
    out = {**old, "targets": {name: targets[name] for name in TARGETS if name in targets}}
    for key in ("growth", "commands"):
        out[key] = new[key] or old.get(key) or new[key]
    out["seconds"] = old.get("seconds", 0.0) + new["seconds"]
    out["load_average"] = old.get("load_average") or new["load_average"]
    again = [*new["targets"], *(key for key in ("growth", "commands") if new[key])]
    out["again"] = [
        *old.get("again", ()),
        {"measured": again, "load_average": new["load_average"]},
    ]
    return out
