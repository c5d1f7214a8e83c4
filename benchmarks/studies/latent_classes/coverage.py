"""Simulated coverage of 90 % intervals, with parameters and data drawn from the program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine

import guides
import zoo
from zoo.density.log_density import default_dtype
from zoo.seeds import derive_seed, seeded
from zoo.types import Data, ModelEntry

__all__ = ["Coverage", "cover", "simulated"]

DRAWS = 1000
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Whether central 90 % intervals held the truth, `[simulation, component]` per quantity.

    Also counts fits that failed.
    """

    held: dict[str, Flags]
    failures: int

    @property
    def share(self) -> float:
        """Fraction of all intervals that held the truth."""
        return float(np.concatenate([v.ravel() for v in self.held.values()]).mean())

    @property
    def se(self) -> float:
        """Standard error of the fraction, with one simulation as one observation."""
        per_simulation = np.concatenate(
            [v.reshape(len(v), -1) for v in self.held.values()], 1
        ).mean(1)
        return float(per_simulation.std(ddof=1) / np.sqrt(len(per_simulation)))


def simulated(entry: ModelEntry, data: Data, seed: int) -> tuple[dict[str, torch.Tensor], Data]:
    """Run the program forward once.

    Returns true values of the sites `[*site]`, and data of the same form drawn given them.
    """
    tensors = {k: v for k, v in data.train.items() if k not in data.observed}
    with seeded(seed), default_dtype(entry.dtype), poutine.block():
        nodes = poutine.trace(entry.program(data)).get_trace(**tensors).nodes
    made = {name: nodes[name]["value"].detach() for name in data.observed}
    truth = {
        name: node["value"].detach()
        for name, node in nodes.items()
        if node["type"] == "sample" and name not in made
    }
    return truth, replace(data, train={**data.train, **made})


def cover(
    entry: ModelEntry,
    family: str,
    *,
    simulations: int = 200,
    rows: int | None = None,
    quantities: tuple[str, ...] = (),
    seed: int = 0,
    **settings: Any,
) -> Coverage:
    """Simulate, fit, and count how often central 90 % intervals of quantities hold the truth.

    Args:
        entry: the entry that simulates; parameters come from its prior, so that an exact posterior
            has coverage 0.90.
        family: guide family to fit.
        simulations: number of data sets.
        rows: rows per data set, by default as many as in the entry's data.
        quantities: names of quantities, by default all judged ones.
        seed: seed of everything.
        **settings: settings of the fits.
    """
    data = entry.load_data()
    if rows is not None:
        data = replace(
            data, train={k: v[:rows] if k in data.observed else v for k, v in data.train.items()}
        )
    names = quantities or tuple(n for n, q in entry.quantities.items() if q.judged)
    held: dict[str, list[Flags]] = {name: [] for name in names}
    failures = 0
    for number in range(simulations):
        truth, made = simulated(entry, data, derive_seed(seed, entry.key, "simulate", number))
        fit = guides.fit(entry, family, data=made, seed=number, **settings)
        if not fit.ok:
            failures += 1
            for name in names:  # without an interval nothing is covered
                held[name].append(
                    np.zeros_like(
                        entry.quantities[name].fn({k: v[None] for k, v in truth.items()}, made)[0],
                        dtype=bool,
                    )
                )
            continue
        draws = guides.draw(fit, DRAWS).draws
        for name in names:
            fn = entry.quantities[name].fn
            value, found = fn({k: v[None] for k, v in truth.items()}, made)[0], fn(draws, made)
            low, high = found.quantile(0.05, dim=0), found.quantile(0.95, dim=0)
            held[name].append(((low <= value) & (value <= high)).numpy())
    return Coverage(held={k: np.stack(v) for k, v in held.items()}, failures=failures)


def exact_intervals(simulations: int = 200, *, K: int = 2, seed: int = 0) -> Coverage:
    """Return the coverage of the exact posterior of the twelve-row mixture.

    It shows the noise of the simulation itself.
    """
    entry = zoo.load("gaussian_mixture_exact", K=K)
    data = entry.load_data()
    names = ("location", "weight", "log_scale", "mixture_mean")
    held: dict[str, list[Flags]] = {name: [] for name in names}
    for number in range(simulations):
        truth, made = simulated(entry, data, derive_seed(seed, entry.key, "simulate", number))
        closed = entry.exact(made)
        assert closed is not None
        draws = closed.sample(DRAWS, number)
        for name in names:
            fn = entry.quantities[name].fn
            value, found = fn({k: v[None] for k, v in truth.items()}, made)[0], fn(draws, made)
            held[name].append(
                (
                    (found.quantile(0.05, dim=0) <= value) & (value <= found.quantile(0.95, dim=0))
                ).numpy()
            )
    return Coverage(held={k: np.stack(v) for k, v in held.items()}, failures=0)
