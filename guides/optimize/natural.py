"""Natural-gradient steps for normal guides, with a quadratic control variate.

For q = N(m, S) and a log density f (Bonnet 1964; Price 1958; Opper & Archambeau 2009)

    d ELBO / d m = E_q[grad f],    d ELBO / d S = (E_q[hess f] + S^-1) / 2,

so the best normal has E_q[grad f] = 0 and S^-1 = -E_q[hess f]. The best member of a smaller family
maximizes the ELBO of the quadratic with this curvature P = -E_q[hess f]. Each step moves

    P <- P + rate (-E_q[hess f] - P),   S <- best member for P,   m <- m + rate P^-1 E_q[grad f]

(Khan & Lin 2017; Salimans & Knowles 2013). With mirrored draws m +- T e, T T' = S,

    E_q[grad f] = E[even part of grad f],
    E_q[hess f] = -P + E[(odd part of grad f + P T e) e'] T^-1        (Stein's identity),

whose noise vanishes where f is a quadratic with curvature P, so that few draws suffice where the
posterior is nearly normal. The search takes the largest rates that the noise allows. Then the rate
is constant, and smaller where there is noise; the draws per step double every 24 steps in place of
a falling rate, and the answer is the average of the last steps (Polyak & Juditsky 1992). It ends
when the standard errors of that average are small beside the posterior.

Where the density is far from quadratic under the guide, location and width depend on each other
(curved valleys, funnels, heavy tails): what is left to go is then more than the steps say. Such
fits are left to Adam, from the start.

Where the posterior is far wider than independent normals, their draws say little of P along its
wide directions: P moves at the rate that its noise, relative to P itself, allows. The scales of
independent normals need only the diagonal, so they follow an estimate of their own. All of this
happens in the whitened coordinates v of the start, u = m0 + L0 v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from guides.base.flat import NormalGuide, standard_normal_log_prob
from guides.optimize.loop import Outcome
from guides.optimize.progress import StepProgress
from guides.types import FitConfig, Stop
from zoo.compiler.policy import Work
from zoo.density.log_density import LogDensity

__all__ = ["DRAWS", "LARGEST", "STEPS", "Natural", "expected_calls", "natural"]

LARGEST = 200  # dimensions; a step decomposes matrices of that size
DRAWS, MOST_DRAWS = 16, 128  # per step: at first, and where noise keeps the search from settling
BUDGET = 64_000  # draws in all
STEPS = 150  # that a fit usually takes, for predictions of its time
WINDOW = 6  # steps by which the search is judged
PATIENCE = 5 * WINDOW  # steps of a search before more draws are taken
NOISE = 0.35  # of one step, in sds per root dimension
FASTEST = 0.7
QUIET = 0.05  # noise of a precision below which the rate of the search is kept
CURVED = 0.7  # root mean square of what one draw says beyond a quadratic, relative to P
NARROWEST, WIDEST = 0.3, 3.0  # factors by which a step may change a precision
RATE, TAIL = 0.2, 0.6  # of the steps that follow; share of their draws that is averaged
SETTLED = 0.05  # sds that are left to go, beside two standard errors, when the search ends
STILL = 0.01  # the same, beside three standard errors, when the fit ends
LEAST = 2 * WINDOW  # averaged steps
DOUBLED = 24  # steps of the average after which a step takes twice as many draws
ERROR, NATS = 0.02, 0.01  # of the average: standard errors in sds and log sds; expected loss
ENOUGH = 2_000  # draws after which that error suffices; half of it does at any time


@dataclass(frozen=True, kw_only=True)
class _Estimate:
    """What the draws of one step say, in units of q: v = m + T x.

    Attributes:
        loss: minus the ELBO in nats.
        slope: E_q[grad f] `[d]`.
        base: Cholesky factor of P as it is now, `[d, d]`.
        change: by how much -E_q[hess f] differs from what the guide follows, `[d, d]`.
        slope_noise: standard error of the slope relative to P, as a norm.
        noise, relative_noise: that of the change in units of q, and relative to P.
    """

    loss: float
    slope: Tensor
    base: Tensor
    change: Tensor
    slope_noise: float
    noise: float
    relative_noise: float


@dataclass(frozen=True, kw_only=True)
class _Rates:
    """Shares of the way that a step goes: of the location, of what the guide follows, and of P."""

    mean: float
    curvature: float
    precision: float


@dataclass
class _State:
    """Location, precision and factor of the guide in whitened coordinates, and what was seen."""

    guide: NormalGuide
    mean: Tensor
    precision: Tensor
    curvature: Tensor
    factor: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: list[float] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)  # sds and log sds to go, by each step
    nats: list[float] = field(default_factory=list)
    draws: list[int] = field(default_factory=list)
    curved: list[tuple[float, float, float]] = field(default_factory=list)
    clipped: list[bool] = field(default_factory=list)
    path: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def forget(self) -> None:
        """Begin to judge anew."""
        self.left, self.nats, self.draws, self.path = [], [], [], []

    @property
    def last(self) -> int:
        """How many of the last steps are averaged: those with a share `TAIL` of the draws."""
        total, taken = sum(self.draws), 0
        for number, draws in enumerate(reversed(self.draws), 1):
            taken += draws
            if taken >= TAIL * total:
                return number
        return 0

    @property
    def nearly_normal(self) -> bool:
        """Whether the last steps saw a density that is nearly quadratic, with steps in bounds."""
        return self.beyond <= CURVED and not any(self.clipped[-WINDOW:])

    @property
    def beyond(self) -> float:
        """Root mean square of what one draw says beyond a quadratic, over the last steps."""
        seen = np.array(self.curved[-max(len(self.path) // 2, WINDOW) :])
        return float(np.sqrt(np.average(seen[:, :2] ** 2, axis=0, weights=seen[:, 2])).max())

    def weights(self, last: int) -> Tensor:
        """Return the shares of the last steps in an average, by their draws."""
        draws = torch.tensor(self.draws[-last:], dtype=torch.float64)
        return draws / draws.sum()

    def distance(self, last: int) -> tuple[Tensor, Tensor, float]:
        """Return what the last steps say is left to go.

        Returns:
            Mean and standard error in sds and log sds, and the nats that this error costs.
        """
        rows, weights = torch.stack(self.left[-last:]), self.weights(last)[:, None]
        mean = (weights * rows).sum(0)
        error = (weights * (rows - mean)).square().sum(0).sqrt()
        nats = weights[:, 0].square() @ torch.tensor(self.nats[-last:], dtype=torch.float64)
        return mean, error * math.sqrt(last / max(1, last - 1)), float(nats)

    def set(self, mean: Tensor, precision: Tensor, curvature: Tensor) -> None:
        """Move the guide: its location, and the member that is best for a curvature."""
        self.mean, self.precision, self.curvature = mean, precision, curvature
        covariance = self.guide.nearest(curvature)
        self.factor = torch.linalg.cholesky(0.5 * (covariance + covariance.T))


def expected_calls(density: LogDensity) -> int:
    """Return the gradients at one point that take as long as a fit, for the decision to compile.

    Those of one step are evaluated together: operations are dispatched once for all its draws.
    """
    work = density.work()
    together = Work(operations=work.operations, numbers=DRAWS * work.numbers)
    return math.ceil(STEPS * together.seconds / work.seconds)


@dataclass(frozen=True, kw_only=True)
class Natural:
    """How natural gradients ended.

    `finished` is false if the density is far from quadratic under the guide, and natural gradients
    were not asked for: guide and generator are then as they were.
    """

    outcome: Outcome
    gradients: int
    finished: bool


def natural(
    density: LogDensity,
    guide: NormalGuide,
    config: FitConfig,
    generator: torch.Generator,
    progress: StepProgress | None = None,
) -> Natural:
    """Maximize the ELBO of a normal guide; its parameters hold the result afterwards.

    Args:
        density: the log density of the program, compiled or not.
        guide: the guide in the whitened coordinates of its start.
        config: `steps` bounds the steps; with `optimizer="natural"` they go on to the end where
            the density is far from quadratic too, which is then `not_converged`.
        generator: source of the noise.
        progress: called as `progress(step, steps, loss)`.
    """
    dim = guide.dim
    zero, one = torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64)
    begin = {name: p.detach().clone() for name, p in guide.named_parameters()}
    stream = generator.get_state()
    state = _State(guide, zero, one, one)
    run = _Run(density, state, config, generator, progress)
    try:
        stop = run.go()
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        first = str(error).partition("(")[0].strip().rstrip(".")
        sentence = f"A step of natural gradients cannot be computed: {first}."
        stop = Stop(status="nan", step=len(state.losses), sentence=sentence)
    if config.optimizer == "auto" and (stop.status == "nan" or not run.finished):
        generator.set_state(stream)
        with torch.no_grad():
            for name, p in guide.named_parameters():
                p.copy_(begin[name])
        outcome = Outcome(losses=np.asarray(state.losses), stop=stop)
        return Natural(outcome=outcome, gradients=run.spent, finished=False)
    if stop.status == "ok" and not run.finished:
        sentence = (
            f"Natural gradients ended after {len(state.losses)} steps on a density that is far"
            f" from quadratic under this guide ({state.beyond:.2g}, at most {CURVED:g}): they"
            " cannot say how much is left to go; use optimizer='adam'."
        )
        stop = Stop(status="not_converged", step=stop.step, sentence=sentence)
    return Natural(outcome=_outcome(state, stop), gradients=run.spent, finished=True)


@dataclass
class _Run:
    """One run: a search, then steps whose average is the answer."""

    density: LogDensity
    state: _State
    config: FitConfig
    generator: torch.Generator
    progress: StepProgress | None
    spent: int = 0
    finished: bool = True

    def go(self) -> Stop:
        """Take all steps, and return why they ended."""
        state, config, dim = self.state, self.config, self.state.guide.dim
        state.set(state.mean, state.precision, state.curvature)
        draws, searching, begun = DRAWS, 0, False
        while len(state.losses) < config.steps and self.spent + draws <= BUDGET:
            noise = torch.randn(draws // 2, dim, dtype=torch.float64, generator=self.generator)
            self.spent += draws
            found = _estimate(self.density, state, noise)
            if isinstance(found, Stop):
                return found
            state.draws.append(draws)
            most = FASTEST if not begun or found.noise < QUIET else RATE
            rates = _Rates(
                mean=min(most, NOISE * math.sqrt(dim) / max(found.slope_noise, 1e-9)),
                curvature=min(most, NOISE / max(found.noise, 1e-9)),
                precision=min(most, NOISE / max(found.relative_noise, 1e-9)),
            )
            _step(state, found, rates)
            if self.progress is not None:
                self.progress(len(state.losses), config.steps, found.loss)
            if begun:
                state.path.append((state.mean, state.curvature))
                if (stop := _done(state)) is not None:
                    self.finished = state.nearly_normal
                    return stop
                if len(state.path) % DOUBLED == 0 and draws < MOST_DRAWS:
                    draws *= 2
                continue
            searching += 1
            if searching < WINDOW:
                continue
            left, error, _ = state.distance(WINDOW)
            normal = config.optimizer == "natural" or state.nearly_normal
            if normal and bool((left.abs() <= SETTLED + 2.0 * error).all()):
                begun = True
                state.forget()
            elif searching >= PATIENCE:
                if not normal:
                    break
                draws, searching = min(2 * draws, MOST_DRAWS), 0
        self.finished = bool(state.curved) and state.nearly_normal
        return _out_of_steps(state)


def _estimate(density: LogDensity, state: _State, half: Tensor) -> _Estimate | Stop:
    """Evaluate mirrored draws; return a Stop if a value or a gradient is not finite."""
    guide, factor = state.guide, state.factor
    tril = guide.tril.double()
    white = state.mean + torch.cat([half, -half]) @ factor.T
    points = (guide.origin.double() + white @ tril.T).to(density.dtype)
    value, gradient = density.batch_gradient(points)
    good = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
    if not bool(good.all()):
        bad = points[int((~good).long().argmax())]
        return Stop(
            status="nan",
            step=len(state.losses) + 1,
            sentence=(
                f"The loss or its gradient at step {len(state.losses) + 1} is not finite, at"
                f" {density.nonfinite_sites(bad)}; the last finite parameters are kept."
            ),
        )
    slopes = gradient.double() @ (tril @ factor)  # by x
    plus, minus = slopes.chunk(2)
    even, odd = 0.5 * (plus + minus), 0.5 * (plus - minus)
    base = torch.linalg.cholesky(factor.T @ state.precision @ factor)
    rest = odd + half @ (factor.T @ state.curvature @ factor)
    cross = rest.T @ half / len(half)
    log_q = standard_normal_log_prob(half) - (
        factor.diagonal().log().sum() + tril.diagonal().abs().log().sum()
    )
    own, other, mean = (
        torch.linalg.solve_triangular(base, x.T, upper=False).T for x in (rest, half, even)
    )
    return _Estimate(
        loss=float(log_q.mean() - value.double().mean()),
        slope=even.mean(0),
        base=base,
        change=-0.5 * (cross + cross.T),
        slope_noise=math.sqrt(float(mean.var(0).sum()) / len(half)),
        noise=_noise(rest, half),
        relative_noise=_noise(own, other),
    )


def _noise(rest: Tensor, half: Tensor) -> float:
    """Return the standard error of the symmetric part of E[rest half'], as a norm."""
    cross = rest.T @ half / len(half)
    scatter = (rest.square().sum(-1) * half.square().sum(-1)).mean() - cross.square().sum()
    return math.sqrt(max(float(scatter), 0.0) / len(half) / 2)


def _step(state: _State, found: _Estimate, rates: _Rates) -> None:
    """Move what the guide follows, P and the location, and note how far was left to go."""
    factor, tril, base = state.factor, state.guide.tril.double(), found.base
    back = torch.linalg.inv(factor)
    drift = factor.T @ (state.curvature - state.precision) @ factor + found.change
    relative = torch.linalg.solve_triangular(base, rates.precision * drift, upper=False)
    relative = torch.linalg.solve_triangular(base, relative.T, upper=False)
    values, vectors = torch.linalg.eigh(0.5 * (relative + relative.T))
    pairs = state.draws[-1] / 2
    beyond = found.slope_noise * math.sqrt(pairs), found.noise * math.sqrt(2 * pairs)
    state.curved.append((*beyond, pairs))
    spread = base @ vectors
    precision = (spread * (1.0 + values).clamp(NARROWEST, WIDEST)) @ spread.T
    move = torch.linalg.solve(precision, found.slope)
    size = float(base.T.matmul(move).norm()) / math.sqrt(len(move))
    shown = tril @ factor
    widths = torch.linalg.solve_triangular(base, shown.T, upper=False).square().sum(0).sqrt()
    sds = shown.square().sum(-1).sqrt()
    precision = back.T @ precision @ back
    if state.guide.diagonal:
        change = rates.curvature * (back.T @ found.change @ back)
        share = _share(state.curvature, change, state.guide.back)
        curvature = state.curvature + share * change
        state.clipped.append(share < 1.0)
    else:
        curvature = precision
        state.clipped.append(bool((values + 1.0 - (values + 1.0).clamp(NARROWEST, WIDEST)).any()))
    rate = rates.curvature if state.guide.diagonal else rates.precision
    state.set(
        state.mean + min(rates.mean, 1.0 / max(size, 1e-300)) * (factor @ move),
        precision,
        curvature,
    )
    wider = ((tril @ state.factor).square().sum(-1).sqrt() / sds).log() / rate
    inner = back @ state.factor
    apart = (inner @ inner.T - torch.eye(len(move), dtype=inner.dtype)) / rate
    state.left.append(torch.cat([(shown @ move) / widths, wider]))
    state.nats.append(0.5 * float(found.slope @ move) + 0.25 * float(apart.square().sum()))
    state.losses.append(found.loss)


def _share(curvature: Tensor, change: Tensor, back: Tensor) -> float:
    """Return the share of a change that leaves the diagonal entries over u within their bounds."""
    now, more = (torch.einsum("ji,jk,ki->i", back, x, back) for x in (curvature, change))
    ratio = more / now
    share = torch.where(ratio < 0, (NARROWEST - 1.0) / ratio, (WIDEST - 1.0) / ratio)
    return min(1.0, float(share.min()))


def _done(state: _State) -> Stop | None:
    """Return the stop if the average of the last steps is known well enough."""
    left, error, nats = state.distance(last := state.last)
    largest = ERROR if sum(state.draws) >= ENOUGH else 0.5 * ERROR
    moves = bool((left.abs() > STILL + 3.0 * error).any())
    known = last >= LEAST and float(error.max()) <= largest and nats <= NATS
    return _stopped(state, "Settled", error, nats) if known and not moves else None


def _stopped(state: _State, how: str, error: Tensor, nats: float) -> Stop:
    number = len(state.losses)
    return Stop(
        status="ok",
        step=number,
        sentence=(
            f"{how}: the average of the last {state.last} of {number} natural-gradient steps is"
            f" known within {float(error.max()):.1g} sd, which costs {nats:.1g} nats."
        ),
    )


def _out_of_steps(state: _State) -> Stop:
    """Return why a search that used all its steps or draws ended."""
    number, last = len(state.losses), state.last if state.path else 0
    if last < 2:
        sentence = f"The budget of {number} natural-gradient steps ended during the search."
        return Stop(status="not_converged", step=number, sentence=sentence)
    left, error, nats = state.distance(last)
    if not bool((left.abs() > STILL + 3.0 * error).any()):
        return _stopped(state, "The budget ended", error, nats)
    return Stop(
        status="not_converged",
        step=number,
        sentence=(
            f"The budget of {number} natural-gradient steps ended while still moving: the last"
            f" {last} steps say that {float(left.abs().max()):.2g} sd are left to go."
        ),
    )


def _outcome(state: _State, stop: Stop) -> Outcome:
    """Write the average of the last steps into the guide."""
    if state.path and stop.status != "nan":  # of a fit that failed the last step is kept
        number = max(1, state.last)
        weights = state.weights(number)[: len(state.path)]
        last = list(zip(weights.tolist(), state.path[-number:], strict=False))
        total = sum(w for w, _ in last)
        mean = sum(((w / total) * m for w, (m, _) in last), torch.zeros_like(state.mean))
        curvature = sum(((w / total) * c for w, (_, c) in last), torch.zeros_like(state.curvature))
        state.set(mean, state.precision, curvature)
    with torch.no_grad():
        state.guide.shift.copy_(state.mean)
    return Outcome(losses=np.asarray(state.losses), stop=stop)
