"""Coefficients of the columns of a data frame, so that their components are named by columns.

Entry i of a vector is the coefficient of column i if it acts through that column only: with the
column at zero, no other value of the entry changes a term of an observed site, and with the column
as it is, one does. A vector over groups or rows that happens to be as long fails this. So do the
coefficients of a program that standardizes its columns itself, since a column at zero has no
standard deviation: their components keep their numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.density.likelihood import observed_terms
from zoo.density.log_density import LogDensity
from zoo.density.sites import samples
from zoo.types import Data
from zoo.user_models.from_trace import shape_and_dims

__all__ = ["coordinates_of"]

LOOKED_AT = 8  # columns, spread evenly; each takes three runs of the program
STEP = 0.5  # by which an entry is moved, in unconstrained space


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of one data frame, in order.

    Attributes:
        names: their names.
        argument: the tensor `[row, column]` that holds them; empty if each is one of its own.
    """

    names: tuple[str, ...]
    argument: str = ""

    def without(self, tensors: Mapping[str, Any], place: int) -> dict[str, Any]:
        """Return the tensors with one column at zero."""
        if not self.argument:
            name = self.names[place]
            return {**tensors, name: torch.zeros_like(tensors[name])}
        matrix = tensors[self.argument].clone()
        matrix[..., place] = 0
        return {**tensors, self.argument: matrix}


def _columns(frames: Mapping[str, Sequence[str]], data: Data) -> Iterator[Columns]:
    """Yield the predictors of each data frame, unless two columns share a name."""
    for argument, names in frames.items():
        taken = tuple(n for n in names if argument or n not in data.observed)
        if len(set(taken)) == len(taken) > 1:
            yield Columns(names=taken, argument=argument)


def coordinates_of(
    trace: poutine.Trace, density: LogDensity, data: Data, frames: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Return the column names along each axis of coefficients, `{dim: names}`.

    An axis that two data frames would name differently has none.

    Args:
        trace: a run of the program.
        density: of the program and the data it is seen on.
        data: all data, with the caller's names of axes.
        frames: argument -> column names; those of a frame that is all data stand under "".
    """
    given = list(_columns(frames, data))
    nodes = {n["name"]: n for n in samples(trace)} if given else {}
    found: dict[str, set[tuple[str, ...]]] = {}
    generator = torch.Generator().manual_seed(13)
    u = 0.5 * torch.randn(density.dim, dtype=density.dtype, generator=generator)
    for site in density.sites if given else ():
        axes = data.dims.get(site.name, shape_and_dims(nodes[site.name])[1])
        for columns in given:
            fits = len(axes) == 1 and site.stop - site.start == len(columns.names)
            if fits and _acts_by_columns(density, u, site.start, columns):
                found.setdefault(axes[0], set()).add(columns.names)
    return {dim: next(iter(names)) for dim, names in found.items() if len(names) == 1}


def _acts_by_columns(density: LogDensity, u: Tensor, start: int, columns: Columns) -> bool:
    """Whether each entry of the site at `start` acts through the column of its place only."""
    tensors, number = dict(density.data.train), len(columns.names)
    places = torch.linspace(0, number - 1, min(number, LOOKED_AT)).round().int().tolist()
    seen = False
    for place in places:
        moved = u.clone()
        moved[start + place] += STEP
        absent = columns.without(tensors, place)
        here, there = density.constrain(u), density.constrain(moved)
        if not _same(density, here, there, absent):
            return False
        name = columns.argument or columns.names[place]
        if not torch.equal(absent[name], tensors[name]):  # a column of zeros says nothing
            if _same(density, here, there, tensors):
                return False
            seen = True
    return seen


def _same(density: LogDensity, one: Any, other: Any, tensors: Mapping[str, Any]) -> bool:
    """Whether all terms of observed sites agree at two points; those of a failed run do not."""
    with warnings.catch_warnings():  # a column at zero may have no standard deviation
        warnings.filterwarnings("ignore", message="Encountered")
        a, b = observed_terms(density, one, tensors), observed_terms(density, other, tensors)
    if a is None or b is None:
        return False
    seen = [name for name in a if name not in one]  # the latent sites are held at their values
    return all(torch.allclose(a[k], b[k], rtol=1e-9, atol=1e-12) for k in seen)
