"""Tensor functions that run as one compiled graph, with the eager function kept as the truth they are checked against.

`compile_function` traces a function of tensors (gradients inside it included), compiles the graph
ahead of time with Inductor into a package on disk, and calls it without autograd, handlers or
Python per operation. Every graph is compared with the eager function at points other than the
traced one before it is used; where anything fails, the eager function runs instead and the record
says why. `compile_density` does this for a log density: gradient, batch, batch with gradient.
"""

from __future__ import annotations

import logging
import os
import shutil
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
from zoo.compiler import cache, standalone, torch_private
from zoo.compiler.c_abi import NativeGraph
from zoo.compiler.policy import BACKEND_VARIABLE, Mode, backend, check_mode, pays, work_of
from zoo.compiler.torch_private import bounded_loads, fast_tracing
from zoo.compiler.trace import Traced, TraceFailure, default_of, trace
from zoo.compiler.vectorize import Compiled, batched, close
from zoo.errors import UsageError

__all__ = [
    "Compiled",
    "Function",
    "Mode",
    "Record",
    "announce",
    "batched",
    "compile_function",
    "compiler_missing",
    "load_compiler",
]

OPTIONS: dict[str, Any] = {
    "fallback_random": True,
    "compile_threads": 1,
    "cpp.threads": 1,
    **native.INTERFACE,
}
_log = logging.getLogger("zoo")


class Record(TypedDict):
    """Whether a compiled graph runs, why or why not, the seconds spent on it, and whether the disk cache had it."""

    used: bool
    reason: str
    compile_seconds: float
    cached: bool


@dataclass(kw_only=True)
class Function:
    """A tensor function with its compiled form where there is one.

    Calling it checks dtype, shape and stride of every input (graphs compute garbage from others,
    silently) and returns a list of tensors without autograd history.
    """

    eager: Callable[..., Sequence[Tensor]]
    examples: tuple[Tensor, ...]
    record: Record
    traced: Traced | None = None
    run: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    package: Path | None = None

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the compiled graph, else the eager function."""
        self.refuse(inputs)
        if self.run is None or self.traced is None:
            return list(self.eager(*inputs))
        try:
            return self.run(inputs)
        except RuntimeError as error:
            self.fall_back(f"the compiled graph failed at run time: {error}")
            return list(self.eager(*inputs))

    def fall_back(self, reason: str) -> None:
        """Run eagerly from here on, and say so once."""
        self.run = None
        self.record = _off(reason, self.record["compile_seconds"], notice=True)

    def native(self, checks: Sequence[Sequence[Tensor]]) -> NativeGraph | None:
        """Return the graph exposed through a C ABI if it gives the loader's numbers at `checks`, None where it cannot be called so."""
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
            _log.info("Called through the loader, not natively: %s.", error)
            return None
        return graph if same else None

    def refuse(self, inputs: Sequence[Tensor]) -> None:
        """Raise where an input differs from the traced one in dtype, shape, stride or device.

        Raises:
            UsageError: always in that case; nothing is converted silently.
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
) -> Function:
    """Return `function` as a compiled graph where that works and pays, else as it is.

    Args:
        function: tensors -> sequence of tensors; deterministic (randomness is an input), gradients
            taken inside.
        examples: inputs the graph is traced at.
        checks: inputs, other than the traced ones, at which the graph must equal `function`; three
            is customary.
        mode: `auto` compiles where the eager time of four runs, estimated from the number of
            operations of one call, exceeds the cost of compiling, also estimated; `on` whenever it
            works, `off` never.
        expected_calls: how often it will be called, for the prediction.
        traced: a graph of `function` that exists already, or how to make it.

    Raises:
        UsageError: an unknown mode, or no check.
    """
    check_mode(mode)
    if not checks:
        raise UsageError(
            "A compiled function needs inputs to be checked at; give at least one besides the"
            " traced one."
        )
    fixed = tuple(x.detach().clone(memory_format=torch.contiguous_format) for x in examples)
    out = Function(eager=function, examples=fixed, record=_off("switched off"))
    if mode == "off":
        return out
    if backend() == "eager":
        out.record = _off(f"{BACKEND_VARIABLE}=eager")
        return out
    if mode == "auto":
        work = work_of(function, checks[0])
        if not pays(work, expected_calls):
            seconds = work.seconds * expected_calls
            out.record = _off(
                f"eager is enough: {expected_calls} calls of {work.operations} operations, about"
                f" {seconds:.1f} s"
            )
            return out
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
    except Exception as error:  # a compiler may fail in any way: fall back to eager
        lines = str(error).strip().splitlines() or [""]
        out.record = _off(
            f"cannot be compiled: {type(error).__name__}: {lines[0][:200]}",
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
    """Load what the first compilation of a process loads (four seconds), so that processes forked later have it."""
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
        except (
            Exception
        ) as error:  # where it is needed the same failure has a record and a fallback
            _log.info("The compiler was not loaded ahead: %s", str(error)[:300])


class _Refused(Exception):
    """Why the eager function runs."""


def _build(
    function: Callable[..., Sequence[Tensor]],
    make: Callable[[], Traced],
    checks: Sequence[Sequence[Tensor]],
) -> tuple[Traced, Callable[[Sequence[Tensor]], list[Tensor]], Path | None, bool]:
    """Return graph, compiled callable, its file and whether the disk had it; the graph is checked before and after compiling."""
    graph = make()
    _check(function, lambda inputs: graph(*inputs), checks)
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


def compiler_missing() -> str:
    """Return why nothing can be compiled here, an empty string where a C++ compiler is found."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "cl"]
    return (
        ""
        if any(shutil.which(n) for n in names)
        else f"no C++ compiler ({', '.join(names)}) on the PATH"
    )


def _off(reason: str, seconds: float = 0.0, *, notice: bool = False) -> Record:
    if notice:
        announce(reason)
    return Record(used=False, reason=reason, compile_seconds=seconds, cached=False)


_said: set[str] = set()


def announce(reason: str) -> None:
    """Say once per process and reason that the eager function runs."""
    if reason not in _said:
        _said.add(reason)
        _log.warning("Running uncompiled (slower, same results): %s.", reason)


def _describe(x: Tensor) -> str:
    return f"a tensor of {x.dtype}, shape {tuple(x.shape)}, stride {x.stride()} on {x.device}"


def _compile(graph: Traced, key: str) -> Path:
    """Write the compiled graph into the cache: as a standalone library where that works (seconds), else as a package for torch's loader."""
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
            if needed and not standalone.takes(needed):  # known before Inductor has written a line
                raise standalone.Unsupported(needed)
            return cache.store(key, lambda path: _alone(graph, path), ".so")
        except Exception as error:  # whatever is wrong with it, the longer way is open
            _log.info("A graph is compiled for torch's loader: %s", str(error)[:300])
        for options in (plain,) if needed else (OPTIONS, plain):
            try:
                write = partial(torch_private.write_package, graph.graph, inputs, options=options)
                return cache.store(key, write)
            except (
                Exception
            ) as error:  # the interface of arrays does not take every operation; the loader's does
                failure = error
                reasons = [line for line in str(error).splitlines() if "error:" in line] or [
                    type(error).__name__
                ]
                _log.info("A graph is compiled for the loader alone: %s", reasons[0].strip()[:300])
        raise failure


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the compiler logs and warns of."""
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
    """Write the library of a graph to `path`, and see it run."""
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
