"""The pages of the Python API: every name in the `__all__` of a room, documented from its docstring."""

from __future__ import annotations

import importlib
import inspect

__all__ = ["markdown", "public"]


def public(room: str) -> dict[str, str]:
    """Return the public names of a room with their kind: `function`, `class` or `data`."""
    module = importlib.import_module(room)
    kinds = {}
    for name in module.__all__:
        value = getattr(module, name)
        kinds[name] = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
    return kinds


def markdown(room: str) -> str:
    """Return the directives for the names of a room: functions first, then what they take and return."""
    kinds = public(room)
    parts = []
    for kind, heading in (("function", "Functions"), ("class", "Classes"), ("data", "Data")):
        names = sorted((n for n, k in kinds.items() if k == kind), key=str.lower)
        if names:
            lines = [line for name in names for line in _directive(kind, f"{room}.{name}")]
            parts += [f"## {heading}", "", "```{eval-rst}", *lines, "```", ""]
    return "\n".join(parts)


def _directive(kind: str, name: str) -> list[str]:
    options = {"class": [":members:", ":member-order: bysource"], "data": [":no-value:"]}.get(kind, [])
    return [f".. auto{kind}:: {name}", *(f"   {option}" for option in options), ""]
