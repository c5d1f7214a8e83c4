"""One optimization step as one tensor function: loss, gradient, clipping, Adam, averaging.

    step(state, control, rates, *noise) -> (new state, [loss, gradient norm])

`state` is `[4, number]`: all trained values in one row, the two moments of their gradient, and the
sum of the values over the tail. A step is thus a pure function of a few tensors, which
`zoo.compiler.compile` turns into one graph. If that does not pay or work, the same function runs
eagerly with the same noise and therefore the same losses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from guides.optimize.protocols import Objective
from guides.types import FitConfig
from zoo.compiler.c_abi import NativeGraph
from zoo.compiler.compile import Function, Mode, Record, announce, compile_function
from zoo.compiler.cuda import DeviceSteps, name_of
from zoo.compiler.trace import Traced, TraceFailure, trace
from zoo.compiler.vectorize import close
from zoo.errors import one_line

__all__ = ["BETAS", "Row", "Step", "advance", "controls", "scaled", "summary"]

Row = tuple[float, float]
Rows = np.ndarray[Any, np.dtype[np.float64]]

BLOCK = 100  # steps per call of the compiled step
LARGEST = 1 << 20  # numbers in the noise, or in the values, of one block: 8 MiB
BETAS = (0.9, 0.99)  # of Adam
EPSILON = 1e-8
# cost of compiling for a GPU, for the prediction of `auto`
FUSING_SECONDS, FUSING_SECONDS_PER_NODE = (20.0, 0.05)
# arguments of the control rows at which the graph is checked
CHECKS = ((2, 1.0, False, 1e30), (17, 0.5, True, 1e-2), (400, 0.03, True, 1.0))


def advance(
    state: Tensor, control: Tensor, rates: Tensor, loss: Tensor, gradient: Tensor
) -> list[Tensor]:
    """Take one clipped step of Adam (Kingma & Ba 2015).

    Args:
        state: `[4, number]`: values, first moments, second moments, sum over the tail.
        control: `[5]`, a row of `controls`.
        rates: `[number]`, the learning rates.
        loss: scalar, in nats.
        gradient: `[number]`.

    Returns:
        The new state, and `[loss, gradient norm]`.
    """
    values, first, second, total = state.unbind(0)
    unbias_first, unbias_second, share, averaging, largest = control.unbind(0)
    norm = gradient.square().sum().sqrt()
    gradient = gradient * (largest / norm).clamp(max=1.0)
    first = BETAS[0] * first + (1 - BETAS[0]) * gradient
    second = BETAS[1] * second + (1 - BETAS[1]) * gradient.square()
    mean = first * unbias_first
    spread = (second * unbias_second).sqrt()
    values = values - share * rates * mean / (spread + EPSILON)
    return [
        torch.stack([values, first, second, total + averaging * values]),
        torch.stack([loss.to(state.dtype), norm]),
    ]


def controls(
    numbers: Sequence[int], shares: Sequence[float], averaging: Sequence[bool], largest: float
) -> Rows:
    """Return the control rows `[step, 5]`.

    The columns are the bias corrections of Adam's two moments, the learning-rate scale, 1 while
    averaging else 0, and the largest gradient norm.

    Args:
        numbers: step numbers, from 1.
        shares: learning-rate scale of each step.
        averaging: whether the values of a step enter the average.
        largest: gradient norm above which gradients are clipped.
    """
    out = np.empty((len(numbers), 5))
    steps = np.asarray(numbers)
    out[:, 0], out[:, 1] = 1 / (1 - BETAS[0] ** steps), 1 / (1 - BETAS[1] ** steps)
    out[:, 2], out[:, 3], out[:, 4] = shares, averaging, largest
    return out


def scaled(name: str, parameter: Tensor) -> float:
    """Return the learning-rate scale of a parameter.

    Entries in a row of a matrix factor act together, so they take smaller steps.
    """
    return 1.0 / math.sqrt(parameter.shape[-1]) if name in ("lower", "factor") else 1.0


class Step:
    """The state of one fit and its step, compiled where that works and pays.

    Args:
        objective: what is minimized.
        config: `lr`, `weight_lr`, `clip_norm`, `compile` and `device` are used.
        expected: expected number of steps of the fit, for the prediction of `auto`.

    Attributes:
        state: `[4, number]`, on the device of the steps.
        together: maximal number of steps per block; it depends on shapes only, since the noise
            must not depend on how a step runs.
    """

    def __init__(self, objective: Objective, config: FitConfig, expected: int) -> None:
        self.objective = objective
        named = {
            **objective.parameters,
            **{f"weight.{n}": p for n, p in objective.weights.items()},
        }
        self.parameters: list[nn.Parameter] = list(named.values())
        self._shapes = [p.shape for p in self.parameters]
        self._places = [p.detach() for p in self.parameters]  # shared memory, without autograd
        self._sizes = [p.numel() for p in self.parameters]
        flat = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.state = torch.stack([flat, *[torch.zeros_like(flat)] * 3])
        each = [config.lr * scaled(n, p) for n, p in objective.parameters.items()] + [
            config.weight_lr
        ] * len(objective.weights)
        self.rates = torch.cat(
            [
                torch.full_like(p.detach().reshape(-1), r)
                for p, r in zip(self.parameters, each, strict=True)
            ]
        )
        self._largest = config.clip_norm
        self._before = self.state
        if config.compile != "off" or config.device != "cpu":
            objective.observe(config.device)
        largest = max(1, self.state.shape[1], objective.numbers)
        self.together = max(1, min(BLOCK, LARGEST // largest))
        self.function = self._compile(config, expected)
        self.native: NativeGraph | DeviceSteps | None = self._native()
        if config.device != "cpu" and not objective.eager:
            self.native = self._on_device(torch.device(config.device), config.compile, expected)

    def _on_device(self, device: torch.device, mode: str, expected: int) -> DeviceSteps | None:
        """Return the step on a device after a self-check against the program on the CPU.

        If that fails it returns None and announces the reason.
        """
        started, checks = (
            time.perf_counter(),
            self._checks(torch.Generator().manual_seed(15_485_863)),
        )
        try:
            traced = self.trace()
            out = DeviceSteps(traced, device, block=self.together, fuse=mode == "on")
            if (
                mode == "auto"
                and out.seconds() * expected
                > FUSING_SECONDS + FUSING_SECONDS_PER_NODE * traced.nodes
            ):
                out = DeviceSteps(traced, device, block=self.together, fuse=True)
            same = all(_equal(out(*inputs), self.eager(*inputs)) for inputs in checks)
            reason = "" if same else "self-check failed: the step there differs from the eager one"
        except TraceFailure as error:
            reason = f"cannot be traced: {error}"
        except Exception as error:  # a device can fail in any way; the CPU always works
            reason = f"{type(error).__name__}: {one_line(error)}"
        seconds = time.perf_counter() - started
        if reason:
            self.function.record = _eager(f"not on {device.type}: {reason}", seconds)
            announce(self.function.record["reason"])
            return None
        self.function.record = Record(
            used=True, reason=f"on {name_of(device)}", compile_seconds=seconds, cached=False
        )
        self.state, self._before = out.state, out.before
        return out

    def _native(self) -> NativeGraph | None:
        """Return the compiled step exposed through a C ABI, or None if steps are called singly."""
        if self.function.run is None or self.state.dtype != torch.float64:
            return None
        rows = self._checks(torch.Generator().manual_seed(49_979_687))
        self._before = self.state.clone()  # written in place from here on
        self.state = self.state.clone()
        return self.function.native(rows)

    @property
    def record(self) -> Record:
        """Whether the step runs compiled and why, and the seconds spent on it."""
        return self.function.record

    def eager(self, state: Tensor, control: Tensor, rates: Tensor, *noise: Tensor) -> list[Tensor]:
        """Return the new state and `[loss, gradient norm]` by running the program."""
        with torch.enable_grad():
            values = self._split(state)
            loss, gradients = self.objective.gradients(values, *noise)
        filled = [
            torch.zeros_like(v) if g is None else g for g, v in zip(gradients, values, strict=True)
        ]
        with torch.no_grad():
            return advance(
                state,
                control,
                rates,
                loss.detach(),
                torch.cat([g.reshape(-1).to(state.dtype) for g in filled]),
            )

    @property
    def compiled(self) -> bool:
        """Whether a compiled graph runs."""
        return self.function.run is not None

    def loss(self, row: Tensor, noise: tuple[Tensor, ...]) -> float:
        """Return the loss in nats at a row of values; the state stays as it is."""
        state = torch.stack([row, *self.state[1:].detach()])
        control = self._control(1, 0.0, False, self._largest)
        return float(
            self.function(state, control, self.rates, *self.objective.inputs(noise))[1][0]
        )

    def trace(self) -> Traced:
        """Return the uncompiled graph of a step.

        Raises:
            TraceFailure: the step cannot be traced into one graph.
        """
        self.objective.prepare()
        return trace(self.eager, self._example(torch.Generator().manual_seed(15_485_863)))

    def block(
        self,
        number: int,
        shares: Sequence[float],
        noise: Sequence[Tensor],
        averaging: Sequence[bool],
    ) -> tuple[Rows, Tensor]:
        """Take steps `number`, `number + 1`, ... up to the first non-finite loss or gradient.

        Args:
            number: number of the first step, from 1.
            shares: learning-rate scale of each step.
            noise: per noise input of the objective one tensor `[step, *input]`.
            averaging: whether the values of a step enter the average.

        Returns:
            Loss and gradient norm `[step, 2]` of each step taken, including a failing one, and the
            values after each `[step, number of values]`.
        """
        rows: list[Row] = []
        history, done = [], 0
        if self.native is not None:
            knobs = controls(range(number, number + len(shares)), shares, averaging, self._largest)
            done, numbers, values = self.native.steps(
                self.state, self._before, torch.from_numpy(knobs), noise
            )
            if not self.native.failed:
                return numbers[: done + 1].numpy(), values
            if isinstance(self.native, DeviceSteps):
                self.state, self._before = self.state.cpu(), self._before.cpu()
            self.native = None
            self.function.fall_back("the compiled step failed at run time")
            rows, history = (
                [(loss, norm) for loss, norm in numbers[:done].tolist()],
                list(values[:done]),
            )
        for i in range(done, len(shares)):
            rows.append(
                self.take(
                    number + i, shares[i], tuple(x[i] for x in noise), averaging=averaging[i]
                )
            )
            history.append(self.state[0])
            if not (math.isfinite(rows[-1][0]) and math.isfinite(rows[-1][1])):
                break
        return np.array(rows), torch.stack(history)

    def take(
        self, number: int, share: float, noise: tuple[Tensor, ...], *, averaging: bool
    ) -> tuple[float, float]:
        """Take step `number`; return the loss in nats and the gradient norm.

        If either is not finite, the state is unchanged.
        """
        new, numbers = self.function(
            self.state, self._control(number, share, averaging, self._largest), self.rates, *noise
        )
        loss, norm = numbers.tolist()
        if math.isfinite(loss) and math.isfinite(norm):
            self._before, self.state = self.state, new
        return loss, norm

    def write(self, row: Tensor | None = None) -> None:
        """Write a row of values, by default the current ones, into the parameters."""
        parts = (self.state[0] if row is None else row).split(self._sizes)
        for place, part, shape in zip(self._places, parts, self._shapes, strict=True):
            place.copy_(part.view(shape))

    def write_last(self) -> None:
        """Write the values of the last finite loss into the parameters."""
        self.write(self._before[0])

    def write_average(self, number: int) -> None:
        """Write the average over the last `number` steps into the parameters."""
        self.write(self.state[3] / number)

    def _split(self, state: Tensor) -> list[Tensor]:
        """Return the values of each parameter as new leaves, with original shapes and dtypes."""
        parts = state[0].split(self._sizes)
        return [
            part.reshape(shape).to(p.dtype).detach().requires_grad_(True)
            for part, shape, p in zip(parts, self._shapes, self.parameters, strict=True)
        ]

    def _compile(self, config: FitConfig, expected: int) -> Function:
        """Compile the step; a failed check leaves the eager step, with the reason on record."""
        generator = torch.Generator().manual_seed(15_485_863)
        example = self._example(generator)
        if self.objective.eager:
            if config.device != "cpu":
                announce(f"not on {config.device}: {self.objective.eager}")
            return Function(
                eager=self.eager,
                examples=tuple(example),
                record=getattr(self.objective, "record", None) or _eager(self.objective.eager),
            )
        if config.compile == "off" or config.device != "cpu":
            return Function(
                eager=self.eager, examples=tuple(example), record=_eager("switched off")
            )
        checks = self._checks(generator)
        out = compile_function(
            self.eager,
            example,
            checks,
            mode=cast(Mode, config.compile),
            expected_calls=expected,
            traced=self.trace,
        )
        if out.run is not None and not all(
            _equal(out(*inputs), self.eager(*inputs)) for inputs in checks
        ):
            out.run = None
            out.record = _eager(
                "self-check failed: the compiled step differs from the eager one",
                out.record["compile_seconds"],
            )
            announce(out.record["reason"])
        return out

    def _checks(self, generator: torch.Generator) -> list[list[Tensor]]:
        """Return the inputs at which a graph of the step must equal the eager one."""
        return [
            [
                self._elsewhere(generator),
                self._control(*row),
                self.rates,
                *self.objective.inputs(self.objective.peek_noise(generator)),
            ]
            for row in CHECKS
        ]

    def _example(self, generator: torch.Generator) -> list[Tensor]:
        return [
            self.state,
            self._control(1, 1.0, False, self._largest),
            self.rates,
            *self.objective.inputs(self.objective.peek_noise(generator)),
        ]

    def _control(self, number: int, share: float, averaging: bool, largest: float) -> Tensor:
        """Return one row of `controls`."""
        return torch.from_numpy(controls([number], [share], [averaging], largest)[0]).to(
            self.state.dtype
        )

    def _elsewhere(self, generator: torch.Generator) -> Tensor:
        """Return a state near the current one with moments as in the middle of a fit."""
        rows = torch.randn(self.state.shape, dtype=self.state.dtype, generator=generator)
        return torch.stack([self.state[0] + 0.1 * rows[0], rows[1], rows[2].square(), rows[3]])


def _equal(got: Sequence[Tensor], truth: Sequence[Tensor]) -> bool:
    """Compare row by row, so that a large loss does not widen the tolerance of the moments."""
    pairs = [*zip(got[0], truth[0], strict=True), *zip(got[1], truth[1], strict=True)]
    return all(close(a, b) for a, b in pairs)


def _eager(reason: str, seconds: float = 0.0) -> Record:
    return Record(used=False, reason=reason, compile_seconds=seconds, cached=False)


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Return `{used, reason}` of several starts; `used` only if every start ran compiled."""
    eager = [r for r in records if not r["used"]]
    chosen = eager[0] if eager else records[0]
    return {"used": not eager, "reason": chosen["reason"]}
