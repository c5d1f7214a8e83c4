"""Judged quantities as a function of unconstrained points, and prior draws of such points."""

from __future__ import annotations

import functools

import torch
from pyro import poutine
from torch import Tensor

from benchmarks.metrics.components import Array, Component, component_names
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype
from zoo.seeds import derive_seed, seeded
from zoo.types import Data, ModelEntry

__all__ = ["Judged", "prior_draw", "prior_draws"]


class Judged:
    """The judged components of an entry at unconstrained points."""

    def __init__(self, density: LogDensity, entry: ModelEntry, data: Data) -> None:
        self.density, self.entry, self.data = density, entry, data

    def __call__(self, u: Tensor) -> Array:
        """Return the judged components at points `[n, dim]` as `[n, component]`."""
        with torch.no_grad(), default_dtype(self.density.dtype):
            sites = self.density.constrain(u)
            parts = [
                q.fn(sites, self.data).double().reshape(len(u), -1)
                for q in self.entry.quantities.values()
                if q.judged
            ]
        out: Array = torch.cat(parts, -1).numpy()
        return out

    @functools.cached_property
    def components(self) -> tuple[Component, ...]:
        """Their names, in order."""
        origin = torch.zeros(1, self.density.dim, dtype=self.density.dtype)
        with torch.no_grad(), default_dtype(self.density.dtype):
            sites = self.density.constrain(origin)
            return tuple(
                component
                for name, q in self.entry.quantities.items()
                if q.judged
                for component in component_names(
                    name, q, tuple(q.fn(sites, self.data).shape[1:]), self.data
                )
            )


def prior_draw(density: LogDensity, data: Data, seed: int) -> Tensor:
    """Return the latent sites of one run of the program as a flat point `[dim]`."""
    with torch.no_grad(), seeded(seed), default_dtype(density.dtype), poutine.block():
        trace = poutine.trace(density.program).get_trace(**data.train)
        sites = {s.name: trace.nodes[s.name]["value"].detach() for s in density.sites}
        return density.unconstrain(sites)


def prior_draws(density: LogDensity, data: Data, n: int) -> Tensor:
    """Return those of n runs that are finite, `[m, dim]`."""
    seeds = [derive_seed("wide climbs", "prior", i) for i in range(n)]
    drawn = torch.stack([prior_draw(density, data, seed) for seed in seeds])
    return drawn[torch.isfinite(drawn).all(1)]
