"""The families by name, from the files of `guides/families` and from installed packages, and building one for an entry."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from torch import nn

from guides.base.family import Family
from guides.session import as_module, session
from zoo.errors import FitError, UnknownNameError, UsageError
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILIES", "GROUP", "build", "check_family", "family_of"]

GROUP = "posterior_zoo.families"  # entry points: `my_family = "my_package.my_module:FAMILY"`
FOLDER = Path(__file__).with_name("families")
OWN_DEFAULTS = {"num_particles": 4, "lr": 0.02}  # of guides that are Pyro programs


@functools.cache
def _places() -> dict[str, Any]:
    """Return where each family is made, without importing any; a name of ours is never replaced by a plug-in's."""
    files = {p.stem: f"guides.families.{p.stem}" for p in sorted(FOLDER.glob("[a-z]*.py"))}
    return {**{point.name: point for point in metadata.entry_points(group=GROUP)}, **files}


@functools.cache
def _family(name: str) -> Family:
    place = _places()[name]
    try:
        found = import_module(place).FAMILY if isinstance(place, str) else place.load()
    except Exception as error:
        if isinstance(place, str):
            raise
        raise UsageError(
            f"The guide family {name!r} of {place.value} cannot be loaded ({type(error).__name__}:"
            f" {error}); mend it."
        ) from error
    if not isinstance(found, Family) or found.name != name:
        got = (
            f"a family called {found.name!r}"
            if isinstance(found, Family)
            else f"a {type(found).__name__}"
        )
        raise UsageError(
            f"{name!r} is {got}; accepted: FAMILY = guides.Family(name={name!r}, ...)."
        )
    return found


class _Families(Mapping[str, Family]):
    """Families by name, imported at first use."""

    def __getitem__(self, name: str) -> Family:
        if name not in _places():
            raise KeyError(name)
        return _family(name)

    def __contains__(self, name: object) -> bool:
        return name in _places()

    def __iter__(self) -> Iterator[str]:
        return iter(_places())

    def __len__(self) -> int:
        return len(_places())


FAMILIES: Mapping[str, Family] = _Families()


def check_family(family: str, entry: ModelEntry) -> None:
    """Refuse a family that neither this room nor the entry has, or that the entry has not what it needs for.

    Raises:
        UnknownNameError: no such family.
        UsageError: the family needs an encoder's input, and the card has no `amortize` hook.
    """
    if family in entry.own_guides:
        return
    if family not in FAMILIES:
        raise UnknownNameError("guide family", family, [*FAMILIES, *entry.own_guides])
    if FAMILIES[family].encoder and entry.amortize is None:
        raise UsageError(
            f"Entry {entry.key} cannot be amortized by {family}: its card has no amortize hook;"
            f" accepted here: {', '.join(entry.families)}."
        )


def family_of(name: str, entry: ModelEntry) -> Family:
    """Return a family by name; a guide of the entry's own is a family of one.

    Raises:
        UnknownNameError: neither this room nor the entry has it.
        UsageError: see `check_family`.
    """
    check_family(name, entry)
    if name not in entry.own_guides:
        return FAMILIES[name]

    def make(program: Program, data: Data, entry: ModelEntry, **options: Any) -> nn.Module:
        guide = entry.own_guides[name](program, data, entry)
        if not callable(guide):
            raise FitError(
                f"The guide {name!r} of {entry.name} is {type(guide).__name__}, not a callable;"
                " return a function or a PyroModule."
            )
        return as_module(guide, data.train, entry.dtype)

    return Family(
        name=name,
        q="a guide of the entry's own",
        blind_spot="",
        build=make,
        defaults=OWN_DEFAULTS,
        own=True,
    )


def build(
    family: str, program: Program, data: Data, entry: ModelEntry, **options: Any
) -> nn.Module:
    """Build one guide of a family for a program; it is not fitted yet.

    Raises:
        UnknownNameError: no such family here or among the entry's own guides.
        UsageError: an option the family does not take, or an entry it cannot be built for.
    """
    record = family_of(family, entry)
    with session(entry.dtype):
        try:
            return record.build(program, data, entry, **options)
        except TypeError as error:
            if "unexpected keyword" in str(error):
                raise UsageError(
                    f"Family {family!r} got options {sorted(options)}: {error}."
                ) from error
            raise
