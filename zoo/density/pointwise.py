"""The log likelihood of every observation by itself, discrete sites summed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from pyro import poutine
from torch import Tensor

from zoo.density.per_value import PerValue
from zoo.density.sites import Site, default_dtype, is_computed, masked, samples
from zoo.errors import ProgramError

__all__ = ["pointwise_terms"]


class Density(Protocol):
    """What is needed of a log density."""

    dtype: torch.dtype
    sites: tuple[Site, ...]
    discrete: list[str]
    max_plate_nesting: int
    per_value: PerValue | None

    def trace(self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> poutine.Trace:
        """Run the program at named sites, discrete ones enumerated."""


def pointwise_terms(
    density: Density, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the log likelihood of every observation, `{site: [sample, *batch_shape]}`, in nats.

    A weight of the author's (`poutine.scale`) is left out: it says how much an observation counts
    in the posterior, and not how probable it is.

    Raises:
        ProgramError: discrete sites that tie observations together.
    """
    rows: dict[str, list[Tensor]] = {}
    with default_dtype(density.dtype), torch.no_grad():
        for i in range(next(iter(draws.values())).shape[0]):
            own = {s.name: draws[s.name][i] for s in density.sites}
            if density.per_value is not None:
                terms = density.per_value.observed_terms(own, tensors)
            else:
                trace = density.trace(own, tensors)
                trace.compute_log_prob()
                terms = _observed_terms(density, trace)
            for name, value in terms.items():
                rows.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in rows.items()}


def _observed_terms(density: Density, trace: poutine.Trace) -> dict[str, Tensor]:
    latent = {s.name for s in density.sites}
    out = {}
    for node in samples(trace):
        name = node["name"]
        if name in latent or name in density.discrete or not node["is_observed"]:
            continue
        if is_computed(node):
            continue
        terms = masked(node)
        if density.discrete:
            _refuse_chains(density.discrete, trace, node)
            terms = _sum_out(density, trace, node, terms)
        out[name] = terms
    return out


def _refuse_chains(discrete: Sequence[str], trace: poutine.Trace, node: dict[str, Any]) -> None:
    axes = [trace.nodes[name]["infer"]["_enumerate_dim"] for name in discrete]
    if len(set(axes)) < len(axes):
        raise ProgramError(
            f"The states {discrete[0]!r}, ... are a chain (pyro.markov), so the terms of"
            f" {node['name']!r} depend on each other and no log likelihood per observation"
            " exists; compare the evidence instead."
        )


def _sum_out(
    density: Density, trace: poutine.Trace, node: dict[str, Any], terms: Tensor
) -> Tensor:
    stack = set(node["cond_indep_stack"])
    for name in density.discrete:
        other = trace.nodes[name]
        if (
            not set(other["cond_indep_stack"]) >= stack
            and other["cond_indep_stack"] != node["cond_indep_stack"]
        ):
            raise ProgramError(
                f"Discrete site {name!r} is shared by several observations of"
                f" {node['name']!r}, so no log likelihood per observation exists; compare the"
                " evidence instead."
            )
        terms = terms + masked(other)
    plates = density.max_plate_nesting
    extra = terms.ndim - plates
    if extra > 0:
        terms = terms.flatten(0, extra - 1).logsumexp(0)
    return terms.reshape(node["fn"].batch_shape[-plates:] if plates else ())
