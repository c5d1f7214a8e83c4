"""One optimization step as one tensor function: noise -> loss -> gradient -> clipping -> Adam -> running average.

    step(state, control, rates, *noise) -> (new state, [loss, gradient norm])

`state` is `[4, number]`: every trained value in one row, the two moments of its gradient, and the
sum of the values over the tail. Packed like this a step is a pure function of a few tensors, which
`zoo.compiler.compile` turns into one graph; the same function runs eagerly where that does not pay
or does not work, with the same noise and therefore the same losses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from guides.types import FitConfig
from zoo.compiler.c_abi import NativeGraph
from zoo.compiler.compile import Function, Mode, Record, announce, compile_function
from zoo.compiler.cuda import DeviceSteps, name_of
from zoo.compiler.trace import Traced, TraceFailure, trace
from zoo.compiler.vectorize import close

__all__ = ["BETAS", "Objective", "Row", "Step", "advance", "controls", "scaled", "summary"]

Row = tuple[float, float]
Rows = np.ndarray[Any, np.dtype[np.float64]]

BLOCK = 100  # steps per call of the compiled step
LARGEST = 1 << 20  # numbers of the noise, or of the values, of one block: 8 MiB
BETAS = (0.9, 0.99)  # of Adam
EPSILON = 1e-8
FUSING_SECONDS, FUSING_SECONDS_PER_NODE = (
    20.0,
    0.05,
)  # what compiling for a card takes, for the prediction of `auto`
CHECKS = (
    (2, 1.0, False, 1e30),
    (17, 0.5, True, 1e-2),
    (400, 0.03, True, 1.0),
)  # what the control rows say where the graph is checked


class Objective(Protocol):
    """What the loop needs of an objective; see `guides.objectives.flat`."""

    parameters: dict[str, nn.Parameter]
    weights: dict[str, nn.Parameter]
    gradients_per_step: int
    eager: str

    @property
    def normal(self) -> tuple[int, int] | None:
        """Shape of the noise where it is one tensor of standard normal numbers, else None."""

    def noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the randomness of one step."""

    def peek_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw such randomness without moving the stream of minibatches."""

    def prepare(self) -> None:
        """Make ready for a trace."""

    def gradients(
        self, values: Sequence[Tensor], *noise: Tensor
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return the loss at these values of parameters and weights, and its gradients; pure unless `eager` says why not."""

    def watched(self) -> Tensor | None:
        """Return what the stopping rule watches besides the loss, in posterior standard deviations."""

    def locate_nonfinite(self, noise: tuple[Tensor, ...]) -> str:
        """Name what made the loss or gradient of this noise not finite."""


def advance(
    state: Tensor, control: Tensor, rates: Tensor, loss: Tensor, gradient: Tensor
) -> list[Tensor]:
    """Return the state after one clipped step of Adam (Kingma & Ba 2015) and `[loss, gradient norm]`.

    Args:
        state: `[4, number]`: values, first moments, second moments, sum over the tail.
        control: `[5]`, a row of `controls`.
        rates: `[number]`, the learning rates.
        loss: scalar, in nats.
        gradient: `[number]`.
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
    """Return `[step, 5]`: what makes Adam's two moments unbiased, share of the learning rates, 1 while averaging else 0, largest norm.

    Args:
        numbers: of the steps, from 1.
        shares: of the learning rates, one per step.
        averaging: whether the values of a step enter the average.
        largest: gradient norm above which a gradient is shortened.
    """
    out = np.empty((len(numbers), 5))
    steps = np.asarray(numbers)
    out[:, 0], out[:, 1] = 1 / (1 - BETAS[0] ** steps), 1 / (1 - BETAS[1] ** steps)
    out[:, 2], out[:, 3], out[:, 4] = shares, averaging, largest
    return out


def scaled(name: str, parameter: Tensor) -> float:
    """Return the share of the learning rate for a parameter: rows of a matrix factor act together, so they step less."""
    return 1.0 / math.sqrt(parameter.shape[-1]) if name in ("lower", "factor") else 1.0


class Step:
    """The state of one fit and the step that moves it, compiled where that works and pays.

    Args:
        objective: what is minimized.
        config: `lr`, `weight_lr`, `clip_norm`, `compile` and `device` are used.
        expected: number of steps the fit will probably take, for the prediction of `auto`.

    Attributes:
        state: `[4, number]`, on the device the steps run on.
        together: most steps of one block, by shapes alone: the noise must not depend on how a step
            runs.
    """

    def __init__(self, objective: Objective, config: FitConfig, expected: int) -> None:
        self.objective = objective
        named = {
            **objective.parameters,
            **{f"weight.{n}": p for n, p in objective.weights.items()},
        }
        self.parameters: list[nn.Parameter] = list(named.values())
        self._shapes = [p.shape for p in self.parameters]
        self._places = [
            p.detach() for p in self.parameters
        ]  # the same memory, out of reach of autograd
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
        self.together = max(
            1, min(BLOCK, LARGEST // max(self.state.shape[1], math.prod(objective.normal or (1,))))
        )
        self.function = self._compile(config, expected)
        self.native: NativeGraph | DeviceSteps | None = self._native()
        if config.device != "cpu" and not objective.eager:
            self.native = self._on_device(torch.device(config.device), config.compile, expected)

    def _on_device(self, device: torch.device, mode: str, expected: int) -> DeviceSteps | None:
        """Return the step on a device after checking it against the program on the processor; None, with a notice, where that fails."""
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
        except Exception as error:  # a device may fail in any way: fall back to the processor
            reason = (
                f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
            )
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
        """Return the compiled step exposed through a C ABI that takes many in one call, None where each is called by itself."""
        if self.function.run is None or self.state.dtype != torch.float64:
            return None
        rows = self._checks(torch.Generator().manual_seed(49_979_687))
        self._before = self.state.clone()  # written in place from here on
        self.state = self.state.clone()
        return self.function.native(rows)

    @property
    def record(self) -> Record:
        """Whether the step runs compiled, why or why not, and the seconds that took."""
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

    def trace(self) -> Traced:
        """Return the uncompiled graph of a step.

        Raises:
            TraceFailure: the step cannot be written as one graph.
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
        """Take steps `number`, `number + 1`, ... up to the first whose loss or gradient is not finite.

        Args:
            number: of the first step, from 1.
            shares: share of the learning rates, one per step.
            noise: per input of the objective's noise one tensor `[step, *input]`.
            averaging: whether the values of a step enter the average.

        Returns:
            `[step, 2]` loss and gradient norm of each step taken, a failing one included, and the
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
        """Take step `number` and return the loss in nats and the gradient norm; where one is not finite the state stays."""
        new, numbers = self.function(
            self.state, self._control(number, share, averaging, self._largest), self.rates, *noise
        )
        loss, norm = numbers.tolist()
        if math.isfinite(loss) and math.isfinite(norm):
            self._before, self.state = self.state, new
        return loss, norm

    def write(self, row: Tensor | None = None) -> None:
        """Put a row of values, the current ones by default, into the parameters themselves."""
        parts = (self.state[0] if row is None else row).split(self._sizes)
        for place, part, shape in zip(self._places, parts, self._shapes, strict=True):
            place.copy_(part.view(shape))

    def write_last(self) -> None:
        """Put the values of the last finite loss into the parameters."""
        self.write(self._before[0])

    def write_average(self, number: int) -> None:
        """Put the average over the last `number` steps into the parameters."""
        self.write(self.state[3] / number)

    def _split(self, state: Tensor) -> list[Tensor]:
        """Return the values of each parameter as leaves of a new graph, in the parameters' own shapes and types."""
        parts = state[0].split(self._sizes)
        return [
            part.reshape(shape).to(p.dtype).detach().requires_grad_(True)
            for part, shape, p in zip(parts, self._shapes, self.parameters, strict=True)
        ]

    def _compile(self, config: FitConfig, expected: int) -> Function:
        """Compile the step; a graph that fails any check leaves the eager step, with the reason on record."""
        generator = torch.Generator().manual_seed(15_485_863)
        example = self._example(generator)
        if self.objective.eager:
            if config.device != "cpu":
                announce(f"not on {config.device}: {self.objective.eager}")
            return Function(
                eager=self.eager, examples=tuple(example), record=_eager(self.objective.eager)
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
                *self.objective.peek_noise(generator),
            ]
            for row in CHECKS
        ]

    def _example(self, generator: torch.Generator) -> list[Tensor]:
        return [
            self.state,
            self._control(1, 1.0, False, self._largest),
            self.rates,
            *self.objective.peek_noise(generator),
        ]

    def _control(self, number: int, share: float, averaging: bool, largest: float) -> Tensor:
        """Return one row of `controls`."""
        return torch.from_numpy(controls([number], [share], [averaging], largest)[0]).to(
            self.state.dtype
        )

    def _elsewhere(self, generator: torch.Generator) -> Tensor:
        """Return a state near the current one with moments of a fit under way."""
        rows = torch.randn(self.state.shape, dtype=self.state.dtype, generator=generator)
        return torch.stack([self.state[0] + 0.1 * rows[0], rows[1], rows[2].square(), rows[3]])


def _equal(got: Sequence[Tensor], truth: Sequence[Tensor]) -> bool:
    """Compare row by row: a large loss must not widen what is allowed of the moments."""
    pairs = [*zip(got[0], truth[0], strict=True), *zip(got[1], truth[1], strict=True)]
    return all(close(a, b) for a, b in pairs)


def _eager(reason: str, seconds: float = 0.0) -> Record:
    return Record(used=False, reason=reason, compile_seconds=seconds, cached=False)


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Return `{used, reason}` of several starts; `used` only where every start ran compiled."""
    eager = [r for r in records if not r["used"]]
    chosen = eager[0] if eager else records[0]
    return {"used": not eager, "reason": chosen["reason"]}
