"""A log density as compiled graphs: gradient at one point, values and gradients of batches.

    graph(u, constants) -> (log p(T(u), data) + log |det dT/du|, its gradient)      [nats]

One trace of the program serves all three graphs. Those of batches are the `vmap` of the graph of
one point, with a fixed number of points per call; the last call is padded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from zoo.compiler.c_abi import NativeGraph
from zoo.compiler.compile import Function, Mode, Record, compile_function
from zoo.compiler.policy import Work, work_of
from zoo.compiler.trace import Traced, TraceFailure, default_of, trace, vectorize, without_detach
from zoo.compiler.vectorize import MOST, Compiled, close, value_and_gradient

__all__ = ["CompiledDensity", "EagerDensity", "compile_density", "points_at_once"]

CHUNK = 64  # points per call of a batched graph
HESSIAN_DIM = 24  # below it the eager Hessian is as fast as that of the graph
# `auto` compiles a batched graph after eager batches of this estimated time (ski rental: never
# far above the better of the two)
RENT_SECONDS = 3.0
# rows times points of one eager batch: with 100,000 rows and 20 columns 4 points at a time take
# half the time of 256, whose intermediate results the system has to find memory for
ROWS_AT_ONCE = 400_000
# a small program takes all points of a few chains at once: a call takes milliseconds for any
# number of them (4,096 points of the schools in 8 ms, 44 ms by 512)
SMALL_NUMBERS, MOST_OF_SMALL = 65_536, 4096
NumpyGradient = Callable[[np.ndarray[Any, Any]], tuple[float, np.ndarray[Any, Any]]]


def points_at_once(tensors: Mapping[str, Any], dim: int) -> int:
    """Return how many points an eager batch evaluates at once.

    Args:
        tensors: the data; their rows limit the number, and their entries that of small programs.
        dim: numbers of one point.
    """
    data = [v for v in tensors.values() if isinstance(v, Tensor) and v.ndim]
    rows = max((len(v) for v in data), default=1)
    numbers = max(sum(v.numel() for v in data), dim)
    small = min(MOST_OF_SMALL, SMALL_NUMBERS // max(numbers, 1))
    return max(1, min(MOST, ROWS_AT_ONCE // max(rows, 1)), small)


class EagerDensity(Protocol):
    """What the compiled forms need: the eager forms of a log density and its gradient counter."""

    dim: int
    dtype: torch.dtype
    gradient_evaluations: int

    def evaluate(self, u: Tensor) -> Tensor:
        """Return the log density at one point `[dim]`, uncounted."""

    def eager_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density at `[dim]` and its gradient `[dim]`, uncounted."""

    def eager_batch(self) -> Compiled:
        """Return the eager function of points `[n, dim]`."""

    def eager_hessian(self, u: Tensor) -> Tensor:
        """Return the Hessian `[dim, dim]` at `[dim]`, uncounted."""


def compile_density(
    density: EagerDensity,
    mode: Mode = "auto",
    *,
    expected_calls: int = 50_000,
    expected_points: int = 0,
) -> CompiledDensity:
    """Compile the gradient of a log density; batched graphs are compiled once they pay.

    They are compiled before the first call if `expected_points` gradients at many points at once
    are forecast to take longer than a compilation.
    """
    return CompiledDensity(density, mode, expected_calls, expected_points)


class CompiledDensity:
    """Compiled forms of one log density, each with an eager fallback; counts no evaluations."""

    def __init__(
        self, density: EagerDensity, mode: Mode, expected_calls: int, expected_points: int = 0
    ) -> None:
        self.density = density
        self.mode: Mode = mode
        self.expected_calls = expected_calls
        self.expected_points = expected_points
        self._graph: Traced | None = None
        self._forms: dict[str, Function] = {}
        self._columns: Callable[[Tensor], Tensor] | None = None
        self._spent = {"batch": 0.0, "batch_gradient": 0.0}
        self._work: Work | None = None
        self._compile_gradient(mode)

    @property
    def record(self) -> Record:
        """Whether the gradient runs compiled and why, and the seconds spent on all forms."""
        first = self._forms["gradient"].record
        return Record(
            used=first["used"],
            reason=first["reason"],
            cached=first["cached"],
            compile_seconds=sum(f.record["compile_seconds"] for f in self._forms.values()),
        )

    def value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density at `[dim]` and its gradient `[dim]`."""
        self._renew()
        value, gradient = self._forms["gradient"](u)
        return value, gradient

    @property
    def by_points(self) -> bool:
        """Whether many points are a loop over the compiled gradient: a long recursion in C."""
        self._renew()
        return self._forms["gradient"].scalar

    def batch(self, u: Tensor) -> Tensor:
        """Return the log density at the rows of `[n, dim]` as `[n]`, without autograd history."""
        return self._run("batch", u, lambda: [self.density.eager_batch()(u.detach()).detach()])[0]

    def batch_value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density `[n]` and its gradients `[n, dim]` at the rows of `[n, dim]`."""
        value, gradient = self._run(
            "batch_gradient", u, lambda: list(value_and_gradient(self.density.eager_batch(), u))
        )
        return value, gradient

    def differentiable_batch(self, u: Tensor) -> Tensor:
        """Return the log density `[n]` at the rows of `[n, dim]`, differentiable once in `u`."""
        if not (u.requires_grad and torch.is_grad_enabled()):
            return self.batch(u)
        if self.by_points or self._form("batch_gradient") is not None:
            value: Tensor = _BatchValue.apply(u, self)
            return value
        value = self.density.eager_batch()(u)
        self._rent("batch_gradient", u.shape[0])
        return value

    def hessian(self, u: Tensor) -> Tensor:
        """Return the Hessian `[dim, dim]` of the log density at `[dim]`.

        All columns come from one pass of the graph if it passed its check, else from the eager
        Hessian.
        """
        self._renew()
        used = self._forms["gradient"].record["used"]
        if self._columns is None and used and self.density.dim >= HESSIAN_DIM:
            self._columns = self._differentiate_twice()
        return (
            self._columns(u.detach()) if self._columns and used else self.density.eager_hessian(u)
        )

    def numpy_gradient(self) -> NumpyGradient:
        """Return `u[dim] -> (value, gradient[dim])` on float arrays, with minimal overhead.

        Each returned function owns its buffer and is not thread-safe; its calls count as gradient
        evaluations of the density.

        Raises:
            ValueError: on a call, an array of another shape (it would broadcast silently).
        """
        self._renew()
        form, density = self._forms["gradient"], self.density
        point = torch.zeros(density.dim, dtype=density.dtype)
        view, shape = point.numpy(), (density.dim,)
        if form.run is None or form.traced is None:

            def eager(u: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
                if u.shape != shape:
                    raise ValueError(f"Expected an array of shape {shape}, got {u.shape}.")
                view[:] = u
                density.gradient_evaluations += 1
                value, gradient = density.eager_gradient(point)
                return value.item(), gradient.numpy()

            return eager
        graph = self.native_gradient()
        if graph is not None:
            return _native(graph, density)
        run, arguments = form.run, [point]

        def compiled(u: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
            if u.shape != shape:
                raise ValueError(f"Expected an array of shape {shape}, got {u.shape}.")
            view[:] = u
            density.gradient_evaluations += 1
            value, gradient = run(arguments)
            return value.item(), gradient.numpy()

        return compiled

    def native_gradient(self) -> NativeGraph | None:
        """Return the gradient exposed through a C ABI after the usual self-check, or None."""
        self._renew()
        return self._forms["gradient"].native([[p] for p in self._points(4)[1:]])

    # -- the forms -----------------------------------------------------------------------------

    def _compile_gradient(self, mode: Mode) -> None:
        self._forms["gradient"] = compile_function(
            self._eager,
            [self._points(1)[0]],
            [[p] for p in self._points(4)[1:]],
            mode=mode,
            expected_calls=self.expected_calls,
            traced=self.graph,
            one_point=True,
        )

    def graph(self) -> Traced:
        """Return the traced, uncompiled graph `u -> (value, gradient)`, made once.

        Raises:
            TraceFailure: the program cannot be traced into one graph.
        """
        if self._graph is None:
            self._graph = trace(self._eager, [self._points(1)[0]])
        return self._graph

    def _differentiate_twice(self) -> Callable[[Tensor], Tensor] | None:
        """Return the Hessian of the forward graph, or None if it fails its check.

        It is checked against eager Hessian-vector products.
        """
        evaluate = self.density.evaluate
        try:
            forward = trace(lambda u: [evaluate(u)], [self._points(1)[0]])
            graph = without_detach(forward)
            twice: Callable[[Tensor], Tensor] = torch.func.jacrev(
                torch.func.jacrev(lambda u: graph(u, *forward.constants)[0])
            )

            def columns(u: Tensor) -> Tensor:
                with default_of([u]):
                    return twice(u)

            for point, direction in zip(self._points(4)[1:], self._points(7)[4:], strict=True):
                truth = torch.autograd.functional.hvp(evaluate, point, direction)[1]
                got = columns(point)
                if not close(got @ direction, truth, float(got.abs().max())):
                    return None
        except (TraceFailure, RuntimeError, NotImplementedError):
            return None
        return columns

    def _eager(self, u: Tensor) -> list[Tensor]:
        return list(self.density.eager_gradient(u))

    def _points(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(7919)
        return 0.4 * torch.randn(
            number, self.density.dim, dtype=self.density.dtype, generator=generator
        )

    def _form(self, name: str) -> Function | None:
        """Return a compiled batched form, or None while the eager one runs."""
        self._renew()
        ready = self.mode == "on" or (self.mode == "auto" and self._pays(name))
        if name not in self._forms and ready:
            outputs = (0,) if name == "batch" else (0, 1)

            def eager(u: Tensor) -> list[Tensor]:
                return list(value_and_gradient(self.density.eager_batch(), u))[: len(outputs)]

            points = [
                [0.4 * torch.randn(CHUNK, self.density.dim, dtype=self.density.dtype, generator=g)]
                for g in map(_generator, range(4))
            ]
            self._forms[name] = compile_function(
                eager,
                points[0],
                points[1:],
                mode="on",
                traced=lambda: self._map(eager, points[0], outputs),
            )
        form = self._forms.get(name)
        return form if form is not None and form.run is not None else None

    def _pays(self, name: str) -> bool:
        """Whether a compiled batch is worth its compilation, by what was spent or is forecast."""
        if self._spent[name] > RENT_SECONDS:
            return True
        if not self.expected_points or name == "batch":
            return False
        calls = -(-self.expected_points // MOST)
        return self._eager_seconds(name, self.expected_points, calls) > RENT_SECONDS

    def _rent(self, name: str, rows: int) -> None:
        """Add the estimated time of an eager batch."""
        if self.mode == "auto":
            self._spent[name] += self._eager_seconds(name, rows, 1)

    def _eager_seconds(self, name: str, rows: int, calls: int) -> float:
        """Return the estimated time of some eager calls with this many rows together.

        The estimate depends on sizes, never on a clock, so that a run is the same everywhere.
        """
        if self._work is None:
            self._work = work_of(self._eager, [self._points(1)[0]])
        calls = calls if self.density.eager_batch().vectorized else rows
        share = 0.5 if name == "batch" else 1.0  # the gradient takes about half of the time
        return share * Work(self._work.operations * calls, self._work.numbers * rows).seconds

    def _map(
        self, eager: Callable[..., list[Tensor]], points: Sequence[Tensor], outputs: Sequence[int]
    ) -> Traced:
        try:
            return vectorize(self.graph(), CHUNK, outputs)
        except TraceFailure:
            if not self.density.eager_batch().vectorized:
                raise
            return trace(eager, points)

    def _run(self, name: str, u: Tensor, eager: Callable[[], list[Tensor]]) -> list[Tensor]:
        if self.by_points and u.ndim == 2 and u.shape[0]:
            run = self._forms["gradient"]
            found = [run(row) for row in u.detach().contiguous()]
            columns = [torch.stack(column) for column in zip(*found, strict=True)]
            return columns[:1] if name == "batch" else columns
        form = self._form(name)
        if form is None or not u.shape[0] or u.ndim != 2:
            values = eager()
            self._rent(name, u.shape[0] if u.ndim == 2 else 1)
            return values
        u = u.detach().contiguous()
        rest = -u.shape[0] % CHUNK
        padded = torch.cat([u, u[:1].expand(rest, -1)]) if rest else u
        parts = [form(chunk) for chunk in padded.split(CHUNK)]
        return [torch.cat(column)[: u.shape[0]] for column in zip(*parts, strict=True)]

    def _renew(self) -> None:
        """Trace again after a weight of the program has changed: its old value was folded in."""
        if self._graph is not None and self._graph.stale:
            self._graph = self._columns = None
            used = self._forms["gradient"].record["used"]
            self._forms.clear()
            self._compile_gradient("on" if used else "off")


def _native(graph: NativeGraph, density: EagerDensity) -> NumpyGradient:
    """Return the gradient of arrays through the C ABI: copy in, call, copy out."""
    point, slope, value, dim = (
        np.zeros(graph.dim),
        np.zeros(graph.dim),
        ctypes.c_double(),
        graph.dim,
    )
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)(
        graph.gradient
    )
    addresses = (point.ctypes.data, slope.ctypes.data, ctypes.addressof(value), graph.data)

    def compiled(u: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        if u.shape != (dim,):
            raise ValueError(f"Expected an array of shape {(dim,)}, got {u.shape}.")
        point[:] = u
        density.gradient_evaluations += 1
        function(dim, *addresses)
        if value.value != value.value and graph.failed:  # referencing `graph` keeps it alive
            raise RuntimeError("the compiled graph failed at run time")
        return value.value, slope.copy()

    return compiled


class _BatchValue(torch.autograd.Function):
    """Values whose gradients come from the same compiled call."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, compiled: CompiledDensity) -> Tensor:
        """Return the log density of each row."""
        value, gradient = compiled.batch_value_and_gradient(u)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Apply the chain rule to each row."""
        (gradient,) = ctx.saved_tensors
        return grad[:, None] * gradient, None


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(104_729 + seed)
