"""The log density of a program row by row, where every latent value belongs to a row.

Rows are given by their numbers, a column `[row, 1]`; a row may come several times, each time with
values of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype
from zoo.density.unit_terms import is_local, mapped, terms_of

__all__ = ["ProgramTerms", "has_grid", "row_numbers", "width_of"]

WIDEST = 3  # latent values per row that a grid can integrate
NUMBERS = 1_000_000  # rows times points evaluated at once
KEPT = 30_000_000  # log densities kept
NEGLIGIBLE = 40.0  # nats below the largest log density of a row: no mass


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
        rows = x[:, 0].long()
        points = z.reshape(-1, len(rows), self.width).to(self.density.dtype)
        found = self._by_points(rows, points)
        likelihood, prior = self._as_rows(rows, points) if found is None else found
        shape = z.shape[:-1]
        return likelihood.reshape(shape).to(z.dtype), prior.reshape(shape).to(z.dtype)

    def _tensors(self, rows: Tensor) -> Mapping[str, Any]:
        data = self.density.data
        few = {k: data.train[k][rows] for k in data.batched}
        return {**data.train, **few, "index": rows}

    def _by_points(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor] | None:
        """Map the program over the points; None if it has a statement that torch cannot map."""
        tensors = self._tensors(rows)

        def point(values: Tensor) -> tuple[Tensor, Tensor]:
            found = terms_of(self.density, values, tensors)
            return found.likelihood, found.prior

        with default_dtype(self.density.dtype):
            return mapped(self.density, point, points)

    def _as_rows(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Run the program once, on every row as often as there are points."""
        with default_dtype(self.density.dtype):
            found = terms_of(
                self.density, points.flatten(0, 1), self._tensors(rows.repeat(len(points)))
            )
        return found.likelihood, found.prior

    def prepare(self, points: Tensor) -> _Known:
        """Return the points `[point, d]`, with what is known at them."""
        return _Known(points)

    def refine(self, coarse: _Known, points: Tensor) -> _Known:
        """Return the points of a product grid with twice the intervals per axis of a coarse one.

        A row is evaluated only where its values at the coarse points leave room for mass: at a
        corner of the cell, the largest value of the neighbourhood plus half the range of its
        values, twice what a straight line would rise on the way to a new point, comes within 40
        nats of the row's largest value. Elsewhere the largest value at the corners stands in.
        """
        return _Known(points, coarse)

    def log_prob(self, x: Tensor, prepared: _Known) -> Tensor:
        """Return log p(x_i, u) `[row, point]` in nats."""
        asked = x[:, 0].tolist()
        known = {i: prepared.rows[i] for i in asked if i in prepared.rows}
        if missing := [i for i in dict.fromkeys(asked) if i not in known]:
            rows = torch.tensor(missing, dtype=torch.float64)[:, None]
            found = (
                self._everywhere(rows, prepared.points)
                if prepared.coarse is None
                else self._where_mass_is(rows, prepared, prepared.coarse)
            )
            if (len(prepared.rows) + len(missing)) * len(prepared.points) > KEPT:
                prepared.rows.clear()
            fresh = dict(zip(missing, found, strict=True))
            prepared.rows.update(fresh)
            known |= fresh
        return torch.stack([known[i] for i in asked])

    def _everywhere(self, rows: Tensor, points: Tensor) -> Tensor:
        step = max(1, NUMBERS // (64 * len(rows)))
        parts = [
            self.paired(rows, part[:, None, :].expand(-1, len(rows), -1))
            for part in points.split(step)
        ]
        return torch.cat(parts).T.contiguous()  # [row, point]

    def _where_mass_is(self, rows: Tensor, prepared: _Known, coarse: _Known) -> Tensor:
        known = self.log_prob(rows, coarse)
        number = round(len(coarse.points) ** (1 / self.width))
        cube = known.reshape(len(rows), *[number] * self.width)
        values, ask = between(cube), between(has_mass(cube)).flatten(1)
        every = (slice(None), *[slice(None, None, 2)] * self.width)
        there = torch.zeros_like(values, dtype=torch.bool)
        there[every] = True
        values[every] = cube
        values, ask = values.flatten(1), ask & ~there.flatten(1)
        for i in range(len(rows)):
            at = ask[i].nonzero()[:, 0]
            if len(at):
                values[i, at] = self._everywhere(rows[i : i + 1], prepared.points[at])[0]
        return values


def has_mass(values: Tensor) -> Tensor:
    """Whether the surroundings of each point of a product grid may hold mass of a row.

    Args:
        values: log densities `[row, n, ..., n]` in nats.
    """
    high = _pooled(values)
    rise = 0.5 * (high + _pooled(-values))  # largest less smallest of the neighbourhood
    top = values.flatten(1).amax(1).reshape(-1, *[1] * (values.ndim - 1))
    return ~(high + rise < top - NEGLIGIBLE)  # what is no number is evaluated


def _pooled(values: Tensor) -> Tensor:
    """Return the largest value among each point and its neighbours on a grid `[row, n, ...]`."""
    for axis in range(1, values.ndim):
        ahead = torch.cat(
            [
                values.narrow(axis, 1, values.shape[axis] - 1),
                values.narrow(axis, values.shape[axis] - 1, 1),
            ],
            axis,
        )
        behind = torch.cat(
            [values.narrow(axis, 0, 1), values.narrow(axis, 0, values.shape[axis] - 1)], axis
        )
        values = values.maximum(ahead).maximum(behind)
    return values


def between(values: Tensor) -> Tensor:
    """Return the largest corner value of each place of the grid with twice the intervals.

    Args:
        values: numbers or truth values `[row, n, ..., n]`; the result is `[row, 2 n - 1, ...]`.
    """
    for axis in range(1, values.ndim):
        n = values.shape[axis]
        middle = values.narrow(axis, 0, n - 1).maximum(values.narrow(axis, 1, n - 1))
        shape = [*values.shape]
        shape[axis] = 2 * n - 1
        out = values.new_empty(shape)
        out.movedim(axis, 0)[::2] = values.movedim(axis, 0)
        out.movedim(axis, 0)[1::2] = middle.movedim(axis, 0)
        values = out
    return values


class _Known:
    """Points of a grid, and the log densities of the rows evaluated at them so far."""

    def __init__(self, points: Tensor, coarse: _Known | None = None) -> None:
        self.points, self.coarse = points, coarse
        self.rows: dict[int, Tensor] = {}
