"""Tensor functions as compiled graphs, checked against the eager functions they replace.

`compile_function` traces a function of tensors (including gradients taken inside it), compiles the
graph ahead of time with Inductor into a file on disk, and calls it without autograd, effect
handlers or per-operation Python overhead. Before use, every graph is compared with the eager
function at points other than the traced one. If any step fails, the eager function runs instead,
and the record says why.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from zoo.compiler import c_abi as native
from zoo.compiler import cache, scalar_code, scalar_forms, standalone, torch_private
from zoo.compiler.c_abi import NativeGraph
from zoo.compiler.policy import (
    BACKEND_VARIABLE,
    COLD_SECONDS,
    LONG_SECONDS_PER_OPERATION,
    Mode,
    backend,
    check_mode,
    compiler_missing,
    is_recursion,
    pays,
    work_of,
)
from zoo.compiler.scalar_places import NotScalar
from zoo.compiler.torch_private import bounded_loads, fast_tracing
from zoo.compiler.trace import Traced, TraceFailure, default_of, trace
from zoo.compiler.vectorize import Compiled, batched, close
from zoo.errors import UsageError, one_line

__all__ = [
    "Compiled",
    "Function",
    "Mode",
    "Record",
    "announce",
    "batched",
    "compile_function",
    "load_compiler",
]

OPTIONS: dict[str, Any] = {
    "fallback_random": True,
    "compile_threads": 1,
    "cpp.threads": 1,
    **native.INTERFACE,
}
LONGEST = 20_000  # nodes for Inductor; beyond it compilation takes minutes
_log = logging.getLogger("zoo")


class Record(TypedDict):
    """Whether a compiled graph is used and why, the seconds spent, and whether it was cached."""

    used: bool
    reason: str
    compile_seconds: float
    cached: bool


@dataclass(kw_only=True)
class Function:
    """A tensor function with its compiled form, if there is one.

    A call checks dtype, shape and stride of every input (on others a graph silently computes
    garbage) and returns a list of tensors without autograd history.
    """

    eager: Callable[..., Sequence[Tensor]]
    examples: tuple[Tensor, ...]
    record: Record
    traced: Traced | None = None
    run: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    package: Path | None = None

    @property
    def scalar(self) -> bool:
        """Whether plain C runs, which is called point by point."""
        return self.run is not None and self.package is None and self.traced is not None

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the compiled graph, or the eager function if there is none."""
        self.refuse(inputs)
        if self.run is None or self.traced is None:
            return list(self.eager(*inputs))
        try:
            return self.run(inputs)
        except RuntimeError as error:
            self.fall_back(f"the compiled graph failed at run time: {one_line(error)}")
            return list(self.eager(*inputs))

    def fall_back(self, reason: str) -> None:
        """Run eagerly from now on, and announce it once."""
        self.run = None
        self.record = _off(reason, self.record["compile_seconds"], notice=True)

    def native(self, checks: Sequence[Sequence[Tensor]]) -> NativeGraph | None:
        """Return the graph exposed through a C ABI, if it reproduces this function at `checks`.

        Returns:
            None if the graph cannot be called this way, or if its results differ.
        """
        if self.run is None or self.traced is None or self.package is None:
            return None
        try:
            graph = native.load(
                self.package, self.examples, self.traced.constants, self(*checks[0])
            )
            same = all(
                close(a, b)
                for inputs in checks
                for a, b in zip(graph(*inputs), self(*inputs), strict=True)
            )
        except OSError as error:
            _log.info("The graph is not called through the C ABI: %s.", error)
            return None
        return graph if same else None

    def refuse(self, inputs: Sequence[Tensor]) -> None:
        """Reject inputs that differ from the traced ones in dtype, shape, stride or device.

        Raises:
            UsageError: some input differs; nothing is converted silently.
        """
        if len(inputs) != len(self.examples):
            raise UsageError(f"Got {len(inputs)} tensors; accepted: {len(self.examples)}.")
        for x, e in zip(inputs, self.examples, strict=True):
            if (
                x.dtype != e.dtype
                or x.shape != e.shape
                or x.stride() != e.stride()
                or x.device != e.device
            ):
                raise UsageError(
                    f"Got {_describe(x)}; accepted: {_describe(e)}. Convert it with"
                    " .to(...).contiguous()."
                )


def compile_function(
    function: Callable[..., Sequence[Tensor]],
    examples: Sequence[Tensor],
    checks: Sequence[Sequence[Tensor]],
    *,
    mode: Mode = "auto",
    expected_calls: int = 10_000,
    traced: Traced | Callable[[], Traced] | None = None,
    one_point: bool = False,
) -> Function:
    """Compile `function` if that works and pays, else return it as an eager function.

    Args:
        function: tensors -> sequence of tensors; deterministic (randomness is an input), with any
            gradients taken inside.
        examples: inputs at which the graph is traced.
        checks: inputs other than the traced ones at which the graph must equal `function`; three
            are customary.
        mode: `auto` compiles if the estimated eager time of four runs (from the number of
            operations per call) exceeds the estimated cost of compiling; `on` compiles whenever it
            works, `off` never.
        expected_calls: the expected number of calls, for that estimate.
        traced: an existing graph of `function`, or a callable that makes it.
        one_point: `function` takes one point, so that many operations are a recursion.

    Raises:
        UsageError: an unknown mode, or no checks.
    """
    check_mode(mode)
    if not checks:
        raise UsageError(
            "A compiled function needs check inputs; give at least one besides the traced one."
        )
    fixed = tuple(x.detach().clone(memory_format=torch.contiguous_format) for x in examples)
    out = Function(eager=function, examples=fixed, record=_off("switched off"))
    if mode == "off":
        return out
    if backend() == "eager":
        out.record = _off(f"{BACKEND_VARIABLE}=eager")
        return out
    work = work_of(function, checks[0]) if mode == "auto" else None
    if work is not None and not pays(work, expected_calls, one_point=one_point):
        seconds = work.seconds * expected_calls
        out.record = _off(
            f"eager is enough: {expected_calls} calls of {work.operations} operations, about"
            f" {seconds:.1f} s"
        )
        return out
    if work is not None and one_point and is_recursion(work):
        _log.warning(
            "Compiling a function of %s operations, about %.0f s once; a recursion written as one"
            " tensor operation (a triangular solve, a cumulative sum, dist.DiscreteHMM) takes a"
            " fraction of it.",
            f"{work.operations:,}",
            COLD_SECONDS + LONG_SECONDS_PER_OPERATION * work.operations,
        )
    started = time.perf_counter()
    make = (
        traced
        if callable(traced) and not isinstance(traced, Traced)
        else (lambda: traced or trace(function, fixed))
    )
    try:
        out.traced, out.run, out.package, found = _build(function, make, checks)
    except _Refused as refusal:
        out.record = _off(str(refusal), time.perf_counter() - started, notice=True)
    except TraceFailure as error:
        out.record = _off(f"cannot be traced: {error}", time.perf_counter() - started, notice=True)
    except Exception as error:  # a compiler can fail in any way; eager always works
        out.record = _off(
            f"cannot be compiled: {type(error).__name__}: {one_line(error)}",
            time.perf_counter() - started,
            notice=True,
        )
    else:
        out.record = Record(
            used=True,
            reason="compiled",
            compile_seconds=time.perf_counter() - started,
            cached=found,
        )
    return out


def load_compiler() -> None:
    """Import and warm up the compiler (four seconds), so that forked processes inherit it."""
    graph = trace(lambda x: [x.exp().sum()], [torch.ones(2, dtype=torch.float64)])
    with (
        _quiet(),
        fast_tracing(),
        torch.no_grad(),
        default_of(graph.examples),
        tempfile.TemporaryDirectory(prefix="zoo-sources-") as folder,
    ):
        try:
            torch_private.sources(
                graph.graph,
                graph.examples,
                1,
                {**OPTIONS, **standalone.SOURCES, "aot_inductor.output_path": folder},
            )
        except Exception as error:  # the actual compilation records this failure and falls back
            _log.info("The compiler could not be loaded in advance: %s", str(error)[:300])


class _Refused(Exception):
    """The graph must not be used; the message says why."""


def _build(
    function: Callable[..., Sequence[Tensor]],
    make: Callable[[], Traced],
    checks: Sequence[Sequence[Tensor]],
) -> tuple[Traced, Callable[[Sequence[Tensor]], list[Tensor]], Path | None, bool]:
    """Trace, compile (or find in the cache) and load a graph, with checks before and after.

    Returns:
        The graph, the compiled callable, its file, and whether the file was cached.
    """
    graph = make()
    _check(function, lambda inputs: graph(*inputs), checks)
    if graph.nodes >= scalar_code.LEAST_NODES and backend() != "aoti":
        try:
            return graph, *_as_scalars(function, graph, checks)
        except NotScalar as reason:
            _log.info("A graph is not written as plain C: %s", reason)
    if graph.nodes > LONGEST:
        raise _Refused(
            f"{graph.nodes} operations, above {LONGEST}, and not all on small tensors; write the"
            " recursion as one tensor operation"
        )
    key = cache.graph_key(graph, {**OPTIONS, "backend": backend()})
    package = cache.find(key, ".so") or cache.find(key)
    found = package is not None
    if package is None:
        missing = compiler_missing()
        if missing:
            raise _Refused(missing)
        package = _compile(graph, key)
    run = _load(package, graph)
    _check(function, run, checks)
    return graph, run, package, found


def _as_scalars(
    function: Callable[..., Sequence[Tensor]], graph: Traced, checks: Sequence[Sequence[Tensor]]
) -> tuple[Callable[[Sequence[Tensor]], list[Tensor]], Path | None, bool]:
    """Return the graph as plain C, without a file for callers of other interfaces.

    Raises:
        NotScalar: an operation that is not written so.
    """
    try:
        code = scalar_code.ScalarCode(graph)
    except NotScalar:
        raise
    except Exception as error:  # a fault here costs speed, not the compilation
        raise NotScalar(f"{type(error).__name__}: {error}") from error
    key = cache.code_key(code.source)
    package = cache.find(key, ".so")
    found = package is not None
    if package is None:
        missing = compiler_missing()
        if missing:
            raise _Refused(missing)
        package = cache.store(
            key, lambda path: scalar_forms.build_library(code.source, path), ".so"
        )
    run = code.load(package)
    _check(function, run, checks)
    return run, None, found


def _off(reason: str, seconds: float = 0.0, *, notice: bool = False) -> Record:
    if notice:
        announce(reason)
    return Record(used=False, reason=reason, compile_seconds=seconds, cached=False)


_said: set[str] = set()


def announce(reason: str) -> None:
    """Log, once per process and reason, that the eager function runs."""
    if reason not in _said:
        _said.add(reason)
        _log.warning("Running uncompiled (slower, same results): %s.", reason)


def _describe(x: Tensor) -> str:
    return f"a tensor of {x.dtype}, shape {tuple(x.shape)}, stride {x.stride()} on {x.device}"


def _compile(graph: Traced, key: str) -> Path:
    """Compile a graph into the cache.

    The result is a standalone library where that is supported (seconds), else a package for
    torch's loader.
    """
    inputs = (*graph.examples, *graph.constants)
    needed = torch_private.needs_loader(graph.graph)
    plain = {k: v for k, v in OPTIONS.items() if k not in native.INTERFACE}
    with _quiet(), fast_tracing(), torch.no_grad(), default_of(graph.examples), bounded_loads():
        if backend() == "aoti":
            return cache.store(
                key, lambda path: torch_private.write_package(graph.graph, inputs, path, plain)
            )
        try:
            if any(t.device.type != "cpu" for t in inputs):
                raise standalone.Unsupported("its tensors are on another device")
            if needed and not standalone.takes(needed):  # known before Inductor generates any code
                raise standalone.Unsupported(needed)
            return cache.store(key, lambda path: _alone(graph, path), ".so")
        except Exception as error:  # whatever failed, torch's loader may still work
            _log.info("A graph is compiled for torch's loader: %s", str(error)[:300])
        for options in (plain,) if needed else (OPTIONS, plain):
            try:
                write = partial(torch_private.write_package, graph.graph, inputs, options=options)
                return cache.store(key, write)
            except Exception as error:  # the ArrayRef interface lacks some operations
                failure = error
                reasons = [line for line in str(error).splitlines() if "error:" in line] or [
                    type(error).__name__
                ]
                _log.info(
                    "A graph is compiled without ArrayRef interface: %s", reasons[0].strip()[:300]
                )
        raise failure


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the logs and warnings of the compiler."""
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _alone(graph: Traced, path: str) -> str:
    """Build the standalone library of a graph at `path`, and run it once."""
    inputs = (*graph.examples, *graph.constants)
    with tempfile.TemporaryDirectory(prefix="zoo-sources-") as folder:
        options = {**OPTIONS, **standalone.SOURCES, "aot_inductor.output_path": folder}
        files = torch_private.sources(graph.graph, inputs, len(graph.outputs), options)
        standalone.build(files, path, inputs, len(graph.outputs))
    standalone.load(Path(path), graph.constants, graph.outputs)(graph.examples)
    return path


def _load(package: Path, graph: Traced) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Load a compiled graph: a library by its C function, a package by torch's loader."""
    if package.suffix == ".so":
        return standalone.load(package, graph.constants, graph.outputs)
    run = torch_private.load_package(package)
    return lambda inputs: run([*inputs, *graph.constants])


def _check(
    function: Callable[..., Sequence[Tensor]],
    graph: Callable[[Sequence[Tensor]], list[Tensor]],
    checks: Sequence[Sequence[Tensor]],
) -> None:
    verified = False
    for inputs in checks:
        truth, got = list(function(*inputs)), graph(list(inputs))
        verified |= all(bool(t.isfinite().all()) for t in truth)
        scale = max(
            (
                float(t[t.isfinite()].abs().max())
                for t in truth
                if t.numel() and t.isfinite().any()
            ),
            default=0.0,
        )
        for index, (a, b) in enumerate(zip(got, truth, strict=True)):
            if not close(a, b, scale):
                raise _Refused(
                    f"self-check failed: output {index} differs from the eager function at a point"
                    " other than the traced one"
                )
    if not verified:
        raise _Refused(
            "self-check impossible: the eager function is not finite at any of the check points"
        )
