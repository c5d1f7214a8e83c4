"""The ELBO of a normal mean field on fixed draws: designs, slopes, Hessian, linear response.

For q(u) = Normal(u; m, diag(exp 2 xi)) and standard normal draws z_1, ..., z_M that stay fixed,

    F(m, xi) = -1/M sum_j log p(m + exp(xi) z_j, data) - sum_i xi_i      [nats]

is a deterministic function, minus the ELBO up to a constant. Its Hessian H at the optimum gives
two things. Linear response: the covariance of the posterior is estimated by the block of H^-1 that
belongs to m,

    C = (H_mm - H_mx H_xx^-1 H_xm)^-1,

exact on a normal posterior, where the mean field itself is too narrow. The error of the fit: with
g_b the gradient of F on the b-th of B independent units of the draws, the estimate of (m, xi)
varies from one set of draws to another with covariance H^-1 cov(g_b) H^-1 / B.

The minimum of F lies below minus the best ELBO on average, since the optimum adapts to its draws;
an ELBO needs fresh ones.

Source: Giordano, Ingram and Broderick (2024), JMLR 25(18); Giordano, Broderick and Jordan (2018),
JMLR 19(51).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.density.log_density import LogDensity

__all__ = ["DESIGNS", "FixedDraws", "Hessian", "Place", "Slopes", "linear_response"]

STEP = 1e-5  # of differences, about the cube root of the rounding of a double
EDGE = 1e-10  # uniform numbers stay this far from 0 and 1
TINY, FLOOR = 1e-30, 1e-8
UNITS, BLOCKS = 8, 4  # draws or pairs, and whole blocks, that an estimate of the error needs
Pair = tuple[Tensor, Tensor]


class Place(NamedTuple):
    """Parameters of the mean field: location `[dim]` and log scales `[dim]`."""

    loc: Tensor
    log_scale: Tensor

    @property
    def scale(self) -> Tensor:
        """The standard deviations `[dim]`."""
        return self.log_scale.exp()


class Slopes(NamedTuple):
    """F in nats, and its gradient with respect to (m, xi) on every unit `[unit, 2 dim]`."""

    value: float
    units: Tensor

    @property
    def gradient(self) -> Tensor:
        """The gradient of F `[2 dim]`."""
        return self.units.mean(0)

    @property
    def finite(self) -> bool:
        """Whether value and gradient are finite."""
        return bool(torch.isfinite(self.units).all()) and math.isfinite(self.value)


@dataclass(frozen=True, kw_only=True)
class Hessian:
    """The Hessian of F with respect to (m, xi) `[2 dim, 2 dim]`, and its Cholesky factor.

    `factor` is None unless the Hessian is positive definite.
    """

    matrix: Tensor
    factor: Tensor | None

    def decrement(self, gradient: Tensor) -> float:
        """Return g' H^-1 g, twice what a Newton step promises in nats; infinite without factor."""
        if self.factor is None:
            return float("inf")
        z = torch.linalg.solve_triangular(self.factor, gradient[:, None], upper=False)
        return float(z.square().sum())

    def root(self) -> Tensor:
        """Return W `[2 dim, 2 dim]` with W W' = H^-1.

        Of an indefinite Hessian the eigenvalues are replaced by their sizes, and floored.
        """
        if self.factor is not None:
            eye = torch.eye(len(self.matrix), dtype=self.matrix.dtype)
            return torch.linalg.solve_triangular(self.factor, eye, upper=False).T
        units = self.matrix.diagonal().abs().clamp(min=TINY).rsqrt()
        values, vectors = torch.linalg.eigh(units[:, None] * self.matrix * units)
        sizes = values.abs()
        return (
            units[:, None]
            * vectors
            / sizes.clamp(min=max(FLOOR * float(sizes.max()), TINY)).sqrt()
        )

    def errors(self, units: Tensor) -> Tensor:
        """Return the sds `[2 dim]` of the optimum over draws, from the gradients on their units.

        A single unit gives no estimate, and they are infinite.
        """
        if self.factor is None or len(units) < 2:
            return torch.full_like(units[0], float("inf"))
        moves = torch.cholesky_solve((units - units.mean(0)).T, self.factor)  # [2 dim, unit]
        return (moves.square().sum(1) / (len(units) * (len(units) - 1))).sqrt()


def linear_response(hessian: Hessian) -> Tensor | None:
    """Return the Cholesky factor `[dim, dim]` of C, None where H is not positive definite."""
    dim = len(hessian.matrix) // 2
    mm, mx, xx = (
        hessian.matrix[:dim, :dim],
        hessian.matrix[:dim, dim:],
        hessian.matrix[dim:, dim:],
    )
    inner, failed = torch.linalg.cholesky_ex(xx)
    if int(failed):
        return None
    half = torch.linalg.solve_triangular(inner, mx.T, upper=False)
    precision = mm - half.T @ half
    # of the reversed precision, so that the inverse of its factor is lower triangular again
    upper, failed = torch.linalg.cholesky_ex(precision.flip(0, 1))
    if int(failed):
        return None
    eye = torch.eye(dim, dtype=mm.dtype)
    inverse = torch.linalg.solve_triangular(upper, eye, upper=False)
    return inverse.T.flip(0, 1)


# -- designs: (generator, number, dim) -> standard normal draws [draw, dim] ----------------------


def independent(generator: torch.Generator, number: int, dim: int) -> Tensor:
    """Return independent standard normal draws `[number, dim]`."""
    return torch.randn(number, dim, dtype=torch.float64, generator=generator)


def mirrored(generator: torch.Generator, number: int, dim: int) -> Tensor:
    """Return draws and their mirror images: odd moments vanish."""
    half = independent(generator, (number + 1) // 2, dim)
    return torch.stack([half, -half], 1).flatten(0, 1)


def matched(generator: torch.Generator, number: int, dim: int) -> Tensor:
    """Return mirrored draws whose second moments are those of the normal.

    From as many pairs as dimensions on all of them are, else the variances only.
    """
    half = independent(generator, (number + 1) // 2, dim)
    moments = half.T @ half / len(half)
    if len(half) < dim:
        half = half / moments.diagonal().sqrt()
    else:
        values, vectors = torch.linalg.eigh(moments)
        half = half @ ((vectors / values.sqrt()) @ vectors.T)
    return torch.stack([half, -half], 1).flatten(0, 1)


def sobol(generator: torch.Generator, number: int, dim: int) -> Tensor:
    """Return scrambled Sobol points as normal draws; a power of two of them is balanced."""
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)
    uniform = engine.draw(number, dtype=torch.float64).clamp(EDGE, 1 - EDGE)
    return torch.special.ndtri(uniform)


# the design, and the draws of one independent unit: None for a whole block
DESIGNS: dict[str, tuple[Callable[[torch.Generator, int, int], Tensor], int | None]] = {
    "matched": (matched, None),
    "mirrored": (mirrored, 2),
    "sobol": (sobol, None),
    "independent": (independent, 1),
}


class FixedDraws:
    """F on blocks of fixed draws of one design; every row of every batch counts as a gradient.

    Args:
        density: the log density of the program.
        design: a name in `DESIGNS`.
        number: draws of a block.
        generator: source of the draws.
    """

    def __init__(
        self, density: LogDensity, design: str, number: int, generator: torch.Generator
    ) -> None:
        self.density, self.generator = density, generator
        self.make, self.unit = DESIGNS[design]
        self.number = number
        self.noise = torch.empty(0, density.dim, dtype=density.dtype)
        self.grow(1)

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return len(self.noise) // self.size

    @property
    def size(self) -> int:
        """Draws of one block: `number`, rounded up to whole pairs."""
        return self._size

    @property
    def least(self) -> int:
        """Blocks from which the error by the draws can be estimated; with fewer it looks small."""
        return BLOCKS if self.unit is None else math.ceil(UNITS * self.unit / self.size)

    def grow(self, blocks: int) -> None:
        """Add blocks of new draws until there are this many."""
        while not len(self.noise) or self.blocks < blocks:
            more = self.make(self.generator, self.number, self.density.dim)
            self._size = len(more)
            self.noise = torch.cat([self.noise, more.to(self.density.dtype)])

    def value(self, place: Place, factor: Tensor | None = None) -> float:
        """Return F at a place, infinite where it is not finite.

        With a Cholesky factor `[dim, dim]`, whose diagonal is the scale of the place, it is that
        of the normal with this covariance.
        """
        with torch.no_grad():
            spread = self.noise * place.scale if factor is None else self.noise @ factor.T
            height = self.density.batch(place.loc + spread).mean()
            value = float(-height - place.log_scale.sum())
        return value if math.isfinite(value) else math.inf

    def slopes(self, place: Place) -> Slopes:
        """Return F and its gradients at a place; costs one gradient per draw."""
        moved = place.scale * self.noise
        value, slope = self.density.batch_gradient(place.loc + moved)
        drawn = -torch.cat([slope, moved * slope + 1], 1)  # [draw, 2 dim]
        per = self.unit or self.size
        units = drawn.reshape(-1, per, drawn.shape[1]).mean(1)
        return Slopes(float(-value.mean() - place.log_scale.sum()), units)

    def hessian(self, place: Place, draws: int | None = None) -> Hessian | None:
        """Return the Hessian of F at a place, None if not finite.

        It is that of the first draws if a number is given. It costs dim gradients per draw; where
        the second derivatives of torch do not exist or are not finite, differences of gradients
        take their place, at twice the cost.
        """
        found = self._hessian(place, self.noise[:draws], self._rows)
        if found is None:
            found = self._hessian(place, self.noise[:draws], self._differences)
        if found is None:
            return None
        factor, failed = torch.linalg.cholesky_ex(found)
        return Hessian(matrix=found, factor=None if int(failed) else factor)

    def _hessian(
        self, place: Place, noise: Tensor, rows: Callable[[Tensor, Tensor], Pair]
    ) -> Tensor | None:
        dim, scale = self.density.dim, place.scale
        total = torch.zeros(2 * dim, 2 * dim, dtype=self.density.dtype)
        for z in noise.split(self.size):
            try:
                second, slope = rows(place.loc + scale * z, scale)  # [row, draw, dim]
            except (RuntimeError, NotImplementedError):
                return None
            moved = scale * z
            by_loc, by_both = second.sum(1), (second * moved).sum(1)
            by_scale = (second * moved * moved.T[:, :, None]).sum(1)
            by_scale = by_scale + torch.diag((slope * moved).sum(0))
            total += torch.cat(
                [torch.cat([by_loc, by_both], 1), torch.cat([by_both.T, by_scale], 1)]
            )
        total = -0.5 * (total + total.T) / len(noise)
        return total if bool(torch.isfinite(total).all()) else None

    def _rows(self, u: Tensor, scale: Tensor) -> Pair:
        """Return the Hessians `[row, n, dim]` of log p at points `[n, dim]`, and the gradients."""
        self.density.gradient_evaluations += u.numel()
        u = u.detach().requires_grad_(True)
        with torch.enable_grad():
            value = self.density.eager_batch()(u)
            (slope,) = torch.autograd.grad(value.sum(), u, create_graph=True)
            rows = [torch.autograd.grad(part, u, retain_graph=True)[0] for part in slope.sum(0)]
        return torch.stack(rows), slope.detach()

    def _differences(self, u: Tensor, scale: Tensor) -> Pair:
        """Return the same by central differences, steps in units of the scales."""
        steps = torch.diag(STEP * scale)
        rows = [
            (self.density.batch_gradient(u + step)[1] - self.density.batch_gradient(u - step)[1])
            / (2 * float(step.sum()))
            for step in steps
        ]
        return torch.stack(rows), self.density.batch_gradient(u)[1]
