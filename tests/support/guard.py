"""Compiled graphs on memory next to an unreadable page: one byte beyond raises a signal."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.compiler import standalone
from zoo.compiler.compile import Function

__all__ = ["guarded", "outside_reads", "survives"]

SIDES = ("end", "begin")
WRONG = 7  # exit code of a child whose results differ from the unguarded call
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(tensor: Tensor, side: str) -> Tensor:
    """Copy a tensor, with its strides, into memory directly before or after an unreadable page."""
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    if not tensor.numel():
        return tensor
    size, page = span * tensor.element_size(), mmap.PAGESIZE
    inside = -(-size // page) * page
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = _LIBC.mmap(None, inside + 2 * page, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    assert start not in (None, ctypes.c_void_p(-1).value), "no memory"
    for wall in (start, start + page + inside):
        assert _LIBC.mprotect(wall, page, 0) == 0
    place = start + page + (inside - size if side == "end" else 0)
    memory = (ctypes.c_char * size).from_address(place)
    out = torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())
    return out.copy_(tensor)


def survives(work: Callable[[], bool]) -> str:
    """Run `work` in a forked child; return nothing if it returned true, else what happened."""
    child = os.fork()
    if child == 0:
        code = WRONG
        faulthandler.disable()  # the parent reports it
        try:
            code = 0 if work() else WRONG
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "" if os.WEXITSTATUS(status) == 0 else "other numbers, or an exception"


def outside_reads(function: Function, inputs: Sequence[Tensor] | None = None) -> dict[str, str]:
    """Return, per faulty side, what happens with all memory of a graph at a guard page.

    That is every input, constant and output.

    Args:
        function: a compiled function.
        inputs: its inputs, by default the tensors it was traced at.
    """
    assert function.run is not None, function.record
    assert function.traced is not None
    given = list(function.examples if inputs is None else inputs)
    truth = function(*given)
    found = {
        side: survives(lambda side=side: _same(function, given, truth, side)) for side in SIDES
    }
    return {side: what for side, what in found.items() if what}


def _same(
    function: Function, inputs: Sequence[Tensor], truth: Sequence[Tensor], side: str
) -> bool:
    walled = [guarded(x, side) for x in (*inputs, *function.traced.constants)]
    if function.package is None:  # plain C, called through its own closure
        out = function.run(walled[: len(inputs)])
    elif function.package.suffix == ".so":
        out = [
            guarded(torch.zeros_like(t, memory_format=torch.contiguous_format), side)
            for t in truth
        ]
        given = (ctypes.c_void_p * len(walled))(*[x.data_ptr() for x in walled])
        places = (ctypes.c_void_p * len(out))(*[x.data_ptr() for x in out])
        if standalone.library(str(function.package)).zoo_call(None, given, places):
            return False
    else:
        loader = torch._C._aoti.AOTIModelPackageLoader(
            str(function.package), "model", False, 1, -1
        )
        out = loader.run(walled)
    return all(_close(a, b) for a, b in zip(out, truth, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding: a product of matrices depends on their places within a cache line."""
    if not a.is_floating_point():
        return torch.equal(a, b)
    scale = b.nan_to_num().abs().max() if b.numel() else 0.0
    return torch.allclose(a, b, rtol=1e-9, atol=1e-12 * float(scale), equal_nan=True)
