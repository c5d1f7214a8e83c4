"""Disk cache of compiled graphs: each graph is compiled once per machine.

A package is keyed by the SHA-256 of the graph's code, the shapes of its inputs, the versions it
depends on and the CPU's instruction set (native code must not run elsewhere); processes, data sets
and seeds share it. Files are written under a temporary name and renamed, and used only if their
recorded digest matches.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from zoo.compiler.torch_private import LOADS_VERSION, shared_folder
from zoo.compiler.trace import Traced

__all__ = ["count", "directory", "find", "graph_key", "machine", "store"]

_log = logging.getLogger("zoo")

SHARED = "torchinductor_"  # in the name of Inductor's default folder
FORMAT = 4  # of the files; older ones may lack the ArrayRef interface


def directory() -> Path:
    """Return the folder: `compiled` in `$ZOO_CACHE_DIR`, else in the user's cache folder.

    Libraries in it are executed, so a folder that other users may write to is not used: its
    permissions are restricted if it is ours, otherwise a private temporary folder takes its place.
    """
    return _private(_base() / "compiled")


def _keep_inductor_private() -> None:
    """Give Inductor a private folder for its own files, unless the user has chosen one.

    Its default, `torchinductor_USER` in the temporary folder, can be made by any user, and
    libraries in it are executed. Tracing already uses the folder, so this runs at import.
    """
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    # torch sets its default there; to ask for it loads the compiler, as a process begun by ours
    # would for the folder that it was given
    if chosen is None or (SHARED in chosen and chosen == shared_folder()):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_private(_base() / "inductor"))


def _base() -> Path:
    base = os.environ.get("ZOO_CACHE_DIR")
    if base:
        return Path(base)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "posterior-zoo"


def _private(folder: Path) -> Path:
    """Return the folder if only this user can write to it, or it does not exist yet."""
    try:
        found = folder.lstat()
        if _others_write(found) and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            folder.chmod(0o700)
            found = folder.lstat()
    except FileNotFoundError:
        return folder
    except OSError:
        return _temporary(folder)
    ours = found.st_uid == os.geteuid() and not _others_write(found)
    return folder if ours and stat.S_ISDIR(found.st_mode) else _temporary(folder)


def _others_write(found: os.stat_result) -> bool:
    return bool(stat.S_IMODE(found.st_mode) & 0o022)


@functools.cache
def _temporary(folder: Path) -> Path:
    """Return a private folder of this process in place of one that is not safe; say so once."""
    _log.warning(
        "%s belongs to another user or others can write to it, so nothing in it is used; compiled"
        " functions go to a temporary folder. Set ZOO_CACHE_DIR to a folder of your own.",
        folder,
    )
    place = Path(tempfile.mkdtemp(prefix=f"zoo-{folder.name}-"))
    atexit.register(_remove, place, os.getpid())
    return place


def _remove(place: Path, process: int) -> None:
    if os.getpid() == process:  # forked processes share the folder
        shutil.rmtree(place, ignore_errors=True)


@functools.cache
def machine() -> str:
    """Describe the platform that native code depends on: operating system and instruction set."""
    flags = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return "|".join(
        (platform.system(), platform.machine(), torch.backends.cpu.get_cpu_capability(), flags)
    )


@functools.cache
def _definitions() -> str:
    """Return the C++ text that is compiled into every graph."""
    return (Path(__file__).parent / "csrc" / "standalone.h").read_text(encoding="utf8")


def graph_key(traced: Traced, options: dict[str, Any]) -> str:
    """Return the hexadecimal key of a graph; equal keys mean interchangeable machine code."""
    digest = hashlib.sha256()
    shapes = [
        (str(t.dtype), tuple(t.shape), t.stride(), str(t.device))
        for t in (*traced.examples, *traced.constants)
    ]
    written = (FORMAT, LOADS_VERSION, _definitions(), torch.__version__, machine())
    for part in (*written, sorted(options.items()), shapes, traced.graph.code):
        digest.update(repr(part).encode())
    return digest.hexdigest()[:40]


def code_key(source: str) -> str:
    """Return the hexadecimal key of a piece of C code of ours."""
    return hashlib.sha256(repr((FORMAT, machine(), source)).encode()).hexdigest()[:40]


def count() -> int:
    """Return the number of compiled graphs in the cache."""
    return sum(1 for _ in directory().glob("*.json"))


def find(key: str, suffix: str = ".pt2") -> Path | None:
    """Return the intact file of a key, or None.

    A damaged file counts as missing, and so does one that another user owns or can change.
    """
    package = directory() / f"{key}{suffix}"
    try:
        found = package.lstat()
        if found.st_uid != os.geteuid() or _others_write(found):
            return None
        recorded = json.loads(package.with_suffix(".json").read_text(encoding="utf8"))["sha256"]
        return package if hashlib.sha256(package.read_bytes()).hexdigest() == recorded else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def alone(name: str) -> Iterator[bool]:
    """Try to take an exclusive lock without waiting; yield whether this process may work.

    Without file locks, or without a writable folder for them, every process gets True.
    """
    try:
        import fcntl

        directory().mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (directory() / f"{name}.lock").open("w")
    except (ImportError, OSError):
        yield True
        return
    with file:
        first = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            first = False
        except OSError:  # a file system without locks
            pass
        yield first  # closing the file releases the lock, as does the end of the process


def store(key: str, build: Callable[[str], str], suffix: str = ".pt2") -> Path:
    """Call `build(path)`, which writes a file, and move the result into the cache atomically.

    If the cache folder is not writable, the file stays in a temporary folder of this process.
    """
    folder = directory()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = tempfile.mkdtemp(prefix="build-", dir=folder)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="zoo-compiled-"))
        work = tempfile.mkdtemp(prefix="build-", dir=folder)
    try:
        built = Path(build(str(Path(work) / f"{key}{suffix}")))
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    note = Path(work) / f"{key}.json"
    note.write_text(
        json.dumps(
            {"sha256": hashlib.sha256(built.read_bytes()).hexdigest(), "torch": torch.__version__}
        ),
        encoding="utf8",
    )
    package = folder / f"{key}{suffix}"
    built.chmod(stat.S_IMODE(built.stat().st_mode) & ~0o022)
    os.replace(built, package)
    os.replace(note, package.with_suffix(".json"))
    shutil.rmtree(work, ignore_errors=True)
    return package


_keep_inductor_private()
