"""Held-out log score of the posterior predictive against BayesianGaussianMixture.

The latter is scikit-learn's; rows are scored one by one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import guides
import zoo
from zoo.datasets import read
from zoo.models.mixtures import gaussian_mixture_classes as classes

__all__ = ["CASES", "Score", "compare", "interval"]

CASES = (("iris", 3), ("wine", 3), ("breast_cancer", 2))
FOLDS, DRAWS, BOOTSTRAPS = 5, 400, 4000
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Log score per held-out row and seed, `[seed, row]`, nats."""

    data: str
    K: int
    covariance: str
    family: str
    ours: Array
    theirs: Array
    failures: int


def compare(
    data: str, K: int, covariance: str, *, family: str = "laplace", seeds: int = 2, **settings: Any
) -> Score:
    """Score every row by models fitted without its fold.

    Both see the same rows, standardized by the training fold. Ours is log mean_s p(row | draw s),
    the posterior predictive of the family; theirs is `score_samples`, as they define it.
    """
    from sklearn.mixture import BayesianGaussianMixture
    from sklearn.model_selection import KFold

    table = read(data)
    names = table.columns[: classes.COLUMNS[data]]
    raw = table.select(names)
    entry = zoo.load("gaussian_mixture_classes", data=data, K=K, covariance=covariance)
    ours, theirs, failures = np.empty((seeds, len(raw))), np.empty((seeds, len(raw))), 0
    for seed in range(seeds):
        for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(raw.numpy()):
            mean, sd = raw[train].mean(0), raw[train].std(0, correction=0)
            x, held = (raw[train] - mean) / sd, (raw[test] - mean) / sd
            given = classes.from_rows(
                x, K, names, table.provenance.source, table.provenance.licence
            )
            fit = guides.fit(entry, family, data=given, seed=seed, **settings)
            failures += not fit.ok
            posterior = guides.draw(fit, DRAWS)
            # [draw, row]
            log_p = classes.log_joint(posterior.draws, held, given.train["basis"]).logsumexp(-1)
            ours[seed, test] = (log_p.logsumexp(0) - math.log(DRAWS)).numpy()
            model = BayesianGaussianMixture(
                n_components=K,
                covariance_type=covariance,
                max_iter=1000,
                n_init=5,
                random_state=seed,
            )
            with warnings.catch_warnings():
                # the best of five starts is used even if it has not converged
                warnings.simplefilter("ignore")
                theirs[seed, test] = model.fit(x.numpy()).score_samples(held.numpy())
    return Score(
        data=data,
        K=K,
        covariance=covariance,
        family=family,
        ours=ours,
        theirs=theirs,
        failures=failures,
    )


def interval(score: Score, *, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean difference per row (ours - theirs) with its 95 % interval.

    Seeds are averaged; the interval is a bootstrap over rows.
    """
    difference = (score.ours - score.theirs).mean(0)
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(len(difference), size=(BOOTSTRAPS, len(difference)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)
