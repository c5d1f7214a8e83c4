"""Many short chains at once: as few transitions as forgetting takes, as many chains as draws.

K groups of M chains of Hamiltonian Monte Carlo; the chains of one group begin at the same point
and differ in their noise only. With one end x_km per chain, per judged component

    B = var_k(mean_m x_km),   W = mean_k(var_m x_km),   nested R-hat = sqrt(1 + B / W)

Chains that have forgotten their starts have B / W = 1 / M in the mean. Groups that began close to
each other agree before they have arrived, so the ends must not have moved since half of the
transitions either. The ends are then K M independent draws, and the error of a mean is sd /
sqrt(K M).

Step, metric and length of the trajectories come from pilot chains that are not used further: the
measured chains are moved by fixed kernels. The length is the one with the largest change of the
squared distance from the center per gradient. Of every eight transitions two have shorter steps,
log-uniform: a place too narrow for the others, such as the neck of a funnel, is entered by them
only, and without them the chains agree with each other that it is not there.

Sources: Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman (2024), Nested R-hat:
assessing the convergence of Markov chain Monte Carlo when running many short chains, Bayesian
Analysis; Hoffman, Radul and Sountsov (2021), An adaptive-MCMC scheme for setting trajectory
lengths in Hamiltonian Monte Carlo, AISTATS (the criterion).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.mcmc.batched_hmc import Kernel, Path, State, Streams, move, tuned
from benchmarks.mcmc.metric import Metric
from benchmarks.mcmc.paired import HalfTime, changes
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.seeds import derive_seed

__all__ = [
    "ACCEPTANCE",
    "CONVERGED",
    "GROUPS",
    "LOOK",
    "MEMBERS",
    "STUCK",
    "ShortChains",
    "chain_kernels",
    "components_moved",
    "nested_r_hat",
    "short_chains",
]

GROUPS, MEMBERS = 32, 128
CONVERGED = 1.01  # nested R-hat
LOOK = 8  # transitions between two looks
LEAST, MOST = 16, 512  # transitions
MOST_GRADIENTS = 20_000_000  # of all chains, at a look at which they stop
ROUNDS = 24  # transitions of the pilot before lengths are compared, and after
LENGTHS = (4, 8, 16, 32)  # leapfrogs
TRIES = 4  # transitions of the pilot per length
SPREAD = 4.0  # of steps: chains of one length have trajectories of many lengths
# Shorter steps: by which factor at least, over which one, in how many transitions of a look.
FINE, FINE_SPREAD, FINE_MOVES, FINE_LEAPFROGS = 4.0, 16.0, 2, 32
STILL, ERRORS = 0.05, 4.0  # sds, and standard errors, by which ends may differ from half time
STUCK, ACCEPTANCE = 0.01, 0.3  # share of chains that may never move, and lowest acceptance


@dataclass(frozen=True, kw_only=True)
class ShortChains:
    """The ends of the chains, and whether they may be used.

    Attributes:
        points: `[group, member, dim]`, unconstrained.
        r_hat: nested R-hat of every judged component.
        transitions: of each chain.
        moved: components whose mean or sd changed since half of the transitions.
        leapfrogs: of a trajectory, as the pilot chose.
        acceptance: mean acceptance of the last transition.
        divergent: share of all transitions that diverged.
        stuck: share of chains that never moved.
        gradients, depth: evaluations of the density, all and one after another.
    """

    points: Tensor
    r_hat: np.ndarray
    transitions: int
    moved: int
    leapfrogs: int
    acceptance: float
    divergent: float
    stuck: float
    gradients: int
    depth: int

    @property
    def doubt(self) -> str:
        """Why the ends may not be the posterior, in one sentence; empty if nothing speaks so."""
        if self.stuck > STUCK or not self.acceptance >= ACCEPTANCE:
            return (
                f"{self.stuck:.0%} of the short chains never moved, and {self.acceptance:.0%} of"
                " the last moves pass."
            )
        worst = float(self.r_hat.max()) if len(self.r_hat) else math.nan
        if not worst <= CONVERGED:
            return (
                f"Nested R-hat of the short chains is {worst:.3f} after {self.transitions}"
                f" transitions, at most {CONVERGED}."
            )
        if self.moved:
            return (
                f"{self.moved} judged components of the short chains still move after"
                f" {self.transitions} transitions."
            )
        return ""


def nested_r_hat(values: np.ndarray) -> np.ndarray:
    """Return nested R-hat `[component]` of values `[group, member, component]`.

    A component that is constant everywhere has 1; one that is constant within every group but not
    between them has infinity.
    """
    between = values.mean(1).var(0, ddof=1)
    within = values.var(1, ddof=1).mean(0)
    tiny = (1e-12 * (1 + np.abs(values).max((0, 1)))) ** 2
    ratio = np.where(
        within > tiny,
        between / np.where(within > tiny, within, 1.0),
        np.where(between > tiny, math.inf, 0.0),
    )
    out: np.ndarray = np.sqrt(1 + ratio)
    return out


def short_chains(
    density: LogDensity,
    starts: Tensor,
    evaluate: Callable[[Tensor], np.ndarray],
    *,
    pilot: Tensor,
    members: int = MEMBERS,
    most: int = MOST,
    gradients: float = MOST_GRADIENTS,
    seed: int = 0,
) -> ShortChains:
    """Move groups of chains until they have forgotten where they began.

    Args:
        density: the log density of the posterior, compiled or not.
        starts: one point per group, `[group, dim]`, unconstrained; at least 4.
        evaluate: the judged components at points `[n, dim]`, as `[n, component]`.
        pilot: further points `[m, dim]` for step, metric and length.
        members: chains of a group, at least 100: nested R-hat of independent ends is
            sqrt(1 + 1 / members) in the mean.
        most: transitions.
        gradients: of all chains, beyond which they are not moved further.
        seed: of the noise.

    Raises:
        UsageError: too few groups or members.
    """
    if len(starts) < 4 or members < 100:
        raise UsageError(
            f"short_chains got {len(starts)} groups of {members} chains; accepted: at least 4"
            " groups of at least 100, as below them nested R-hat cannot tell."
        )
    path = Path(density)
    kernels = chain_kernels(path, pilot, derive_seed(seed, "short chains", "pilot"))
    state = path(starts.repeat_interleave(members, 0).contiguous())
    streams = Streams([derive_seed(seed, "short chains", i) for i in range(len(starts))])
    begin, divergent, acceptance = state.x, 0.0, math.nan
    shape = (len(starts), members, -1)
    transitions, r_hat, moved, passed = 0, np.full(1, math.inf), 0, False
    half = HalfTime()
    while transitions < most and (path.gradients < gradients or transitions < LEAST):
        for kernel in kernels:
            state, done = move(path, state, kernel, streams)
            divergent += float(done.divergent.double().mean())
            acceptance = float(done.acceptance.mean())
        transitions += LOOK
        seen = evaluate(state.x)
        half.add(transitions, seen)
        if transitions < LEAST:
            continue
        r_hat, moved = (
            nested_r_hat(seen.reshape(shape)),
            components_moved(half.before(transitions), seen),
        )
        before, passed = passed, bool((r_hat <= CONVERGED).all()) and moved == 0
        if passed and before:  # twice, as one look in many passes by chance
            break
    return ShortChains(
        points=state.x.reshape(shape),
        r_hat=r_hat,
        transitions=transitions,
        moved=moved,
        leapfrogs=kernels[-1].leapfrogs,
        acceptance=acceptance,
        divergent=divergent / max(transitions, 1),
        stuck=float((state.x == begin).all(1).double().mean()),
        gradients=path.gradients,
        depth=path.calls,
    )


def chain_kernels(path: Path, points: Tensor, seed: int) -> tuple[Kernel, ...]:
    """Return the kernels of the transitions between two looks, fixed by pilot chains.

    Args:
        path: the density.
        points: where the pilot chains begin, `[n, dim]`.
        seed: of their noise.
    """
    kernel = _pilot(path, points, seed)
    fine = dataclasses.replace(
        kernel, step=kernel.step / FINE, leapfrogs=FINE_LEAPFROGS, spread=FINE_SPREAD
    )
    return (fine,) * FINE_MOVES + (kernel,) * (LOOK - FINE_MOVES)


def _pilot(path: Path, points: Tensor, seed: int) -> Kernel:
    """Return metric, step and length from chains that begin at these points."""
    kernel = Kernel(
        metric=Metric.of(points),
        step=0.8 / points.shape[1] ** 0.25,
        leapfrogs=LENGTHS[1],
        spread=SPREAD,
    )
    state, streams = path(points.contiguous()), Streams([seed])
    state, kernel = _warmed(path, state, kernel, streams)
    gains = {}
    for length in LENGTHS:
        trial = dataclasses.replace(kernel, leapfrogs=length)
        changes = []
        for _ in range(TRIES):
            center = kernel.metric.whiten(state.x).mean(0)
            after, _ = move(path, state, trial, streams)
            distances = [
                (kernel.metric.whiten(x) - center).square().sum(1) for x in (state.x, after.x)
            ]
            changes.append(float((distances[1] - distances[0]).square().mean()))
            state = after
        gains[length] = sum(changes) / length
    kernel = dataclasses.replace(kernel, leapfrogs=max(gains, key=lambda n: gains[n]))
    return _warmed(path, state, kernel, streams)[1]


def _warmed(path: Path, state: State, kernel: Kernel, streams: Streams) -> tuple[State, Kernel]:
    """Move the pilot; tune the step, and take the metric anew at a half."""
    for i in range(ROUNDS):
        state, moved = move(path, state, kernel, streams)
        kernel = tuned(kernel, moved)
        if i == ROUNDS // 2:
            kernel = dataclasses.replace(kernel, metric=Metric.of(state.x))
    return state, kernel


def components_moved(middle: np.ndarray, end: np.ndarray) -> int:
    """Return the number of components whose mean or sd changed by more than noise and a 20th.

    Args:
        middle: values `[n, component]` at an earlier time.
        end: of the same chains now.
    """
    e, e_se, r, r_se = changes(middle, end)
    far = np.abs(e) > np.maximum(STILL, ERRORS * e_se)
    return int((far | (np.abs(r) > np.maximum(STILL, ERRORS * r_se))).sum())
