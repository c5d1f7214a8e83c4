"""Joint distances between two sets of draws, each beside its noise floor: the same distance between reference chains.

Margins are standardized by each side's own mean and sd first. What is left is shape alone: dependence, tails, modes.
Location and scale are judged by the moments, which name them; a classifier could only say that something differs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.metrics.components import Array, Side
from benchmarks.metrics.moments import both_vary
from benchmarks.thresholds import C2ST_DRAWS, C2ST_FLOOR_LINE, SIGMAS
from benchmarks.types import Distance
from zoo.errors import UsageError

__all__ = ["c2st_accuracy", "floor_halves", "joint_distances", "sliced_wasserstein", "thinned"]

FEWEST = 100  # draws per side below which a five-fold classifier says nothing
MOST_FEATURES = 100
PROJECTIONS = 100


class Halves(NamedTuple):
    """Draws of two different sets of reference chains, `[draw, component]` each."""

    first: Array
    second: Array


def thinned(draws: Array, size: int) -> Array:
    """Take `size` evenly spaced rows of `[draw, component]`."""
    if size >= len(draws):
        return draws
    return draws[np.linspace(0, len(draws) - 1, size).astype(int)]


def floor_halves(reference: Side) -> Halves:
    """Split a reference into chains 1-2 and chains 3-4 (first and second half of the chains or of independent draws).

    Raises:
        UsageError: one autocorrelated chain. Two halves of one chain share what the chain missed, so the floor would
            look better than it is.
    """
    chains = reference.draws.shape[0]
    if reference.independent:
        half = reference.flat.shape[0] // 2
        return Halves(reference.flat[:half], reference.flat[half : 2 * half])
    if chains < 2:
        raise UsageError("A noise floor needs a reference of at least two chains; got one. Run NUTS with chains=4.")
    half = chains // 2
    width = reference.draws.shape[-1]
    return Halves(reference.draws[:half].reshape(-1, width), reference.draws[half : 2 * half].reshape(-1, width))


def c2st_accuracy(first: Array, second: Array, seed: int = 0) -> tuple[float, float]:
    """Return how often a classifier tells draws of two posteriors apart, and its standard error.

    Gradient boosting (scikit-learn), 5-fold cross-validation, equal sizes; 0.5 is indistinguishable. The binomial error
    sqrt(a (1 - a) / (2 n)). Source: Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests, ICLR.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    size = min(len(first), len(second))
    columns = np.linspace(0, first.shape[1] - 1, min(first.shape[1], MOST_FEATURES)).astype(int)
    features = np.concatenate([_standardized(thinned(x, size))[:, columns] for x in (first, second)])
    labels = np.repeat([0, 1], size)
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, learning_rate=0.1, early_stopping=False, random_state=seed)
    with threadpool_limits(1):  # two busy threads on a shared machine are many times slower than one
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        accuracy = float(cross_val_score(model, features, labels, cv=folds).mean())
    return accuracy, float(np.sqrt(max(accuracy * (1 - accuracy), 1e-3) / (2 * size)))


def sliced_wasserstein(first: Array, second: Array, seed: int = 0) -> float:
    """Return the mean 1-Wasserstein distance over 100 random directions, margins standardized, in sds.

    For standardized draws, W1 of the projections onto random unit vectors, averaged. Equal sizes.
    """
    size = min(len(first), len(second))
    directions = np.random.default_rng(seed).standard_normal((first.shape[1], PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    a, b = (np.sort(_standardized(thinned(x, size)) @ directions, axis=0) for x in (first, second))
    return float(np.abs(a - b).mean())


def joint_distances(method: Side, reference: Side, seed: int = 0) -> tuple[Distance, ...]:
    """Return C2ST and the sliced Wasserstein distance with their floors, at one size for guide and floor.

    The size is the smallest of the method's ESS, half the reference's ESS and 2,000; an autocorrelated side is thinned
    to its ESS. C2ST's line is max(0.55, floor + 3 se), floor at least 0.5, se of the difference. Empty where too few
    draws are left, or where no component varies on both sides.
    """
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
    value, se = c2st_accuracy(*draws, seed=seed)
    floor, floor_se = c2st_accuracy(*parts, seed=seed)
    line = max(C2ST_FLOOR_LINE, max(floor, 0.5) + SIGMAS * float(np.hypot(se, floor_se)))
    return (
        Distance(name="c2st", value=value, se=se, floor=floor, line=line),
        Distance(
            name="sliced_wasserstein", value=sliced_wasserstein(*draws, seed=seed), se=None, floor=sliced_wasserstein(*parts, seed=seed)
        ),
    )


def _standardized(draws: Array) -> Array:
    sd = draws.std(0)
    out: Array = (draws - draws.mean(0)) / np.where(sd > 0, sd, 1.0)
    return out
