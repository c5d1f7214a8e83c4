"""Scores that need the guide alone: importance weights, ELBO, evidence, held-out density.

A score that cannot be computed leaves a note that says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import benchmarks.metrics.weights as metrics
from benchmarks.metrics.components import Array, Component, Side
from benchmarks.metrics.moments import collapsed
from benchmarks.metrics.predictive import heldout_lpd
from benchmarks.types import ParetoK
from zoo.density.log_density import LogDensity
from zoo.errors import ZooError
from zoo.types import Posterior, Reference

if TYPE_CHECKING:
    from guides.types import Fit
    from zoo.density.log_density import LogDensity

__all__ = ["elbo", "evidence", "heldout", "pareto", "points", "weights"]


def points(
    posterior: Posterior,
    fit: Fit | None,
    components: list[Component],
    method: Side | None,
    reference: Side | None,
) -> list[str]:
    """Return where a guide is a point mass.

    They are sites of its fit, else judged components whose draws are constant. Without a reference
    a component may be constant by definition (a diagonal of ones). It then counts only if some
    unconstrained coordinate is constant too or, if these are unknown, if every judged component
    is.
    """
    if posterior.sample_dims != ("sample",) or method is None:
        return []
    if fit is not None and fit.points:
        return list(fit.points)
    judged = [i for i, c in enumerate(components) if c.judged]
    if reference is not None:
        still = collapsed(method, reference)
    else:
        still, u = method.sd <= 1e-12 * np.abs(method.mean), posterior.unconstrained
        if not (bool((u == u[:1]).all(0).any()) if u is not None else still[judged].all()):
            return []
    return [components[i].label for i in judged if still[i]]


def weights(posterior: Posterior) -> Array | None:
    """Return the log weights `[draw]` of a guide, None for chains."""
    if posterior.log_weights is None or posterior.sample_dims != ("sample",):
        return None
    out: Array = posterior.log_weights.detach().double().cpu().numpy().reshape(-1)
    return out


def pareto(
    weights: Array,
    method: Side,
    components: list[Component],
    reference: Side | None,
    notes: list[str],
) -> ParetoK | None:
    """Return k-hat with raw and reweighted moments, None with a note if a weight is not finite."""
    bad = int((np.isnan(weights) | np.isposinf(weights)).sum())
    if bad or not np.isfinite(weights).any():
        notes.append(
            f"No k-hat: {bad or len(weights)} of {len(weights):,} log weights are not finite."
        )
        return None
    return metrics.pareto(weights, method, components, reference)


def elbo(fit: Fit | None, weights: Array | None) -> dict[str, float] | None:
    """Return the ELBO of the fit, else that of the log weights, in nats."""
    if fit is not None and fit.elbo is not None:
        return {"value_nats": fit.elbo.value_nats, "se": fit.elbo.se}
    return metrics.elbo(weights) if weights is not None and np.isfinite(weights).all() else None


def evidence(weights: Array | None, truth: Reference) -> dict[str, float | None] | None:
    """Return the importance-sampling bound and the log evidence, exact or estimated, in nats."""
    estimated = truth.log_evidence_se is not None
    exact = None if estimated else truth.log_evidence
    found: dict[str, float | None] | None = None
    if weights is not None and np.isfinite(weights).all():
        found = metrics.log_evidence(weights, exact)
    elif truth.log_evidence is not None:
        found = {"exact": exact, "bound_nats": None, "bound_se": None, "error": None}
    if found is not None and estimated:
        found |= {"estimate": truth.log_evidence, "estimate_se": truth.log_evidence_se}
    return found


def heldout(
    posterior: Posterior, fit: Fit | None, log_density: LogDensity | None, notes: list[str]
) -> dict[str, float] | None:
    """Return the held-out log predictive density, None with a note if it is not available."""
    if posterior.data.test is None:
        return None
    entry = posterior.entry
    try:
        density = log_density or LogDensity(
            fit.program if fit is not None else entry.program(posterior.data),
            posterior.data,
            dtype=entry.dtype,
        )
        return heldout_lpd(posterior, density)
    except ZooError as error:  # other scores must not be lost
        notes.append(f"No held-out density: {error}")
        return None
