"""Traced steps on a GPU: the CPU graph is moved there and replayed as a CUDA graph.

Programs are always run and traced on the CPU; only the finished graph and its folded constants
move. Programs, guides and random streams therefore need not know about devices: a seed gives the
same noise on both, and the losses agree to rounding. Only fits run there
(`guides.optimize.step`). Chains and exact references stay on the CPU, where gradients of small
models take microseconds while a kernel launch alone takes tens of them.
"""

from __future__ import annotations

import copy
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.compiler.torch_private import fused
from zoo.compiler.trace import Traced, default_of
from zoo.errors import UnknownNameError, UsageError, one_line

__all__ = ["DEVICES", "DeviceSteps", "check_device", "moved", "name_of"]

DEVICES = ("cpu", "cuda")
WARM_UP = 3  # runs before the capture: libraries create their handles in the first ones
_log = logging.getLogger("zoo")


def check_device(device: str) -> None:
    """Reject a device that is not supported by this project or not available on this machine.

    Raises:
        UnknownNameError: a name other than `cpu` and `cuda`.
        UsageError: `cuda` where torch finds no GPU; the message says whether torch or the machine
            lacks it.
    """
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES, hint="A graphics card is cuda.")
    if device == "cuda" and not _card():
        built = torch.version.cuda
        why = (
            f"torch {torch.__version__} is built without CUDA"
            if built is None
            else f"torch (CUDA {built}) finds no card or no driver"
        )
        raise UsageError(f"The device is 'cuda' but {why} on this machine; accepted here: cpu.")


def _card() -> bool:
    """Whether NVML finds a GPU; asking CUDA itself would break forked processes."""
    before = os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    try:
        return torch.cuda.is_available()
    finally:
        if before is None:
            del os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"]
        else:
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = before


def name_of(device: torch.device) -> str:
    """Return the name of a GPU, or the type of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def moved(traced: Traced, device: torch.device) -> Traced:
    """Move a graph to another device: its constants, and the device of tensors it creates."""
    graph = copy.deepcopy(traced.graph)
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
    graph.recompile()
    constants, examples = (
        tuple(x.to(device, copy=True) for x in tensors)
        for tensors in (traced.constants, traced.examples)
    )
    return Traced(graph=graph, constants=constants, examples=examples)


class DeviceSteps:
    """A graph `[state, control, rates, *noise] -> (state, [loss, gradient norm])` on a device.

    The interface is that of `NativeGraph.steps`. The whole step, including the reads from its
    block of inputs and the writes of its results, is captured once and replayed with one call per
    step; the losses are copied back once per block.

    Attributes:
        state, before: `[4, size]` on the device: the current state, and the state before the last
            step.
        failed: whether the last block failed as a whole; `state` and `before` are then unchanged.

    Args:
        traced: the CPU graph.
        device: where it runs.
        block: the maximal number of steps per call of `steps`.
        fuse: compile the graph with Inductor first (tens of seconds, several times faster);
            otherwise its operations run one by one.
    """

    def __init__(self, traced: Traced, device: torch.device, *, block: int, fuse: bool) -> None:
        self._graph = moved(traced, device)
        self.device, self.failed = device, False
        state, control, rates, *noise = self._graph.examples
        self.state, self.before, self._rates = state.clone(), state.clone(), rates
        self._controls = control.new_ones(block, *control.shape)
        self._noise = [
            # zeros are valid values of every input, integer indices included
            x.new_zeros(block, *x.shape)
            for x in noise
        ]
        self._states = state.new_empty(block, *state.shape)
        self._numbers = self._graph(*self._graph.examples)[1].new_empty(block, 2)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._run: Callable[..., Sequence[Tensor]] = self._fused() if fuse else self._graph.graph
        self._replay: Callable[[], Any] = self._one
        if device.type == "cuda":
            self._replay = self._captured()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run one step on CPU inputs and return CPU outputs, for self-checks."""
        with torch.no_grad(), default_of(self._graph.examples):
            return [
                x.cpu()
                for x in self._run(*(x.to(self.device) for x in inputs), *self._graph.constants)
            ]

    def seconds(self) -> float:
        """Return the seconds per step of the fastest of three blocks; the state is restored."""
        start, times = self.state.clone(), []
        with torch.no_grad(), default_of(self._graph.examples):
            for _ in range(3):
                began = time.perf_counter()
                self._at.zero_()
                for _ in range(len(self._controls)):
                    self._replay()
                float(self.state[0, 0])  # synchronizes with the device
                times.append(time.perf_counter() - began)
                self.state.copy_(start)
        return min(times) / len(self._controls)

    def _fused(self) -> Callable[..., Sequence[Tensor]]:
        inputs: list[Any] = [*self._graph.examples, *self._graph.constants]
        with torch.no_grad(), default_of(self._graph.examples), warnings.catch_warnings():
            # a hint about reduced-precision matrix units, which may not suit this graph
            warnings.simplefilter("ignore")
            call = fused(self._graph.graph, inputs)
            call(*inputs)
        return call

    def _one(self) -> None:
        """Run step `_at` of a block; a capture requires all tensors at fixed addresses."""
        rows = [x.index_select(0, self._at)[0] for x in (self._controls, *self._noise)]
        new, numbers = self._run(
            self.state, rows[0], self._rates, *rows[1:], *self._graph.constants
        )
        self._states.index_copy_(0, self._at, new[None])
        self._numbers.index_copy_(0, self._at, numbers[None])
        self.state.copy_(new)
        self._at.add_(1)

    def _captured(self) -> Callable[[], Any]:
        """Capture the step as a CUDA graph; return it uncaptured if an operation prevents that."""
        start = self.state.clone()
        recorded = torch.cuda.CUDAGraph()
        try:
            with torch.no_grad(), default_of(self._graph.examples):
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(WARM_UP):
                        self._at.zero_()
                        self._one()
                torch.cuda.current_stream().wait_stream(side)
                self._at.zero_()
                with torch.cuda.graph(recorded):
                    self._one()
            torch.cuda.synchronize()
        except RuntimeError as error:
            _log.info("Steps are launched kernel by kernel: %s", str(error)[:300])
            return self._one
        finally:
            self.state.copy_(start)
        return recorded.replay

    def steps(
        self, state: Tensor, before: Tensor, controls: Tensor, noise: Sequence[Tensor]
    ) -> tuple[int, Tensor, Tensor]:
        """Run several steps; see `zoo.compiler.c_abi.NativeGraph.steps`.

        `state` and `before` are the attributes of this object; states and history are on the
        device.
        """
        count, last = len(controls), state.clone()
        try:
            self._controls[:count].copy_(controls)
            for place, numbers in zip(self._noise, noise, strict=True):
                place[:count].copy_(numbers)
            self._at.zero_()
            with torch.no_grad(), default_of(self._graph.examples):
                for _ in range(count):
                    self._replay()
            rows = self._numbers[:count].double().cpu()
        except RuntimeError as error:
            state.copy_(last)  # raises too if the device is lost with its memory
            self.failed = True
            _log.warning("The device failed: %s", one_line(error))
            return 0, torch.full((count, 2), torch.nan, dtype=torch.float64), torch.empty(0)
        good = rows.isfinite().all(1)
        done = count if bool(good.all()) else int(good.int().argmin())
        chain = [last, *self._states[:done]]
        state.copy_(chain[-1])
        if done:
            before.copy_(chain[-2])
        return done, rows, self._states[:count, 0].clone()
