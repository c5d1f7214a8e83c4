"""Wide climbs: is there a mode, of comparable mass, where the draws have never been?

All chains and restarts begin near the origin, so they can agree on a mode that holds next to no
mass; R-hat and restarts see nothing of it. Here L-BFGS climbs the log density from far away: from
draws of the prior, and from 10 to 300 sds of the draws in random unconstrained directions. An end
counts where it is a mode (finite, settled, negative definite Hessian) and where its judged
quantities lie apart from all draws; it is compared with what the draws cover by mass,

    log p(m) + d/2 log 2 pi - 1/2 log det(-H)      [nats]

never by height. What the draws cover is taken as the larger of the same figure at the mode in
their midst and E[log p] + entropy of a normal with their covariance, which is no less than the
log mass of what they cover: the comparison errs towards silence. Climbs that run off say nothing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmarks.metrics.components import Array
from benchmarks.thresholds import OTHER_MODE
from benchmarks.trust.existence import ABSENT, EXISTS, doubted, needs_doubt, why_none
from benchmarks.trust.judged import Judged, prior_draw
from guides.base.modes import Curvature, climb, curvature
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites
from zoo.seeds import derive_seed
from zoo.types import Posterior, Reference

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["GATE", "Climbs", "OtherMode", "climb_for", "judged", "needs_climbs", "wide_climbs"]

GATE = "wide_climbs"
RADII = (100.0, 30.0, 300.0, 10.0)  # sds; two starts each, those that find most first
FAR = (1000.0, 3000.0)  # sds, in place of draws of an improper prior
EACH, PRIOR = 2, 8
EVALUATIONS = 500  # gradients of one climb, in each of its two rounds
DRAWS = 400  # of all draws, evenly spaced
APART = 3.0  # an end lies apart beyond this multiple of the largest distance between neighbors
SHARE = 0.1  # of the gradients that a row took may be spent before it agrees


@dataclass(frozen=True, kw_only=True)
class OtherMode:
    """A mode where the draws have never been.

    Attributes:
        point: where, `[dim]`, unconstrained.
        height: log density there, nats.
        log_mass: its Laplace mass, nats.
        start: what found it, `a draw of the prior` or `100 sds`.
        where: its judged component that is farthest from the draws, in words.
    """

    point: Tensor
    height: float
    log_mass: float
    start: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Climbs:
    """What wide climbs found.

    Attributes:
        log_mass: of what the draws cover, at most; nats.
        others: modes elsewhere, the one of largest mass first.
        starts: how many climbs were made.
        home: how many of them ended among the draws.
        lost: how many ran off, did not settle, or began where the density is not finite.
        gradients: spent in all.
        improper: the prior cannot be drawn from, so far starts took the place of its draws.
        complete: every start was climbed within the budget.
        absent: why the posterior may not exist, empty where nothing speaks for it.
    """

    log_mass: float
    others: tuple[OtherMode, ...]
    starts: int
    home: int
    lost: int
    gradients: int
    improper: bool
    complete: bool
    absent: str = ""

    @property
    def better(self) -> OtherMode | None:
        """The mode elsewhere whose mass cannot be neglected beside that of the draws, or None."""
        found = self.others[0] if self.others else None
        return found if found and found.log_mass > self.log_mass - OTHER_MODE else None

    @property
    def points(self) -> list[Tensor]:
        """Modes elsewhere `[dim]`, where one of them cannot be neglected; else none."""
        return [] if self.better is None else [o.point for o in self.others]

    @property
    def gate(self) -> bool | None:
        """Whether no better mode is known; None if no climb ended, or the budget did."""
        if self.better is not None or self.absent:
            return False
        return True if self.complete and (self.home or self.others) else None

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        if self.absent:
            return self.absent
        if self.better is not None:
            gap = self.better.log_mass - self.log_mass
            much = (
                f"more mass by {gap:.0f} nats"
                if gap > 1
                else "as much mass"
                if gap > -1
                else f"{math.exp(gap):.0%} of their mass"
            )
            return (
                f"a mode is missed that has {much} (Laplace), where no draw has been:"
                f" {self.better.where};"
                f" a climb from {self.better.start} ended there"
            )
        far = "far starts (the prior is improper)" if self.improper else "draws of the prior"
        if not self.complete:
            return (
                f"not climbed to an end: the budget allows {self.starts} climbs, of"
                f" {self.gradients:,} gradients"
            )
        if not (self.home or self.others):
            return f"not climbed to an end: none of {self.starts} wide climbs settled anywhere"
        return (
            f"{self.starts} wide climbs from {far} and from 10 to 300 sds found no other mode of"
            f" comparable mass ({self.home} ended among the draws, {self.lost} nowhere)"
        )


def wide_climbs(
    density: LogDensity,
    posterior: Posterior,
    *,
    widths: Tensor | None = None,
    seed: int = 0,
    budget: float = math.inf,
    seconds: float = math.inf,
) -> Climbs:
    """Climb the log density from far away and return the modes where the draws have never been.

    Args:
        density: of the program and data that the draws belong to, compiled or not.
        posterior: draws with their unconstrained vectors.
        widths: sds of the widest other answer, `[dim]`, where it is wider than the draws.
        seed: of directions and prior draws.
        budget: most gradients; where they do not suffice `complete` is False.
        seconds: wall clock after which no further climb begins, likewise.
    """
    return _Search(density, posterior, widths, seed, budget, seconds).run()


class _Search:
    """One call of `wide_climbs`."""

    def __init__(
        self,
        density: LogDensity,
        posterior: Posterior,
        widths: Tensor | None,
        seed: int,
        budget: float,
        seconds: float,
    ) -> None:
        assert posterior.unconstrained is not None
        self.density, self.entry, self.data = density, posterior.entry, posterior.data
        self.chains = posterior.unconstrained
        u = self.chains.reshape(-1, density.dim).to(density.dtype)
        self.u = u[np.linspace(0, len(u) - 1, min(DRAWS, len(u))).astype(int)]
        self.center, self.sd = self.u.mean(0), self.u.std(0).clamp(min=1e-8)
        if widths is not None:
            self.sd = torch.maximum(self.sd, widths)
        self.generator = torch.Generator().manual_seed(
            derive_seed(seed, self.entry.key, "wide climbs")
        )
        self.begin, self.budget = density.gradient_evaluations, budget
        self.end = time.perf_counter() + seconds
        self._judged = Judged(density, self.entry, self.data)
        self.values = self._judged(self.u)  # [draw, component]
        spread = self.values.std(0)
        self.unit = np.where(spread > 0, spread, 1.0)
        self.limit = APART * max(float(_nearest(self.values, self.values, self.unit).max()), 0.1)

    @property
    def spent(self) -> int:
        return self.density.gradient_evaluations - self.begin

    def run(self) -> Climbs:
        """Climb from every start, as long as the budget lasts."""
        heights = self.density.batch(self.u).double()
        top = self._climb(self.u[int(torch.nan_to_num(heights, nan=-math.inf).argmax())])
        summit = self._judged(top[None])  # in many dimensions far from every draw
        mass = max(self._covered(heights), self._mass_of(top))
        improper, absent = bool(flat_sites(self.density)), why_none(self.density, self.chains)
        others: list[OtherMode] = []
        starts = home = lost = 0
        complete = True
        for label, point in self._starts(improper):
            if self.spent >= self.budget or time.perf_counter() > self.end:
                complete = False
                break
            starts += 1
            start = self._finite(point)
            end = None if start is None else self._climb(start)
            if end is None or not torch.isfinite(end).all():
                lost += 1
                continue
            value = self._judged(end[None])
            if not np.isfinite(value).all():
                lost += 1
            elif (
                self._equal(value, summit)
                or _nearest(value, self.values, self.unit)[0] <= self.limit
            ):
                home += 1
            elif not any(self._equal(value, self._judged(o.point[None])) for o in others):
                found = self._settled(end)
                if found is None:
                    lost += 1
                else:
                    others.append(
                        OtherMode(
                            point=found.point,
                            height=found.height,
                            log_mass=found.log_mass,
                            start=label,
                            where=self._where(value[0]),
                        )
                    )
        return Climbs(
            log_mass=mass,
            others=tuple(sorted(others, key=lambda o: -o.log_mass)),
            starts=starts,
            home=home,
            lost=lost,
            gradients=self.spent,
            improper=improper,
            complete=complete,
            absent=absent,
        )

    # -- starts --------------------------------------------------------------------------------

    def _starts(self, improper: bool) -> Iterator[tuple[str, Tensor]]:
        if not improper:
            for i in range(PRIOR):
                seed = derive_seed("wide climbs", "prior", i)
                yield "a draw of the prior", prior_draw(self.density, self.data, seed)
        far = [r for r in FAR for _ in range(PRIOR // len(FAR))] if improper else []
        for radius in (*far, *(r for r in RADII for _ in range(EACH))):
            way = torch.randn(self.density.dim, dtype=self.density.dtype, generator=self.generator)
            yield f"{radius:,.0f} sds", self.center + radius * self.sd * way / way.norm()

    def _finite(self, point: Tensor) -> Tensor | None:
        """Return the point, or the first one halfway back where the density is finite."""
        for _ in range(6):
            value, gradient = self.density.gradient(point)
            if torch.isfinite(value) and torch.isfinite(gradient).all():
                return point
            point = self.center + 0.5 * (torch.nan_to_num(point, 0.0, 1e3, -1e3) - self.center)
        return None

    def _climb(self, point: Tensor) -> Tensor:
        return climb(self.density, point, scale=self.sd, evaluations=EVALUATIONS).point

    # -- ends ----------------------------------------------------------------------------------

    def _settled(self, point: Tensor) -> Curvature | None:
        found = curvature(self.density, point)
        return found if found is not None and found.settled else None

    def _mass_of(self, top: Tensor) -> float:
        found = self._settled(top)
        return -math.inf if found is None else found.log_mass

    def _covered(self, heights: Tensor) -> float:
        """Return E[log p] plus the entropy of a normal with the covariance of the draws, nats."""
        n, dim = self.u.shape
        finite = heights[torch.isfinite(heights)]
        widths = self.sd.log().sum()
        if n > 2 * dim:
            correlation = torch.atleast_2d(torch.corrcoef(self.u.double().T))
            sign, logdet = torch.linalg.slogdet(torch.nan_to_num(correlation))
            widths = widths + (0.5 * logdet if sign > 0 and torch.isfinite(logdet) else 0.0)
        return float(finite.mean() + 0.5 * dim * (1 + math.log(2 * math.pi)) + widths)

    def _equal(self, one: Array, other: Array) -> bool:
        """Whether two ends `[1, component]` are one mode by what is judged."""
        return bool((np.abs(one - other) <= 1e-2 * self.unit).all())

    def _where(self, value: Array) -> str:
        """Name the judged component farthest from the draws: `mu at 30, 590 sds beyond ...`."""
        low, high = self.values.min(0), self.values.max(0)
        off = np.maximum(np.maximum(low - value, value - high), 0.0) / self.unit
        i = int(off.argmax())
        if not off[i] > 0:
            return "in a gap between the draws"
        label = self._judged.components[i].label
        return f"{label} at {value[i]:.4g}, {off[i]:,.0f} sds beyond every draw"


def _nearest(points: Array, others: Array, unit: Array) -> Array:
    """Return the distance of each of `[n, component]` to the nearest other one, in sds.

    It is the root mean square over components.
    """
    gaps = (points[:, None] - others[None]) / unit
    distance = np.sqrt((gaps**2).mean(-1))
    if points is others:
        np.fill_diagonal(distance, np.inf)
    nearest: Array = distance.min(1)
    return nearest


# -- references --------------------------------------------------------------------------------


def needs_climbs(reference: Reference) -> bool:
    """Whether a reference needs climbs: chains without them; closed and exact truths do not."""
    posterior = reference.posterior
    return (
        posterior is not None
        and posterior.unconstrained is not None
        and reference.usable
        and GATE not in reference.gates
        and reference.kind in ("stored", "conditional", "nuts")
    )


def climb_for(
    reference: Reference, given: Fit | None, rows: Sequence[Posterior], gradients: int
) -> Climbs:
    """Return the wide climbs for a reference, with a tenth of the given gradients.

    Failed chains are not climbed for: they are asked only whether a posterior exists.

    Args:
        reference: chains with unconstrained draws.
        given: the fit whose trained program the chains ran on.
        rows: the draws of every method; the widest of them gives the unit of the starts.
        gradients: the gradients of these rows.
    """
    own = reference.posterior
    assert own is not None
    assert own.unconstrained is not None
    if needs_doubt(reference):
        return Climbs(
            log_mass=math.nan,
            others=(),
            starts=0,
            home=0,
            lost=0,
            gradients=0,
            improper=False,
            complete=False,
            absent=doubted(reference, given),
        )
    entry, dim = own.entry, own.unconstrained.shape[-1]
    program = entry.program(own.data) if given is None else given.program
    density = LogDensity(program, own.data, dtype=entry.dtype)
    budget = SHARE * gradients
    density.compile("auto", expected_calls=int(budget))
    found = [p.unconstrained for p in rows if p.unconstrained is not None]
    widths = [u.reshape(-1, dim).std(0) for u in found if u.shape[-1] == dim]
    sound = [w for w in widths if bool(w.isfinite().all())]
    widest = torch.stack(sound).amax(0) if sound else None
    return wide_climbs(density, own, widths=widest, seed=own.seed, budget=budget)


def judged(reference: Reference, gate: bool | None, sentence: str) -> Reference:
    """Return a reference with the gate `wide_climbs`, or a failed gate `posterior_exists`.

    It is unusable where it misses a mode or no posterior may exist (False), and as it was where
    the budget ended (None).
    """
    if gate is None:
        return reference
    name = EXISTS if sentence.startswith(ABSENT) else GATE
    gates = {**reference.gates, name: gate}
    if gate:
        return dataclasses.replace(reference, gates=gates)
    reason = sentence if reference.usable else f"{sentence}; {reference.reason}"
    return dataclasses.replace(reference, gates=gates, usable=False, reason=reason)
