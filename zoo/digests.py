"""The content of a value as bytes that are equal for equal content, in every process and on every machine."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import struct
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["content", "digest_of"]


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of named values, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(name.encode())
        digest.update(content(values[name]))
    return digest.hexdigest()


def content(value: Any) -> bytes:
    """Return the content of a value: numbers by dtype, shape and bytes, everything else by its parts.

    Plain values and containers of them are their `repr`. A function is its qualified name and an object its class with
    its attributes: neither has an address, so that two processes agree. What such a value *does* is not seen here; kept
    results are also held against an evaluation (`benchmarks.run.witness`).
    """
    return b"".join(_parts(value, ()))


def _parts(value: Any, above: tuple[int, ...]) -> Iterator[bytes]:
    if isinstance(value, Tensor):
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
    elif id(value) in above:  # an object that holds itself
        yield b"again"
    else:
        yield from _composite(value, (*above, id(value)))


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return type(value) in (tuple, list) and all(map(_plain, value))
    return value is None or type(value) in (bool, int, float, complex, str, bytes)


def _composite(value: Any, above: tuple[int, ...]) -> Iterator[bytes]:
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
        inner = [("columns", [str(c) for c in getattr(value, "columns", ())]), ("values", value.to_numpy())]
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
    """Return a part behind its length, so that two different lists of parts never join to the same bytes."""
    return struct.pack("<q", len(part)) + part
