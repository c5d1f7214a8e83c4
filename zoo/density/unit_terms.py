"""Terms of a log density per unit of the minibatch plate: log likelihood and log prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.compiler.vectorize import vmappable
from zoo.density.log_density import LogDensity
from zoo.density.sites import masked, no_validation, samples
from zoo.errors import FitError

__all__ = ["UnitTerms", "is_local", "many_unit_terms", "unit_terms"]


@dataclass(frozen=True)
class UnitTerms:
    """Log likelihood and log prior (with the Jacobian) of each unit, `[..., unit]` in nats."""

    likelihood: Tensor
    prior: Tensor


def is_local(density: LogDensity) -> bool:
    """Whether every latent value belongs to a unit of the minibatch plate."""
    return not density.discrete and all(s.plate_axis is not None for s in density.sites)


def unit_terms(
    density: LogDensity, u: Tensor, tensors: Mapping[str, Any] | None = None
) -> UnitTerms:
    """Return log likelihood and log prior of each unit, `[unit]`, at a flat point `[dim]`.

    The prior includes the Jacobian. If `tensors` has `index`, the units are those of the
    minibatch.

    Raises:
        FitError: a term of the density that belongs to no unit.
    """
    tensors = density.data.train if tensors is None else tensors
    index, size = tensors.get("index"), int(density.data.size or 0)
    units = size if index is None else len(index)
    draws, jacobians = {}, []
    for s in density.sites:
        assert s.plate_axis is not None
        raw = s.part(u)
        value = s.transform(raw)
        terms = s.transform.log_abs_det_jacobian(raw, value)
        axis = s.plate_axis - s.event_dim
        if index is not None:
            value = value.index_select(value.ndim - s.plate_axis, index)
            terms = terms.index_select(terms.ndim - axis, index)
        draws[s.name] = value
        jacobians.append(_per_unit(terms, axis, units))
    trace = density.trace(draws, tensors)
    with no_validation():
        trace.compute_log_prob()
    prior, likelihood = sum(jacobians[1:], jacobians[0]), u.new_zeros(units)
    for node in samples(trace):
        where = next(
            (-f.dim for f in node["cond_indep_stack"] if f.vectorized and f.size in (size, units)),
            None,
        )
        if where is None:
            raise FitError(
                f"Site {node['name']!r} lies outside the minibatch plate; this objective needs"
                " every term to belong to a unit."
            )
        value = _per_unit(masked(node), where, units)
        if node["name"] in draws:
            prior = prior + value
        else:
            likelihood = likelihood + value
    return UnitTerms(likelihood, prior)


def _per_unit(terms: Tensor, axis: int, units: int) -> Tensor:
    """Sum over every axis but the plate's, which is counted from the right."""
    rows = terms.movedim(terms.ndim - axis, 0)
    return rows.reshape(units, -1).sum(-1)


def many_unit_terms(
    density: LogDensity, u: Tensor, tensors: Mapping[str, Any] | None = None
) -> UnitTerms:
    """Return the terms at points `[n, dim]`, each `[n, unit]`."""

    def point(row: Tensor) -> tuple[Tensor, Tensor]:
        terms = unit_terms(density, row, tensors)
        return terms.likelihood, terms.prior

    with vmappable():
        likelihood, prior = torch.func.vmap(point)(u)
    return UnitTerms(likelihood, prior)
