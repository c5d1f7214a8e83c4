"""Pages of the Python API, from the `__all__` of a package and its docstrings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable

__all__ = ["markdown", "one_by_one", "public"]

HEADINGS = {"function": "Functions", "class": "Classes", "exception": "Exceptions", "data": "Data"}


def public(room: str) -> dict[str, str]:
    """Return the public names of a module with their kind.

    The kind is `function`, `class`, `exception` or `data`.
    """
    module = importlib.import_module(room)
    kinds = {}
    for name in module.__all__:
        value = getattr(module, name)
        kinds[name] = _kind(value)
    return kinds


def _kind(value: object) -> str:
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if callable(value) else "data"


def markdown(room: str) -> str:
    """Return the directives for the names of a module: functions first, then classes."""
    kinds = public(room)
    parts = []
    for kind, heading in HEADINGS.items():
        names = sorted((n for n, k in kinds.items() if k == kind), key=str.lower)
        if names:
            parts += [f"## {heading}", "", one_by_one(f"{room}.{name}" for name in names), ""]
    return "\n".join(parts)


def one_by_one(names: Iterable[str]) -> str:
    """Return the directives for objects by their full names."""
    lines = []
    for name in names:
        module, _, attribute = name.rpartition(".")
        kind = _kind(getattr(importlib.import_module(module), attribute))
        options = {"class": [":members:", ":member-order: bysource"], "data": [":no-value:"]}.get(
            kind, []
        )
        lines += [f".. auto{kind}:: {name}", *(f"   {option}" for option in options), ""]
    return "\n".join(["```{eval-rst}", *lines, "```"])
