"""The search for the optimum of a mean field on fixed draws: start, descent, growth of the draws.

1. **Start.** A few climbs of the log density, each with its curvature, and the points where they
   began; the best ELBO on the draws decides. Where there is no mode a climb ends in a poor place,
   and a first point wins.
2. **Descent.** BFGS on F(m, xi) in coordinates in which the curvature of the start is 1, then the
   Hessian of F. If a Newton step by it still promises something, BFGS goes on in its coordinates.
3. **Growth.** More blocks of draws, from the optimum on in the coordinates of the same Hessian,
   which takes a few steps: until the error of the means by the draws is below the target, or the
   budget is spent.

Above `DENSE` dimensions there is no Hessian: L-BFGS on a fixed number of draws, without an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from guides.base.fixed_draws import FixedDraws, Hessian, Place, Slopes, linear_response
from guides.base.initialize import first_point
from guides.base.modes import climb, curvature
from zoo.density.log_density import LogDensity
from zoo.errors import FitError

__all__ = ["DENSE", "SETTLED", "Found", "search"]

DENSE = 300  # dimensions
RADII = (0.1, 1.0)
CLIMB = 200  # gradients of a climb
FLOORS = (1e-6, 1e-2, 1.0)  # of the curvature at the start, relative to the largest
NARROW = -2.0  # log scale where there is no curvature
ROUNDS = 6
ITERATIONS = 40  # of BFGS in a round
WIDE_ITERATIONS = 300  # of L-BFGS above `DENSE` dimensions
SETTLED = 1e-8  # nats that a Newton step may still promise, twice
SINGLE = 1e-3  # the same in single precision
GAIN = 1e-12  # of F, below which a round has gained nothing but rounding
PASSES = 6  # over the draws that a descent takes from an optimum on fewer draws
HIGH = 1e12  # the value of F where it is not finite
RUN = 14.0  # change of a log scale within a round at which it runs away


@dataclass(frozen=True, kw_only=True)
class Found:
    """The end of a search.

    Attributes:
        first, place: where it began and ended.
        slopes: F and its gradients there.
        hessian: that of F, None above `DENSE` dimensions.
        errors: of every mean by the draws `[dim]`, in posterior sds; infinite if unknown.
    """

    first: Place
    place: Place
    slopes: Slopes
    hessian: Hessian | None
    errors: Tensor

    @property
    def error(self) -> float:
        """The largest error of a mean by the draws, in posterior sds."""
        return float(self.errors.max())


def search(
    density: LogDensity,
    draws: FixedDraws,
    generator: torch.Generator,
    *,
    target: float,
    budget: int,
) -> Found:
    """Return the optimum on the draws, which grow until its error is at most the target.

    Args:
        density: the log density of the program.
        draws: the draws to begin with.
        generator: source of the starts.
        target: in posterior sds.
        budget: gradients beyond which the draws no longer grow.

    Raises:
        FitError: no start of finite density, or a Hessian that is not finite.
    """
    before = density.gradient_evaluations
    dense = density.dim <= DENSE
    first, root = _start(density, draws, generator, dense=dense)
    if not dense:
        draws.grow(draws.least)
        place, slopes = _descend(draws, first, None)
        unknown = torch.full_like(place.loc, math.inf)
        return Found(first=first, place=place, slopes=slopes, hessian=None, errors=unknown)
    place, slopes, hessian = _settle(draws, first, root, None)
    while True:
        errors = _errors(place, slopes, hessian)
        needed = draws.blocks < draws.least
        blocks = draws.least if needed else 2 * draws.blocks
        spent = density.gradient_evaluations - before + PASSES * blocks * draws.size
        if hessian.factor is None or not (
            needed or (float(errors.max()) > target and spent <= budget)
        ):
            break
        draws.grow(blocks)
        place, slopes, hessian = _settle(draws, place, hessian.root(), hessian)
    return Found(first=first, place=place, slopes=slopes, hessian=hessian, errors=errors)


def _start(
    density: LogDensity, draws: FixedDraws, generator: torch.Generator, *, dense: bool
) -> tuple[Place, Tensor | None]:
    """Return the best of several places by F, and W of the coordinates there."""
    candidates: list[tuple[Place, Tensor]] = []
    for radius in RADII:
        point, tried = first_point(density, generator, radius)
        density.gradient_evaluations += tried
        wide = torch.full_like(point, NARROW)
        candidates.append((Place(point, wide), torch.diag(wide.exp()) if dense else wide))
        end = climb(density, point, evaluations=CLIMB, rounds=1).point
        if not dense:
            candidates.append((Place(end, wide), wide))
            continue
        found = curvature(density, end)
        if found is None or not float(found.values[-1]) > 0:
            continue
        for floor in FLOORS:
            values = found.values.clamp(min=floor * float(found.values[-1]))
            half = found.vectors * values.sqrt()
            place = Place(end, -0.5 * half.square().sum(1).log())
            candidates.append((place, found.vectors / values.sqrt()))
    heights = [draws.value(place) for place, _ in candidates]
    place, root = candidates[int(np.argmin(heights))]
    if not dense:
        return place, None
    return place, torch.block_diag(root, torch.eye(len(root), dtype=root.dtype) / 2**0.5)


def _settle(
    draws: FixedDraws, place: Place, root: Tensor | None, hessian: Hessian | None
) -> tuple[Place, Slopes, Hessian]:
    """Descend until a Newton step promises nothing, by the given Hessian or by a new one."""
    settled = SETTLED if place.loc.dtype == torch.float64 else SINGLE
    before = math.inf
    for _ in range(ROUNDS):
        place, slopes = _descend(draws, place, root)
        if hessian is None or not hessian.decrement(slopes.gradient) <= settled:
            hessian = draws.hessian(place)
        if hessian is None:
            raise FitError(
                "The Hessian of the ELBO on fixed draws is not finite where the search ended."
            )
        gained = before - slopes.value
        stuck = hessian.factor is not None and gained <= GAIN * (1 + abs(slopes.value))
        if stuck or hessian.decrement(slopes.gradient) <= settled:
            break
        root, before = hessian.root(), slopes.value
    assert hessian is not None
    return place, slopes, hessian


def _descend(draws: FixedDraws, place: Place, root: Tensor | None) -> tuple[Place, Slopes]:
    """Minimize F over y, (m, xi) = place + W y, by BFGS; without W by L-BFGS in sds."""
    dim, origin = len(place.loc), torch.cat(place)
    known: dict[bytes, tuple[Place, Slopes]] = {}
    units = torch.cat([place.scale, torch.ones_like(place.scale)])

    def objective(y: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        step = torch.as_tensor(y, dtype=origin.dtype)
        x = origin + (units * step if root is None else root @ step)
        there = Place(x[:dim], x[dim:])
        if not float((there.log_scale - place.log_scale).abs().max()) <= RUN:
            return HIGH, np.zeros(2 * dim)
        slopes = draws.slopes(there)
        known[y.tobytes()] = there, slopes
        if not slopes.finite:
            return HIGH, np.zeros(2 * dim)
        slope = units * slopes.gradient if root is None else root.T @ slopes.gradient
        return slopes.value, slope.double().numpy()

    begin = np.zeros(2 * dim)
    options: dict[str, Any] = {"gtol": (SETTLED / 4) ** 0.5, "norm": 2, "maxiter": ITERATIONS}
    if root is None:
        options = {"gtol": 1e-3, "ftol": 1e-10, "maxcor": 20, "maxiter": WIDE_ITERATIONS}
    end = scipy.optimize.minimize(
        objective, begin, jac=True, method="L-BFGS-B" if root is None else "BFGS", options=options
    )
    best = known.get(end.x.tobytes()) or known.get(begin.tobytes())
    return best or (place, draws.slopes(place))


def _errors(place: Place, slopes: Slopes, hessian: Hessian) -> Tensor:
    """Return the error of every mean by the draws `[dim]`, in posterior sds."""
    factor = linear_response(hessian)
    sds = place.scale if factor is None else factor.square().sum(1).sqrt()
    return hessian.errors(slopes.units)[: len(sds)] / sds
