"""One path of Pathfinder: climb by L-BFGS, and choose the normal along it with the best ELBO.

The ELBO of the normal at every accepted point is estimated from a few draws and their mirror
images, with the same noise at all points, so that differences between neighbors have little noise.
These are log densities, no gradients.

Source: Zhang, Carpenter, Gelman and Vehtari (2022), JMLR 23(306), algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from guides.base.initialize import first_point
from guides.base.path_normals import PathNormal, diagonal, from_pairs
from zoo.density.log_density import LogDensity

__all__ = [
    "Path",
    "Units",
    "best_normal",
    "elbos",
    "evaluated",
    "follow",
    "normals_along",
    "starts",
]

NEAR = (0.1, 0.5, 1.0, 2.0)  # radii of starts around the unconstrained origin
FAR = (10.0, 30.0, 10.0, 100.0)  # distances of later starts in sds, each in a direction and back
CURVED = 1e-12  # s'y / y'y of the smallest curvature that counts
AT_ONCE = 1_000_000  # coordinates evaluated at once
HALVINGS = 6  # of the way of a far start, until the density is finite there


class _SpentError(Exception):
    """The gradients of a path are spent."""


@dataclass(kw_only=True)
class Path:
    """A climb.

    Attributes:
        points: accepted points, each `[dim]`, the start first.
        gradients: of log p at these points.
        heights: log p at these points, nats.
        calls: gradients that were evaluated.
        settled: whether the climb ended before its gradients were spent.
        scale: units of the coordinates `[dim]` in which it climbed.
    """

    scale: Tensor
    points: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    heights: list[float] = field(default_factory=list)
    calls: int = 0
    settled: bool = False

    @property
    def end(self) -> Tensor:
        """The last point `[dim]`."""
        return self.points[-1]


@dataclass
class Units:
    """The best normal of the paths that have begun near the origin: units for the others."""

    normal: PathNormal | None = None
    elbo: float = -math.inf

    def add(self, normal: PathNormal, elbo: float) -> None:
        """Take a normal if it is better than the one before."""
        if elbo > self.elbo:
            self.normal, self.elbo = normal, elbo

    def scale(self, dim: int) -> Tensor:
        """Return its sds `[dim]`, ones where there is none."""
        if self.normal is None:
            return torch.ones(dim, dtype=torch.float64)
        return self.normal.sds


def follow(
    density: LogDensity, begin: Tensor, *, scale: Tensor, history: int, evaluations: int
) -> Path:
    """Climb the log density by L-BFGS from a point `[dim]` and note every accepted point.

    Args:
        density: what is climbed; its gradients are counted.
        begin: the start, where density and gradient are finite.
        scale: units of the coordinates `[dim]`.
        history: pairs of differences that L-BFGS keeps.
        evaluations: most gradients; the path ends with them, inside a line search too.
    """
    path = Path(scale=scale)
    origin, unit = begin.double(), scale.numpy()
    seen: dict[bytes, tuple[Tensor, float, Tensor]] = {}

    def objective(z: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        if path.calls >= evaluations:
            raise _SpentError
        path.calls += 1
        point = origin + scale * torch.as_tensor(z.copy())
        value, gradient = density.gradient(point.to(density.dtype))
        if not (torch.isfinite(value) and torch.isfinite(gradient).all()):
            return 1e12, np.zeros_like(z)
        seen[z.tobytes()] = point, float(value), gradient.double()
        if not path.points:
            accept(z)
        return -float(value), -unit * gradient.double().numpy()

    def accept(z: np.ndarray[Any, Any]) -> None:
        known = seen.get(z.tobytes())
        if known is not None:
            path.points.append(known[0])
            path.heights.append(known[1])
            path.gradients.append(known[2])
            seen.clear()

    first = np.zeros(len(origin))
    options = {"maxiter": 2 * evaluations, "maxcor": history, "ftol": 1e-12, "gtol": 1e-6}
    try:
        scipy.optimize.minimize(
            objective, first, jac=True, method="L-BFGS-B", callback=accept, options=options
        )
        path.settled = True
    except _SpentError:
        pass
    return path


def normals_along(path: Path, history: int) -> Iterator[tuple[int, PathNormal]]:
    """Yield the normal at every accepted point that has one, with its number on the path.

    Pairs without positive curvature are left out, of the diagonal too.
    """
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    if not path.points:
        return
    dim, alpha = len(path.points[0]), path.scale.square()
    for number in range(1, len(path.points)):
        step = path.points[number] - path.points[number - 1]
        change = path.gradients[number - 1] - path.gradients[number]  # of -log p
        if float(step @ change) > CURVED * float(change @ change):
            alpha = diagonal(alpha, step, change)
            steps, changes = [*steps, step][-history:], [*changes, change][-history:]
        if steps:
            normal = from_pairs(
                alpha,
                steps,
                changes,
                path.points[number],
                path.gradients[number],
                min(dim, 2 * history),
            )
            if normal is not None:
                yield number, normal


def evaluated(density: LogDensity, u: Tensor) -> Tensor:
    """Return log p `[n]` at points `[n, dim]`, float64; -inf where it is not a number."""
    rows = max(1, AT_ONCE // density.dim)
    with torch.no_grad():
        value = torch.cat([density.batch(part) for part in u.to(density.dtype).split(rows)])
    return torch.nan_to_num(value.double(), nan=-torch.inf, posinf=-torch.inf)


def elbos(density: LogDensity, normals: list[PathNormal], noise: Tensor) -> Tensor:
    """Return E[log p - log q] of every normal `[normal]` by the given noise `[draw, dim]`."""
    u = torch.stack([normal.at(noise) for normal in normals])  # [normal, draw, dim]
    log_q = torch.stack([n.log_prob(own) for n, own in zip(normals, u, strict=True)])
    log_p = evaluated(density, u.flatten(0, 1)).reshape(len(normals), -1)
    return (log_p - log_q).mean(-1)


def best_normal(
    density: LogDensity, path: Path, noise: Tensor, history: int
) -> tuple[int, PathNormal, float] | None:
    """Return the number, normal and ELBO of the best point of a path, None if it has none."""
    found = list(normals_along(path, history))
    if not found:
        return None
    values = elbos(density, [normal for _, normal in found], noise)
    best = int(values.argmax())
    if not bool(torch.isfinite(values[best])):
        return None
    return found[best][0], found[best][1], float(values[best])


def starts(
    density: LogDensity, generator: torch.Generator, number: int, units: Units
) -> Iterator[tuple[Tensor | None, int]]:
    """Yield starts `[dim]`, None where there is none, with the gradients each took to find.

    The first four, or a third of them, lie around the unconstrained origin. The others lie far
    from the normal of `units`, to which the caller adds: in random directions and opposite to
    them, at distances in the sds of that normal.

    Raises:
        FitError: the density is finite at none of the points around the origin.
    """
    near = min(number, max(len(NEAR), number // 3))
    for k in range(near):
        yield first_point(density, generator, NEAR[k % len(NEAR)])
    way = torch.zeros(density.dim, dtype=torch.float64)
    for k in range(number - near):
        center = units.normal
        if center is None:
            yield first_point(density, generator, NEAR[-1])
            continue
        if k % 2 == 0:
            way = torch.randn(density.dim, dtype=torch.float64, generator=generator)
        sign, distance = 1.0 - 2.0 * (k % 2), FAR[k // 2 % len(FAR)]
        yield _finite(density, center, sign * distance * way / way.norm()), 0


def _finite(density: LogDensity, center: PathNormal, shift: Tensor) -> Tensor | None:
    """Return center + sds * shift, or the first point halfway back of finite density."""
    for _ in range(HALVINGS):
        point = center.loc + center.sds * shift
        if bool(torch.isfinite(evaluated(density, point[None])).all()):
            return point
        shift = 0.5 * shift
    return None
