"""Members that register themselves: built-in records and, by entry point, plug-ins.

A built-in name is never replaced. A plug-in that cannot be loaded, has the name of a built-in
member, or shares its name with another plug-in gives one sentence and does not affect other
members.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Generic, TypeVar

from zoo.errors import UsageError, ZooError

__all__ = ["Members"]

T = TypeVar("T")


def _origin(point: metadata.EntryPoint) -> str:
    """Return the distribution and the target of an entry point."""
    return f"{point.dist.name if point.dist else 'unknown distribution'} ({point.value})"


class Members(Mapping[str, T], Generic[T]):
    """Records by name, imported at first use.

    Attributes:
        noun: what a member is called in messages, such as `report section`.
        group: the entry-point group of plug-ins.
    """

    def __init__(
        self,
        kind: type[T],
        *,
        noun: str,
        group: str,
        folders: tuple[str, ...],
        attribute: str,
        file: str = "",
        accepted: str = "",
    ) -> None:
        """Set where members are found.

        Args:
            kind: the class of the records, which has a `name`.
            noun: what a member is called in messages.
            group: entry points, `my_name = "my_package.my_module:ATTRIBUTE"`.
            folders: packages with one member per file, such as `guides.families`.
            attribute: the name of the record in each file.
            file: if given, a member is a sub-package that holds its record in a module of this
                name.
            accepted: class names of the records for messages, by default that of `kind`.
        """
        self.noun, self.group = noun, group
        self._kind, self._folders, self._attribute, self._file = kind, folders, attribute, file
        self._accepted = accepted or kind.__name__

    @functools.cached_property
    def _places(self) -> dict[str, str | metadata.EntryPoint]:
        ours = {name: place for folder in self._folders for name, place in self._in(folder)}
        return {**ours, **{name: ps[0] for name, ps in self._points.items() if name not in ours}}

    @functools.cached_property
    def _points(self) -> dict[str, list[metadata.EntryPoint]]:
        """Entry points by name, each once, in an order that does not depend on the path."""
        found: dict[str, list[metadata.EntryPoint]] = {}
        for point in sorted(metadata.entry_points(group=self.group), key=_origin):
            listed = found.setdefault(point.name, [])
            if _origin(point) not in map(_origin, listed):
                listed.append(point)
        return found

    @functools.cached_property
    def clashes(self) -> dict[str, str]:
        """One sentence per name of a plug-in that is already taken, by name."""
        said = {}
        for name, points in self._points.items():
            claims = " and ".join(map(_origin, points))
            if isinstance(self._places[name], str):
                said[name] = (
                    f"The {self.noun} {name!r} of {claims} is left out, since a built-in one has"
                    " this name; rename it."
                )
            elif len(points) > 1:
                said[name] = (
                    f"The {self.noun} name {name!r} is claimed by {claims}; rename or remove one."
                )
        return said

    def _in(self, folder: str) -> Iterator[tuple[str, str]]:
        """Return name and module of every member of a package, without importing any of them."""
        room, *inner = folder.split(".")
        path = Path(str(import_module(room).__file__)).parent.joinpath(*inner)
        if self._file:
            for found in sorted(path.glob(f"[a-z]*/{self._file}.py")):
                yield found.parent.name, f"{folder}.{found.parent.name}.{self._file}"
        else:
            for found in sorted(path.glob("[a-z]*.py")):
                yield found.stem, f"{folder}.{found.stem}"

    @functools.cached_property
    def _loaded(self) -> dict[str, T]:
        return {}

    def __getitem__(self, name: str) -> T:
        if name not in self._places:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = self._load(name, self._places[name])
        return self._loaded[name]

    def _load(self, name: str, place: str | metadata.EntryPoint) -> T:
        if isinstance(place, str):
            found = getattr(import_module(place), self._attribute)
        else:
            if name in self.clashes:
                raise UsageError(self.clashes[name])
            try:
                found = place.load()
            except Exception as error:
                why = (
                    str(error)
                    if isinstance(error, ZooError)
                    else f"{type(error).__name__}: {error}"
                )
                raise UsageError(
                    f"The {self.noun} {name!r} of {place.value} cannot be loaded ({why}); correct"
                    " or uninstall the package."
                ) from error
        if not isinstance(found, self._kind) or getattr(found, "name", None) != name:
            called = (
                f" called {getattr(found, 'name', '')!r}" if isinstance(found, self._kind) else ""
            )
            got = f"a {type(found).__name__}{called}"
            raise UsageError(
                f"The {self.noun} {name!r} is {got}; accepted: {self._attribute} ="
                f" {self._accepted}(name={name!r}, ...)."
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def plugins(self) -> tuple[str, ...]:
        """Names that plug-ins add."""
        return tuple(name for name, place in self._places.items() if not isinstance(place, str))

    def usable(self) -> tuple[list[T], list[str]]:
        """Return every member that can be loaded, and one sentence per plug-in left out."""
        found, broken = [], []
        for name in self:
            try:
                found.append(self[name])
            except UsageError as error:
                if name not in self.plugins:
                    raise
                broken.append(str(error))
        return found, [*broken, *(self.clashes[n] for n in self.clashes if n not in self.plugins)]

    def forget(self) -> None:
        """Discard what was found, and search again at the next use."""
        for name in ("_places", "_points", "_loaded", "clashes"):
            self.__dict__.pop(name, None)
