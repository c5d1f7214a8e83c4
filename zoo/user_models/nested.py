"""Arguments that hold tensors inside dicts, lists and objects, as flat names and back.

`{"data": {"x": x, "y": y}}` becomes `{"data.x": x, "data.y": y}`: every tensor is checked,
converted, observed and kept as if it were an argument of its own, and the program is called with
the argument it knows.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo.errors import DataError

__all__ = ["Nested", "flatten"]

DEEPEST = 8  # levels; objects that hold themselves end here
_TAKEN = frozenset({"self", "fn"})  # Pyro's handlers have arguments of these names
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, np.generic)


@dataclasses.dataclass(frozen=True)
class Nested:
    """How arguments are put together from flat names; one that is a leaf has no template."""

    templates: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def assemble(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return the program's arguments; a removed leaf (the prior predictive) is None."""
        if not self.templates:
            return dict(tensors)
        leaves = {name for t in self.templates.values() for name in _leaves(t)}
        out = {k: v for k, v in tensors.items() if k not in leaves}
        for key, template in self.templates.items():
            out[key] = _filled(template, tensors)
        return out


@dataclasses.dataclass(frozen=True)
class _Leaf:
    name: str


@dataclasses.dataclass(frozen=True)
class _Object:
    original: Any
    parts: Mapping[str, Any]


def flatten(
    arguments: Mapping[str, Any], convert: Callable[[str, Any], Any]
) -> tuple[dict[str, Any], Nested]:
    """Return flat names with converted values, and how to put the arguments together again.

    Args:
        arguments: by name.
        convert: turns one array, frame, list of numbers or tensor, given with its name, into a
            tensor.

    Raises:
        DataError: two values of one flat name.
    """
    flat: dict[str, Any] = {}
    templates: dict[str, Any] = {}

    def leaf(name: str, value: Any) -> _Leaf:
        if name in flat:
            raise DataError(f"Data has two values called {name!r}; rename one of them.")
        flat[name] = convert(name, value)
        return _Leaf(name)

    def walk(name: str, value: Any, depth: int) -> Any:
        """Return a template of what holds tensors; anything else as it is."""
        if isinstance(value, Tensor) or _is_array(value):
            return leaf(name, value)
        if not _holds(value, depth):
            return value
        if isinstance(value, Mapping):
            return {k: walk(f"{name}.{k}", v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            parts = [walk(f"{name}.{i}", v, depth + 1) for i, v in enumerate(value)]
            if isinstance(value, list):
                return parts
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        inside = _attributes(value, depth).items()
        return _Object(value, {k: walk(f"{name}.{k}", v, depth + 1) for k, v in inside})

    for key, value in arguments.items():
        if str(key) in _TAKEN:
            templates[str(key)] = leaf(f"{key}_", value)
        elif _whole(value) or not _holds(value):
            leaf(str(key), value)
        else:
            templates[str(key)] = walk(str(key), value, 0)
    return flat, Nested(templates)


def _whole(value: Any) -> bool:
    """Whether an argument is one value: a tensor, array, frame, plain value, list of numbers."""
    if isinstance(value, list):
        return not _holds(value) or all(isinstance(v, Tensor) and v.ndim == 0 for v in value)
    return isinstance(value, (Tensor, *_PLAIN)) or _is_array(value)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "to_numpy")


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _holds(value: Any, depth: int = 0) -> bool:
    """Whether a value is a tensor or an array, or a container or object with one inside."""
    if isinstance(value, Tensor) or _is_array(value):
        return True
    if depth > DEEPEST or isinstance(value, (*_PLAIN, nn.Module, Distribution)):
        return False
    if isinstance(value, Mapping):
        return any(_holds(v, depth + 1) for v in value.values())
    if isinstance(value, list | tuple):
        return any(_holds(v, depth + 1) for v in value)
    return bool(_attributes(value, depth))


def _attributes(value: Any, depth: int) -> dict[str, Any]:
    """Return the tensors of an object, and its containers of them; not its arrays."""
    inside = getattr(value, "__dict__", None)
    if not isinstance(inside, dict):
        return {}
    return {
        k: v
        for k, v in inside.items()
        if isinstance(v, Tensor) or (_is_container(v) and _holds(v, depth + 1))
    }


def _leaves(template: Any) -> list[str]:
    if isinstance(template, _Leaf):
        return [template.name]
    if isinstance(template, _Object):
        return [n for v in template.parts.values() for n in _leaves(v)]
    if isinstance(template, Mapping):
        return [n for v in template.values() for n in _leaves(v)]
    if isinstance(template, list | tuple):
        return [n for v in template for n in _leaves(v)]
    return []


def _filled(template: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(template, _Leaf):
        return tensors.get(template.name)
    if isinstance(template, _Object):
        out = copy.copy(template.original)
        for name, part in template.parts.items():
            object.__setattr__(out, name, _filled(part, tensors))
        return out
    if isinstance(template, Mapping):
        return {k: _filled(v, tensors) for k, v in template.items()}
    if isinstance(template, list):
        return [_filled(v, tensors) for v in template]
    if isinstance(template, tuple):
        parts = [_filled(v, tensors) for v in template]
        return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
    return template
