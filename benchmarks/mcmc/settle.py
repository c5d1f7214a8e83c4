"""Chains from points that may be the posterior already, until they have forgotten where they were.

Tempered SMC ends with a few transitions on the posterior itself. In a narrow place, around a ring
or in heavy tails these are too few: all islands share what they do not reach, and their
differences do not show it. So all points are moved on, by kernels of fixed steps, until start and
end are uncorrelated within every mode and nothing has moved since half of the transitions. The
kernels leave the posterior invariant: points that were right stay right, and whether anything
changed says whether they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.mcmc.batched_hmc import Path, Streams, move
from benchmarks.mcmc.paired import HalfTime, memory_of
from benchmarks.mcmc.short_chains import ACCEPTANCE, LOOK, STUCK, chain_kernels, components_moved
from benchmarks.thresholds import multiplier
from zoo.density.log_density import LogDensity
from zoo.seeds import derive_seed

__all__ = ["MEMORY", "Settled", "settle"]

MEMORY = 0.1  # correlation of start and end beyond which a start is remembered
LEAST, MOST = 16, 512  # transitions
MOST_GRADIENTS = 12_000_000  # of all chains, at a look at which they stop


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Where the chains ended, and whether they may be used.

    Attributes:
        points: `[n, dim]`, unconstrained.
        transitions: of each chain.
        memory: largest correlation of start and end over the judged components.
        allowed: the largest that passes: 0.1, or what noise alone can show.
        moved: components whose mean or sd changed since half of the transitions.
        changed: components whose mean or sd changed since the start.
        acceptance: mean acceptance of the last transition.
        stuck: share of chains that never moved.
        gradients, depth: evaluations of the density, all and one after another.
    """

    points: Tensor
    transitions: int
    memory: float
    allowed: float
    moved: int
    changed: int
    acceptance: float
    stuck: float
    gradients: int
    depth: int

    @property
    def doubt(self) -> str:
        """Why the ends may not be the posterior, in a clause; empty if nothing speaks so."""
        if self.stuck > STUCK or not self.acceptance >= ACCEPTANCE:
            return f"{self.stuck:.0%} of them never moved, and {self.acceptance:.0%} of moves pass"
        if not self.memory <= self.allowed:
            return (
                f"their ends still know their starts (correlation {self.memory:.2f} after"
                f" {self.transitions} transitions)"
            )
        if self.moved:
            return (
                f"{self.moved} judged components still move after {self.transitions} transitions"
            )
        return ""


def settle(
    density: LogDensity,
    starts: Tensor,
    evaluate: Callable[[Tensor], np.ndarray],
    *,
    pilot: Tensor,
    modes: np.ndarray | None = None,
    most: int = MOST,
    gradients: float = MOST_GRADIENTS,
    seed: int = 0,
) -> Settled:
    """Move chains until they have forgotten where they began.

    Args:
        density: the log density of the posterior, compiled or not.
        starts: `[n, dim]`, unconstrained, one chain each.
        evaluate: the judged components at points `[n, dim]`, as `[n, component]`.
        pilot: further points `[m, dim]` for step, metric and length.
        modes: the mode of every start, `[n]`, as in `memory_of`.
        most: transitions.
        gradients: of all chains, beyond which they are not moved further.
        seed: of the noise.
    """
    path = Path(density)
    kernels = chain_kernels(path, pilot, derive_seed(seed, "settle", "pilot"))
    state, streams = path(starts.contiguous()), Streams([derive_seed(seed, "settle")])
    before = evaluate(starts)
    allowed = max(MEMORY, multiplier(before.shape[1]) / len(starts) ** 0.5)
    half = HalfTime()
    transitions, moved, passed, acceptance = 0, 0, False, math.nan
    memory, seen = math.inf, before
    while transitions < most and (path.gradients < gradients or transitions < LEAST):
        for kernel in kernels:
            state, done = move(path, state, kernel, streams)
            acceptance = float(done.acceptance.mean())
        transitions += LOOK
        seen = evaluate(state.x)
        half.add(transitions, seen)
        if transitions < LEAST:
            continue
        memory = float(np.abs(memory_of(before, seen, modes)).max())
        moved = components_moved(half.before(transitions), seen)
        was, passed = passed, memory <= allowed and moved == 0
        if was and passed:  # twice, as one look in many passes by chance
            break
    return Settled(
        points=state.x,
        transitions=transitions,
        memory=memory,
        allowed=allowed,
        moved=moved,
        changed=components_moved(before, seen),
        acceptance=acceptance,
        stuck=float((state.x == starts).all(1).double().mean()),
        gradients=path.gradients,
        depth=path.calls,
    )
