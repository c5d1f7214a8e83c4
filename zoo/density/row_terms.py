"""The log density of a program row by row, where every latent value belongs to a row.

Rows are given by their numbers, a column `[row, 1]`; a row may come several times, each time with
values of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.compiler.vectorize import vmappable
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype
from zoo.density.unit_terms import is_local, terms_of

__all__ = ["ProgramTerms", "has_grid", "row_numbers", "width_of"]

WIDEST = 3  # latent values per row that a grid can integrate
NUMBERS = 1_000_000  # rows times points evaluated at once
KEPT = 30_000_000  # log densities kept


def width_of(density: LogDensity) -> int:
    """Return how many latent values each row has, 0 if some belong to no row."""
    if not is_local(density) or not density.data.size:
        return 0
    return density.dim // int(density.data.size)


def has_grid(density: LogDensity) -> bool:
    """Whether the posterior of every row can be integrated on a grid."""
    return 1 <= width_of(density) <= WIDEST


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
