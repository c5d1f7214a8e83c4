"""The folder of one cell: its name, ownership, integrity and removal.

A run folder may contain files of the user. Only cells are removed (a name of `cell_name` and a
MANIFEST, by the files it lists) and temporary names of `tempfile` with this project's prefix, and
nothing through a symbolic link.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from zoo.errors import UsageError, spelled
from zoo.storage import TEMPORARY

__all__ = [
    "cell_name",
    "damage",
    "listed_files",
    "manifest",
    "refuse_links",
    "remove",
    "strangers",
]

MANIFEST = "MANIFEST"
OURS = re.compile(rf"{re.escape(TEMPORARY)}[a-z0-9_]{{8}}")  # suffix of tempfile
# the names that cell_name makes
CELL = re.compile(r"[A-Za-z0-9_.=-]*--[A-Za-z0-9_.=-]*--s\d+--[0-9a-f]{12}")
# files of a cell; the user may add others
FILES = ("cell.json", "posterior.nc", "guide.pt", "witness.json", "files.json", "log.txt")
LISTED = re.compile(r"[0-9a-f]{64}  ([^/\0]+)")  # a line of MANIFEST


def cell_name(entry: str, method: str, seed: int, digest: str) -> str:
    """Return the folder name of a cell.

    Characters that could leave the folder or confuse a shell become `_`.
    """
    safe = [re.sub(r"[^A-Za-z0-9_.=-]+", "_", word).strip("._-")[:80] for word in (entry, method)]
    return f"{safe[0]}--{safe[1]}--s{seed}--{digest[:12]}"


def refuse_links(path: Path) -> None:
    """Refuse a run with cells behind a symbolic link.

    What the run writes, moves and removes there would belong to another folder.

    Raises:
        UsageError: `cells`, `quarantine` or a cell is a symbolic link.
    """
    cells = path / "cells"
    below = (
        []
        if cells.is_symlink() or not cells.is_dir()
        else [p for p in cells.iterdir() if CELL.fullmatch(p.name)]
    )
    for place in (cells, path / "quarantine", *sorted(below)):
        if place.is_symlink():
            raise UsageError(
                f"{str(place)!r} is a symbolic link, and a run writes and removes nothing through"
                " one; put the folder itself in its place, or give another folder with"
                f" {spelled('out=', '--out')}."
            )


def listed_files(place: Path) -> set[str] | None:
    """Return the files that MANIFEST lists.

    None if the folder is not a cell of this project, by its name or its MANIFEST.
    """
    manifest = place / MANIFEST
    if not CELL.fullmatch(place.name) or place.is_symlink() or manifest.is_symlink():
        return None
    try:
        lines = [
            LISTED.fullmatch(line) for line in manifest.read_text(encoding="utf-8").splitlines()
        ]
    except (OSError, UnicodeDecodeError):
        return None
    names = {line[1] for line in lines if line is not None}
    return names if "cell.json" in names and None not in lines else None


def strangers(place: Path, listed: set[str]) -> list[str]:
    """Return the files in a cell that this project did not write."""
    return sorted(
        p.name for p in place.iterdir() if p.name not in listed | {MANIFEST} or p.is_dir()
    )


def remove(place: Path, listed: set[str]) -> None:
    """Remove the listed files of a cell, MANIFEST last; other files and their folder stay."""
    with suppress(OSError):
        for name in (*sorted(listed), MANIFEST):
            (place / name).unlink(missing_ok=True)
        place.rmdir()


def manifest(place: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a cell by name, as MANIFEST lists them.

    Raises:
        OSError, UnicodeDecodeError: there is none that can be read.
    """
    lines = (place / MANIFEST).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def damage(place: Path, read: Mapping[str, bytes] | None = None) -> str | None:
    """Return what is wrong with a cell, None if every file matches MANIFEST.

    Args:
        place: the folder.
        read: contents that were read already, by file name.
    """
    known = read or {}
    try:
        wanted = manifest(place)
        unlisted = [
            name
            for name in FILES
            if name not in wanted and (name == "cell.json" or (place / name).exists())
        ]
        if unlisted:
            return f"MANIFEST does not list {unlisted[0]}"
        for name, digest in wanted.items():
            if name in known:
                found = hashlib.sha256(known[name]).hexdigest()
            else:
                with (place / Path(name).name).open("rb") as handle:
                    found = hashlib.file_digest(handle, "sha256").hexdigest()
            if found != digest:
                return f"{name} is not the file that was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, UnicodeDecodeError) as error:
        return str(error)
    return None
