"""Integrals of exp(log f) over R^d, d <= 4, by the trapezoid rule in whitened coordinates.

With u = c + L z the rule is spectrally accurate for smooth integrands that vanish at the border
(Trefethen and Weideman 2014, "The exponentially convergent trapezoidal rule"). The box grows until
the integrand is negligible at its border and the step halves until the value stops changing; the
last change is the stated error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LARGEST_DIM", "Grid", "QuadratureError", "moments_of", "whitened_grid"]

LARGEST_DIM = 3  # of the audit's own integrals; a grid in four dimensions takes a minute
NEGLIGIBLE = 32.0  # nats below the peak, exp(-32) = 1e-14
MOST_POINTS = {1: 40_000, 2: 260_000, 3: 800_000, 4: 400_000}
CHUNK = 20_000

Function = Callable[[Tensor], Tensor]


class QuadratureError(Exception):
    """The integrand does not vanish inside any affordable box, or the rule does not converge.

    The message says which.
    """


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Points `[n, dim]`, log cell volume, log f at the points `[n]`, log integral, error.

    The error is in nats.
    """

    points: Tensor
    log_cell: float
    values: Tensor
    log_integral: float
    error: float

    def mean(self, function: Tensor) -> Tensor:
        """Return the mean under the normalized f of a function given at the points `[n]`.

        Points with f = 0 do not count.
        """
        weight = (self.values + self.log_cell - self.log_integral).exp()
        return torch.where(weight > 0, weight * function, 0.0).sum()


def moments_of(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean `[dim]` and a Cholesky factor `[dim, dim]` of weighted points.

    The factor is that of their covariance.
    """
    weights = weights / weights.sum()
    center = weights @ points
    centered = points - center
    covariance = (weights[:, None] * centered).T @ centered
    jitter = 1e-10 * covariance.diagonal().mean().clamp(min=1e-300)
    return center, torch.linalg.cholesky(
        covariance + jitter * torch.eye(len(center), dtype=points.dtype)
    )


def _evaluate(function: Function, points: Tensor) -> Tensor:
    with torch.no_grad():
        values = torch.cat([function(part) for part in points.split(CHUNK)])
    return torch.nan_to_num(values, nan=-math.inf, neginf=-math.inf)


def _rule(
    function: Function, center: Tensor, factor: Tensor, reach: float, number: int
) -> tuple[Tensor, float, Tensor, float]:
    """Return points, log cell volume, values, and the largest border value minus the peak."""
    dim = len(center)
    axis = torch.linspace(-reach, reach, number, dtype=center.dtype)
    mesh = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    points = center + mesh @ factor.T
    values = _evaluate(function, points)
    log_cell = dim * math.log(2 * reach / (number - 1)) + float(factor.diagonal().log().sum())
    border = (mesh.abs() > reach * (1 - 1e-9)).any(-1)
    return points, log_cell, values, float(values[border].max() - values.max())


def whitened_grid(
    function: Function,
    center: Tensor,
    factor: Tensor,
    *,
    tolerance: float = 2e-6,
    most: int | None = None,
    worst: float = 1e-4,
) -> Grid:
    """Integrate exp(function) around a center `[dim]`, whitened by a factor `[dim, dim]`.

    Args:
        function: maps points `[n, dim]` to log values `[n]`.
        center: approximate location of the mass.
        factor: approximate Cholesky factor of its covariance.
        tolerance: change in nats below which the step is no longer halved.
        most: points of the largest grid, by default what the audit has time for.
        worst: largest acceptable change in nats of the last halving.

    Raises:
        QuadratureError: see the class.
    """
    dim = len(center)
    start = {1: 129, 2: 49, 3: 29, 4: 13}[dim]
    reach = 8.0
    for sweep in range(8):
        points, log_cell, values, border = _rule(function, center, factor, reach, start)
        if not bool(torch.isfinite(values).any()):
            raise QuadratureError("the integrand is zero or not a number on the whole grid")
        if border < -NEGLIGIBLE and sweep:
            break
        if border >= -NEGLIGIBLE:
            reach *= 1.4
        if sweep < 3:  # the first moments come from a rough sample; those of the grid are better
            center, factor = moments_of(points, (values - values.max()).exp())
    else:
        if border >= -NEGLIGIBLE:
            raise QuadratureError(
                f"the integrand falls by only {-border:.0f} nats"
                " towards the border of the largest box"
            )
    number, last, most = start, _total(values, log_cell), most or MOST_POINTS[dim]
    while True:
        number = 2 * number - 1
        if number**dim > most:
            number = int(most ** (1 / dim))
        points, log_cell, values, border = _rule(function, center, factor, reach, number)
        value = _total(values, log_cell)
        error = abs(value - last)
        if error < tolerance or number >= int(most ** (1 / dim)):
            break
        last = value
    if error > worst:
        raise QuadratureError(
            f"halving the step still changes the integral by {error:.1g} nats"
            f" at {number} points per axis"
        )
    return Grid(
        points=points, log_cell=log_cell, values=values, log_integral=value, error=error + 1e-9
    )


def _total(values: Tensor, log_cell: float) -> float:
    return float(values.logsumexp(0)) + log_cell
