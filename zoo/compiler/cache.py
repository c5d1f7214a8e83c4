"""Disk cache of compiled graphs: each graph is compiled once per machine.

A package is keyed by the SHA-256 of the graph's code, the shapes of its inputs, the versions it
depends on and the CPU's instruction set (native code must not run elsewhere); processes, data sets
and seeds share it. Files are written under a temporary name and renamed, and used only if their
recorded digest matches.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from zoo.compiler.torch_private import LOADS_VERSION
from zoo.compiler.trace import Traced

__all__ = ["count", "directory", "find", "graph_key", "machine", "store"]

FORMAT = 4  # of the files; older ones may lack the ArrayRef interface


def directory() -> Path:
    """Return the folder: `compiled` in `$ZOO_CACHE_DIR`, else in the user's cache folder."""
    base = os.environ.get("ZOO_CACHE_DIR")
    if base:
        return Path(base) / "compiled"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "posterior-zoo" / "compiled"


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


def count() -> int:
    """Return the number of compiled graphs in the cache."""
    return sum(1 for _ in directory().glob("*.json"))


def find(key: str, suffix: str = ".pt2") -> Path | None:
    """Return the intact file of a key, or None; a damaged file counts as missing."""
    package = directory() / f"{key}{suffix}"
    try:
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
    os.replace(built, package)
    os.replace(note, package.with_suffix(".json"))
    shutil.rmtree(work, ignore_errors=True)
    return package
