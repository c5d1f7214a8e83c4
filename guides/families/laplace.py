"""Laplace: q(u) = Normal(u; m, (-H)^-1), m the mode of log p(u, data), H its Hessian.

No stochastic optimization: L-BFGS from several starts on the unconstrained vector, then one
Hessian. It cannot represent skewness or a second mode, sees the curvature only at the mode, and
does not exist if the density has no mode (centered hierarchies) or the Hessian there is not
negative definite; such fits end as `init_failed` with the reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.optimize
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor, nn

from guides.base.family import Family
from guides.base.flat import build_autoguide, fill
from guides.base.initialize import first_point
from guides.types import Stop
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.types import Data, ModelEntry, Program

STARTS = 4
RADII = (0.1, 0.5, 1.0, 2.0)
EVALUATIONS = 4000
LARGEST_CONDITION = 1e12

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
    spent, ends, failures = 0, [], []
    for start in range(STARTS):
        try:
            point, tried = first_point(density, generator, RADII[start])
        except FitError as error:
            return Stop(status="init_failed", step=0, sentence=str(error)), spent + 10
        mode, value, used = _climb(density, point)
        spent += tried + used
        factor, reason = _curvature(density, mode)
        spent += density.dim
        if factor is None:
            failures.append((value, reason))
        else:
            ends.append((value, mode, factor))
    if not ends:
        value, reason = max(failures, key=lambda f: f[0])
        return (
            Stop(
                status="init_failed",
                step=0,
                sentence=(
                    f"No mode from {STARTS} starts: {reason}; try full_rank, or a non-centered"
                    " form."
                ),
            ),
            spent,
        )
    value, mode, factor = max(ends, key=lambda e: e[0])
    higher = [f for f in failures if f[0] > value + 10.0]
    if higher:
        return (
            Stop(
                status="init_failed",
                step=0,
                sentence=f"The density keeps rising past its local mode: {higher[0][1]}.",
            ),
            spent,
        )
    scale = factor.diagonal()
    fill(guide, loc=mode, scale=scale, scale_tril=factor / scale[:, None])
    near = sum(abs(value - e[0]) < 1e-3 for e in ends)
    return (
        Stop(
            status="ok",
            step=0,
            sentence=(
                f"Mode of log density {value:.6g} nats, reached from {near} of {STARTS} starts."
            ),
        ),
        spent,
    )


def _climb(density: LogDensity, point: Tensor) -> tuple[Tensor, float, int]:
    """Maximize the log density by L-BFGS-B, twice: the restart drops outdated curvature."""
    calls = 0

    def objective(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        nonlocal calls
        calls += 1
        value, gradient = density.gradient(torch.as_tensor(x, dtype=density.dtype))
        if not (torch.isfinite(value) and torch.isfinite(gradient).all()):
            return 1e12, np.zeros(density.dim)
        return -float(value), -gradient.double().numpy()

    x, fun = point.double().numpy(), np.inf
    for _ in range(2):
        options = {
            "maxfun": EVALUATIONS,
            "maxiter": EVALUATIONS,
            "maxcor": 20,
            "ftol": 1e-14,
            "gtol": 1e-8,
        }
        result = scipy.optimize.minimize(
            objective, x, jac=True, method="L-BFGS-B", options=options
        )
        x, fun = result.x, float(result.fun)
    return torch.as_tensor(x, dtype=density.dtype), -fun, calls


def _curvature(density: LogDensity, mode: Tensor) -> tuple[Tensor | None, str]:
    """Return the Cholesky factor of the covariance, or None and the reason.

    The mode is first improved in place by one Newton step.
    """
    precision = -density.hessian(mode)
    if not torch.isfinite(precision).all():
        return None, "the Hessian is not finite where the search ended"
    values, vectors = torch.linalg.eigh(precision)
    lowest, highest = float(values[0]), float(values[-1])
    if lowest <= 0 or highest / lowest > LARGEST_CONDITION:
        return (
            None,
            (
                "the Hessian is not negative definite where the search ended"
                f" ({_where(density, vectors[:, 0])} runs away)"
            ),
        )
    _, gradient = density.gradient(mode)
    step = vectors @ ((vectors.T @ gradient) / values)
    decrement = float(step @ gradient)
    if decrement > 1e-2:
        return (
            None,
            f"the search did not settle (a Newton step still promises {0.5 * decrement:.2g} nats)",
        )
    mode += step
    covariance = (vectors / values) @ vectors.T
    factor, failed = torch.linalg.cholesky_ex(0.5 * (covariance + covariance.T))
    return (None, "the covariance cannot be factored") if int(failed) else (factor, "")


def _where(density: LogDensity, direction: Tensor) -> str:
    largest = int(direction.abs().argmax())
    return next(f"site {s.name!r}" for s in density.sites if s.start <= largest < s.stop)


FAMILY = Family(
    name="laplace",
    q="normal at the mode with the curvature there",
    blind_spot="everything away from the mode; absent where there is no mode",
    build=build,
    solve=solve,
    richer=("full_rank",),
    slot=3,
)
