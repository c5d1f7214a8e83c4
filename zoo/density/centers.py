"""Where the circle of an angle is cut: opposite to the posterior's circular mean.

Any center gives the same posterior and evidence, since a chart covers the circle but for a point.
What depends on it is how well a normal fits in the chart and how easily a sampler moves: mass on
both sides of the cut lies at both ends of the line. A center is therefore looked for, without
random numbers, so that all methods of an entry work in one chart:

1. each angle goes to the highest of 16 angles, the other coordinates at 0;
2. all coordinates climb by L-BFGS, angles as real numbers: the density repeats with their turns;
3. each angle gets the circular mean of its conditional density there, by 64 angles, or stays at
   the mode where that density has no mean direction (resultant length below 0.05);
4. it is rounded to a 32nd of pi, so that the last digits of a climb decide nothing.

With more than `MOST` angles step 1 turns all of a site at once, and step 3 is left out. Angles of
units (in the plate of minibatches) keep the center 0: encoders and other data share their chart.
An angle whose density jumps at pi is used as a number, and keeps the center 0 too: it lies in
[-pi, pi) as it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import identity_transform

from zoo.compiler.vectorize import batched
from zoo.density.compiled import points_at_once
from zoo.density.completion import Completion
from zoo.density.faults import unless_it_raises
from zoo.density.sites import Site
from zoo.distributions.circular import TURN, chart_of, is_circular, wrapped

__all__ = ["find_centers", "take_circles"]

MOST = 32  # angles that are turned one by one
COARSE, FINE = 16, 64
CLIMB = 60  # gradients
DIRECTED = 0.05  # resultant length from which a density has a mean direction
GRID = math.pi / 32
JUMP = 1e-6  # relative, of the log density from pi to -pi
NEAR = 1e-12  # relative distance from pi at which it is looked at


Many = Callable[[Tensor], Tensor]  # the log density `[n]` at points `[n, dim]`


class Density(Protocol):
    """What is needed of a log density."""

    dim: int
    dtype: torch.dtype
    data: Any
    sites: tuple[Site, ...]
    completion: Completion

    def evaluate(self, u: Tensor) -> Tensor:
        """Return the log density at a flat point."""


def take_circles(density: Density, latent: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Give every angle among the latent sites its chart, which torch calls real numbers.

    Returns:
        The sites whose angle is used as a number: the density jumps at pi.
    """
    fns = {n["name"]: n["fn"] for n in latent if is_circular(n["fn"])}
    if not fns:
        return ()
    centers, jumps = find_centers(density, list(fns))
    density.completion.centers.update(centers)
    density.sites = tuple(
        replace(s, transform=chart_of(fns[s.name], centers[s.name])) if s.name in centers else s
        for s in density.sites
    )
    return tuple(jumps)


def find_centers(density: Density, names: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the center of each circular site, `[*site]`, and the sites used as numbers.

    Evaluations are not counted. A program that fails on the way leaves its sites at 0.

    Args:
        density: with its sites as laid out; it is left as it was.
        names: the circular sites.
    """
    sites = density.sites
    density.sites = tuple(
        replace(s, transform=identity_transform) if s.name in names else s for s in sites
    )
    zero = torch.zeros(density.dim, dtype=density.dtype)
    asked = [s for s in density.sites if s.name in names]
    none: list[str] = []
    try:
        many = _many(density)
        point = unless_it_raises(lambda: _Search(density, many, asked).run(), zero)
        jumps = unless_it_raises(lambda: _jumping(many, asked, point), none)
    finally:
        density.sites = sites
    centers = {}
    for s in asked:
        kept = s.name in jumps or s.plate_axis is not None
        steps = torch.round(s.part(zero if kept else point) / GRID)
        centers[s.name] = wrapped(steps * GRID).reshape(s.shape)
    return centers, jumps


def _many(density: Density) -> Many:
    """Return the density of many points; its own batch would be checked in its charts."""

    def one_by_one(u: Tensor) -> Tensor:
        return torch.stack([density.evaluate(row) for row in u])

    chunk = points_at_once(density.data.train, density.dim)
    return unless_it_raises(
        lambda: batched(density.evaluate, dim=density.dim, dtype=density.dtype, chunk=chunk),
        one_by_one,
    )


class _Search:
    """The four steps of the module's text, in coordinates that are angles at circular sites."""

    def __init__(self, density: Density, many: Many, asked: Sequence[Site]) -> None:
        self.density, self.many = density, many
        places = [torch.arange(s.start, s.stop) for s in asked if s.plate_axis is None]
        flat = torch.cat(places) if places else torch.arange(0)
        self.single = len(flat) <= MOST
        # the groups of angles that are turned together
        self.groups = list(flat[:, None]) if self.single else places

    def run(self) -> Tensor:
        """Return a flat point with the centers, not yet rounded, in the places of the angles."""
        x = torch.zeros(self.density.dim, dtype=self.density.dtype)
        if not self.groups:
            return x
        for group in self.groups:
            angles, heights = self._turned(x, group, COARSE)
            top = heights.max()  # of several equally high angles, the first
            x[group] = angles[int((heights >= top - 1e-9 * (1 + top.abs())).nonzero()[0])]
        x = self._climbed(x)
        if not self.single:
            return x
        centers = x.clone()
        for group in self.groups:
            angles, heights = self._turned(x, group, FINE)
            weights = torch.softmax(heights, 0)
            east, north = (weights * angles.cos()).sum(), (weights * angles.sin()).sum()
            if float(torch.hypot(east, north)) >= DIRECTED:
                centers[group] = torch.atan2(north, east)
        return centers

    def _turned(self, x: Tensor, group: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return angles from the present one on, and the log density with the group at each."""
        angles = x[group[0]] + torch.arange(number, dtype=x.dtype) * (TURN / number)
        with torch.no_grad():
            heights = self.many(_moved(x, group, angles))
        return angles, torch.nan_to_num(heights, nan=-1e300, neginf=-1e300)

    def _climbed(self, x: Tensor) -> Tensor:
        """Return the highest point of a climb, the start if it leads nowhere."""
        best, height = x.clone(), -math.inf
        point = x.clone().requires_grad_(True)
        climb = torch.optim.LBFGS(
            [point], max_iter=CLIMB, max_eval=CLIMB, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            nonlocal best, height
            climb.zero_grad()
            value = self.density.evaluate(point)
            reached = float(value.detach())
            if math.isfinite(reached) and reached > height:
                best, height = point.detach().clone(), reached
            (-value).backward()
            return -value

        def run() -> None:
            with torch.enable_grad():
                climb.step(loss)

        unless_it_raises(run, None)
        return best if bool(torch.isfinite(best).all()) else x


def _jumping(many: Many, asked: Sequence[Site], point: Tensor) -> list[str]:
    """Return the sites at which the log density differs between pi and -pi."""
    found = []
    ends = torch.tensor([math.pi * (1 - NEAR), -math.pi], dtype=point.dtype)
    for s in asked:
        places = torch.arange(s.start, s.stop)
        groups = list(places[:, None]) if len(places) <= MOST else [places]
        with torch.no_grad():
            heights = many(torch.cat([_moved(point, group, ends) for group in groups]))
        above, below = heights.reshape(-1, 2).unbind(-1)
        alike = (above - below).abs() <= JUMP * (1 + above.abs())
        if not bool((alike | (above == below) | above.isnan() | below.isnan()).all()):
            found.append(s.name)
    return found


def _moved(x: Tensor, group: Tensor, values: Tensor) -> Tensor:
    """Return copies `[n, dim]` of a point, each with one of the values `[n]` at a group."""
    moved = x.repeat(len(values), 1)
    moved[:, group] = values[:, None]
    return moved
