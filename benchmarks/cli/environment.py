"""Location of the installed packages, and whether others of the same name shadow them."""

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
    """Return which of the three packages is shadowed by another one, None if none is."""
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        origin = (
            Path(spec.origin).resolve().parent.parent if spec is not None and spec.origin else None
        )
        if origin != HOME:
            return (
                f"the package {room!r} is imported from {str(origin)!r} but this command belongs"
                f" to {str(HOME)!r}; another package of that name shadows it: uninstall that, or"
                " use a virtual environment of its own."
            )
    return None


def hide_cards() -> None:
    """Hide graphics cards from torch.

    If torch sees one, processes forked from this one cannot differentiate.
    """
    _found.setdefault(CARDS, os.environ.get(CARDS))
    os.environ[CARDS] = ""


def show_cards() -> None:
    """Restore the graphics cards this command started with; nothing has used one yet."""
    before = _found.pop(CARDS, None)
    os.environ.pop(CARDS, None)
    if before is not None:
        os.environ[CARDS] = before
