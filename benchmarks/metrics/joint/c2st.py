"""C2ST: accuracy of a classifier that tells the method's draws from the reference's."""

from __future__ import annotations

import numpy as np

from benchmarks.metrics.components import Array
from benchmarks.metrics.draw_sets import standardized, thinned
from benchmarks.metrics.metric import JointDistance
from benchmarks.thresholds import C2ST_FLOOR_LINE, SIGMAS

__all__ = ["METRIC", "c2st_accuracy"]

MOST_FEATURES = 100


def c2st_accuracy(first: Array, second: Array, seed: int = 0) -> tuple[float, float]:
    """Return the cross-validated accuracy of the classifier and its standard error.

    Gradient boosting (scikit-learn), 5-fold cross-validation, equal sizes; 0.5 means
    indistinguishable. The standard error is binomial, sqrt(a (1 - a) / (2 n)). Source: Lopez-Paz
    and Oquab (2017), Revisiting classifier two-sample tests, ICLR.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    size = min(len(first), len(second))
    columns = np.linspace(0, first.shape[1] - 1, min(first.shape[1], MOST_FEATURES)).astype(int)
    features = np.concatenate(
        [standardized(thinned(x, size))[:, columns] for x in (first, second)]
    )
    labels = np.repeat([0, 1], size)
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, learning_rate=0.1, early_stopping=False, random_state=seed
    )
    # one thread: two busy ones on a shared machine are many times slower
    with threadpool_limits(1):
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        accuracy = float(cross_val_score(model, features, labels, cv=folds).mean())
    return accuracy, float(np.sqrt(max(accuracy * (1 - accuracy), 1e-3) / (2 * size)))


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
