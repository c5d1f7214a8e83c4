"""nutpie without Python in its loop: the compiled gradient, passed through nutpie's C ABI.

It is the interface that nutpie uses for PyMC models. nutpie calls `int64 f(dim, x, gradient,
value, data)`; zero means a finite value with a finite gradient, a positive number a point to
reject. Sampler, settings and random numbers are those of the Python callback, so the draws are
equal as long as both evaluate the density to the same numbers (a test compares them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.compiler.c_abi import NativeGraph

__all__ = ["native_model"]


def native_model(graph: NativeGraph, start: NDArray[np.float64]) -> Any:
    """Return a nutpie model of one variable `u` whose density is a C function.

    The chain starts at `start`, `[dim]`.

    Raises:
        ImportError: this version of nutpie has no such models.
    """
    try:
        from nutpie._lib import ExpandFunc, LogpFunc, PyMcModel, PySampler, PyVariable  # type: ignore[import-not-found, unused-ignore]
        from nutpie.sample import CompiledModel
    except ImportError as error:
        raise ImportError("this nutpie takes no C functions") from error

    class NativeModel(CompiledModel):  # type: ignore[misc, unused-ignore]
        """A nutpie model evaluated without Python."""

        n_dim: Any = graph.dim
        shapes: Any = {"u": (graph.dim,)}  # noqa: RUF012
        coords: Any = {}  # noqa: RUF012

        def _make_model(self, init_mean: Any) -> Any:
            value = LogpFunc(graph.gradient, graph.data, graph)
            copy = ExpandFunc(graph.dim, graph.dim, graph.copy, graph.data, graph)
            sizes: dict[str, int] = {}  # nutpie fills it
            variables = PyVariable.new_variables(["u"], ["float64"], [(graph.dim,)], sizes, {})
            first: Callable[[int], NDArray[np.float64]] = lambda seed: start  # noqa: E731
            return PyMcModel(value, copy, variables, graph.dim, sizes, {}, first, None)

        def _make_sampler(
            self, settings: Any, init_mean: Any, cores: int, progress_type: Any, store: Any
        ) -> Any:
            return PySampler.from_pymc(
                settings, cores, self._make_model(init_mean), progress_type, store
            )

    return NativeModel(dims=None)
