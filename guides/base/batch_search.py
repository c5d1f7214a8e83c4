"""Batch and match to a settled average: new draws per update, falling rates, a stopping rule.

Update t has the rate r_t = B d / (t + 1) of the paper, with B draws in d dimensions, until moves
oppose each other. Each move that takes back more than a quarter of the one before lowers the rate,
after k of them to at most 2 / k (Kesten 1958): iterates that only follow the noise of their draws
then average it.

The answer is the average of the last half of the iterates, by mean and covariance. An update says
how far is left to go,

    left_t = (1 + r)/r (m' - m) in sds,      (1 + 2 r)/(2 r) (log sd' - log sd),

which is exact near a normal. The search has settled where the mean of these over the same updates
is zero within its noise, and their standard error, the error of the average by the choice of the
draws, is at most the target.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from guides.base.batch_match import Normal, bounded, lower, moments
from guides.base.fixed_draws import DESIGNS
from zoo.density.log_density import LogDensity

__all__ = ["Found", "search"]

LEAST = 4  # updates that are averaged
STILL = 0.01  # sds and log sds, of a mean of what is left that counts as zero
TAKEN_BACK, LOWERED = 0.25, 2.0
FEWEST = 0.5  # share of the draws with finite scores that an update needs
NARROWED, NARROWINGS = 0.5, 8  # factor of the widths where there are fewer, and how often in a row
RUNAWAY = 1e4  # widths of the start, beyond which a direction has no end


@dataclass(kw_only=True)
class Found:
    """Where a search ended.

    Attributes:
        normal: the average of the last half of the iterates.
        updates: number of updates.
        averaged: iterates in the average.
        left: what is left to go `[2 dim]`, in sds and log sds.
        errors: its standard errors `[2 dim]`, infinite with too few updates.
        misfit: root mean square of grad log p - grad log q per dimension, in units of the scores
            of q: 0 for a normal posterior.
        dropped: draws without a finite score, and those of them in the average.
        narrowed: how often the widths were halved because too few scores were finite.
        bad: a point without a finite score `[dim]` where the search could not go on, else None.
        wide: log of the widths in those of the start `[dim]` if one grew without end, else None.
    """

    normal: Normal
    updates: int = 0
    averaged: int = 0
    left: Tensor
    errors: Tensor
    misfit: float = 0.0
    dropped: tuple[int, int] = (0, 0)
    narrowed: int = 0
    bad: Tensor | None = None
    wide: Tensor | None = None

    @property
    def error(self) -> float:
        """The largest error by the choice of the draws, in posterior sds and log sds."""
        return float(self.errors.max())

    @property
    def still(self) -> bool:
        """Whether what is left is zero within its noise."""
        return bool((self.left.abs() <= STILL + 2.0 * self.errors).all())

    def settled(self, target: float) -> bool:
        """Whether nothing is left, and that is known to the target."""
        return self.averaged >= LEAST and self.still and self.error <= target


@dataclass
class _Path:
    """Iterates, what each update said is left, draws it lost, squared misfit of the scores."""

    iterates: list[Normal] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)
    opposed: int = 0

    def rate(self, draws: int, dim: int) -> float:
        """Return the rate of the next update."""
        first = draws * dim / (len(self.left) + 1)
        return min(first, LOWERED / self.opposed) if self.opposed else first

    def add(self, now: Normal, left: Tensor, dropped: int = 0, apart: float = 0.0) -> None:
        """Note an update."""
        if self.left:
            last = self.left[-1]
            self.opposed += bool(left @ last < -TAKEN_BACK * (last @ last))
        self.iterates.append(now)
        self.left.append(left)
        self.dropped.append(dropped)
        self.apart.append(apart)

    def found(self, begin: Normal, narrowed: int, bad: Tensor | None = None) -> Found:
        """Return the average of the last half."""
        number = len(self.left)
        last = min(number, max(LEAST, (number + 1) // 2))
        unknown = torch.full((2 * len(begin.mean),), torch.inf, dtype=begin.mean.dtype)
        rows = torch.stack(self.left[-last:]) if last else unknown[None]
        return Found(
            normal=_average(self.iterates[-last:]) if last else begin,
            updates=number,
            averaged=last,
            left=rows.mean(0),
            errors=rows.std(0) / last**0.5 if last > 1 else unknown,
            misfit=(sum(self.apart[-last:]) / last) ** 0.5 if last else 0.0,
            dropped=(sum(self.dropped), sum(self.dropped[-last:])),
            narrowed=narrowed,
            bad=bad,
        )


def search(
    density: LogDensity,
    begin: Normal,
    generator: torch.Generator,
    *,
    draws: int,
    design: str,
    target: float,
    budget: int,
) -> Found:
    """Update a normal until the average of its last iterates has settled, or the budget ends.

    Args:
        density: the log density of the program; its gradients are counted, one per draw.
        begin: the first normal.
        generator: source of the draws.
        draws: draws of an update, rounded up to pairs by designs that need them.
        design: of the draws, a name in `guides.base.fixed_draws.DESIGNS`.
        target: largest error of the average, in posterior sds and log sds.
        budget: gradients after which no further update begins.
    """
    make, _ = DESIGNS[design]
    dim = density.dim
    now, path, spent, narrowed, in_a_row = begin, _Path(), 0, 0, 0
    found = path.found(begin, 0)
    while spent < budget:
        noise = make(generator, draws, dim).double()
        spent += len(noise)
        points = (now.mean + noise @ now.factor.T).to(density.dtype)
        value, gradient = density.batch_gradient(points)
        good = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
        lost = int((~good).sum())
        if len(noise) - lost < FEWEST * len(noise):
            narrowed, in_a_row = narrowed + 1, in_a_row + 1
            if in_a_row > NARROWINGS:
                return path.found(begin, narrowed, points[int((~good).long().argmax())])
            now = Normal(mean=now.mean, factor=NARROWED * now.factor)
            continue
        in_a_row = 0
        scores = gradient[good].double() @ now.factor  # in the coordinates of the noise
        rate = path.rate(len(scores), dim)
        after = now.moved(*bounded(moments(noise[good], scores), rate))
        moved = (after.mean - now.mean) / now.sds
        wider = (after.sds / now.sds).log()
        left = torch.cat([(1 + rate) / rate * moved, (1 + 2 * rate) / (2 * rate) * wider])
        path.add(after, left, lost, float((scores + noise[good]).square().mean()))
        now = after
        found = path.found(begin, narrowed)
        wide = now.sds / begin.sds
        if found.settled(target) or float(wide.max()) > RUNAWAY:
            return found if found.settled(target) else replace(found, wide=wide.log())
    return found


def _average(normals: list[Normal]) -> Normal:
    """Return the normal with the average mean and the average covariance."""
    mean = torch.stack([x.mean for x in normals]).mean(0)
    # the factor of sum L L' is that of the L side by side
    side = torch.cat([x.factor for x in normals], 1) / len(normals) ** 0.5
    return Normal(mean=mean, factor=lower(side))
