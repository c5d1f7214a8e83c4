"""A run on disk: cells written atomically and verified by SHA-256.

    RUN/plan.toml  results.csv  costs.csv  report.html  report.md
    RUN/cells/<entry>--<method>--s<seed>--<sha12>/
        {cell.json, posterior.nc, guide.pt, log.txt, MANIFEST}

A cell is made in a temporary folder beside its final one. Every file is flushed to disk, MANIFEST
(in the format of `sha256sum -c`) is written last, and one rename publishes the cell. A folder
without a valid MANIFEST is therefore not a cell.

A run folder may contain files of the user: only files of this project, by name and MANIFEST, are
removed (`benchmarks.run.cell_folder`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.run.cell_folder import (
    CELL,
    MANIFEST,
    OURS,
    cell_name,
    damage,
    listed_files,
    manifest,
    refuse_links,
    remove,
    strangers,
)
from benchmarks.run.plan import PLAN_FILE, Plan, planned, read_plan, refuse_file
from zoo.errors import InfrastructureError, UsageError, spelled
from zoo.storage import TEMPORARY, sync_folder, write_whole, written

__all__ = ["RunDir", "canonical", "cell_name", "planned", "strict_json", "write_atomic"]


def strict_json(value: Any, *, indent: int | None = 1) -> str:
    """Return JSON that every parser accepts: NaN and infinities become null."""
    return json.dumps(finite(value), allow_nan=False, indent=indent, ensure_ascii=False)


def canonical(value: Any) -> bytes:
    """Return canonical JSON (sorted keys, no spaces), from which cell keys are hashed."""
    return json.dumps(
        finite(value), allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode()


def finite(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by None, and containers by those of JSON."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [finite(v) for v in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return finite(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an operating system error on writing into one sentence (exit code 3)."""
    try:
        yield
    except OSError as error:
        cures = {
            errno.ENOSPC: "free some space, or",
            errno.EDQUOT: "your quota is used up; free some space, or",
            errno.EFBIG: "the file is larger than allowed here;",
        }
        cure = cures.get(error.errno or 0, "check its permissions, or")
        raise InfrastructureError(
            f"{str(path)!r} cannot be written ({error.strerror or error}): {cure} give another"
            f" folder with {spelled('out=', '--out')}."
        ) from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically; a full or read-only disk is reported in one sentence."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode() if isinstance(content, str) else content)


class RunDir:
    """One run directory: its plan, its cells, and a lock against a second command in it.

    `fits` holds the fits that this process has read, by the names of their cells; `checked` the
    names of the cells that this command has made, or has compared with their MANIFEST already;
    `unprotected` says why another command could write to the folder too, empty if it is locked.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self.cells = path / "cells"
        self.fits: dict[str, Any] = {}
        self.checked: set[str] = set()
        self._lock: int | None = None
        self.unprotected = ""

    @classmethod
    def create(cls, path: Path, plan: Plan) -> RunDir:
        """Create the folder, or resume an earlier run in it.

        The plan may add families, seeds or the NUTS row to those of the run (see `planned`).

        Raises:
            UsageError: the folder has other content, a plan that differs in more, cells behind a
                link, or is in use by another process.
            InfrastructureError: it cannot be written.
        """
        if path.exists() and not path.is_dir():
            raise UsageError(
                f"{spelled('out=', '--out ')}{str(path)!r} is a file; give a folder that is new,"
                " empty, or holds a run of this model."
            )
        with disk_errors(path):
            content = (
                [p for p in path.iterdir() if p.name != ".lock" and not OURS.fullmatch(p.name)]
                if path.is_dir()
                else []
            )
        if content and not (path / PLAN_FILE).exists():
            raise UsageError(
                f"{spelled('out=', '--out ')}{str(path)!r} is not empty and holds no run; give a"
                " new folder, or empty this one."
            )
        plan = planned(path, plan)
        refuse_links(path)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path, plan)
        run._acquire()
        run._sweep()
        # The plan comes first: a folder that a killed command left without one holds no run, and
        # must not look like somebody else's.
        if not content or read_plan(path / PLAN_FILE) != plan:
            write_atomic(path / PLAN_FILE, plan.to_toml())
        with disk_errors(path):
            run.cells.mkdir(exist_ok=True)
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Open an existing run for reading."""
        refuse_file(path)
        if not path.is_dir():
            raise UsageError(
                f"There is no folder {str(path)!r}; give the folder of a run made by `zoo"
                " compare`."
            )
        return cls(path, read_plan(path / PLAN_FILE))

    @property
    def locked(self) -> bool:
        """Whether this process holds the lock and may write."""
        return self._lock is not None

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _acquire(self) -> None:
        # The kernel releases this lock when the process ends, in whatever way: there is no stale
        # lock file to remove by hand.
        with disk_errors(self.path):
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise UsageError(
                f"Another zoo command is working in {str(self.path)!r}; wait for it, or give"
                f" another folder with {spelled('out=', '--out')}."
            ) from None
        except OSError as error:  # some network file systems have no locks
            self.unprotected = (
                f"the file system of {str(self.path)!r} has no locks"
                f" ({error.strerror or error}); do not start a second command in this folder"
            )

    def _sweep(self) -> None:
        """Remove incomplete files of a killed run; with the lock held nobody still writes them."""
        for folder in (f for f in (self.path, self.cells) if f.is_dir()):
            for left in (
                p for p in folder.iterdir() if OURS.fullmatch(p.name) and not p.is_symlink()
            ):
                (
                    shutil.rmtree(left, ignore_errors=True)
                    if left.is_dir()
                    else left.unlink(missing_ok=True)
                )

    @contextmanager
    def draft(self, name: str, known: Mapping[str, str] | None = None) -> Iterator[Path]:
        """Yield an empty folder that becomes the cell `name`, or is removed on an exception.

        Args:
            name: folder name of the cell.
            known: SHA-256 of files by name; other files are read once for theirs.
        """
        with disk_errors(self.path):
            folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.cells))
        try:
            yield folder
            with disk_errors(self.path):
                self._publish(folder, name, known or {})
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, folder: Path, name: str, known: Mapping[str, str]) -> None:
        lines = []
        for file in sorted(folder.iterdir()):
            digest = known.get(file.name) or _flushed(file)
            lines.append(f"{digest}  {file.name}\n")
        os.chmod(folder, 0o777 & ~_umask())
        write_atomic(folder / MANIFEST, "".join(lines))
        place = self.cells / name
        if not os.path.lexists(place):
            os.replace(folder, place)
        elif (listed := listed_files(place)) is None:
            # not a cell of this project, though its name is
            self._set_aside(place)
            os.replace(folder, place)
        elif theirs := strangers(place, listed):
            # Kept in quarantine meanwhile, so that a crash loses none of them.
            old = self._set_aside(place)
            os.replace(folder, place)
            for stranger in theirs:
                if not os.path.lexists(place / stranger):
                    os.replace(old / stranger, place / stranger)
            remove(old, listed)
        else:
            old = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.cells))
            os.replace(place, old / name)
            os.replace(folder, place)
            shutil.rmtree(old, ignore_errors=True)
        sync_folder(self.cells)

    def rewrite(self, name: str, file: str, content: str) -> None:
        """Replace one file of a cell; the others are linked, and keep their lines of MANIFEST."""
        place, raw = self.cells / name, content.encode()
        others = (listed_files(place) or set()) - {file}
        known = {n: digest for n, digest in manifest(place).items() if n in others}
        with self.draft(name, known | {file: hashlib.sha256(raw).hexdigest()}) as folder:
            with disk_errors(self.path):
                for old in sorted(others):
                    _link_or_copy(place / old, folder / old)
            write_atomic(folder / file, raw)

    def read(
        self, name: str, *, warn: Callable[[str], None] | None = None
    ) -> dict[str, Any] | None:
        """Return `cell.json` of a complete cell, None for a missing or damaged one.

        A damaged cell is moved to quarantine, with a warning. Each cell is compared with its
        MANIFEST once per process, and not at all by the command that has made it.
        """
        place = self.cells / name
        if not place.is_dir():
            return None
        try:
            read = {"cell.json": (place / "cell.json").read_bytes()}
        except OSError:  # named below
            read = {}
        trouble = None if read and name in self.checked else damage(place, read)
        if trouble is None:
            self.checked.add(name)
            cell: dict[str, Any] = json.loads(read["cell.json"])
            return cell
        if self.locked:
            self._set_aside(place)
        if warn is not None:
            fate = (
                "it was moved to quarantine/ and will be computed again"
                if self.locked
                else "it is left out"
            )
            warn(f"cell {name} is damaged ({trouble}); {fate}")
        return None

    def _set_aside(self, place: Path) -> Path:
        """Move a folder of cells/ to the first free name in quarantine/; return the new path."""
        self.checked.discard(place.name)
        with disk_errors(self.path):
            folder = self.path / "quarantine"
            folder.mkdir(exist_ok=True)
            choices = itertools.chain(
                [place.name], (f"{place.name}.{number}" for number in itertools.count(1))
            )
            target = next(folder / name for name in choices if not os.path.lexists(folder / name))
            os.replace(place, target)
        return target

    def keep(self, names: set[str], *, say: Callable[[str], None] | None = None) -> None:
        """Remove every other cell; since the plan is the same, its program has changed.

        Folders that are not cells of this project stay in place and are named in one sentence. A
        cell with added or changed files is moved to quarantine as a whole.
        """
        foreign, aside = [], []
        folders = (p for p in self.cells.iterdir() if p.is_dir() and not OURS.fullmatch(p.name))
        for place in sorted(p for p in folders if p.name not in names):
            listed = listed_files(place)
            if listed is None:
                foreign.append(place.name)
            elif strangers(place, listed) or damage(place) is not None:
                aside.append(self._set_aside(place).name)
            else:
                remove(place, listed)
        if say is not None and foreign:
            say(
                f"left as they are in {str(self.cells)!r}, for they are no cells:"
                f" {', '.join(foreign)}"
            )
        if say is not None and aside:
            say(
                f"moved to {str(self.path / 'quarantine')!r}, cells of an earlier program with"
                f" files of yours in them: {', '.join(aside)}"
            )

    def names(self) -> list[str]:
        """Return the folder names of all cells, complete or not, sorted."""
        return (
            sorted(p.name for p in self.cells.iterdir() if p.is_dir() and CELL.fullmatch(p.name))
            if self.cells.is_dir()
            else []
        )

    def write(self, name: str, content: str) -> Path:
        """Write a file of the run itself, such as `report.html`."""
        write_atomic(self.path / name, content)
        return self.path / name


def _umask() -> int:
    """Return the umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _flushed(file: Path) -> str:
    """Flush a file to disk and return its SHA-256.

    HDF5 and ZIP files are not written in one direction, so they are read for it.
    """
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
        os.fsync(handle.fileno())
    return digest


def _link_or_copy(old: Path, new: Path) -> None:
    """Hard-link a file, or write a copy to disk where the file system has no links."""
    try:
        os.link(old, new)
    except OSError:
        with written(new) as place:
            shutil.copyfile(old, place)
