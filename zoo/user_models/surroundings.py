"""What a program written for stock Pyro needs around a run: one dtype, plates with sizes."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pyro.poutine.reparam_messenger import ReparamMessenger
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["OneType", "Reads", "is_about_types", "plain_sites", "sized_plates"]

_PRODUCTS = frozenset(
    [
        "matmul",
        "mm",
        "mv",
        "bmm",
        "addmm",
        "addmv",
        "dot",
        "inner",
        "einsum",
        "linear",
        "__matmul__",
        "__rmatmul__",
        "tensordot",
    ]
)
_DIFFERENCES = frozenset(["sub", "rsub", "subtract", "__sub__", "__rsub__", "neg", "__neg__"])
_READS = frozenset(
    [
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "item",
        "tolist",
        "numpy",
        "__array__",
        "__contains__",
    ]
)
_SIGNS = (
    "dtype",
    "scalar type",
    "can't be cast",
    "bool tensor",
    "used as indices must be",
    "expected Float but",
    "expected Double but",
)


def is_about_types(error: BaseException) -> bool:
    """Whether torch refused two types of numbers in one operation."""
    return isinstance(error, RuntimeError | TypeError | IndexError | ValueError) and any(
        sign in str(error) for sign in _SIGNS
    )


class OneType(TorchFunctionMode):
    """Bring numbers that meet in one operation to one type, where torch would refuse them.

    Single-precision constants of a closure, an object or a buffer meet double-precision data; an
    integer matrix meets weights; group codes are floats. Writes into a tensor are left alone.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Convert the arguments and call."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__getitem__" and len(args) == 2:
            return func(args[0], _as_index(args[1]))
        if "out" in kwargs or name in ("__get__", "__set__", "__setitem__", "to", "type"):
            return func(*args, **kwargs)
        if name.endswith("_") and not name.endswith("__"):
            return func(*args, **kwargs)
        found = list(_tensors((args, tuple(kwargs.values()))))
        wide = any(t.dtype == self.dtype for t in found)
        mixed = wide and any(t.dtype.is_floating_point and t.dtype != self.dtype for t in found)
        whole = any(not t.dtype.is_floating_point and not t.dtype.is_complex for t in found)
        products = name in _PRODUCTS and whole and (wide or mixed)
        flags = name in _DIFFERENCES and any(t.dtype == torch.bool for t in found)
        if mixed or products or flags:
            args = _converted(args, self.dtype, whole=products or flags)
            kwargs = _converted(kwargs, self.dtype, whole=products or flags)
        return func(*args, **kwargs)


def _as_index(index: Any) -> Any:
    """Return an index whose floating tensors are whole numbers as integers."""
    if isinstance(index, tuple | list):
        return type(index)(_as_index(i) for i in index)
    if isinstance(index, Tensor) and index.dtype.is_floating_point:
        return index.long()
    return index


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for v in value:
            yield from _tensors(v)


def _converted(value: Any, dtype: torch.dtype, *, whole: bool) -> Any:
    if isinstance(value, Tensor):
        floating = value.dtype.is_floating_point
        return value.to(dtype) if floating or (whole and not value.dtype.is_complex) else value
    if isinstance(value, dict):
        return {k: _converted(v, dtype, whole=whole) for k, v in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_converted(v, dtype, whole=whole) for v in value)
    return value


class Reads(TorchFunctionMode):
    """Note where the author's code takes the value of a latent site out of torch.

    Gradients know nothing of such a value: where it decides between two densities, the density
    jumps and no method that follows gradients sees it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[str, ...]] = {}  # statement -> sites

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call, and mark what comes of latent values."""
        out = func(*args, **(kwargs or {}))
        sites = {s for t in _tensors((args, tuple((kwargs or {}).values()))) for s in _marks(t)}
        if sites:
            if getattr(func, "__name__", "") in _READS:
                statement = _statement()
                if statement:
                    known = self.found.get(statement, ())
                    self.found[statement] = tuple(dict.fromkeys((*known, *sorted(sites))))
            else:
                for t in _tensors(out):
                    mark(t, sites)
        return out


def mark(tensor: Tensor, sites: set[str]) -> None:
    """Note that a tensor comes of these sites."""
    tensor._zoo_sites = frozenset(sites) | _marks(tensor)  # type: ignore[attr-defined]


def _marks(tensor: Tensor) -> frozenset[str]:
    found: frozenset[str] = getattr(tensor, "_zoo_sites", frozenset())
    return found


def _statement() -> str:
    """Return the author's line being run as `file.py:12: text`, empty inside a library."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.endswith(
        ("torch/_tensor.py", "torch/overrides.py", "torch/_ops.py")
    ):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None or "site-packages" in frame.f_code.co_filename:
        return ""
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    if text.startswith("assert"):
        return ""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}: {text}"


@contextmanager
def sized_plates(sizes: Mapping[str, int]) -> Iterator[None]:
    """Give plates that were declared without a size the size of their sites."""
    if not sizes:
        yield
        return
    before = SubsampleMessenger.__dict__["_subsample"]

    def sized(name: str, size: int | None = None, *rest: Any) -> Any:
        return before.__func__(name, sizes.get(name) if size is None else size, *rest)

    SubsampleMessenger._subsample = staticmethod(sized)
    try:
        yield
    finally:
        SubsampleMessenger._subsample = before


@contextmanager
def plain_sites() -> Iterator[None]:
    """Run a program without its reparameterizations: the author's sites, the same posterior."""
    before = ReparamMessenger._pyro_sample
    ReparamMessenger._pyro_sample = lambda self, msg: None
    try:
        yield
    finally:
        ReparamMessenger._pyro_sample = before
