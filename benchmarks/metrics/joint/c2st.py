"""C2ST: accuracy of a classifier that tells the method's draws from the reference's."""

from __future__ import annotations

import numpy as np

from benchmarks.metrics.components import Array
from benchmarks.metrics.draw_sets import thinned
from benchmarks.metrics.metric import JointDistance
from benchmarks.thresholds import C2ST_FLOOR_LINE, SIGMAS

__all__ = ["METRIC", "c2st_accuracy", "load"]

MOST_FEATURES = 100
TREES = 60


def load() -> None:
    """Import what the accuracy needs, before processes are forked that measure it."""
    from sklearn import ensemble, model_selection  # noqa: F401


def c2st_accuracy(first: Array, second: Array, seed: int = 0) -> tuple[float, float]:
    """Return the cross-validated accuracy of the classifier and its standard error.

    Gradient boosting (scikit-learn), 5-fold cross-validation, equal sizes; 0.5 means
    indistinguishable. The standard error is binomial, sqrt(a (1 - a) / (2 n)). Each side is
    standardized by the mean and sd of its training folds: by those of all its draws, which hold
    the tested ones too, two samples of one posterior gave accuracies as low as 0.41. Source:
    Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests, ICLR.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import KFold
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    size = min(len(first), len(second))
    columns = np.linspace(0, first.shape[1] - 1, min(first.shape[1], MOST_FEATURES)).astype(int)
    sides = [thinned(x, size)[:, columns] for x in (first, second)]
    model = HistGradientBoostingClassifier(
        max_iter=TREES,
        max_leaf_nodes=8,
        learning_rate=0.1,
        early_stopping=False,
        random_state=seed,
    )
    right = 0
    # Single-threaded: two threads on a busy shared machine are many times slower.
    with threadpool_limits(1):
        for train, test in KFold(5, shuffle=True, random_state=seed).split(sides[0]):
            scales = [_scale(x[train]) for x in sides]
            known, asked = (
                np.concatenate(
                    [(x[rows] - m) / s for x, (m, s) in zip(sides, scales, strict=True)]
                )
                for rows in (train, test)
            )
            model.fit(known, np.repeat([0, 1], len(train)))
            right += int((model.predict(asked) == np.repeat([0, 1], len(test))).sum())
    accuracy = right / (2 * size)
    return accuracy, float(np.sqrt(max(accuracy * (1 - accuracy), 1e-3) / (2 * size)))


def _scale(draws: Array) -> tuple[Array, Array]:
    sd = draws.std(0)
    return draws.mean(0), np.where(sd > 0, sd, 1.0)


def line(value: float, se: float, floor: float, floor_se: float) -> float:
    """Return the threshold max(0.55, floor + 3 se), floor at least 0.5, se of the difference."""
    return max(C2ST_FLOOR_LINE, max(floor, 0.5) + SIGMAS * float(np.hypot(se, floor_se)))


METRIC = JointDistance(
    name="c2st",
    term="C2ST accuracy",
    definition=(
        "cross-validated accuracy of gradient-boosted trees that must tell the method's draws from"
        " the reference's; 5 folds, equal sizes, at most 2,000 a side"
    ),
    unit="accuracy",
    good="at its floor, about 0.5; below its line",
    blind=(
        "location and scale (removed on purpose);"
        " fine structure in many dimensions, where trees are weak"
    ),
    order=10,
    measure=c2st_accuracy,
    line=line,
)
