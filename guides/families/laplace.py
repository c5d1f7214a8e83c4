"""Laplace: q(u) = Normal(u; m, (-H)^-1), m the mode of log p(u, data), H its Hessian.

No stochastic optimization: L-BFGS from several starts on the unconstrained vector, then one
Hessian. It cannot represent skewness or a second mode and sees the curvature only at the mode. A
density that keeps rising, or runs level on one side, has no mode (centered hierarchies): such fits
end `init_failed` with the direction. Where the search settles but the Hessian is singular (a ring,
an unidentified sum), its eigenvalues are floored at the level of the best ELBO, and the fit says
so.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor, nn

from guides.base.family import Family
from guides.base.flat import build_autoguide, fill
from guides.base.initialize import first_point
from guides.base.modes import SETTLED, Curvature, climb, curvature, direction
from guides.types import Stop
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.types import Data, ModelEntry, Program

STARTS = 4
RADII = (0.1, 0.5, 1.0, 2.0)
KICKS = 3  # climbs away from a saddle
SINGULAR = 1e-6  # of the largest eigenvalue: below it a direction has no curvature of its own
FLOORS = tuple(10.0**-k for k in range(9))  # of the largest eigenvalue
FALL = 1.0  # nats on both sides of a level direction that has an end
DRAWS = 64

__all__ = ["FAMILY", "build", "solve"]


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    **options: Any,
) -> nn.Module:
    """Build the normal that `solve` fills; errors as in `guides.base.flat.build_autoguide`."""
    density = density or LogDensity(program, data, dtype=entry.dtype)
    return build_autoguide(AutoMultivariateNormal, program, data, density, **options)


def solve(guide: nn.Module, density: LogDensity, generator: torch.Generator) -> tuple[Stop, int]:
    """Find the best mode of several starts and its Hessian, and fill the guide.

    Returns:
        Why it ended, and the number of gradients.
    """
    before, tried = density.gradient_evaluations, 0
    modes: list[Curvature] = []
    flat: list[Curvature] = []
    failures: list[tuple[float, str]] = []

    def spent() -> int:
        return tried + density.gradient_evaluations - before

    for start in range(STARTS):
        try:
            point, drawn = first_point(density, generator, RADII[start])
        except FitError as error:
            return Stop(status="init_failed", step=0, sentence=str(error)), spent() + 10
        tried += drawn
        height, end = _end(density, point)
        if isinstance(end, str):
            failures.append((height, end))
        else:
            (modes if end.settled else flat).append(end)
    if not (modes or flat):
        _, reason = max(failures)
        sentence = (
            f"No mode from {STARTS} starts: {reason}; a non-centered form may have one, and"
            " families that optimize the ELBO need none."
        )
        return Stop(status="init_failed", step=0, sentence=sentence), spent()
    best = max((*modes, *flat), key=lambda c: c.height)
    higher = [f for f in failures if f[0] > best.height + 10.0]
    if higher:
        sentence = f"The density keeps rising past its local mode: {max(higher)[1]}."
        return Stop(status="init_failed", step=0, sentence=sentence), spent()
    near = sum(abs(best.height - c.height) < 1e-3 for c in (*modes, *flat))
    sentence = (
        f"Mode of log density {best.height:.6g} nats, reached from {near} of {STARTS} starts."
    )
    if best.settled:
        mode = best.point + best.vectors @ ((best.vectors.T @ best.gradient) / best.values)
        factor = _factor(best.vectors, best.values)
    else:
        mode, (factor, floored) = best.point, _floored(density, best, generator)
        sentence += (
            f" The Hessian is singular there along {direction(density, best.vectors[:, 0])}:"
            f" {floored} of {density.dim} eigenvalues are floored at the level of the best ELBO,"
            " so that widths along them are no curvature."
        )
    if factor is None:
        reason = (
            "No mode: the covariance at the mode cannot be factored; families that optimize the"
            " ELBO need no mode."
        )
        return Stop(status="init_failed", step=0, sentence=reason), spent()
    scale = factor.diagonal()
    fill(guide, loc=mode, scale=scale, scale_tril=factor / scale[:, None])
    return Stop(status="ok", step=0, sentence=sentence), spent()


def _end(density: LogDensity, point: Tensor) -> tuple[float, Curvature | str]:
    """Climb from a point, and on from saddles; return the height and the curvature, or why not."""
    begin, height, resumed = point, -float("inf"), False
    for _ in range(KICKS):
        end = climb(density, point)
        height = end.height
        found = curvature(density, end.point)
        if found is None:
            return height, "the Hessian is not finite where the search ended"
        lowest, highest = float(found.values[0]), float(found.values[-1])
        where = direction(density, found.vectors[:, 0])
        along = found.vectors.T @ found.gradient
        bent = found.values > SINGULAR * highest
        slope = float(found.gradient.abs().max())
        promised = float((along[bent] ** 2 / found.values[bent]).sum())
        if not (highest > 0 and promised <= SETTLED and (bent.all() or slope <= SETTLED)):
            # a line search that failed where the density still rises, but not without end
            if not (resumed or end.ran_away):
                point, resumed = end.point, True
                continue
            return height, (
                "the search did not settle, the density keeps rising as"
                f" {direction(density, end.point - begin)} runs away (the largest slope is still"
                f" {slope:.2g} nats per unit)"
            )
        # the sign of what is zero to rounding says nothing
        level, way = abs(lowest) <= SINGULAR * highest, found.vectors[:, 0]
        if found.settled and (not level or _falls(density, end.point, way / lowest**0.5, height)):
            return height, found
        if not found.settled and level and _alike(density, end.point, way, height):
            return height, found
        if level or lowest > 0:
            wide = (highest / max(abs(lowest), 1e-30 * highest)) ** 0.5
            return height, (
                "the Hessian is singular to rounding where the search ended (the widest direction,"
                f" {where}, is {wide:.1g} times as wide as the narrowest)"
            )
        point = (
            end.point + found.vectors[:, 0] / abs(lowest) ** 0.5
        )  # a saddle: on along its way up
    return height, f"the search ends at saddles, the density rises along {where} on both sides"


def _falls(density: LogDensity, point: Tensor, sd: Tensor, height: float) -> bool:
    """Whether the density falls on both sides within four of the sds that its curvature promises.

    A wide direction does, a plateau that is left on one side only does not.
    """
    steps = torch.tensor([1.0, 2.0, 4.0], dtype=density.dtype)
    sides = torch.stack([steps, -steps])[..., None] * sd  # [side, step, dim]
    with torch.no_grad():
        values = density.batch((point + sides).flatten(0, 1)).reshape(2, -1)
    return bool((height - values > FALL).any(1).all())  # NaN shows no fall


def _alike(density: LogDensity, point: Tensor, way: Tensor, height: float) -> bool:
    """Whether a level direction does the same on both sides and rises on neither.

    It falls on both (a ring), or runs level on both (a sum of which only the total is known).
    Where it is level on one side only, a scale runs away: there is no mode.
    """
    distances = torch.logspace(-1, 2, 13, dtype=density.dtype)
    sides = torch.stack([distances, -distances])[..., None] * way  # [side, distance, dim]
    with torch.no_grad():
        values = density.batch((point + sides).flatten(0, 1)).reshape(2, -1)
    falls = (height - values > FALL).any(1)  # NaN shows no fall
    return bool(falls[0] == falls[1]) and not bool((values - height > FALL).any())


def _factor(vectors: Tensor, values: Tensor) -> Tensor | None:
    """Return the Cholesky factor of the covariance, None where rounding makes it indefinite."""
    covariance = (vectors / values) @ vectors.T
    factor, failed = torch.linalg.cholesky_ex(0.5 * (covariance + covariance.T))
    return None if int(failed) else factor


def _floored(
    density: LogDensity, found: Curvature, generator: torch.Generator
) -> tuple[Tensor | None, int]:
    """Return the factor with its eigenvalues floored where the ELBO is best, and how many are."""
    noise = torch.randn(DRAWS, density.dim, dtype=density.dtype, generator=generator)
    best, chosen, number = -float("inf"), None, 0
    for floor in FLOORS:
        values = found.values.clamp(min=floor * float(found.values[-1]))
        factor = _factor(found.vectors, values)
        if factor is None:
            continue
        with torch.no_grad():
            elbo = float(density.batch(found.point + noise @ factor.T).mean())
        elbo += float(factor.diagonal().log().sum())
        if elbo > best:
            best, chosen = elbo, factor
            number = int((found.values < values).sum())
    return chosen, number


FAMILY = Family(
    name="laplace",
    q="normal at the mode with the curvature there",
    blind_spot="everything away from the mode; absent where there is no mode",
    build=build,
    solve=solve,
    richer=("full_rank",),
    slot=3,
)
