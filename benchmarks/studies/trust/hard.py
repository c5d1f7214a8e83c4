"""Rows of the hard set: fits of targets with exact samplers, assessed and repaired.

Repaired draws are judged by probabilities, which exist for every density: with x_p the true
quantile of a judged component,

    |P(x <= x_p) - p| <= max(0.03, 3 se),     p = 5, 25, 50, 75 and 95 %

se is the Monte Carlo error of the repaired draws: from the differences between islands of SMC,
else sqrt(p (1 - p) / n).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

import guides
from benchmarks.comparison.assess import assess
from benchmarks.comparison.assessment import Assessment
from benchmarks.comparison.score import compare
from benchmarks.mcmc.islands import island_mean
from benchmarks.studies.trust.hard_targets import TARGETS
from benchmarks.studies.trust.worst import worst
from benchmarks.trust.estimate import LOG_Z
from zoo.seeds import derive_seed
from zoo.types import Data, ModelEntry, Posterior

__all__ = ["FAMILIES", "hard_rows", "probability_errors"]

FAMILIES = ("laplace", "mean_field", "full_rank")
PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)
CLOSE, ERRORS = 0.03, 3.0
TRUE_DRAWS, GUIDE_DRAWS = 100_000, 4_000
Row = dict[str, Any]


def hard_rows(quick: bool) -> Iterable[tuple[str, Callable[[], Row]]]:
    """Return the rows by name: every target with every family."""
    names = ("modes10", "spike_slab") if quick else tuple(TARGETS)
    for name, family in itertools.product(names, FAMILIES[:2] if quick else FAMILIES):
        yield f"{name} {family}", functools.partial(hard_row, name, family)


def hard_row(name: str, family: str, seed: int = 0) -> Row:
    """Return one assessment of a fit beside its true errors, and how right the repair is."""
    target = TARGETS[name]
    entry = target.entry(name)
    data = entry.load_data()
    fit = guides.fit(entry, family, seed=seed, data=data)
    if not fit.ok:
        return {"status": fit.stop.status, "why": fit.stop.sentence}
    truth = target.reference(entry, data, TRUE_DRAWS, derive_seed(seed, "hard", name))
    found = assess(fit, seed=seed)
    drawn = guides.draw(fit, GUIDE_DRAWS, seed=derive_seed(seed, "study", "hard"))
    true = compare(drawn, truth, fit=fit, distances="none", heldout=False, climb=False)
    row = {
        "status": "ok",
        "entry": name,
        "family": family,
        "seed": seed,
        "verdict": found.verdict,
        "gate": found.gate,
        "true_verdict": true.verdict,
        **{f"true_{k}": v for k, v in worst(true).items()},
        "checks": {c.name: c.passed for c in found.checks},
        "evidence": target.log_evidence,
        "seconds": found.seconds,
        "fit_seconds": fit.cost.seconds,
        "gradients": found.gradients,
    }
    if found.comparison is not None:
        row |= {f"estimated_{k}": v for k, v in worst(found.comparison).items()}
        weights = found.comparison.pareto_k
        row["k_hat"] = None if weights is None else weights.value
    if found.reference is not None and found.reference.log_evidence is not None:
        known = found.reference
        row |= {"log_z": known.log_evidence, "log_z_se": known.log_evidence_se}
    return row | _repaired(found, truth.posterior, entry, data)


def _repaired(found: Assessment, truth: Posterior | None, entry: ModelEntry, data: Data) -> Row:
    draws = found.repaired
    if draws is None or truth is None:
        return {"repaired": None}
    if found.estimate is not None and draws.method == found.estimate.posterior.method:
        draws = found.estimate.posterior  # islands, whose differences give errors
    gaps, errors = probability_errors(draws, truth, entry, data)
    return {
        "repaired": draws.method,
        "repaired_doubt": draws.doubt,
        "repaired_draws": math.prod(draws.sample_shape),
        "probability_error": float(gaps.abs().max()),
        "repaired_passes": bool((gaps.abs() <= (ERRORS * errors).clamp(min=CLOSE)).all()),
    }


def probability_errors(
    draws: Posterior, truth: Posterior, entry: ModelEntry, data: Data
) -> tuple[Tensor, Tensor]:
    """Return P(x <= x_p) - p of draws and its Monte Carlo error, `[probability, component]`.

    Args:
        draws: repaired draws, `[draw]` or `[island, draw]` with log Z-hat among their statistics.
        truth: exact draws.
        entry: whose judged quantities are compared.
        data: of both.
    """
    below: list[Tensor] = []
    wanted = torch.tensor(PROBABILITIES, dtype=torch.float64)
    for quantity in entry.quantities.values():
        if not quantity.judged:
            continue
        true = _flat(quantity.fn(truth.draws, data), 1)
        lines = torch.quantile(true, wanted, dim=0)
        values = _flat(quantity.fn(draws.draws, data), len(draws.sample_dims))
        below.append((values[..., None, :] <= lines).double())
    inside = torch.cat(below, -1)
    chances = wanted[:, None]
    if LOG_Z in draws.stats:
        mean, errors = island_mean(inside, draws.stats[LOG_Z][:, 0].double())
    else:
        mean = inside.flatten(0, len(draws.sample_dims) - 1).mean(0)
        number = math.prod(draws.sample_shape)
        errors = (chances * (1 - chances) / number).sqrt().expand_as(mean)
    return mean - chances, errors


def _flat(values: Tensor, sample_dims: int) -> Tensor:
    return values.double().reshape(*values.shape[:sample_dims], -1)
