"""Load entries from a user's .py file, so that two files of the same stem do not collide."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.errors import UnknownNameError, UsageError
from zoo.types import ModelEntry
from zoo.user_models.global_state import restored

__all__ = ["entries_of", "load_file", "pick", "side_effects"]


def load_file(request: str) -> ModelEntry:
    """Return the entry of `x.py`, or the one called `name` of `x.py:name`.

    The file is executed anew on every call, under a module name derived from its full path. Global
    state it changes (dtype, random streams, validation, gradient mode, threads) is restored.

    Raises:
        UsageError: the file does not exist, does not parse, raises (with the line number), or has
            no `ENTRY`.
    """
    text, name = (request, "") if request.endswith(".py") else request.rsplit(":", 1)
    if "\0" in text or len(text) > 4096:
        raise UsageError(
            "The path of the model file has a NUL character or is too long; give a .py file."
        )
    path = Path(text).expanduser()
    try:
        found = path.is_file()
    except OSError as error:  # a part of it is too long, or a folder may not be searched
        raise UsageError(
            f"Model file {path.name[:80]!r} cannot be read: {error.strerror}; give the path of a"
            " .py file."
        ) from error
    if not found:
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(
            f"Model file {text!r} {what}; give the path of a .py file, or make one with `zoo new"
            " NAME`."
        )
    module = _execute(path.resolve())
    entries = entries_of(module, path.name, name or "ENTRY")
    if name:
        return pick(entries, name, path.name)
    if len(entries) > 1:
        listed = ", ".join(f"{text}:{e.name}" for e in entries if isinstance(e, ModelEntry))
        raise UsageError(f"Model file {text!r} has {len(entries)} entries; choose one: {listed}.")
    return pick(entries, "", path.name, only_one=True)


def entries_of(module: ModuleType, where: str, name: str = "ENTRY") -> list[Any]:
    """Return what a module exports as `ENTRY` and `ENTRIES`.

    Args:
        module: what was executed.
        where: its name in a message.
        name: what was asked for.

    Raises:
        UsageError: it exports neither.
    """
    group = getattr(module, "ENTRIES", ())
    listed = list(group.values()) if isinstance(group, dict) else list(group)
    if hasattr(module, "ENTRY"):
        listed.insert(0, module.ENTRY)
    if not listed:
        raise UsageError(
            f"{where} has no {name}; end the file with ENTRY = zoo.from_program(program, data,"
            " name=...) (see docs/your_own_model.md)."
        )
    return listed


def pick(entries: Sequence[Any], name: str, where: str, *, only_one: bool = False) -> ModelEntry:
    """Return the entry called `name`, or the only one.

    Raises:
        UsageError: something exported is not a `ModelEntry`.
        UnknownNameError: no entry has that name.
    """
    for entry in entries:
        if not isinstance(entry, ModelEntry):
            raise UsageError(
                f"ENTRY of {where} is a {type(entry).__name__}; accepted: a zoo.ModelEntry"
                " (zoo.from_program makes one)."
            )
    if only_one:
        chosen: ModelEntry = entries[0]
        return chosen
    for entry in entries:
        if entry.name == name:
            return entry
    raise UnknownNameError(f"entry of {where}", name, [e.name for e in entries])


def _execute(path: Path) -> ModuleType:
    try:
        source = path.read_text(encoding="utf-8")
        code = compile(source, str(path), "exec")
    except SyntaxError as error:
        raise UsageError(
            f"Model file {path.name} does not parse at line {error.lineno}: {error.msg}."
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"Model file {path.name} cannot be read: {error}.") from error
    name = f"zoo_file_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UsageError(
            f"Model file {path.name} is not Python source; give the path of a .py file."
        )
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    # Registered during and after execution: dataclasses, pickle and inspect look the module up.
    sys.modules[name] = module
    try:
        with _neighbours(path.parent), restored() as changed:
            exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path)
        ]
        line = f" at line {lines[-1]}" if lines else ""
        what = (str(error).splitlines() or [""])[0]
        raise UsageError(
            f"Model file {path.name} raises {type(error).__name__}{line}: {what.rstrip('.')}; fix"
            " the file."
        ) from error
    _changed[name] = tuple(changed)
    return module


def side_effects(entry: ModelEntry) -> tuple[str, ...]:
    """Return what global state loading the file of an entry changed; it was restored."""
    functions = (entry.build, entry.make_data, *(q.fn for q in entry.quantities.values()))
    modules = dict.fromkeys(getattr(f, "__module__", None) or "" for f in functions)
    return tuple(dict.fromkeys(name for m in modules for name in _changed.get(m, ())))


_changed: dict[str, tuple[str, ...]] = {}  # by module, what executing a file changed


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Let a file import modules from its folder, last in the search order; unload them after."""
    known = set(sys.modules)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(folder):
                del sys.modules[name]
