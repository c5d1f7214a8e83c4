"""Initialization of the optimization: most published failures of VI are due to the start.

1. The first point of finite density and gradient among jittered zeros of growing radius. If every
   value belongs to a unit (a decoder's codes), each unit then starts at the highest of many draws
   of its own: its posterior may have several modes, and the joint density of all units does not
   guide the search.
2. A deterministic mean field from there: scipy's L-BFGS-B on the fixed-noise ELBO with antithetic
   draws (Giordano, Ingram & Broderick, JMLR 25(18), 2024). Unlike a mode it exists wherever the
   posterior is proper: the centered eight schools have no mode.
3. The Hessian there, with floored eigenvalues where the density is not log-concave; of several
   floors the one with the best ELBO is kept. Then (2) again in these whitened coordinates, which
   repairs ill-conditioned posteriors.

The result only conditions and shortens the stochastic optimization that follows; it does not
determine its optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from guides.base.flat import Start
from zoo.compiler.vectorize import value_and_gradient
from zoo.density.log_density import LogDensity
from zoo.density.unit_terms import is_local, many_unit_terms
from zoo.errors import FitError

__all__ = ["find_start", "first_point", "plain_start", "unit_points"]

HESSIAN_LIMIT = 200  # dimensions; a Hessian costs as many gradients
CANDIDATES = 256  # points per unit
EVALUATIONS = 1_000_000  # unit evaluations in all; with many units each gets fewer points
AT_ONCE = 20_000  # units at once, which bounds memory to a few passes over the data
FLOORS = (1e-6, 0.01, 0.1, 0.5)
Density = Callable[[Tensor], Tensor]


def first_point(
    density: LogDensity, generator: torch.Generator, radius: float
) -> tuple[Tensor, int]:
    """Return the first of ten jittered points with finite density and gradient, and the cost.

    Raises:
        FitError: no such point; the message names the site.
    """
    radii = [radius] * 4 + [0.01, 0.0, 0.5, 1.0, 2.0, 4.0]
    function = density.batch_function()
    point = torch.zeros(density.dim, dtype=density.dtype)
    for tried, r in enumerate(radii, start=1):
        point = r * (2 * torch.rand(density.dim, dtype=density.dtype, generator=generator) - 1)
        value, grad = value_and_gradient(function, point[None])
        if torch.isfinite(value).all() and torch.isfinite(grad).all():
            return point, tried
    raise FitError(
        f"The log density or its gradient is not finite at any of {len(radii)} starting points"
        f" (radius 0 to 4 in unconstrained space), first at {density.nonfinite_sites(point)};"
        " check that site's scale, its data and its support."
    )


def unit_points(
    density: LogDensity, point: Tensor, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Return a point `[dim]` with the best of random values for each unit, and the cost.

    The candidates of a unit are standard normal draws and the given point. The point is returned
    unchanged if a value or a term of the program belongs to no unit, or if the program must be
    evaluated point by point.
    """
    if not is_local(density) or not density.batch_function().vectorized:
        return point, 0
    units = int(density.data.size or 1)
    draws = torch.randn(
        min(CANDIDATES, EVALUATIONS // units),
        density.dim,
        dtype=density.dtype,
        generator=generator,
    )
    draws = torch.cat([point[None], draws])
    try:
        with torch.no_grad():
            terms = [
                many_unit_terms(density, part) for part in draws.split(max(1, AT_ONCE // units))
            ]
    except FitError:  # an observed site outside the plate: the density is no sum over units
        return point, 0
    height = torch.cat([t.likelihood + t.prior for t in terms])  # [draw, unit]
    best = torch.nan_to_num(height, nan=-torch.inf).argmax(0)  # [unit]
    chosen = point.clone()
    for places in (s.unit_indices() for s in density.sites):  # [unit, value]
        chosen[places] = draws[best[:, None], places]
    return chosen, len(draws)


def plain_start(density: LogDensity) -> Start:
    """Return standard normals in unconstrained space at no cost, for amortized guides."""
    zero = torch.zeros(density.dim, dtype=density.dtype)
    return Start(loc=zero, scale=zero + 1, sentence="started from standard normals")


def find_start(
    density: LogDensity, generator: torch.Generator, *, radius: float = 0.1, evaluations: int = 400
) -> Start:
    """Return location, scales and Cholesky factor of the start, by the three steps above."""
    function = density.batch_function()
    loc, spent = first_point(density, generator, radius)
    loc, used = unit_points(density, loc, generator)
    spent += used
    pairs = 8
    half = torch.randn(pairs, density.dim, dtype=density.dtype, generator=generator)
    noise = torch.cat([half, -half]) / half.square().mean(0).sqrt()
    common = torch.randn(32, density.dim, dtype=density.dtype, generator=generator)
    common = torch.cat([common, -common])
    identity = torch.eye(density.dim, dtype=density.dtype)

    loc, scale, used = _fixed_noise_fit(
        function, loc, identity, torch.full_like(loc, -2.0), noise, evaluations
    )
    spent += used
    tril, used = _whitening(density, function, loc, scale, common)
    spent += used
    if density.dim <= HESSIAN_LIMIT:
        shift, spread, used = _fixed_noise_fit(
            function, loc, tril, torch.zeros_like(loc), noise, evaluations // 2
        )
        spent += used
        moved = (
            tril * spread
            if _elbo(function, shift, tril * spread, common) > _elbo(function, shift, tril, common)
            else tril
        )
        again, used = _whitening(
            density, function, shift, (moved @ moved.T).inverse().diagonal().rsqrt(), common
        )
        spent += used
        best = max(
            (_elbo(function, loc, tril, common), loc, tril),
            (_elbo(function, shift, moved, common), shift, moved),
            (_elbo(function, shift, again, common), shift, again),
            key=lambda c: c[0],
        )
        _, loc, tril = best
        spent += 5 * len(common)
        narrow = (tril @ tril.T).inverse().diagonal().rsqrt()
        if _elbo(function, loc, torch.diag(narrow), common) > _elbo(
            function, loc, torch.diag(scale), common
        ):
            scale = narrow
    return Start(
        loc=loc,
        scale=scale,
        factor=tril,
        gradients=spent,
        sentence=f"started from a fixed-noise mean field after {spent} gradients",
    )


def _fixed_noise_fit(
    function: Density,
    origin: Tensor,
    tril: Tensor,
    log_scale: Tensor,
    noise: Tensor,
    evaluations: int,
) -> tuple[Tensor, Tensor, int]:
    """Maximize mean_j log p(origin + tril (a + exp(b) e_j)) + sum b over a and b.

    Returns:
        The location, exp(b), and the number of gradients.
    """
    dim, calls = len(origin), 0

    def objective(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        nonlocal calls
        calls += 1
        params = torch.as_tensor(x, dtype=origin.dtype).requires_grad_(True)
        u = origin + (params[:dim] + params[dim:].exp() * noise) @ tril.T
        loss = -function(u).mean() - params[dim:].sum()
        (grad,) = torch.autograd.grad(loss, params)
        if not (torch.isfinite(loss) and torch.isfinite(grad).all()):
            return 1e12, np.zeros(2 * dim)
        return loss.item(), grad.double().numpy()

    first = torch.cat([torch.zeros_like(origin), log_scale]).double().numpy()
    bounds = [(None, None)] * dim + [(float(b) - 12.0, float(b) + 9.0) for b in log_scale]
    result = scipy.optimize.minimize(
        objective,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxfun": evaluations, "maxcor": 20},
    )
    best = torch.as_tensor(result.x, dtype=origin.dtype)
    if not np.isfinite(result.fun) or result.fun >= 1e12:
        best = torch.as_tensor(first, dtype=origin.dtype)
    return origin + tril @ best[:dim], best[dim:].exp(), calls * len(noise)


def _whitening(
    density: LogDensity, function: Density, loc: Tensor, scale: Tensor, common: Tensor
) -> tuple[Tensor, int]:
    """Return the Cholesky factor of the inverse negative Hessian at loc, and the cost.

    Eigenvalues are floored; without a Hessian the factor is diagonal.
    """
    diagonal = torch.diag(scale)
    if density.dim > HESSIAN_LIMIT:
        return diagonal, 0
    curvature = -density.hessian(loc) * scale[:, None] * scale
    if not torch.isfinite(curvature).all():
        return diagonal, density.dim
    values, vectors = torch.linalg.eigh(curvature)
    best, chosen = _elbo(function, loc, diagonal, common), diagonal
    for floor in FLOORS:
        spread = scale[:, None] * vectors
        covariance = (spread / values.clamp(min=floor)) @ spread.T
        factor, failed = torch.linalg.cholesky_ex(0.5 * (covariance + covariance.T))
        if int(failed) == 0 and (value := _elbo(function, loc, factor, common)) > best:
            best, chosen = value, factor
    return chosen, density.dim + (1 + len(FLOORS)) * len(common)


def _elbo(function: Density, loc: Tensor, tril: Tensor, noise: Tensor) -> float:
    with torch.no_grad():
        value = function(loc + noise @ tril.T).mean() + tril.diagonal().log().sum()
    return float(value) if torch.isfinite(value) else -float("inf")
