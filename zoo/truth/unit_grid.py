"""Exact posteriors of any program whose rows have at most three latent values each, on a grid.

`LatentGrid` needs log p(x_i, u) of row i at any point u of the row's unconstrained values. For an
arbitrary program it is the sum of the terms of that row, so that a decoder, a likelihood and a
prior need not be named. Rows are given by their numbers, a column `[row, 1]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.compiler.vectorize import vmappable
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype
from zoo.density.unit_terms import is_local, terms_of
from zoo.errors import FitError
from zoo.truth.grid import LARGEST, LatentGrid, box_for
from zoo.types import Analytic

__all__ = ["ProgramTerms", "exact_units", "flat", "grid_of", "has_grid", "row_numbers", "width_of"]

POINTS = {1: 1001, 2: 101, 3: 31}  # of the first grid, refined until it is fine enough
FINE = {1: 801, 2: 161, 3: 49}  # around the posterior of one row
NUMBERS = 1_000_000  # rows times points evaluated at once
KEPT = 30_000_000  # log densities kept
PRIORS = 8  # rows whose priors give the box


def width_of(density: LogDensity) -> int:
    """Return how many latent values each row has, 0 if some belong to no row."""
    if not is_local(density) or not density.data.size:
        return 0
    return density.dim // int(density.data.size)


def has_grid(density: LogDensity) -> bool:
    """Whether the posterior of every row can be integrated on a grid."""
    return 1 <= width_of(density) <= LARGEST


def row_numbers(density: LogDensity) -> Tensor:
    """Return the numbers of all rows as a grid takes them, `[row, 1]`."""
    return torch.arange(int(density.data.size or 0), dtype=torch.float64)[:, None]


class ProgramTerms:
    """The log density of one row of a program, in the place of a likelihood of `LatentGrid`.

    Args:
        density: a density whose latent values all belong to rows.
    """

    def __init__(self, density: LogDensity) -> None:
        self.density, self.width = density, width_of(density)

    def paired(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x_i, u_i) `[*batch, row]` in nats.

        Args:
            x: numbers of the rows `[row, 1]`; a row may come several times.
            z: unconstrained values `[*batch, row, d]`.
        """
        likelihood, prior = self.terms(x, z)
        return likelihood + prior

    def terms(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log likelihood, and log prior with its Jacobian, each `[*batch, row]`."""
        rows, data = x[:, 0].long(), self.density.data
        few = {k: data.train[k][rows] for k in data.batched}
        tensors: Mapping[str, Any] = {**data.train, **few, "index": rows}

        def point(values: Tensor) -> tuple[Tensor, Tensor]:
            found = terms_of(self.density, values, tensors)
            return found.likelihood, found.prior

        points = z.reshape(-1, len(rows), self.width).to(self.density.dtype)
        with default_dtype(self.density.dtype), vmappable():
            likelihood, prior = torch.func.vmap(point)(points)
        shape = z.shape[:-1]
        return likelihood.reshape(shape).to(z.dtype), prior.reshape(shape).to(z.dtype)

    def prepare(self, points: Tensor) -> _Known:
        """Return the points `[point, d]`, with what is known at them."""
        return _Known(points)

    def log_prob(self, x: Tensor, prepared: _Known) -> Tensor:
        """Return log p(x_i, u) `[row, point]` in nats."""
        missing = [i for i in x[:, 0].tolist() if i not in prepared.rows]
        step = max(1, NUMBERS // (64 * max(1, len(missing))))
        if missing:
            rows = torch.tensor(missing, dtype=torch.float64)[:, None]
            parts = [
                self.paired(rows, part[:, None, :].expand(-1, len(rows), -1))
                for part in prepared.points.split(step)
            ]
            found = torch.cat(parts).T.contiguous()  # [row, point]
            if (len(prepared.rows) + len(missing)) * len(prepared.points) > KEPT:
                prepared.rows.clear()
            prepared.rows.update(zip(missing, found, strict=True))
        return torch.stack([prepared.rows[i] for i in x[:, 0].tolist()])


class _Known:
    """Points of a grid, and the log densities of the rows evaluated at them so far."""

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.rows: dict[int, Tensor] = {}


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
