"""Compiled graphs on disk: the same graph is compiled once per machine, whichever process, data set or seed asks.

A package is keyed by the SHA-256 of the graph's code, the shapes of its inputs, the versions that
shaped it and the instruction set of the processor (native code must not be run elsewhere). Files
are written under a temporary name and renamed, and read only where their recorded digest matches.
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

FORMAT = 4  # of the files; older ones may lack the interface of arrays


def directory() -> Path:
    """Return the folder of compiled graphs: `$ZOO_CACHE_DIR`, else `posterior-zoo` in the user's cache folder."""
    base = os.environ.get("ZOO_CACHE_DIR")
    if base:
        return Path(base) / "compiled"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "posterior-zoo" / "compiled"


@functools.cache
def machine() -> str:
    """Return what native code depends on besides its source: system and instruction set."""
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
    """Return the text that is compiled into every graph beside its own."""
    return (Path(__file__).parent / "csrc" / "standalone.h").read_text(encoding="utf8")


def graph_key(traced: Traced, options: dict[str, Any]) -> str:
    """Return the hexadecimal key of a graph: equal keys mean interchangeable machine code."""
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
    """Return how many compiled graphs there are."""
    return sum(1 for _ in directory().glob("*.json"))


def find(key: str, suffix: str = ".pt2") -> Path | None:
    """Return the intact file of a key, None where there is none (a damaged one counts as none)."""
    package = directory() / f"{key}{suffix}"
    try:
        recorded = json.loads(package.with_suffix(".json").read_text(encoding="utf8"))["sha256"]
        return package if hashlib.sha256(package.read_bytes()).hexdigest() == recorded else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def alone(name: str) -> Iterator[bool]:
    """Tell whether this process is the only one at some work, and keep it so meanwhile.

    Nobody waits. Without locks on this system, or without a folder to keep them in, everybody is
    told yes.
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
        yield first  # closing the file lets go of it, as does the end of the process


def store(key: str, build: Callable[[str], str], suffix: str = ".pt2") -> Path:
    """Call `build(path)`, which writes a file at `path`, and move the result into the cache in one step.

    Where the cache folder cannot be written, the file is left in a temporary folder of this
    process.
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
