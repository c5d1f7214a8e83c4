"""Relabeling of mixture draws: one numbering of the classes for all draws, and its quality.

The posterior of a mixture is invariant to the numbering of its classes, so a sampler may switch
numbers within a chain, between chains, or never. Two ways to undo it, both on class probabilities
r_s[i, k] of the rows given draw s:

* `stephens` (Stephens 2000, algorithm 2): permutations and mean probabilities q are updated in
  turn to minimize sum_s KL(r_s || q); the quality is the mean KL per row afterwards, reported with
  the one before.
* `pivot` (equivalence classes representatives, Papastamoulis and Iliopoulos 2010): every draw
  takes the permutation that agrees with one good draw on the most probable class of the most rows.

A chain in another *mode*, a different grouping of the rows, cannot be cured by relabeling. `modes`
finds such chains from their co-clustering matrices, which are invariant to the numbering, and
names them; nothing is averaged over modes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from benchmarks import arviz_bridge
from zoo.errors import UsageError
from zoo.types import Posterior

__all__ = [
    "Modes",
    "Relabeled",
    "apply",
    "co_clustering",
    "modes",
    "pivot",
    "rhat_before_after",
    "stephens",
]

Array = NDArray[np.float64]
Order = NDArray[np.int64]
TINY = 1e-12
# Root mean square difference of co-clustering matrices above which two chains are in different
# modes.
SEPARATE = 0.05
SIGMAS = 4.0


@dataclass(frozen=True, kw_only=True)
class Relabeled:
    """One numbering for all draws.

    Attributes:
        order: `[chain, draw, class]`; new class k of a draw is its old class `order[..., k]`.
        method: `stephens` or `pivot`.
        quality: mean over draws and rows of KL(r || mean r) in nats with the new numbers: 0 if all
            draws agree.
        before: the same with the numbers of the sampler.
        certainty: 1 - quality / log K, 1 if class probabilities are the same in every draw.
        agreement: fraction of rows and draws whose most probable class is that of the mean.
        rounds: iterations until nothing changed.
    """

    order: Order
    method: str
    quality: float
    before: float
    certainty: float
    agreement: float
    rounds: int


def stephens(responsibilities: Any, *, most_rounds: int = 50) -> Relabeled:
    """Relabel by Stephens' algorithm.

    It alternates between the mean class probabilities and the best permutation of every draw.

    Args:
        responsibilities: class probabilities given each draw, `[chain, draw, row, class]`.
        most_rounds: maximum number of iterations; each lowers the sum of KL divergences.

    Raises:
        UsageError: another shape, or probabilities that are not finite and nonnegative.
    """
    r, flat = _checked(responsibilities)
    # The alternation finds only local minima, so begin with a good numbering.
    order = pivot(r).order.reshape(len(flat), -1)
    entropy = (flat * np.log(flat + TINY)).sum(1)  # [draw, class]
    rounds = 0
    for rounds in range(1, most_rounds + 1):  # noqa: B007
        mean = np.take_along_axis(flat, order[:, None, :], 2).mean(0)
        # cost[s, k, l]: KL terms of giving old class l of draw s the new number k
        cost = entropy[:, None, :] - np.einsum("sil,ik->skl", flat, np.log(mean + TINY))
        new = np.stack([linear_sum_assignment(c)[1] for c in cost])
        if (new == order).all():
            break
        order = new
    return _summary(r, flat, order, "stephens", rounds)


def pivot(responsibilities: Any) -> Relabeled:
    """Relabel by agreement with a pivot: a draw with decided class probabilities.

    Arguments and errors are those of `stephens`.
    """
    r, flat = _checked(responsibilities)
    decided = (flat * np.log(flat + TINY)).sum((1, 2))
    middle = int(np.argsort(decided)[-max(1, len(decided) // 10)])  # decided, but not an outlier
    reference = np.eye(flat.shape[2])[flat[middle].argmax(-1)]  # [row, class]
    hard = np.eye(flat.shape[2])[flat.argmax(-1)]  # [draw, row, class]
    agreement = np.einsum("ik,sil->skl", reference, hard)
    order = np.stack([linear_sum_assignment(-a)[1] for a in agreement])
    return _summary(r, flat, order, "pivot", 1)


def _checked(responsibilities: Any) -> tuple[Array, Array]:
    r = np.asarray(responsibilities, dtype=np.float64)
    if r.ndim != 4 or not np.isfinite(r).all() or (r < 0).any():
        raise UsageError(
            f"Class probabilities have shape {r.shape}; accepted: finite numbers >= 0, [chain,"
            " draw, row, class]."
        )
    return r, r.reshape(-1, *r.shape[2:])


def _divergence(flat: Array, order: Order) -> tuple[float, float]:
    """Return the mean KL per row from the mean class probabilities.

    Also returns the fraction of rows that agree with them.
    """
    moved = np.take_along_axis(flat, order[:, None, :], 2)
    mean = moved.mean(0)
    kl = (moved * (np.log(moved + TINY) - np.log(mean + TINY))).sum(-1)
    return float(kl.mean()), float((moved.argmax(-1) == mean.argmax(-1)).mean())


def _summary(r: Array, flat: Array, order: Order, method: str, rounds: int) -> Relabeled:
    classes = flat.shape[2]
    quality, agreement = _divergence(flat, order)
    before, _ = _divergence(flat, np.broadcast_to(np.arange(classes), (len(flat), classes)))
    return Relabeled(
        order=order.reshape(*r.shape[:2], classes),
        method=method,
        quality=quality,
        before=before,
        certainty=1 - quality / float(np.log(classes)),
        agreement=agreement,
        rounds=rounds,
    )


def apply(values: Any, relabeled: Relabeled) -> Array:
    """Return draws of a site `[chain, draw, class, ...]` in the new numbers.

    Raises:
        UsageError: the third axis is not the classes.
    """
    x = np.asarray(values, dtype=np.float64)
    order = relabeled.order
    if x.ndim < 3 or x.shape[:3] != order.shape:
        raise UsageError(
            f"Draws have shape {x.shape}; accepted: {order.shape} and then the axes of one class."
        )
    return np.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 3)), 2)


def rhat_before_after(values: Any, relabeled: Relabeled) -> tuple[float, float]:
    """Return the largest R-hat of a site before and after relabeling.

    `values` are draws `[chain, draw, class, ...]` in the sampler's numbers.
    """
    x = np.asarray(values, dtype=np.float64)
    after = apply(x, relabeled)
    return tuple(float(arviz_bridge.rhat(v.reshape(*v.shape[:2], -1)).max()) for v in (x, after))  # type: ignore[return-value]


def co_clustering(responsibilities: Any) -> Array:
    """Return each chain's Rao-Blackwellized co-clustering matrix, `[chain, row, row]`.

    It is the mean over draws of sum_k r_ik r_jk.
    """
    r, _ = _checked(responsibilities)
    flat = np.moveaxis(r, 2, 1).reshape(r.shape[0], r.shape[2], -1)  # [chain, row, draw * class]
    return flat @ np.swapaxes(flat, 1, 2) / r.shape[1]


@dataclass(frozen=True, kw_only=True)
class Modes:
    """Modes of the chains: which of them group the rows alike.

    Attributes:
        labels: mode of each chain, `[chain]`; mode 0 has the most chains (then the highest mean
            log density).
        distance: root mean square difference of the chains' co-clustering matrices, `[chain,
            chain]`.
        sentence: one sentence that names the chains of every mode.
    """

    labels: Order
    distance: Array
    sentence: str

    @property
    def number(self) -> int:
        """Number of modes found."""
        return int(self.labels.max()) + 1


def modes(posterior: Posterior, responsibilities: Any, *, threshold: float = SEPARATE) -> Modes:
    """Group chains into modes, whose row groupings differ by more than the chains' noise.

    Two chains are in one mode if the root mean square difference of their co-clustering matrices
    is at most `threshold`, or at most four times the difference between the halves of the same
    chains.

    Args:
        posterior: the chains, for the log density of each.
        responsibilities: `[chain, draw, row, class]`.
        threshold: smallest difference, in probability, that can separate modes.
    """
    r, _ = _checked(responsibilities)
    matrices = co_clustering(r)
    half = r.shape[1] // 2
    noise = _rms(co_clustering(r[:, :half]) - co_clustering(r[:, half:]))  # [chain]
    distance = _rms(matrices[:, None] - matrices[None])
    limit = np.maximum(threshold, SIGMAS * np.minimum(noise[:, None], noise[None]))
    groups = _components(distance <= limit)
    lp = posterior.stats.get("lp")
    height = np.zeros(len(groups)) if lp is None else lp.double().numpy().mean(1)
    found = sorted(set(groups), key=lambda g: (-(groups == g).sum(), -height[groups == g].mean()))
    labels = np.array([found.index(g) for g in groups])
    return Modes(
        labels=labels, distance=distance, sentence=_sentence(posterior, labels, height, distance)
    )


def _rms(difference: Array) -> Array:
    return np.asarray(np.sqrt((difference**2).mean((-2, -1))))


def _components(near: NDArray[np.bool_]) -> Order:
    """Return the connected components of a relation between chains."""
    labels = np.arange(len(near))
    for _ in range(len(near)):
        labels = np.array([labels[row].min() for row in near])
    return labels


def _sentence(posterior: Posterior, labels: Order, height: Array, distance: Array) -> str:
    name = posterior.entry.key
    if labels.max() == 0:
        return (
            f"{name}: all {len(labels)} chains group the rows alike (largest difference"
            f" {distance.max():.3f})."
        )
    parts = []
    for mode in range(int(labels.max()) + 1):
        chains = np.flatnonzero(labels == mode)
        listed = ", ".join(str(c + 1) for c in chains)
        parts.append(
            f"mode {mode + 1}: chain{'s' if len(chains) > 1 else ''} {listed} (mean log density"
            f" {height[chains].mean():.1f})"
        )
    apart = distance[labels[:, None] != labels[None]].min()
    return (
        f"{name}: the chains are in {labels.max() + 1} modes, {'; '.join(parts)}; their"
        f" co-clustering differs by at least {apart:.2f}. How much mass each mode has is not known"
        " from these chains, and no average over them is given."
    )
