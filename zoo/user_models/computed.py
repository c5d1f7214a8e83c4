"""Quantities of sites that a reparameterized program computes from its latent sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pyro import poutine
from torch import Tensor

from zoo.compiler.vectorize import vmappable
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype
from zoo.quantities import QuantityFunction
from zoo.types import Data

__all__ = ["computed"]

CHUNK = 2_000  # draws in one pass


def computed(
    of_draws: QuantityFunction, name: str, program: Callable[..., object], density: LogDensity
) -> QuantityFunction:
    """Return a quantity of a deterministic site, found by running the program at every draw.

    Args:
        of_draws: the quantity of the site's own draws.
        name: the site.
        program: the program, without weights that are trained.
        density: knows the latent sites with their shapes.
    """

    def point(latent: dict[str, Tensor], data: Data) -> Tensor:
        with poutine.block():
            trace = poutine.trace(poutine.condition(program, data=latent)).get_trace(**data.train)
        value: Tensor = trace.nodes[name]["value"]
        return value

    def fn(draws: Mapping[str, Tensor], data: Data) -> Tensor:
        first = density.sites[0]
        lead = draws[first.name].shape[: draws[first.name].ndim - len(first.shape)]
        latent = {
            s.name: draws[s.name].to(density.dtype).reshape(-1, *s.shape) for s in density.sites
        }
        with default_dtype(density.dtype), torch.no_grad(), vmappable():
            mapped = torch.func.vmap(
                lambda row: point(row, data), randomness="different", chunk_size=CHUNK
            )
            try:
                value = mapped(latent)
            except RuntimeError:  # a statement that takes one point at a time, as Pyro's own may
                rows = range(len(latent[first.name]))
                value = torch.stack(
                    [point({k: v[i] for k, v in latent.items()}, data) for i in rows]
                )
        return of_draws({**draws, name: value.reshape(*lead, *value.shape[1:])}, data)

    return fn
