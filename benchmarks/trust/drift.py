"""Drift: where do short chains go that start from a guide's own draws?

Every draw of the guide starts a chain of Hamiltonian Monte Carlo. Exact draws stay exact: no mean
and no sd moves. A guide's draws move towards the posterior; with q the start, p_t the chains after
t transitions and s_t their sd, per judged component

    e_t = (E_q - E_t) / s_t,      r_t = log(s_q / s_t)

estimate the guide's mean error and log sd ratio. Both sides are the same chains, so the errors of
e and r are paired. The kernel is fixed: step, metric and length come from pilot draws that are not
judged. Where the second half of the transitions still moves, the estimate is a lower bound, and
says so. What cannot be seen: mass that no chain reaches, above all a mode that the guide misses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from torch import Tensor

from benchmarks.mcmc.batched_hmc import TARGET, Density, Kernel, Path, Streams, move, tuned
from benchmarks.mcmc.lengths import explored
from benchmarks.mcmc.metric import Metric
from benchmarks.mcmc.paired import changes, memory_of
from benchmarks.mcmc.settle import MEMORY
from benchmarks.mcmc.short_chains import ACCEPTANCE, STUCK
from benchmarks.metrics.components import Array
from benchmarks.thresholds import LOG_SD, MEAN, multiplier
from zoo.seeds import derive_seed

__all__ = ["Drift", "drift_of"]

TRANSITIONS = 16  # of the measured chains; half of them show whether they still move
LEAPFROGS = 6  # at most
PILOT = 512  # draws
ROUNDS, LEAST = 24, 12  # transitions of the pilot, in which its step is tuned
AIM = 0.03  # correlation of start and end that a quarter of the transitions may leave
TUNED = 0.1  # from the wanted acceptance, within which a step may stay as it is
SPREAD = 4.0  # of steps: most chains take long ones
STILL = 0.25  # of the whole move: a second half that moves less has arrived
LEVEL = 0.05  # of the familywise test
MARGIN = 0.05  # reference sds: half of a move that is no finding anywhere


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What the chains say, `[component]` each.

    Attributes:
        mean_error, mean_error_se: e_T in sds of the moved chains, with paired standard errors.
        log_sd_ratio, log_sd_ratio_se: r_T.
        moving: where the second half still moved: the estimate is a lower bound.
        memory: correlation over chains of start and end, within modes.
        points: the chains at their end, `[chain, dim]`, unconstrained.
        acceptance: mean acceptance of the last transition.
        divergent: share of all transitions that diverged.
        stuck: share of chains that never moved.
        gradients, depth: evaluations of the density, all and one after another.
        chains: how many stand behind each component.
    """

    mean_error: Array
    mean_error_se: Array
    log_sd_ratio: Array
    log_sd_ratio_se: Array
    moving: np.ndarray
    memory: Array
    points: Tensor
    acceptance: float
    divergent: float
    stuck: float
    gradients: int
    depth: int
    chains: int

    def __repr__(self) -> str:
        """Return sizes and the largest movements, without points."""
        chains, dim = self.points.shape
        return (
            f"Drift({chains:,} chains in {dim} coordinates; means moved by up to"
            f" {np.abs(self.mean_error).max():.2f} sd, log sds by up to"
            f" {np.abs(self.log_sd_ratio).max():.2f})"
        )

    @property
    def excess(self) -> Array:
        """The larger of |e| and |r| over their lines, `[component]`; above 1 is a finding.

        Lines are max(0.15, z se) and max(log 1.15, z se), z for the number of components.
        """
        z = multiplier(2 * len(self.mean_error))
        mean = np.abs(self.mean_error) / np.maximum(MEAN, z * self.mean_error_se)
        spread = np.abs(self.log_sd_ratio) / np.maximum(LOG_SD, z * self.log_sd_ratio_se)
        found: Array = np.maximum(mean, spread)
        return found

    @property
    def doubt(self) -> str:
        """Why the chains have not arrived, in a clause; empty if nothing speaks against it."""
        errors = (self.mean_error_se, self.log_sd_ratio_se, self.memory)
        if not all(np.isfinite(e).all() for e in errors):
            return "some judged values are not finite"
        if self.stuck > STUCK or self.acceptance < ACCEPTANCE:
            return f"{self.stuck:.0%} of them never moved, and {self.acceptance:.0%} of moves pass"
        if self.moving.any():
            return f"{int(self.moving.sum())} judged components still move"
        memory = float(np.abs(self.memory).max())
        if not self.forgets.all():
            return f"their ends still know their starts (correlation {memory:.2f})"
        return ""

    @property
    def still(self) -> np.ndarray:
        """Where the chains neither drift materially nor still move, `[component]`."""
        found: np.ndarray = (self.excess <= 1) & ~self.moving
        return found

    @property
    def forgets(self) -> np.ndarray:
        """Where start and end are uncorrelated, up to 0.1 or noise alone, `[component]`."""
        noise = multiplier(len(self.memory)) / self.chains**0.5
        found: np.ndarray = np.abs(self.memory) <= max(MEMORY, noise)
        return found

    @property
    def rejects_no_drift(self) -> bool:
        """Whether a test of level 5 % over all components rejects that nothing moves (Bonferroni).

        It does for the smallest error, given enough draws: a figure of calibration, no finding.
        """
        z = float(norm.isf(LEVEL / (4 * len(self.mean_error))))
        moved = np.abs(self.mean_error) > z * self.mean_error_se
        spread = np.abs(self.log_sd_ratio) > z * self.log_sd_ratio_se
        return bool((moved | spread).any())

    @property
    def found(self) -> bool:
        """Whether a component drifts materially."""
        return bool((self.excess > 1).any())


def drift_of(
    density: Density,
    u: Tensor,
    evaluate: Callable[[Tensor], Array],
    *,
    pilot: Tensor,
    modes: np.ndarray | None = None,
    seed: int = 0,
    transitions: int = TRANSITIONS,
    leapfrogs: int = LEAPFROGS,
) -> Drift:
    """Move a guide's draws by short chains and compare them with where they began.

    Args:
        density: the log density, compiled or not.
        u: draws of the guide, `[chain, dim]`, unconstrained.
        evaluate: the judged components at points `[n, dim]`, as `[n, component]`; of several
            densities side by side as `[n / targets, component]`.
        pilot: further draws of the guide `[m, dim]` for step and metric.
        modes: the mode in which every chain begins, as in `memory_of`: what is forgotten is judged
            within them. None for one.
        seed: of the noise.
        transitions: of the measured chains, at least 2.
        leapfrogs: steps of a trajectory, at most.
    """
    path = Path(density)
    half = max(1, transitions // 2)
    kernel = _tuned_kernel(path, pilot, derive_seed(seed, "drift", "pilot"), leapfrogs, half)
    state, streams = path(u.contiguous()), Streams([derive_seed(seed, "drift")])
    before, divergent, acceptance = evaluate(u), 0.0, math.nan
    middle = before
    for i in range(transitions):
        state, moved = move(path, state, kernel, streams)
        divergent += float(moved.divergent.double().mean()) / transitions
        acceptance = float(moved.acceptance.mean())
        if i + 1 == transitions // 2:
            middle = evaluate(state.x)
    after = evaluate(state.x)
    e, e_se, r, r_se = changes(before, after)
    return Drift(
        mean_error=e,
        mean_error_se=e_se,
        log_sd_ratio=r,
        log_sd_ratio_se=r_se,
        moving=_moving(middle, after, e, r),
        memory=memory_of(before, after, modes),
        points=state.x,
        acceptance=acceptance,
        divergent=divergent,
        stuck=float((state.x == u).all(1).double().mean()),
        gradients=path.gradients,
        depth=path.calls,
        chains=len(before),
    )


def _tuned_kernel(path: Path, pilot: Tensor, seed: int, leapfrogs: int, half: int) -> Kernel:
    """Return a kernel whose step, metric and length come from pilot draws only.

    As short as forgets in a quarter of the transitions. Ending earlier instead was tried: after
    8 of 16 transitions 512 chains of the centered schools look as if they had arrived, at 0.4 of
    the 0.6 sds by which they go on to move.
    """
    kernel = Kernel(
        metric=Metric.of(pilot),
        step=0.8 / pilot.shape[1] ** 0.25,
        leapfrogs=leapfrogs,
        spread=SPREAD,
    )
    state, streams, tuned_for = path(pilot.contiguous()), Streams([seed]), 0
    for i in range(ROUNDS):
        state, moved = move(path, state, kernel, streams)
        near = abs(float(moved.acceptance.mean()) - TARGET) <= TUNED
        tuned_for = tuned_for + 1 if near else 0
        kernel = tuned(kernel, moved)
        if i == ROUNDS // 3:  # where the chains go, sds may differ from the guide's by far
            kernel = dataclasses.replace(kernel, metric=Metric.of(state.x))
        if i + 1 >= LEAST and tuned_for >= 2:
            break
    targets = getattr(path.density, "targets", 1)
    _, _, length = explored(
        path,
        state,
        kernel,
        streams,
        least=half,
        gradients=half * leapfrogs,
        left=AIM**2,
        targets=targets,
    )
    return dataclasses.replace(kernel, leapfrogs=length)


def _moving(middle: Array, after: Array, e: Array, r: Array) -> np.ndarray:
    """Return where the second half moved by more than noise and by a share of the whole move."""
    late_e, late_e_se, late_r, late_r_se = changes(middle, after)
    z = multiplier(2 * len(e))
    far = (np.abs(late_e) > np.maximum(z * late_e_se, np.maximum(STILL * np.abs(e), MARGIN))) | (
        np.abs(late_r) > np.maximum(z * late_r_se, np.maximum(STILL * np.abs(r), MARGIN))
    )
    found: np.ndarray = far
    return found
