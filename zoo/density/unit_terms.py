"""Terms of a log density per unit of the minibatch plate: log likelihood and log prior."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.compiler.vectorize import vmappable
from zoo.density.log_density import LogDensity
from zoo.density.nodes import share_of
from zoo.density.sites import masked, no_validation, samples
from zoo.errors import FitError, ZooError, one_line

__all__ = ["UnitTerms", "is_local", "many_unit_terms", "mapped", "terms_of", "unit_terms"]

_log = logging.getLogger("zoo")


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
    index = tensors.get("index")
    draws, jacobians = {}, {}
    for s in density.sites:
        assert s.plate_axis is not None
        raw = s.part(u)
        value = s.transform(raw)
        terms = s.transform.log_abs_det_jacobian(raw, value)
        if index is not None:
            value = value.index_select(value.ndim - s.plate_axis, index)
            terms = terms.index_select(terms.ndim - (s.plate_axis - s.event_dim), index)
        draws[s.name], jacobians[s.name] = value, terms
    return _terms(density, draws, jacobians, tensors)


def terms_of(density: LogDensity, values: Tensor, tensors: Mapping[str, Any]) -> UnitTerms:
    """Return the terms of the units of a minibatch at values of their own, `[unit, local]`.

    Args:
        density: a density whose latent values all belong to units.
        values: unconstrained values of every unit, in the order of the sites.
        tensors: arguments of the program with the `index` of the units.
    """
    draws, jacobians, start = {}, {}, 0
    for s in density.sites:
        axis = s.unit_axis
        rest = [n for k, n in enumerate(s.unconstrained_shape) if k != axis]
        stop = start + math.prod(rest)
        raw = values[:, start:stop].reshape(len(values), *rest).movedim(0, axis)
        draws[s.name] = s.transform(raw)
        jacobians[s.name] = s.transform.log_abs_det_jacobian(raw, draws[s.name])
        start = stop
    return _terms(density, draws, jacobians, tensors)


def _terms(
    density: LogDensity,
    draws: Mapping[str, Tensor],
    jacobians: Mapping[str, Tensor],
    tensors: Mapping[str, Any],
) -> UnitTerms:
    """Return the terms at values of the sites, sliced to the units of a minibatch."""
    index, size = tensors.get("index"), int(density.data.size or 0)
    units = size if index is None else len(index)
    parts = [
        _per_unit(jacobians[s.name], s.plate_axis - s.event_dim, units)
        for s in density.sites
        if s.plate_axis is not None
    ]
    plates = {s.unit_plate for s in density.sites}
    trace = density.trace(draws, tensors)
    with no_validation():
        trace.compute_log_prob()
    prior = sum(parts[1:], parts[0])
    likelihood = prior.new_zeros(units)
    for node in samples(trace):
        frame = _unit_frame(node, plates, (size, units))
        if frame is None:
            raise FitError(
                f"Site {node['name']!r} lies outside the minibatch plate; this objective needs"
                " every term to belong to a unit."
            )
        value = _per_unit(_weighed(node, frame), -frame.dim, units)
        if node["name"] in draws:
            prior = prior + value
        else:
            likelihood = likelihood + value
    return UnitTerms(likelihood, prior)


def _unit_frame(
    node: Mapping[str, Any], plates: Container[str | None], sizes: tuple[int, int]
) -> Any:
    """Return the plate of the units around a site: by its name, else its size; None if none is.

    Another plate may have as many entries as the minibatch has units.
    """
    frames = [f for f in node["cond_indep_stack"] if f.vectorized]
    named = [f for f in frames if f.name in plates]
    return next((f for f in named or frames if f.size in sizes), None)


def _weighed(node: dict[str, Any], frame: Any) -> Tensor:
    """Return the log probabilities of a site, with the author's `poutine.scale`.

    The weight size / batch of a minibatch is left out: it is no property of a row.
    """
    weight = node["scale"] / share_of(frame)
    terms = masked(node)
    if not isinstance(weight, Tensor) and math.isclose(weight, 1.0, rel_tol=1e-12):
        return terms
    return terms * weight


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

    found = mapped(density, point, u)
    if found is None:
        each = [point(row) for row in u]
        found = torch.stack([a for a, _ in each]), torch.stack([b for _, b in each])
    return UnitTerms(*found)


def mapped(
    density: LogDensity, point: Callable[[Tensor], tuple[Tensor, Tensor]], points: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return terms at all points in one run; None if torch cannot map the program over them.

    That is logged and tried once per density. Errors of this project stay as they are.

    Args:
        density: the density of the program.
        point: the terms at one point.
        points: points on the first axis.
    """
    if density.unmapped:
        return None
    try:
        with vmappable():
            terms: tuple[Tensor, Tensor] = torch.func.vmap(point)(points)
    except ZooError:
        raise
    except Exception as error:  # what fails at one point as well is raised there
        density.unmapped = f"{type(error).__name__}: {one_line(error)}"
        _log.info("Rows are not evaluated at all points at once: %s", density.unmapped[:300])
        return None
    return terms
