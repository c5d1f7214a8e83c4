"""Joint distances between two sets of draws, each with its noise floor.

The floor is the same distance between different chains of the reference. Margins are first
standardized by each side's own mean and sd, which leaves the shape: dependence, tails, modes.
Errors of location and scale are reported by the moments, which name them; a classifier could only
say that something differs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.metrics.components import Array, Side
from benchmarks.metrics.draw_sets import thinned
from benchmarks.metrics.metric import METRICS, JointDistance, failure, joint_distances_known
from benchmarks.metrics.moments import both_vary
from benchmarks.metrics.tails import tamed
from benchmarks.thresholds import C2ST_DRAWS
from benchmarks.types import Distance
from zoo.errors import UsageError

__all__ = ["floor_halves", "joint_distances"]

FEWEST = 100  # draws per side; with fewer a five-fold classifier is uninformative


class Halves(NamedTuple):
    """Draws of two different sets of reference chains, `[draw, component]` each."""

    first: Array
    second: Array


def floor_halves(reference: Side) -> Halves:
    """Split a reference into two halves by chain, or its independent draws into two halves.

    Raises:
        UsageError: a single autocorrelated chain. Both of its halves lack what the chain missed,
            so the floor would be too low.
    """
    chains = reference.draws.shape[0]
    if reference.independent:
        half = reference.flat.shape[0] // 2
        return Halves(reference.flat[:half], reference.flat[half : 2 * half])
    if chains < 2:
        raise UsageError(
            "A noise floor needs at least two reference chains, got one; run NUTS with chains=4."
        )
    half = chains // 2
    width = reference.draws.shape[-1]
    return Halves(
        reference.draws[:half].reshape(-1, width),
        reference.draws[half : 2 * half].reshape(-1, width),
    )


def joint_distances(
    method: Side, reference: Side, notes: list[str] | None = None, seed: int = 0
) -> tuple[Distance, ...]:
    """Return every joint distance with its floor, at the same sample size for both.

    The size is the smallest of the method's ESS, half the ESS of the reference, and 2,000; an
    autocorrelated side is thinned to its ESS. Empty if too few draws are left, or if no component
    varies on both sides. A plug-in distance that fails is omitted, with a sentence in `notes`.
    """
    method, reference = tamed(method, reference)
    varies = np.flatnonzero(both_vary(method, reference))
    if not len(varies):
        return ()
    method, reference = method.take(varies.tolist()), reference.take(varies.tolist())
    if not reference.independent and reference.draws.shape[0] < 2:
        return ()
    size = int(min(method.ess.min(), reference.ess.min() / 2, C2ST_DRAWS))
    if size < FEWEST:
        return ()
    halves = floor_halves(reference)
    draws = thinned(method.flat, size), thinned(reference.flat, size)
    parts = thinned(halves.first, size), thinned(halves.second, size)
    known, broken = joint_distances_known()
    said = [] if notes is None else notes
    said += broken
    found = []
    for distance in known:
        try:
            found.append(_measured(distance, draws, parts, seed))
        except Exception as error:
            if distance.name not in METRICS.plugins:
                raise
            said.append(failure("distance", distance.name, error))
    return tuple(found)


def _measured(
    distance: JointDistance, draws: tuple[Array, Array], parts: tuple[Array, Array], seed: int
) -> Distance:
    """Measure the distance between the two sides, and between the halves of the reference."""
    value, se = distance.measure(*draws, seed)
    floor, floor_se = distance.measure(*parts, seed)
    line = (
        None if distance.line is None else distance.line(value, se or 0.0, floor, floor_se or 0.0)
    )
    return Distance(
        name=distance.name,
        value=float(value),
        se=None if se is None else float(se),
        floor=float(floor),
        line=line,
    )
