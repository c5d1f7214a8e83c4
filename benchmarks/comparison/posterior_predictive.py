"""Posterior predictive checks: data replicated from each method's posterior.

For draw s of a posterior, y_rep^(s) ~ p(y | z^(s)). A program whose observed arguments default to
None is run without them. Any other program is run with them, and its observed sites are drawn
instead, unless other sites depend on the observed values: what is drawn then would not be the
predictive distribution.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine

from benchmarks.types import PredictiveCheck, has_draws
from zoo.density.faults import unless_it_raises
from zoo.density.log_density import default_dtype, trace_program
from zoo.density.nodes import is_subsample
from zoo.seeds import derive_seed, seeded
from zoo.types import Data, ModelEntry, Posterior, Program

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["predictive_checks", "replicate"]

REPLICATES = 100
LARGEST = 5_000  # values per observed tensor; a figure would not show more


def predictive_checks(
    entry: ModelEntry, data: Data, program: Program, posteriors: Mapping[str, Posterior]
) -> list[PredictiveCheck]:
    """Replicate every observed site from every method's posterior.

    A program that cannot simulate, or whose sites depend on the observed values in other ways than
    through their likelihood, has no check.

    Args:
        entry: the entry, for its dtype.
        data: what was observed.
        program: the program of the posteriors.
        posteriors: posteriors of this program by method.
    """
    posteriors = {m: p for m, p in posteriors.items() if has_draws(p)}
    if not posteriors or not _can_replicate(entry, data, program, next(iter(posteriors.values()))):
        return []
    draws = {
        method: replicate(entry, data, program, posterior)
        for method, posterior in posteriors.items()
    }
    observed = observed_values(entry, data, program)
    return [
        PredictiveCheck(
            label=site,
            observed=value,
            replicated={m: r[site] for m, r in draws.items() if site in r},
        )
        for site, value in observed.items()
        if value.size <= LARGEST
    ]


def replicate(
    entry: ModelEntry,
    data: Data,
    program: Program,
    posterior: Posterior,
    *,
    number: int = REPLICATES,
) -> dict[str, np.ndarray[Any, Any]]:
    """Return `{site: [number, values]}` simulated at evenly spaced draws of the posterior.

    The result is a deterministic function of the posterior.
    """
    flat = {
        name: value.flatten(0, len(posterior.sample_dims) - 1)
        for name, value in posterior.draws.items()
    }
    total = next(iter(flat.values())).shape[0]
    run = _simulator(program, data)
    sites = observed_values(entry, data, program)
    rows: dict[str, list[Tensor]] = {}
    seed = derive_seed(posterior.seed, entry.key, posterior.method, "predictive")
    with seeded(seed), torch.no_grad(), default_dtype(entry.dtype):
        for i in np.linspace(0, total - 1, min(number, total)).astype(int):
            fixed = {name: value[i] for name, value in flat.items()}
            trace = run(fixed)
            for name in sites:
                rows.setdefault(name, []).append(trace.nodes[name]["value"].flatten())
    return {name: torch.stack(values).double().numpy() for name, values in rows.items()}


def observed_values(
    entry: ModelEntry, data: Data, program: Program
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the observed values of every observed site, one flat vector each."""
    with default_dtype(entry.dtype):
        trace = trace_program(program, data.train)
    return {
        name: node["value"].detach().flatten().double().numpy()
        for name, node in trace.nodes.items()
        if _is_random(node) and node["is_observed"]
    }


def _is_random(node: Mapping[str, Any]) -> bool:
    if node["type"] != "sample" or is_subsample(node["fn"]):
        return False
    return not isinstance(node["fn"], dist.Unit | dist.Delta)


def _simulator(
    program: Program, data: Data, tensors: Mapping[str, Any] | None = None
) -> Callable[[Mapping[str, Tensor]], poutine.Trace]:
    """Return a function from values of the latent sites to a trace with simulated data."""
    given = dict(data.train if tensors is None else tensors)
    if _simulates(program, data):
        given = {k: v for k, v in given.items() if k not in data.observed}
        released: Any = program
    else:
        released = poutine.uncondition(program)

    def run(fixed: Mapping[str, Tensor]) -> poutine.Trace:
        with poutine.block():
            return poutine.trace(poutine.condition(released, data=fixed)).get_trace(**given)

    return run


def _simulates(program: Program, data: Data) -> bool:
    """Return whether every observed tensor may be omitted: its argument defaults to None."""
    if not data.observed:
        return False
    try:
        parameters = inspect.signature(getattr(program, "forward", program)).parameters
    except (TypeError, ValueError):
        return False
    return all(k in parameters and parameters[k].default is None for k in data.observed)


def _can_replicate(entry: ModelEntry, data: Data, program: Program, posterior: Posterior) -> bool:
    """Return whether the program can simulate its data.

    Where the observed values are not omitted, they are exchanged for simulated ones, or for their
    own in another order: the distributions of all sites must stay the same.
    """
    if not data.observed:
        return False
    if _simulates(program, data):
        return True
    lead = len(posterior.sample_dims)
    fixed = {name: v.flatten(0, lead - 1)[0] for name, v in posterior.draws.items()}

    def look() -> bool:
        with seeded(0):
            first = _simulator(program, data)(fixed)
        changed = _exchanged(entry, data, program, first)
        with seeded(0):
            second = _simulator(program, data, changed)(fixed)
        return _same_distributions(first, second)

    # a site may be one that cannot be drawn, or the program need these very data
    with torch.no_grad(), default_dtype(entry.dtype):
        return unless_it_raises(look, otherwise=False)


def _exchanged(
    entry: ModelEntry, data: Data, program: Program, simulated: poutine.Trace
) -> dict[str, Any]:
    """Return the tensors with other observed values that the program accepts as well."""
    values = observed_values(entry, data, program)
    changed = dict(data.train)
    for key in data.observed:
        old = changed[key]
        flat = old.flatten().double().numpy()
        site = next(
            (n for n, v in values.items() if v.shape == flat.shape and np.array_equal(v, flat)),
            None,
        )
        drawn = None if site is None else simulated.nodes[site]["value"]
        new = None if drawn is None or drawn.numel() != old.numel() else drawn.reshape(old.shape)
        changed[key] = old.roll(1, 0) if new is None and old.ndim else old if new is None else new
        changed[key] = changed[key].to(old.dtype)
    return changed


def _same_distributions(one: poutine.Trace, other: poutine.Trace) -> bool:
    """Return whether both runs have the same random sites with the same distributions."""
    nodes, others = ({k: n for k, n in t.nodes.items() if _is_random(n)} for t in (one, other))
    if nodes.keys() != others.keys():
        return False
    terms = (
        (n["fn"].log_prob(n["value"]), others[name]["fn"].log_prob(n["value"]))
        for name, n in nodes.items()
    )
    return all(a.shape == b.shape and torch.allclose(a, b, equal_nan=True) for a, b in terms)
