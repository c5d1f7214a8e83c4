"""Compiled graphs exposed through a C ABI, for non-Python samplers and multi-step loops.

    int64 zoo_gradient(uint64 dim, const double *x, double *gradient, double *value, void *graph)
    int64 zoo_steps(void *graph, const steps_t *steps)

A standalone graph (`zoo.compiler.standalone`) is already a C function of pointers. A package for
torch's loader provides one that takes bare arrays (Inductor's "minimal ArrayRef interface"). No
tensor is created per call, so a small gradient takes 0.5 microseconds instead of four. A shim of
forty lines of C, compiled once per machine into the same cache, turns either into the two
functions above. Every graph is compared with its results from Python before it is used; where
anything does not fit, the graph is called from Python.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import subprocess
import tempfile
import weakref
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.compiler import cache, standalone

__all__ = ["INTERFACE", "NativeGraph", "load"]

INTERFACE = {
    "aot_inductor.allow_stack_allocation": True,
    "aot_inductor.use_minimal_arrayref_interface": True,
}
FAILED = -2  # the graph raised an exception

SOURCE = (Path(__file__).parent / "csrc" / "native.c").read_text(encoding="utf8")


class _Array(ctypes.Structure):
    """`array_t` in the C source."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("numel", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * 8),
        ("strides", ctypes.c_int64 * 8),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("number", ctypes.c_int32),
        ("reserved", ctypes.c_int64 * 4),
    )


class _Graph(ctypes.Structure):
    """`graph_t` in the C source."""

    _fields_ = (
        ("model", ctypes.c_void_p),
        ("call", ctypes.c_void_p),
        ("inputs_at", ctypes.c_void_p),
        ("outputs_at", ctypes.c_void_p),
        ("dim", ctypes.c_uint64),
        ("calls", ctypes.c_uint64),
        ("stop", ctypes.c_int64),
    )


class _Package(ctypes.Structure):
    """`package_t` in the C source."""

    _fields_ = (
        ("model", ctypes.c_void_p),
        ("run", ctypes.c_void_p),
        ("inputs_at", ctypes.c_void_p),
        ("outputs_at", ctypes.c_void_p),
        ("bytes", ctypes.c_void_p),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
    )


class _Steps(ctypes.Structure):
    """`steps_t` in the C source."""

    _fields_ = (
        *(
            (name, ctypes.c_uint64)
            for name in ("count", "state_size", "kept", "control_size", "summary_size", "noises")
        ),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "state",
                "before",
                "next",
                "history",
                "numbers",
                "controls",
                "noise",
                "bytes",
            )
        ),
    )


class NativeGraph:
    """A compiled graph with float64 outputs, exposed through a C ABI; not thread-safe.

    Attributes:
        gradient: address of `zoo_gradient`, for a graph `[point, constants] -> (value, gradient)`.
            It returns 0 on success and 3 or 4 if the gradient or the value is not finite. After
            `stop`, or once the graph has failed, the value is NaN, so that samplers reject the
            point.
        copy: address of a function that copies a point, which samplers require beside the
            gradient.
        data: address of the context pointer that both take as their last argument.
    """

    def __init__(
        self,
        shim: ctypes.CDLL,
        code: ctypes.CDLL,
        examples: Sequence[Tensor],
        constants: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        if any(x.dtype != torch.float64 for x in outputs):
            raise OSError("only float64 outputs can be exposed through the C ABI")
        tensors = (*(x.detach().clone() for x in examples), *constants)
        self._inputs = (ctypes.c_void_p * len(tensors))(*[x.data_ptr() for x in tensors])
        self._outputs = (ctypes.c_void_p * len(outputs))()
        self._shapes, self._keep, self._shim = [x.shape for x in outputs], tensors, shim
        if hasattr(code, "zoo_call"):
            model, call = 0, _pointer(code.zoo_call)
        else:
            self._package = self._loaded(code, tensors, outputs)
            model, call = ctypes.addressof(self._package), _pointer(shim.zoo_package)
        self._graph = _Graph(
            model=model,
            call=call,
            inputs_at=ctypes.addressof(self._inputs),
            outputs_at=ctypes.addressof(self._outputs),
            dim=tensors[0].numel(),
        )
        self._call = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)(call)
        self.dim = tensors[0].numel()
        self.gradient, self.copy, self.data = (
            _pointer(shim.zoo_gradient),
            _pointer(shim.zoo_copy),
            ctypes.addressof(self._graph),
        )

    def _loaded(
        self, code: ctypes.CDLL, tensors: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> _Package:
        """Create a model from a loader package, called through its ArrayRef interface."""
        handle = ctypes.c_void_p()
        if code.AOTInductorModelCreateV2(ctypes.byref(handle), None, ctypes.c_size_t(0)):
            raise OSError("the package cannot be loaded a second time")
        weakref.finalize(self, code.AOTInductorModelDelete, handle)
        self._arrays = (_Array * len(tensors))(*map(_describe, tensors)), (_Array * len(outputs))()
        self._bytes = (ctypes.c_uint64 * len(outputs))(*[8 * x.numel() for x in outputs])
        return _Package(
            model=handle,
            run=_pointer(code.AOTInductorModelRunMinimalArrayrefInterfaceV2),
            inputs_at=ctypes.addressof(self._arrays[0]),
            outputs_at=ctypes.addressof(self._arrays[1]),
            bytes=ctypes.addressof(self._bytes),
            inputs=len(tensors),
            outputs=len(outputs),
        )

    @property
    def calls(self) -> int:
        """Number of graph evaluations by `zoo_gradient`."""
        return int(self._graph.calls)

    @property
    def failed(self) -> bool:
        """Whether the graph raised an exception."""
        return bool(self._graph.stop == FAILED)

    def stop(self) -> None:
        """Make every later call return NaN immediately."""
        self._graph.stop = -1

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Evaluate the graph once, for self-checks.

        Raises:
            OSError: the graph failed.
        """
        held = [x.contiguous() for x in inputs]
        out = [torch.empty(shape, dtype=torch.float64) for shape in self._shapes]
        given = (ctypes.c_void_p * len(self._keep))(
            *[x.data_ptr() for x in (*held, *self._keep[len(held) :])]
        )
        places = (ctypes.c_void_p * len(out))(*[x.data_ptr() for x in out])
        if self._call(self._graph.model, ctypes.addressof(given), ctypes.addressof(places)):
            raise OSError("the graph failed")
        return out

    def steps(
        self, state: Tensor, before: Tensor, controls: Tensor, noise: Sequence[Tensor]
    ) -> tuple[int, Tensor, Tensor]:
        """Run several steps of a graph `[state, control, constant, *noise] -> (state, summary)`.

        Args:
            state: `[row, size]`, overwritten with the last state.
            before: `[row, size]`, overwritten with the state before the last step.
            controls: `[step, control]`, one row per step.
            noise: per noise input a contiguous `[step, *input]`.

        Returns:
            The number of successful steps (the loop ends at the first non-finite summary), the
            summaries `[step, summary]` including that of the failing step, and the first row of
            the state after each step, `[step, size]`.
        """
        count, size, width = controls.shape[0], state.shape[1], self._shapes[1].numel()
        numbers, history = (
            torch.full((count, width), torch.nan, dtype=torch.float64),
            torch.empty((count, size), dtype=torch.float64),
        )
        following = torch.empty_like(state)
        places = (ctypes.c_void_p * max(1, len(noise)))(*[x.data_ptr() for x in noise])
        sizes = (ctypes.c_uint64 * max(1, len(noise)))(
            *[x[0].numel() * x.element_size() for x in noise]
        )
        steps = _Steps(
            count=count,
            state_size=state.numel(),
            kept=size,
            control_size=controls.shape[1],
            summary_size=width,
            noises=len(noise),
            state=state.data_ptr(),
            before=before.data_ptr(),
            next=following.data_ptr(),
            history=history.data_ptr(),
            numbers=numbers.data_ptr(),
            controls=controls.data_ptr(),
            noise=ctypes.addressof(places),
            bytes=ctypes.addressof(sizes),
        )
        done = self._shim.zoo_steps(ctypes.c_void_p(self.data), ctypes.byref(steps))
        return int(done), numbers, history


def load(
    package: Path,
    examples: Sequence[Tensor],
    constants: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> NativeGraph:
    """Load the graph of a package, exposed through a C ABI.

    Args:
        package: a compiled graph `[*examples, *constants] -> outputs` on the CPU: a standalone
            library or a package for torch's loader.
        examples: example inputs, which fix the shapes.
        constants: the tensors passed after the inputs.
        outputs: tensors with the shapes of its outputs.

    Raises:
        OSError: there is no compiler and no cached shim, or the package cannot be called this way;
            the message says which.
    """
    if not all(
        t.device.type == "cpu" and t.ndim <= 8 and t.is_contiguous()
        for t in (*examples, *constants)
    ):
        raise OSError(
            "only contiguous CPU tensors of at most eight axes can be passed through the C ABI"
        )
    try:
        return NativeGraph(_shim(), _library(str(package)), examples, constants, outputs)
    except AttributeError as error:
        raise OSError("the package has no ArrayRef interface") from error


@functools.cache
def _library(package: str) -> ctypes.CDLL:
    """Load a library, or the one inside a package; the file may be deleted once it is mapped."""
    if package.endswith(".so"):
        return standalone.library(package)
    with zipfile.ZipFile(package) as archive:
        names = [n for n in archive.namelist() if n.endswith(".so")]
        sources = b"".join(archive.read(n) for n in archive.namelist() if n.endswith(".cpp"))
        if len(names) != 1 or b"aoti_torch_proxy_executor_call" in sources:
            raise OSError("the package calls operations that need torch's loader")
        code = archive.read(names[0])
    with tempfile.TemporaryDirectory(prefix="zoo-native-") as folder:
        file = Path(folder) / "model.so"
        file.write_bytes(code)
        return ctypes.CDLL(str(file))


@functools.cache
def _shim() -> ctypes.CDLL:
    """Load the two C functions, compiled once per machine and version of their source."""
    key = hashlib.sha256(f"{SOURCE}{cache.machine()}".encode()).hexdigest()[:40]
    file = cache.find(key, ".so")
    if file is None:
        compiler = standalone.compiler()
        if compiler is None:
            raise OSError("no C++ compiler")
        file = cache.store(key, functools.partial(_compile, compiler), ".so")
    library = ctypes.CDLL(str(file))
    library.zoo_steps.restype = ctypes.c_int64
    return library


def _compile(compiler: str, path: str) -> str:
    source = Path(path).with_suffix(".cpp")
    source.write_text(SOURCE, encoding="utf8")
    done = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", str(source), "-o", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"{compiler} failed: {(done.stderr.splitlines() or [''])[0][:200]}")
    return path


_CODES = {  # c10::ScalarType
    torch.float64: 7,
    torch.float32: 6,
    torch.int64: 4,
    torch.int32: 3,
    torch.bool: 11,
    torch.uint8: 0,
}


def _describe(x: Tensor) -> _Array:
    if x.dtype not in _CODES:
        raise OSError(f"tensors of {x.dtype} cannot be passed through the C ABI")
    return _Array(
        data=x.data_ptr(),
        numel=x.numel(),
        sizes=(ctypes.c_int64 * 8)(*x.shape),
        strides=(ctypes.c_int64 * 8)(*x.stride()),
        ndim=x.ndim,
        dtype=_CODES[x.dtype],
    )


def _pointer(function: ctypes._NamedFuncPointer) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
