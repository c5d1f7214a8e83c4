"""Traced steps on a graphics card: the graph of the processor moved there, replayed without Python between its kernels.

The program is run and traced on the processor as always; only the finished graph moves, with what
it was folded down to. So no program, guide or random stream has to know of a device: the noise of
a seed is the same numbers on both, and the losses agree to rounding. Fits are what runs there
(`guides.optimize.step`); chains and exact references stay on the processor, whose gradients of
small models take microseconds where a card needs tens of them only to begin.
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
from zoo.errors import UnknownNameError, UsageError

__all__ = ["DEVICES", "DeviceSteps", "check_device", "moved", "name_of"]

DEVICES = ("cpu", "cuda")
WARM_UP = 3  # replays before a capture: libraries make their handles in the first
_log = logging.getLogger("zoo")


def check_device(device: str) -> None:
    """Refuse a device this project or this machine does not have.

    Raises:
        UnknownNameError: a name other than `cpu` and `cuda`.
        UsageError: `cuda` where torch finds no card; the sentence says which of torch and the
            machine lacks it.
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
    """Whether there is a card, asked of the driver's own library: asking CUDA itself would make it unusable in forked processes."""
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
    """Return the name of a card, or of the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def moved(traced: Traced, device: torch.device) -> Traced:
    """Return a graph for another device: its constants there, and every tensor it makes by itself made there."""
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
    """A graph `[state, control, rates, *noise] -> (new state, [loss, gradient norm])` on a device; same interface as `NativeGraph.steps`.

    The whole step, with what it reads of its block and what it notes, is captured once and
    replayed with one call per step; the losses come back once per block.

    Attributes:
        state, before: `[4, size]` on the device: the current state, and the one before the last
        step.
        failed: whether the last block failed as a whole; `state` and `before` are then those
            before it.

    Args:
        traced: the graph of the processor.
        device: where it runs.
        block: most steps per call of `steps`.
        fuse: compile it with Inductor first (tens of seconds, several times faster), else its
            operations run one by one.
    """

    def __init__(self, traced: Traced, device: torch.device, *, block: int, fuse: bool) -> None:
        self._graph = moved(traced, device)
        self.device, self.failed = device, False
        state, control, rates, *noise = self._graph.examples
        self.state, self.before, self._rates = state.clone(), state.clone(), rates
        self._controls = control.new_ones(block, *control.shape)
        self._noise = [
            x.new_zeros(block, *x.shape) for x in noise
        ]  # unit numbers among them: any number would not do
        self._states = state.new_empty(block, *state.shape)
        self._numbers = self._graph(*self._graph.examples)[1].new_empty(block, 2)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._run: Callable[..., Sequence[Tensor]] = self._fused() if fuse else self._graph.graph
        self._replay: Callable[[], Any] = self._one
        if device.type == "cuda":
            self._replay = self._captured()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Take one step from inputs on the processor and return its outputs there; for checks."""
        with torch.no_grad(), default_of(self._graph.examples):
            return [
                x.cpu()
                for x in self._run(*(x.to(self.device) for x in inputs), *self._graph.constants)
            ]

    def seconds(self) -> float:
        """Return the fastest of three timed blocks of steps, per step; the state stays as it was."""
        start, times = self.state.clone(), []
        with torch.no_grad(), default_of(self._graph.examples):
            for _ in range(3):
                began = time.perf_counter()
                self._at.zero_()
                for _ in range(len(self._controls)):
                    self._replay()
                float(self.state[0, 0])  # waits for the device
                times.append(time.perf_counter() - began)
                self.state.copy_(start)
        return min(times) / len(self._controls)

    def _fused(self) -> Callable[..., Sequence[Tensor]]:
        inputs: list[Any] = [*self._graph.examples, *self._graph.constants]
        with torch.no_grad(), default_of(self._graph.examples), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of units for short floats that this graph may not use
            call = fused(self._graph.graph, inputs)
            call(*inputs)
        return call

    def _one(self) -> None:
        """Take the step number `_at` of a block; every tensor it reads or writes keeps its place."""
        rows = [x.index_select(0, self._at)[0] for x in (self._controls, *self._noise)]
        new, numbers = self._run(
            self.state, rows[0], self._rates, *rows[1:], *self._graph.constants
        )
        self._states.index_copy_(0, self._at, new[None])
        self._numbers.index_copy_(0, self._at, numbers[None])
        self.state.copy_(new)
        self._at.add_(1)

    def _captured(self) -> Callable[[], Any]:
        """Return the step as one recorded sequence of kernels, or as it is where an operation cannot be recorded."""
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
            _log.info("Steps are launched one kernel at a time: %s", str(error)[:300])
            return self._one
        finally:
            self.state.copy_(start)
        return recorded.replay

    def steps(
        self, state: Tensor, before: Tensor, controls: Tensor, noise: Sequence[Tensor]
    ) -> tuple[int, Tensor, Tensor]:
        """Take several steps; arguments and results as of `zoo.compiler.c_abi.NativeGraph.steps`, states and history on the device.

        `state` and `before` are those of this object.
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
            state.copy_(last)  # raises as well where the card is lost with all it held
            self.failed = True
            _log.warning("The device failed: %s", str(error).splitlines()[0][:300])
            return 0, torch.full((count, 2), torch.nan, dtype=torch.float64), torch.empty(0)
        good = rows.isfinite().all(1)
        done = count if bool(good.all()) else int(good.int().argmin())
        chain = [last, *self._states[:done]]
        state.copy_(chain[-1])
        if done:
            before.copy_(chain[-2])
        return done, rows, self._states[:count, 0].clone()
