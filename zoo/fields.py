"""Checks of the types of a record's fields, so that a malformed one is rejected when it is built.

def __post_init__(self) -> None:
    checked(self, name=TEXT, build=FUNCTION, start=FUNCTION | None, richer=NAMES)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, UsageError, described

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "COUNT",
    "FLAG",
    "FUNCTION",
    "MAPPING",
    "NAMES",
    "NAME_SET",
    "NUMBER",
    "POSITIVE",
    "SEED",
    "TEXT",
    "Kind",
    "accepted",
    "check_tensor",
    "checked",
    "coerced",
    "one_of",
    "shape_of",
    "typed",
]


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a field accepts.

    Attributes:
        accepted: the accepted values in words.
        holds: whether a value is accepted.
        stored: converts an accepted value to the one that is stored.
    """

    accepted: str
    holds: Callable[[Any], bool]
    stored: Callable[[Any], Any] = _same

    def __or__(self, other: None) -> Kind:
        """Return the kind that also accepts None."""
        return replace(
            self,
            accepted=f"{self.accepted}, or None",
            holds=lambda value: value is None or self.holds(value),
            stored=lambda value: None if value is None else self.stored(value),
        )


def _is_names(value: Any, *kinds: type[Collection[Any]]) -> bool:
    return any(isinstance(value, k) and all(isinstance(x, str) for x in value) for k in kinds)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


TEXT = Kind(accepted="text", holds=lambda value: isinstance(value, str))
FLAG = Kind(accepted="True or False", holds=lambda value: isinstance(value, bool))
NUMBER = Kind(accepted="a number", holds=_is_number)
COUNT = Kind(
    accepted="an integer", holds=lambda value: _is_number(value) and isinstance(value, Integral)
)
POSITIVE = Kind(
    accepted="an integer of at least 1", holds=lambda value: COUNT.holds(value) and value >= 1
)
SEED = Kind(
    accepted="an integer of at least 0", holds=lambda value: COUNT.holds(value) and value >= 0
)
FUNCTION = Kind(accepted="a function", holds=callable)
MAPPING = Kind(
    accepted="a mapping of names to values",
    holds=lambda value: isinstance(value, Mapping) and all(isinstance(k, str) for k in value),
)
NAMES = Kind(
    accepted="a tuple of texts, such as ('a', 'b')",
    holds=lambda value: _is_names(value, tuple, list),
    stored=tuple,
)
NAME_SET = Kind(
    accepted="a set of texts, such as frozenset({'a', 'b'})",
    holds=lambda value: _is_names(value, frozenset, set, tuple, list),
    stored=frozenset,
)


def one_of(*words: str) -> Kind:
    """Return the kind of one of some words."""
    return Kind(
        accepted=", ".join(words), holds=lambda value: isinstance(value, str) and value in words
    )


def checked(record: object, **kinds: Kind) -> None:
    """Reject a field of a wrong type; store lists as tuples or sets where a kind says so.

    Args:
        record: a frozen dataclass, in its `__post_init__`.
        kinds: field -> what it accepts.

    Raises:
        UsageError: the first field whose value is not accepted.
    """
    named = getattr(record, "name", getattr(record, "word", None))
    owner = type(record).__name__ + (f" {named!r}" if isinstance(named, str) else "")
    for field, kind in kinds.items():
        value = getattr(record, field)
        if not kind.holds(value):
            raise UsageError(f"{owner} has {_got(field, value)}; accepted: {kind.accepted}.")
        object.__setattr__(record, field, kind.stored(value))


def accepted(function: str, **given: tuple[Any, Kind]) -> None:
    """Reject an argument of a wrong type: the name of each with its value and what it accepts.

    Raises:
        UsageError: the first argument whose value is not accepted.
    """
    for name, (value, kind) in given.items():
        if not kind.holds(value):
            raise UsageError(f"{function} got {_got(name, value)}; accepted: {kind.accepted}.")


def _got(name: str, value: Any) -> str:
    """Return `name=value (type)` with a value of at most 60 characters."""
    return f"{name}={typed(value)}"


def typed(value: Any) -> str:
    """Return a value of at most 60 characters with its type, a tensor by type and shape."""
    shown, kind = described(value), type(value).__name__
    return shown if shown.startswith(f"a {kind} ") else f"{shown} ({kind})"


def coerced(entry: str, key: str, value: Any, default: Any) -> Any:
    """Convert an option to the type of its default; the command line only has strings."""
    if isinstance(default, bool):
        words = {"true": True, "false": False, "1": True, "0": False}
        if str(value).lower() in words:
            return words[str(value).lower()]
    elif isinstance(default, int) and not isinstance(value, bool):
        try:
            if float(value) == int(float(value)):
                return int(float(value))
        except (TypeError, ValueError, OverflowError):
            pass
    elif isinstance(default, float):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(default, str) and isinstance(value, str):
        return value
    raise UsageError(
        f"Option {key} of {entry} got {value!r}; accepted: a value of type"
        f" {type(default).__name__} (default {default!r})."
    )


def shape_of(value: Any) -> str:
    """Return the shape of a tensor, or the type of anything else, as text."""
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__


def check_tensor(label: str, value: Tensor) -> None:
    """Refuse a tensor of data that is empty, of a type without arithmetic, or not finite.

    Raises:
        DataError: it is one of these; the message begins with its label.
    """
    import torch

    if value.layout != torch.strided:
        raise DataError(
            f"{label} is sparse ({value.layout}); give a plain tensor, by .to_dense()."
        )
    if value.ndim and value.shape[0] == 0:
        raise DataError(
            f"{label} is empty (shape {tuple(value.shape)}); a plate of size 0 has no posterior,"
            " give at least one row."
        )
    if value.dtype.is_complex or value.dtype in (torch.float16, torch.bfloat16):
        raise DataError(
            f"{label} has dtype {value.dtype}; accepted: float32, float64, integers and bool."
            " Convert it with .double()."
        )
    if value.dtype.is_floating_point and not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise DataError(
            f"{label} has {bad} NaN or infinite of {value.numel()} values; drop or impute those"
            " rows first. Entries that a mask leaves out: fill them with any value, such as 0, and"
            " keep the mask."
        )
