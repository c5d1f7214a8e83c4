"""Modes of a log density: climbs by L-BFGS, and the curvature where they end.

A climb ends at a mode only where it settled: its coordinates are finite, the Hessian there is
negative definite, and a Newton step promises next to nothing. The mass of a mode is that of the
normal with its height and curvature (Laplace),

    log mass = log p(m) + d/2 log 2 pi - 1/2 log det(-H)      [nats]

which compares modes of different widths; their heights do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from zoo.density.log_density import LogDensity

__all__ = ["Climb", "Curvature", "climb", "curvature", "direction"]

EVALUATIONS = 4000
FAR = 1e12  # units of the unconstrained space beyond which no climb begins anew
LARGEST_CONDITION = 1e12
STEP = 1e-5  # of differences, about the cube root of the rounding of a double
SETTLED = 1e-2  # nats that a Newton step may still promise, twice


@dataclass(frozen=True, kw_only=True)
class Climb:
    """Where a climb ended: the point `[dim]`, the log density there, and the gradients spent."""

    point: Tensor
    height: float
    gradients: int

    @property
    def ran_away(self) -> bool:
        """Whether the density rises without end, for all that can be seen."""
        return float(self.point.abs().max()) > FAR


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """The precision -H at a point: eigenvalues `[dim]`, ascending, eigenvectors `[dim, dim]`.

    `decrement` is g' (-H)^-1 g, twice what a Newton step promises in nats; infinite where -H is
    not positive definite.
    """

    point: Tensor
    height: float
    gradient: Tensor
    values: Tensor
    vectors: Tensor
    decrement: float

    @property
    def definite(self) -> bool:
        """Whether -H is positive definite beyond rounding."""
        lowest, highest = float(self.values[0]), float(self.values[-1])
        return lowest > 0 and highest / lowest <= LARGEST_CONDITION

    @property
    def settled(self) -> bool:
        """Whether the point is a mode: -H positive definite, nothing promised by Newton."""
        return self.definite and self.decrement <= SETTLED

    @property
    def log_mass(self) -> float:
        """The log of the mass of a normal with this height and curvature, in nats."""
        dim = len(self.values)
        return (
            self.height + 0.5 * dim * math.log(2 * math.pi) - 0.5 * float(self.values.log().sum())
        )


def climb(
    density: LogDensity,
    point: Tensor,
    *,
    scale: Tensor | None = None,
    evaluations: int = EVALUATIONS,
    rounds: int = 2,
) -> Climb:
    """Maximize the log density by L-BFGS-B from a point `[dim]`.

    Args:
        density: what is climbed; its gradients are counted.
        point: where the climb begins.
        scale: units of the coordinates `[dim]`, ones by default.
        evaluations: most gradients of a round.
        rounds: how often it starts anew from its end, which drops a stale curvature history.
    """
    calls = 0
    unit = np.ones(density.dim) if scale is None else scale.double().numpy()
    origin = point.double().numpy()

    def objective(z: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        nonlocal calls
        calls += 1
        value, gradient = density.gradient(torch.as_tensor(origin + unit * z, dtype=density.dtype))
        if not (torch.isfinite(value) and torch.isfinite(gradient).all()):
            return 1e12, np.zeros(density.dim)
        return -float(value), -unit * gradient.double().numpy()

    z, lowest = np.zeros(density.dim), np.inf
    options = {
        "maxfun": evaluations,
        "maxiter": evaluations,
        "maxcor": 20,
        "ftol": 1e-14,
        "gtol": 1e-8,
    }
    for _ in range(rounds):
        result = scipy.optimize.minimize(
            objective, z, jac=True, method="L-BFGS-B", options=options
        )
        z, lowest = result.x, float(result.fun)
        if np.abs(origin + unit * z).max() > FAR:
            break
    return Climb(
        point=torch.as_tensor(origin + unit * z, dtype=density.dtype),
        height=-lowest,
        gradients=calls,
    )


def curvature(density: LogDensity, point: Tensor) -> Curvature | None:
    """Return the curvature at a point `[dim]`, None if not finite; costs dim + 1 gradients.

    Where the second derivatives of torch are not finite though the density is smooth (those of
    `logaddexp` overflow), differences of gradients take their place, at 2 dim more gradients.
    """
    precision = -density.hessian(point)
    if not torch.isfinite(precision).all():
        precision = -_differences(density, point)
    height, gradient = density.gradient(point)
    if not (torch.isfinite(precision).all() and torch.isfinite(gradient).all()):
        return None
    values, vectors = torch.linalg.eigh(precision)
    along = vectors.T @ gradient
    decrement = float((along**2 / values).sum()) if float(values[0]) > 0 else math.inf
    return Curvature(
        point=point,
        height=float(height),
        gradient=gradient,
        values=values,
        vectors=vectors,
        decrement=decrement,
    )


def _differences(density: LogDensity, point: Tensor) -> Tensor:
    """Return the Hessian `[dim, dim]` by central differences of gradients."""
    steps = STEP * (1 + point.abs())
    ahead, behind = (
        torch.stack([density.gradient(point + shift)[1] for shift in sign * torch.diag(steps)])
        for sign in (1.0, -1.0)
    )
    hessian = (ahead - behind) / (2 * steps[:, None])
    return 0.5 * (hessian + hessian.T)


def direction(density: LogDensity, vector: Tensor) -> str:
    """Name a direction `[dim]` by its largest coordinates: `site 'm', site 'w'[2]`.

    At most three coordinates are named, those above half of the largest one.
    """
    sizes = vector.abs()
    order = [
        int(i)
        for i in sizes.argsort(descending=True)[:3]
        if float(sizes[i]) >= 0.5 * float(sizes.max())
    ]
    names = []
    for i in order:
        site = next(s for s in density.sites if s.start <= i < s.stop)
        names.append(
            f"site {site.name!r}" + (f"[{i - site.start}]" if site.stop - site.start > 1 else "")
        )
    more = int((sizes >= 0.5 * sizes.max()).sum()) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
