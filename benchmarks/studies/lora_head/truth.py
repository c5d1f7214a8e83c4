"""Exact posterior of the small forms of `lora_head` by a grid, for at most four latents.

For the core at rank 1 and 2 and the subspace at rank 2: the log evidence with the error of the
grid, the mean total variation of NUTS to its predictive (with the floor), and the gap of each
guide's bound to the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

import benchmarks
import guides
import zoo
from benchmarks.audit.quadrature import whitened_grid
from benchmarks.comparison.baselines import halves, predictive
from benchmarks.metrics.calibration import total_variation
from benchmarks.studies.lora_head.tables import GUIDES
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from guides.base.initialize import find_start
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.types import Baselines, Data, ModelEntry

__all__ = ["CASES", "Exact", "exact", "measure"]

CASES: tuple[dict[str, Any], ...] = (
    {"form": "core", "rank": 1},
    {"form": "subspace", "rank": 2},
    {"form": "core", "rank": 2},
)
LARGEST = 4  # dimensions
MOST = 49**4 + 1  # points; minutes in four dimensions
# Acceptable change in nats of the evidence at the last halving of the step; the next one would
# change it far less.
WORST = 1e-3
ROWS = 2_000  # points evaluated at once
NEGLIGIBLE = 1e-12  # mass of a point below which the predictive omits it


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Log evidence in nats with the error of the grid, and the predictive of the test images.

    The predictive is `[row, class]`.
    """

    log_evidence: float
    error: float
    predictive: np.ndarray[Any, Any]


def exact(entry: ModelEntry, data: Data, made: Baselines) -> Exact:
    """Integrate the posterior of an entry with at most four unconstrained values on a grid.

    Args:
        entry: `lora_head` in the form `core` or `subspace` with few latents.
        data: its data.
        made: result of its `baselines` hook, for `predict`.

    Raises:
        UsageError: too many values for a grid.
        QuadratureError: the grid does not converge.
    """
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    if density.dim > LARGEST:
        raise UsageError(
            f"{entry.key} has {density.dim} latent values; a grid takes at most {LARGEST}."
        )
    start = find_start(density, torch.Generator().manual_seed(0))
    grid = whitened_grid(
        lambda u: torch.cat([density.batch(part) for part in u.split(ROWS)]),
        start.loc,
        start.tril,
        most=MOST,
        worst=WORST,
    )
    weight = (grid.values + grid.log_cell - grid.log_integral).exp()
    keep = weight > NEGLIGIBLE
    total: Any = 0.0
    for points, share in zip(grid.points[keep].split(ROWS), weight[keep].split(ROWS), strict=True):
        p = made.predict(density.constrain(points))["test"]  # [point, row, class]
        total = total + torch.einsum("s,src->rc", share, p)
    return Exact(
        log_evidence=grid.log_integral,
        error=grid.error,
        predictive=(total / weight[keep].sum()).numpy(),
    )


def measure(work: Work) -> list[dict[str, Any]]:
    """Return one row per small form; a quick run takes the first with few draws."""
    kept = Kept(work.out / "rows.json")
    for case in CASES[:1] if work.quick else CASES:
        kept.once(
            f"{case['form']}, rank {case['rank']}",
            partial(_row, case, 500 if work.quick else 2000),
        )
    return list(kept.rows.values())


def _row(case: dict[str, Any], draws: int) -> dict[str, Any]:
    entry = zoo.load("lora_head", **case)
    data = entry.load_data()
    assert entry.baselines is not None
    made = entry.baselines(data, 0, **entry.settings)
    truth = exact(entry, data, made)
    nuts = benchmarks.run_nuts(entry, data=data, draws=draws, min_ess=0)
    both = halves(made, nuts)
    assert both is not None
    gaps: dict[str, list[float] | None] = {}
    for family in GUIDES:
        elbo = guides.fit(entry, family, data=data).elbo
        gaps[family] = None if elbo is None else [truth.log_evidence - elbo.value_nats, elbo.se]
    return {
        **case,
        "log_evidence": truth.log_evidence,
        "error": truth.error,
        "distance": total_variation(predictive(made, nuts)["test"], truth.predictive),
        "floor": total_variation(both[0]["test"], both[1]["test"]),
        "gaps": gaps,
    }
