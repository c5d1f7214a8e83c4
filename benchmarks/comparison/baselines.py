"""Class probabilities of an entry's `baselines` hook, scored with its posteriors.

There is one table per entry. A posterior predicts by the mean over its draws of the class
probabilities. The ground truth of the table is the predictive of this run's NUTS chains, else that
of the reference draws. `distance` is the mean total variation to it, and `floor` the same distance
between the first and the second half of its chains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.metrics import calibration
from benchmarks.types import Comparison
from zoo.types import Baselines, Data, ModelEntry, Posterior, Reference

__all__ = ["Interval", "PredictionRow", "PredictionTable", "predictive", "score_rows", "table"]

Array = np.ndarray[Any, Any]
CHUNK = 250  # draws evaluated at once
MOST_DRAWS = 4000
METRICS: Mapping[str, Callable[[Array, Array], float]] = {
    "accuracy": calibration.accuracy,
    "log_loss": calibration.log_loss,
    "ece": calibration.ece,
    "adaptive_ece": calibration.adaptive_ece,
    "brier": calibration.brier,
}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its 90 % bootstrap interval over test rows."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PredictionRow:
    """One method: whether it is a posterior, metrics, AUROC per OOD set, distance to the truth."""

    method: str
    posterior: bool
    metrics: Mapping[str, Interval]
    outside: Mapping[str, float]
    distance: float | None
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class PredictionTable:
    """The rows, the noise floor of the distance, and the data of the figures.

    `probabilities` maps methods to `[row, class]` on the test rows; `truth` names the method whose
    predictive is the ground truth.
    """

    rows: Sequence[PredictionRow] = ()
    floor: float | None = None
    truth: str = ""
    labels: Array = field(default_factory=lambda: np.empty(0, dtype=int))
    classes: tuple[str, ...] = ()
    probabilities: Mapping[str, Array] = field(default_factory=dict)
    images: Array | None = None
    error: str = ""


def table(
    entry: ModelEntry,
    data: Data,
    comparisons: Mapping[str, Comparison],
    reference: Reference,
    *,
    seed: int = 0,
) -> PredictionTable | None:
    """Return the table of an entry with a `baselines` hook, None for other entries.

    An exception of the hook is recorded in the table, not raised.

    Args:
        entry: the entry.
        data: what was conditioned on.
        comparisons: comparisons by row name; rows without draws are left out.
        reference: the ground truth if NUTS was not run.
        seed: seed for training the baselines.
    """
    if entry.baselines is None:
        return None
    try:
        made = entry.baselines(data, seed, **entry.settings)
        posteriors = {
            n: c.posterior
            for n, c in comparisons.items()
            if c.verdict != "fit_failed" and "none" not in c.posterior.draws
        }
        return _score(made, posteriors, reference)
    except Exception as error:  # a hook of a plug-in must not break the report
        return PredictionTable(
            error=f"The baselines of this entry failed: {type(error).__name__}: {error}"
        )


def predictive(
    made: Baselines, posterior: Posterior, *, chains: Sequence[int] | None = None
) -> dict[str, Array]:
    """Return the mean class probabilities of a posterior, `[row, class]` per set.

    The mean is over evenly spaced draws of some or all chains.
    """
    axes = len(posterior.sample_dims)
    draws = {
        k: (v if chains is None else v[list(chains)]).flatten(0, axes - 1)
        for k, v in posterior.draws.items()
    }
    total = len(next(iter(draws.values())))
    rows = np.linspace(0, total - 1, min(total, MOST_DRAWS)).round().astype(int)
    sums: dict[str, Array] = {}
    for part in np.array_split(rows, max(1, len(rows) // CHUNK)):
        for name, p in made.predict({k: v[part] for k, v in draws.items()}).items():
            sums[name] = sums.get(name, 0.0) + p.sum(0).double().numpy()
    return {name: value / len(rows) for name, value in sums.items()}


def halves(
    made: Baselines, posterior: Posterior
) -> tuple[dict[str, Array], dict[str, Array]] | None:
    """Return the predictives of both halves of the chains, None for draws without chains."""
    if posterior.sample_dims != ("chain", "draw") or posterior.sample_shape[0] < 2:
        return None
    count = posterior.sample_shape[0]
    return predictive(made, posterior, chains=range(count // 2)), predictive(
        made, posterior, chains=range(count // 2, count)
    )


def _score(
    made: Baselines, posteriors: Mapping[str, Posterior], reference: Reference
) -> PredictionTable:
    found: dict[str, Mapping[str, Array]] = {
        m: {name: p.detach().double().numpy() for name, p in sets.items()}
        for m, sets in made.probabilities.items()
    }
    found.update({name: predictive(made, posterior) for name, posterior in posteriors.items()})
    truth = next((n for n, p in posteriors.items() if p.method == "nuts"), "")
    chains = posteriors[truth] if truth else reference.posterior
    exact = found[truth] if truth else (predictive(made, chains) if chains is not None else None)
    both = halves(made, chains) if chains is not None else None
    labels = made.labels.numpy()
    shown = {n: sets["test"] for n, sets in found.items()} | (
        {} if truth or exact is None else {"reference": exact["test"]}
    )
    return PredictionTable(
        rows=score_rows(
            found,
            labels,
            None if exact is None else exact["test"],
            set(posteriors),
            truth,
            made.about,
        ),
        floor=(
            None if both is None else calibration.total_variation(both[0]["test"], both[1]["test"])
        ),
        truth=truth or (f"the {reference.kind} reference" if exact is not None else ""),
        labels=labels,
        classes=made.classes,
        probabilities=shown,
        images=None if made.images is None else made.images.numpy(),
    )


def score_rows(
    found: Mapping[str, Mapping[str, Array]],
    labels: Array,
    exact: Array | None,
    posteriors: set[str],
    truth: str = "",
    about: Mapping[str, str] | None = None,
) -> list[PredictionRow]:
    """Score each method's probabilities on every set.

    `exact` `[row, class]` holds the probabilities to which `distance` is measured.
    """
    rows = []
    for method, sets in found.items():
        p = sets["test"]
        metrics = {}
        for name, metric in METRICS.items():
            low, high = calibration.bootstrap(metric, p, labels)
            metrics[name] = Interval(value=metric(p, labels), low=low, high=high)
        distance = (
            None if exact is None or method == truth else calibration.total_variation(p, exact)
        )
        rows.append(
            PredictionRow(
                method=method,
                posterior=method in posteriors,
                metrics=metrics,
                distance=distance,
                about=(about or {}).get(method, ""),
                outside={
                    name: calibration.outside_auroc(p, q)
                    for name, q in sets.items()
                    if name != "test"
                },
            )
        )
    return rows
