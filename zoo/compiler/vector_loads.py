"""Inductor's masked vector loads, kept inside the arrays they read.

Inductor turns `cat`, `pad` and slices into loads under a mask: lane i reads `x[i - shift]` where the mask holds. Two of
the loads it writes (torch 2.11 to 2.13) look at memory that belongs to somebody else:

* in the last, shorter vector of a loop the mask says nothing of the lanes beyond the end, so they are read as well, up to
  fifteen numbers past the array;
* arrays of booleans are read whole, whatever the mask, also in front of their first element.

What is read there is never used, and torch's own tensors have room behind them. A sampler's point has none: where it
ends at a page, the process ends with signal 11. `bounded_loads` corrects the generated code at its source.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["VERSION", "bounded_loads"]

VERSION = 1  # of the code written here; part of the key of every compiled graph
_PARAMETERS = ("self", "var", "index", "dtype", "load_mask")
_BOOLEANS = """[&]
{{
    __at_align__ std::array<bool, {lanes}> zoo_lanes{{}};
    for (int64_t zoo_lane = 0; zoo_lane < {count}; zoo_lane++)
        if ({held}) zoo_lanes[zoo_lane] = ({pointer})[zoo_lane];
    return {load};
}}
()"""
_log = logging.getLogger("zoo")


@contextmanager
def bounded_loads() -> Iterator[None]:
    """Let Inductor write masked loads that read no byte outside their array.

    The method replaced is private to torch. Where it is not as expected, nothing is vectorized: scalar
    loops test the mask before each load.
    """
    from torch._inductor import config

    kernel_type: Any = _inductor().CppVecKernel
    original = getattr(kernel_type, "_get_vec_load_line", None)
    if original is None or tuple(inspect.signature(original).parameters) != _PARAMETERS:
        _log.info("This torch writes vector loads in another way; graphs are compiled without vector instructions.")
        with config.patch({"cpp.simdlen": 1}):
            yield
        return

    def line(kernel: Any, var: str, index: Any, dtype: torch.dtype, load_mask: Any = None) -> str:
        return _line(kernel, original, var, index, dtype, load_mask)

    kernel_type._get_vec_load_line = line
    try:
        yield
    finally:
        kernel_type._get_vec_load_line = original


def _inductor() -> Any:
    return importlib.import_module("torch._inductor.codegen.cpp")


def _line(kernel: Any, original: Callable[..., str], var: str, index: Any, dtype: torch.dtype, mask: Any) -> str:
    """Return the C++ of one vector load from `var + index`, of the lanes where `mask` holds."""
    cpp = _inductor()
    whole = kernel.num_elems == kernel.tiling_factor
    if mask is None or (whole and dtype != torch.bool):
        return original(kernel, var, index, dtype, mask)
    count: str = cpp.cexpr_index(kernel.num_elems)
    pointer = f"{var} + {cpp.cexpr_index(index)}" if index != 0 else var
    if dtype == torch.bool:
        held = f"{mask}.is_masked(zoo_lane)" if mask.is_vec else f"{mask}"
        load = original(kernel, "zoo_lanes.data()", 0, dtype)
        return _BOOLEANS.format(lanes=kernel.tiling_factor, count=count, held=held, pointer=pointer, load=load)
    kind, lanes = kernel._get_mask_type(torch.float), kernel._get_vec_type(torch.float)
    asked = kernel._get_mask_cast(mask, torch.float) if mask.is_vec else f"{kind}::from({mask})"
    within = f"{kind}({lanes}::arange(0, 1) < {lanes}(static_cast<float>({count})))"
    return f"({asked} & {within}).template loadu<{cpp.DTYPE_TO_CPP[dtype]},{kernel._get_num_vectors(dtype)}>({pointer})"
