"""Where the command runs: the folder its packages lie in, and whether others of the same name hide them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

__all__ = ["HOME", "hide_cards", "shadowed", "show_cards"]

HOME = Path(__file__).resolve().parents[2]
CARDS = "CUDA_VISIBLE_DEVICES"
_found: dict[str, str | None] = {}  # the value of `CARDS` when the command started
ROOMS = ("zoo", "guides", "benchmarks")


def shadowed() -> str | None:
    """Say which of our packages another one of the same name hides, None when all three lie side by side."""
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


def hide_cards() -> None:
    """Hide graphics cards from torch: beside one it sees, processes forked from this one cannot differentiate."""
    _found.setdefault(CARDS, os.environ.get(CARDS))
    os.environ[CARDS] = ""


def show_cards() -> None:
    """Let torch see them after all, as this command found them; nothing has asked for one yet."""
    before = _found.pop(CARDS, None)
    os.environ.pop(CARDS, None)
    if before is not None:
        os.environ[CARDS] = before
