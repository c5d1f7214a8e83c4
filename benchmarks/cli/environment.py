"""Location of the installed packages, and whether others of the same name shadow them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["HOME", "shadowed"]

HOME = Path(__file__).resolve().parents[2]
ROOMS = ("zoo", "guides", "benchmarks")


def shadowed() -> str | None:
    """Return which of the three packages is shadowed by another one, None if none is."""
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        origin = (
            Path(spec.origin).resolve().parent.parent if spec is not None and spec.origin else None
        )
        if origin != HOME:
            return (
                f"the package {room!r} is imported from {str(origin)!r} but this command belongs"
                f" to {str(HOME)!r}; another package of that name shadows ours: uninstall it, or"
                " use a virtual environment of its own."
            )
    return None
