"""Chains of a mixture in different modes: detected by co-clustering, named, not averaged."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import benchmarks
import zoo
from benchmarks.comparison import relabel
from benchmarks.mcmc.diagnostics import diagnose

__all__ = ["CASES", "mode_rows"]

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("latent_class", {"K": 4}),
    ("gaussian_mixture", {"K": 3}),
)
CHAINS, TUNE, DRAWS = 8, 400, 400
Rows = list[dict[str, Any]]


def mode_rows(
    cases: tuple[tuple[str, dict[str, Any]], ...] = CASES,
    *,
    chains: int = CHAINS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Rows:
    """Return one row per mode of the chains of each entry.

    It has the chains, their mean log density, and class sizes.

    Args:
        cases: entries with options.
        chains: chains per entry, each with its own start.
        draws: draws per chain.
        seed: seed of the chains.
    """
    rows: Rows = []
    for name, options in cases:
        entry = zoo.load(name, **options)
        data = entry.load_data()
        posterior = benchmarks.run_nuts(
            entry, seed=seed, data=data, chains=chains, tune=TUNE, draws=draws, min_ess=0, jobs=1
        )
        r = sys.modules[entry.build.__module__].responsibilities(posterior.draws, data).numpy()
        found = relabel.modes(posterior, r)
        sizes = -np.sort(-r.sum(2), axis=-1).mean(1)  # [chain, class], largest class first
        height = posterior.stats["lp"].double().numpy().mean(1)
        rhat = diagnose(posterior).rhat_max
        for mode in range(found.number):
            own = np.flatnonzero(found.labels == mode)
            rows.append(
                {
                    "entry": entry.key,
                    "mode": mode + 1,
                    "chains": [int(c) + 1 for c in own],
                    "of": chains,
                    "log_density": float(height[own].mean()),
                    "sizes": sizes[own].mean(0).round(1).tolist(),
                    "rhat_all": rhat,
                    "sentence": found.sentence,
                    "within": float(found.distance[np.ix_(own, own)].max()),
                    "apart": (
                        float(found.distance[own][:, found.labels != mode].min())
                        if found.number > 1
                        else None
                    ),
                }
            )
    return rows
