"""Imports, followed through the sources of modules without running them."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["followed"]

TYPES_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
Found = tuple[tuple[int, str, tuple[str, ...]], ...]  # level, module and names of imports


def nothing(path: Path) -> Iterable[str]:
    """Return no further modules."""
    return ()


def followed(
    starts: Iterable[str],
    find: Callable[[str], Path | None],
    beside: Callable[[Path], Iterable[str]] = nothing,
) -> dict[str, Path]:
    """Return the files of modules and of all that they import, by name, directly or not.

    Imports inside functions count, those for types alone do not.

    Args:
        starts: names of modules.
        find: the file of a module, None for one that is left out; names of what is imported from
            a module are asked for as well.
        beside: further modules that a file needs.
    """
    todo, found = list(starts), dict[str, Path]()
    while todo:
        name = todo.pop()
        path = None if name in found else find(name)
        if path is not None:
            found[name] = path
            above = name.rpartition(".")[0]
            package = name if path.stem == "__init__" else above
            todo += [*_names(path, package), *beside(path), above]
    return found


def _names(path: Path, package: str) -> Iterator[str]:
    """Return the names of the modules that a source file may import."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    for level, module, names in _imports(content):
        if level:
            with suppress(ImportError):
                module = importlib.util.resolve_name("." * level + module, package)
        yield module
        yield from (f"{module}.{name}" for name in names)


@functools.cache
def _imports(content: bytes) -> Found:
    """Return the imports of a source; none if it does not parse."""
    try:
        todo: list[ast.AST] = [ast.parse(content)]
    except (SyntaxError, ValueError):
        return ()
    found: list[tuple[int, str, tuple[str, ...]]] = []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append((node.level, node.module or "", names))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in TYPES_ONLY:
            todo += node.orelse
        elif not isinstance(node, ast.expr):  # no import is part of an expression
            todo += ast.iter_child_nodes(node)
    return tuple(found)
