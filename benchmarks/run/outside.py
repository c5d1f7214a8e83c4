"""Files of users and plug-ins that a cell depends on: modules they import and files they read.

The witness (`benchmarks.run.witness`) sees a program at a few points only. So the digests of these
files are kept with the cell, and it is reused only if each of them is the same today. Two ways
find them: imports, followed through the sources, and an audit hook that hears which files are
opened while data, program and guide are made. What a library opens in C (HDF5, Parquet) is not
heard; data read that way are digested as data.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from benchmarks.metrics.metric import METRICS
from benchmarks.run.imports import followed
from benchmarks.run.sources import ROOT, WHOLE, source_files
from guides.objectives.records import OBJECTIVES
from guides.registry import FAMILIES
from zoo.registry.entries import GROUP
from zoo.registry.members import Members
from zoo.types import ModelEntry

__all__ = ["FILE", "Outside", "changed", "plugin_digest"]

FILE = "files.json"
ROOMS = (*WHOLE, "benchmarks")
DEPTH = 4  # of functions inside partial functions and closures


class Outside:
    """The files of one entry that belong to no library, and those that were read.

    Args:
        request: the request of the entry; files in the folder of a model file are named relative
            to it, so that a folder can be moved.
    """

    def __init__(self, request: str = "") -> None:
        file = request.rpartition(":")[0] if ".py:" in request else request
        self.anchor = Path(file).resolve().parent if file.endswith(".py") else None
        self.read: set[Path] = set()
        self._written: set[Path] = set()
        self._owner: FrameType | None = None
        # Whether a file is a user's or a plug-in's: of no library, and not of this package.
        self.has = functools.cache(self._has)
        self._find = functools.cache(self._look_up)

    @functools.cached_property
    def _plugins(self) -> frozenset[str]:
        groups = (GROUP, FAMILIES.group, OBJECTIVES.group, METRICS.group)
        points = [p for group in groups for p in metadata.entry_points(group=group)]
        return frozenset(p.value.partition(":")[0].partition(".")[0].strip() for p in points)

    def _has(self, path: Path) -> bool:
        for place in _installed():
            if path.is_relative_to(place):
                first = path.relative_to(place).parts[0]
                return first.removesuffix(".py") in self._plugins
        # a model that is kept in such a folder has its helpers there
        passing = (p for p in _passing() if not (self.anchor and self.anchor.is_relative_to(p)))
        ours = (ROOT / room for room in ROOMS)
        return not any(path.is_relative_to(place) for place in (*_libraries(), *passing, *ours))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Collect in `read` the files that code of users and plug-ins opens meanwhile."""
        _listen()
        self._plugins  # noqa: B018 (found first: finding them opens files)
        self._owner = sys._getframe(2)  # of the with statement, below the frame of contextlib
        _readers.append(self)
        try:
            yield
        finally:
            _readers.remove(self)
            self._owner = None

    def hear(self, name: str | bytes | os.PathLike[Any], mode: str | None, flags: int) -> None:
        """Take note of a file that is opened."""
        path = Path(os.fsdecode(name))
        if not self.has(path):  # most are modules of libraries
            return
        path = path.resolve()
        reads = "r" in mode if mode is not None else flags & os.O_ACCMODE != os.O_WRONLY
        if path.suffix == ".pyc":
            path = Path(importlib.util.source_from_cache(str(path)))
        if not reads:
            self._written.add(path)
        elif path not in self.read and self.has(path) and self._asked():
            self.read.add(path)

    def _asked(self) -> bool:
        """Whether code of a user or a plug-in is among the callers."""
        frame: FrameType | None = sys._getframe(3)
        while frame is not None and frame is not self._owner:
            file = frame.f_code.co_filename
            if not file.startswith("<") and self.has(Path(file)):
                return True
            frame = frame.f_back
        return False

    def digests(self, paths: Iterable[Path] = ()) -> dict[str, str]:
        """Return the SHA-256 of the given files and of those that were read, by name."""
        found = {}
        for path in {*paths, *self.read} - self._written:
            if "__pycache__" not in path.parts and (digest := _digest(path)):
                found[self._name(path)] = digest
        return dict(sorted(found.items()))

    def modules(self, entry: ModelEntry) -> set[Path]:
        """Return the modules that the functions of an entry import, without their own files."""
        own = (*entry.quantities.values(), *entry.own_guides.values())
        hooks = [getattr(value, "fn", value) for value in (*vars(entry).values(), *own)]
        starts = {home for hook in hooks if callable(hook) for home in _homes(hook)}
        return self.imports(starts) - source_files("", entry)

    def imports(self, starts: Iterable[str]) -> set[Path]:
        """Return the files of these modules and of all they import, of users and plug-ins."""
        todo = set(starts)
        if "__main__" in todo:  # a notebook has no file, and a script is more than its model
            values = vars(sys.modules["__main__"]).values()
            homes = (v.__name__ if isinstance(v, ModuleType) else _module(v) for v in values)
            todo |= {home for home in homes if home}
        return set(followed(todo - {"__main__"}, self._find).values())

    def _look_up(self, name: str) -> Path | None:
        """Return the file of a module, without importing it; None if it is a library's."""
        top, _, _ = name.partition(".")
        if (
            not top
            or top in sys.stdlib_module_names
            or (top in ROOMS and not name.startswith("zoo.models."))
        ):
            return None
        if name != top and top not in ROOMS and self._is_library(top):
            return None  # before each of its modules is searched
        file = getattr(sys.modules.get(name), "__file__", None) or self._located(name)
        path = Path(file).resolve() if file and file.endswith(".py") else None
        # of another entry; what entries share is in the digest of the code
        entry = path is not None and top in ROOMS and not path.stem.startswith("_")
        return path if path is not None and (entry or self.has(path)) else None

    def _is_library(self, top: str) -> bool:
        file = getattr(sys.modules.get(top), "__file__", None) or self._located(top)
        return bool(file) and not self.has(Path(str(file)).resolve())

    def _located(self, name: str) -> str | None:
        search = [*sys.path, *([str(self.anchor)] if self.anchor else [])]
        full, origin = "", None
        for part in name.split("."):
            full = f"{full}.{part}" if full else part
            spec = PathFinder.find_spec(full, search)
            if spec is None:
                return None
            origin, search = spec.origin, list(spec.submodule_search_locations or ())
        return origin

    def _name(self, path: Path) -> str:
        for place, sign in ((self.anchor, ""), (ROOT, "package:"), (_home(), "~/")):
            if place is not None and path.is_relative_to(place):
                return sign + path.relative_to(place).as_posix()
        return path.as_posix()

    def place(self, name: str) -> Path:
        """Return the path of a name in `digests`."""
        for sign, place in (("package:", ROOT), ("~/", _home())):
            if name.startswith(sign) and place is not None:
                return place / name.removeprefix(sign)
        return (self.anchor or Path()) / name


def changed(kept: Mapping[str, str], fresh: Mapping[str, str], outside: Outside) -> str:
    """Return the name of a file that differs from the one of a kept cell, or an empty string.

    Args:
        kept: digests by name, of the cell.
        fresh: digests that the program has today; files it has read in an earlier call are not
            read again and are looked up.
        outside: where named files are.
    """
    for name in (*kept, *(n for n in fresh if n not in kept)):
        now = fresh.get(name) or _digest(outside.place(name))
        if kept.get(name) != now:
            return Path(name).name
    return ""


def plugin_digest(members: Members[Any], names: Iterable[str] | None = None) -> str:
    """Digest plug-ins with all they import; empty without plug-ins.

    Args:
        members: families or metrics.
        names: of which plug-ins, all by default.
    """
    wanted = set(members.plugins) & set(members.plugins if names is None else names)
    if not wanted:
        return ""
    outside, digest = Outside(), hashlib.sha256()
    for point in sorted(metadata.entry_points(group=members.group), key=lambda p: p.name):
        if point.name in wanted:
            digest.update(f"{point.name} {point.value}\0".encode())
            files = outside.imports([point.value.partition(":")[0].strip()])
            for content in sorted(_digest(path) for path in files):
                digest.update(content.encode())
    return digest.hexdigest()


_readers: list[Outside] = []


@functools.cache
def _listen() -> None:
    sys.addaudithook(_heard)  # cannot be removed; without a reader it does nothing


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if _readers and event == "open" and not isinstance(arguments[0], int):
        with suppress(OSError, ValueError, TypeError, RuntimeError):  # a name that is no path
            _readers[-1].hear(*arguments)


@functools.cache
def _libraries() -> tuple[Path, ...]:
    """Folders of Python itself, and those that hold no files."""
    paths = sysconfig.get_paths()
    return tuple(
        Path(p).resolve() for p in (paths["stdlib"], paths["platstdlib"], "/proc", "/sys", "/dev")
    )


@functools.cache
def _passing() -> tuple[Path, ...]:
    """Folders of the system's settings and of caches: they hold nothing that a user wrote.

    Fonts, time zones, types of files and copies of downloads are read there, and differ from
    machine to machine.
    """
    home, given = _home(), os.environ.get("XDG_CACHE_HOME")
    caches = [Path(given)] if given else []
    caches += [home / ".cache", home / "Library" / "Caches"] if home else []
    return tuple(p.resolve() for p in (Path("/etc"), Path("/usr/share"), *caches))


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Folders with installed packages."""
    paths = sysconfig.get_paths()
    places = [paths["purelib"], paths["platlib"], *site.getsitepackages()]
    return tuple({Path(p).resolve() for p in (*places, site.getusersitepackages())})


@functools.cache
def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except RuntimeError:  # the user has none
        return None


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _module(value: Any) -> str:
    found = getattr(value, "__module__", None)
    return found if isinstance(found, str) else ""


def _homes(value: Any, depth: int = DEPTH) -> Iterator[str]:
    """Return the modules of a function, and of those that it holds."""
    if not callable(value) or not depth:
        return
    yield _module(value) or type(value).__module__
    inner = [getattr(value, "func", None), getattr(value, "__wrapped__", None)]
    inner += getattr(value, "args", None) or () if inner[0] is not None else ()
    for cell in getattr(inspect.unwrap(value), "__closure__", None) or ():
        with suppress(ValueError):  # an empty cell
            inner.append(cell.cell_contents)
    for item in inner:
        yield from _homes(item, depth - 1)
