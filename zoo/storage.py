"""Content digests of values that agree across processes, and atomic writing of files."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import hashlib
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "TEMPORARY",
    "content",
    "digest_of",
    "sync_folder",
    "usable_cache_home",
    "write_whole",
    "written",
]

# part of the names of temporary files, by which leftovers of killed processes are recognized
TEMPORARY = ".zoo-tmp-"


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of named values, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(name.encode())
        digest.update(content(values[name]))
    return digest.hexdigest()


def content(value: Any) -> bytes:
    """Return the content of a value: numbers by dtype, shape and bytes, all else by its parts.

    Plain values and containers of them are represented by their `repr`, a function by its
    qualified name, and an object by its class and attributes. No address enters, so two processes
    agree. Changes in the code of functions are not seen here; kept results are also checked
    against an evaluation (`benchmarks.run.witness`).
    """
    return b"".join(_parts(value, ()))


def _parts(value: Any, above: tuple[int, ...]) -> Iterator[bytes]:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        yield dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"array{value.dtype.str}{value.shape}".encode()
        if value.dtype.hasobject:
            yield from _parts(value.tolist(), above)
        else:
            yield np.ascontiguousarray(value).tobytes()
    elif _plain(value):
        yield repr(value).encode()
    elif id(value) in above:  # an object that contains itself
        yield b"again"
    else:
        yield from _composite(value, (*above, id(value)))


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return type(value) in (tuple, list) and all(map(_plain, value))
    return value is None or type(value) in (bool, int, float, complex, str, bytes)


def _composite(value: Any, above: tuple[int, ...]) -> Iterator[bytes]:
    from torch import nn

    kind = type(value)
    yield _framed(f"{kind.__module__}.{kind.__qualname__}".encode())
    if isinstance(value, Mapping):
        inner: Any = sorted(((repr(k), v) for k, v in value.items()), key=lambda pair: pair[0])
    elif isinstance(value, Set):
        inner = [(b"", item) for item in sorted(content(x) for x in value)]
    elif isinstance(value, tuple | list):
        inner = [("", item) for item in value]
    elif isinstance(value, nn.Module):
        inner = [*sorted(value.state_dict().items()), ("training", value.training)]
    elif isinstance(value, functools.partial):
        inner = [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    elif hasattr(value, "to_numpy"):  # data frames and series of pandas and polars
        inner = [
            ("columns", [str(c) for c in getattr(value, "columns", ())]),
            ("values", value.to_numpy()),
        ]
    elif hasattr(value, "__qualname__"):  # functions, methods, classes
        inner = [("name", f"{value.__module__}.{value.__qualname__}")]
    elif dataclasses.is_dataclass(value):
        inner = [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
    elif kind.__module__ in ("builtins", "numpy", "torch") or not hasattr(value, "__dict__"):
        text = repr(value)
        inner = [("text", "" if " at 0x" in text else text)]
    else:
        inner = sorted(vars(value).items())
    for name, item in inner:
        yield _framed(str(name).encode())
        yield _framed(b"".join(_parts(item, above)))


def _framed(part: bytes) -> bytes:
    """Prefix a part with its length, so that different lists never join to the same bytes."""
    return struct.pack("<q", len(part)) + part


@contextmanager
def written(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path that is moved to `path` on success.

    The file is flushed to disk first; after an error `path` is unchanged. The temporary path is in
    a private folder beside `path`, so that no name in it can be taken and the umask decides the
    file's mode.

    Args:
        path: the final path, in an existing folder.
        new: refuse to replace an existing file.

    Raises:
        FileExistsError: `new`, and the path exists.
        OSError: the operating system reports an error.
    """
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
        place = Path(folder) / path.name
        yield place
        with place.open("rb") as file:
            os.fsync(file.fileno())
        if new:
            _link_or_create(place, path)
        else:
            os.replace(place, path)
    sync_folder(path.parent)


def write_whole(path: Path, raw: bytes) -> None:
    """Write bytes to a file atomically, see `written`."""
    with written(path) as place:
        place.write_bytes(raw)


def _link_or_create(place: Path, path: Path) -> None:
    """Create a file that must not exist: by a hard link, else (without links) by a copy."""
    try:
        os.link(place, path)
    except FileExistsError:
        raise
    except OSError:
        with path.open("xb") as file:
            file.write(place.read_bytes())
            file.flush()
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def usable_cache_home() -> None:
    """Point libraries that insist on a cache in the home folder to a temporary one if need be.

    Service accounts and containers often have a home that cannot be written.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME")
        folder = Path(home) if home else Path.home() / ".cache"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return
    except (OSError, RuntimeError):  # RuntimeError: the user has no home at all
        pass
    place = tempfile.mkdtemp(prefix="zoo-cache-")
    atexit.register(_remove, place, os.getpid())
    os.environ["XDG_CACHE_HOME"] = place
    os.environ.setdefault("MPLCONFIGDIR", str(Path(place) / "matplotlib"))


def _remove(place: str, process: int) -> None:
    if os.getpid() == process:  # forked processes use the same folder
        shutil.rmtree(place, ignore_errors=True)
