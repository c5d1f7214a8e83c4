"""Exact posteriors of any program whose rows have at most three latent values each, on a grid.

`LatentGrid` needs log p(x_i, u) of row i at any point u of the row's unconstrained values. For an
arbitrary program it is the sum of the terms of that row, so that a decoder, a likelihood and a
prior need not be named. Rows are given by their numbers, a column `[row, 1]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.density.log_density import LogDensity
from zoo.density.row_terms import ProgramTerms, has_grid, row_numbers
from zoo.errors import FitError
from zoo.truth.grid import LARGEST, LatentGrid, box_for
from zoo.types import Analytic

__all__ = ["exact_units", "flat", "grid_of"]

POINTS = {1: 1001, 2: 101, 3: 31}  # of the first grid, refined until it is fine enough
FINE = {1: 801, 2: 161, 3: 49}  # around the posterior of one row
PRIORS = 8  # rows whose priors give the box


def flat(points: Tensor) -> Tensor:
    """Return zeros: the prior is part of the terms of a row already."""
    return points.new_zeros(points.shape[:-1])


def grid_of(density: LogDensity, points: int | None = None) -> LatentGrid:
    """Return the grid of a program's rows over the box that their priors allow.

    Raises:
        FitError: latent values that belong to no row.
    """
    terms = ProgramTerms(density)
    if not has_grid(density):
        raise FitError(
            f"A grid needs 1 to {LARGEST} latent values per row and none outside the plate of the"
            f" rows; the sites are {[s.name for s in density.sites]}."
        )
    some = row_numbers(density)[:PRIORS]

    def prior(at: Tensor) -> Tensor:
        with torch.no_grad():
            return terms.terms(some, at[:, None, :].expand(-1, len(some), -1))[1].amax(-1)

    return LatentGrid(
        terms,
        terms.width,
        log_prior=flat,
        points=points or POINTS[terms.width],
        half_width=box_for(prior, terms.width),
    )


def exact_units(density: LogDensity) -> Analytic | None:
    """Return the exact posterior of every row, None if a grid cannot give it.

    It has the draws and the log evidence; the grid is refined until doubling it changes log p(x)
    by less than 0.001 nats.
    """
    if not has_grid(density):
        return None
    x = row_numbers(density)
    with torch.no_grad():
        grid = grid_of(density).sufficient(x)
        if not grid.check(x).ok:
            return None
        evidence, mean, covariance = grid.moments(x)
    near = [
        grid.around(m, c, points=FINE[grid.latent]) for m, c in zip(mean, covariance, strict=True)
    ]
    places = torch.cat([s.unit_indices() for s in density.sites], -1)  # [unit, local]

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        local = torch.cat([g.sample(x[i : i + 1], n, seed + i) for i, g in enumerate(near)], 1)
        u = torch.zeros(n, density.dim, dtype=density.dtype)
        u[:, places.reshape(-1)] = local.reshape(n, -1).to(density.dtype)
        return density.constrain(u)

    total = float(evidence.sum())
    return Analytic(sample=sample, log_evidence=total if math.isfinite(total) else None)
