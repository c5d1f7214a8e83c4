"""The families by name, and building one for an entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from guides.session import as_module, session
from zoo.errors import FitError, UnknownNameError, UsageError
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILIES", "build", "check_family"]

_MODULES = {
    name: f"guides.families.{name}"
    for name in (
        "mean_field",
        "full_rank",
        "low_rank",
        "block_full_rank",
        "laplace",
        "amortized",
        "amortized_full",
        "amortized_flow",
        "dirichlet",
        "topic_encoder",
        "flow",
    )
}


class _Families(Mapping[str, Any]):
    """Family modules by name, imported at first use."""

    def __getitem__(self, name: str) -> Any:
        if name not in _MODULES:
            raise KeyError(name)
        return import_module(_MODULES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


FAMILIES: Mapping[str, Any] = _Families()


def check_family(family: str, entry: ModelEntry) -> None:
    """Refuse a family that neither this room nor the entry has."""
    if family not in FAMILIES and family not in entry.own_guides:
        raise UnknownNameError("guide family", family, [*FAMILIES, *entry.own_guides])


def build(family: str, program: Program, data: Data, entry: ModelEntry, **options: Any) -> nn.Module:
    """Build one guide of a family for a program; it is not fitted yet.

    Raises:
        UnknownNameError: no such family here or among the entry's own guides.
        UsageError: an option the family does not take.
    """
    check_family(family, entry)
    with session(entry.dtype):
        if family in entry.own_guides:
            guide = entry.own_guides[family](program, data, entry)
            if not callable(guide):
                raise FitError(
                    f"The guide {family!r} of {entry.name} is {type(guide).__name__}, not a callable; return a function or a PyroModule."
                )
            return as_module(guide, data.train, entry.dtype)
        try:
            return FAMILIES[family].build(program, data, entry, **options)
        except TypeError as error:
            if "unexpected keyword" in str(error):
                raise UsageError(f"Family {family!r} got options {sorted(options)}: {error}.") from error
            raise
