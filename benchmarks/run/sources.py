"""Sources of this package behind the draws and the comparison of a cell, and their digests.

Of `benchmarks`, the files are those that the modules which compute a cell, or its comparison,
import: an edit of any other file keeps the cell. `benchmarks.run.outside` has the files of users
and plug-ins.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.run.imports import followed
from zoo.storage import digest_of
from zoo.types import Data, ModelEntry

__all__ = ["APART", "ROOT", "code_digest", "code_files", "source_digest", "source_files"]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (".py", ".c", ".h", ".cpp", ".jinja")
# The key of a cell has a digest of its own entry and data. Modules shared by entries (`_name.py`)
# are included.
APART = ("zoo/models", "zoo/references", "zoo/datasets")
WHOLE = ("zoo", "guides")  # almost all of both is behind every draw
STARTS = {
    "draw": ("benchmarks.run.methods",),
    "estimate": ("benchmarks.run.estimates",),
    "reweight": ("benchmarks.run.reweighted",),
    "compare": (
        "benchmarks.comparison.assess",
        "benchmarks.reference.find",
        "benchmarks.trust.climbs",
    ),
}

_FOLDER = re.compile(r"\"(benchmarks(?:\.\w+)+)\"")  # of members that register themselves


@functools.cache
def code_digest(part: str) -> str:
    """Return the digest of the sources behind `draw` or `compare` results.

    A changed source gives a new key to the draws, or asks for a new comparison.
    """
    digest = hashlib.sha256()
    for path in code_files(part):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def code_files(part: str) -> list[Path]:
    """Return the source files behind `draw` or `compare` results, of all kinds.

    Those of draws include all of `zoo` and `guides`, so a change there asks for new draws, which
    are compared anew.
    """
    rooms = [ROOT / room for room in WHOLE] if part == "draw" else []
    whole = {p for room in rooms for p in room.rglob("*") if p.suffix in SOURCES}
    kept = {
        p
        for p in whole
        if p.stem.startswith("_") or not any(p.is_relative_to(ROOT / apart) for apart in APART)
    }
    return sorted(kept | set(followed(STARTS[part], _file, _members).values()))


def _file(name: str) -> Path | None:
    """Return the file of a module of `benchmarks`; None for others.

    The package itself is left out, since its imports are lazy.
    """
    if not name.startswith("benchmarks."):
        return None
    place = ROOT.joinpath(*name.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((f for f in files if f.is_file()), None)


def _members(path: Path) -> Iterator[str]:
    """Return the members of the folders that a source names."""
    for folder in _FOLDER.findall(path.read_text(encoding="utf-8")):
        yield from (f"{folder}.{p.stem}" for p in ROOT.joinpath(*folder.split(".")).glob("*.py"))


def source_files(request: str, entry: ModelEntry) -> set[Path]:
    """Return the files of an entry's functions, and the model file that is requested."""
    files = {Path(request.rpartition(":")[0] or request)} if ".py" in request else set()
    for function in (entry.build, entry.make_data, *(q.fn for q in entry.quantities.values())):
        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is not None:
            files.add(Path(code.co_filename))
    return {f.resolve() for f in files if f.is_file()}


def source_digest(request: str, entry: ModelEntry, data: Data) -> str:
    """Digest an entry's file, its data with their labels, and which quantities are judged.

    Other files (`benchmarks.run.outside`) and what a program computes (`benchmarks.run.witness`)
    are compared with what is kept beside the draws.
    """
    digest = hashlib.sha256()
    files = source_files(request, entry)
    for content in sorted(hashlib.sha256(f.read_bytes()).hexdigest() for f in files):
        digest.update(content.encode())
    for name, make in entry.own_guides.items():  # values of a guide that was trained elsewhere
        digest.update(f"{name}{getattr(make, 'digest', '')}".encode())
    quantities = {name: [list(q.dims), q.judged] for name, q in entry.quantities.items()}
    labels = {
        "dims": data.dims,
        "coords": {name: list(values) for name, values in data.coords.items()},
        "quantities": quantities,
    }
    for part in (data.train, data.test or {}, labels):
        digest.update(digest_of(part).encode())
    return digest.hexdigest()
