"""Posterior predictive checks: what each method's posterior says the data could have been.

For draw s of a posterior, y_rep^(s) ~ p(y | z^(s)), made by running the program with its observed values left out.
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
LARGEST = 5_000  # values of one observed tensor; more would not be seen in a picture


def predictive_checks(
    entry: ModelEntry, data: Data, program: Program, posteriors: Mapping[str, Posterior]
) -> list[PredictiveCheck]:
    """Replicate every observed site from every method's posterior; a program that cannot simulate has no check.

    Args:
        entry: whose dtype the program is run with.
        data: what was observed.
        program: the program the posteriors belong to.
        posteriors: method -> posterior of this very program.
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
    """Return `{site: [number, values]}` simulated at evenly spaced draws of the posterior; same posterior, same result."""
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
    """Return the observed values of every observed site as one flat vector each."""
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
    """Whether every observed tensor may be left out of the call: its argument has a default of None."""
    if not data.observed:
        return False
    try:
        parameters = inspect.signature(getattr(program, "forward", program)).parameters
    except (TypeError, ValueError):
        return False
    return all(k in parameters and parameters[k].default is None for k in data.observed)
