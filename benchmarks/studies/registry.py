"""Studies by name, from the folders of `benchmarks/studies` and from plug-ins."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from benchmarks.studies.record import Study
from zoo.errors import UnknownNameError, UsageError

__all__ = ["GROUP", "STUDIES", "load"]

GROUP = "posterior_zoo.studies"  # entry point: `my_study = "my_package.my_module:STUDY"`
FOLDER = Path(__file__).parent


@functools.cache
def _places() -> dict[str, Any]:
    """Return the location of each study without importing any.

    A plug-in never replaces a built-in study.
    """
    folders = sorted(path.parent.name for path in FOLDER.glob("[a-z]*/study.py"))
    files = {name: f"benchmarks.studies.{name}.study" for name in folders}
    points = metadata.entry_points(group=GROUP)
    return {**files, **{point.name: point for point in points if point.name not in files}}


@functools.cache
def _study(name: str) -> Study:
    place = _places()[name]
    try:
        found = import_module(place).STUDY if isinstance(place, str) else place.load()
    except Exception as error:
        if isinstance(place, str):
            raise
        why = f"{type(error).__name__}: {error}"
        broken = f"The study {name!r} of {place.value} cannot be loaded ({why})"
        raise UsageError(f"{broken}; mend it.") from error
    if not isinstance(found, Study) or found.name != name:
        other = isinstance(found, Study)
        got = f"a study called {found.name!r}" if other else f"a {type(found).__name__}"
        accepted = f"STUDY = benchmarks.studies.Study(name={name!r}, ...)"
        raise UsageError(f"{name!r} is {got}; accepted: {accepted}.")
    return found


class _Studies(Mapping[str, Study]):
    """Studies by name, imported at first use."""

    def __getitem__(self, name: str) -> Study:
        if name not in _places():
            raise KeyError(name)
        return _study(name)

    def __contains__(self, name: object) -> bool:
        return name in _places()

    def __iter__(self) -> Iterator[str]:
        return iter(_places())

    def __len__(self) -> int:
        return len(_places())


STUDIES: Mapping[str, Study] = _Studies()


def load(name: str) -> Study:
    """Return a study by name.

    Raises:
        UnknownNameError: no such study.
        UsageError: a plug-in that cannot be loaded.
    """
    if name not in STUDIES:
        raise UnknownNameError("study", name, STUDIES, hint="`zoo study` lists them.")
    return STUDIES[name]
