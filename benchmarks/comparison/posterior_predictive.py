"""Posterior predictive checks: data replicated from each method's posterior.

For draw s of a posterior, y_rep^(s) ~ p(y | z^(s)), by running the program without its observed
values.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample

from benchmarks.types import PredictiveCheck
from zoo.density.log_density import default_dtype, trace_program
from zoo.seeds import derive_seed
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

    A program that cannot simulate has no check.

    Args:
        entry: the entry, for its dtype.
        data: what was observed.
        program: the program of the posteriors.
        posteriors: posteriors of this program by method.
    """
    if not _simulates(program, data):
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
    tensors = {k: v for k, v in data.train.items() if k not in data.observed}
    sites = observed_values(entry, data, program)
    rows: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad(), default_dtype(entry.dtype):
        torch.manual_seed(derive_seed(posterior.seed, entry.key, posterior.method, "predictive"))
        for i in np.linspace(0, total - 1, min(number, total)).astype(int):
            fixed = {name: value[i] for name, value in flat.items()}
            with poutine.block():
                trace = poutine.trace(poutine.condition(program, data=fixed)).get_trace(**tensors)
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
    return node["type"] == "sample" and not isinstance(
        node["fn"], (_Subsample, dist.Unit, dist.Delta)
    )


def _simulates(program: Program, data: Data) -> bool:
    """Return whether every observed tensor may be omitted: its argument defaults to None."""
    if not data.observed:
        return False
    try:
        parameters = inspect.signature(getattr(program, "forward", program)).parameters
    except (TypeError, ValueError):
        return False
    return all(k in parameters and parameters[k].default is None for k in data.observed)
