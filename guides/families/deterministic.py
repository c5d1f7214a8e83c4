"""Deterministic: a mean field on fixed draws, its covariance corrected by linear response.

q(u) = Normal(u; m, C), where m and the scales exp(xi) minimize minus the ELBO of a normal mean
field on draws that stay fixed, and C is its linear response (`guides.base.fixed_draws` has the
formulas). With `covariance="mean_field"` q is that mean field, Normal(u; m, diag(exp 2 xi)).

No stochastic optimization: BFGS on the fixed draws to an optimum, whose Hessian gives the
covariance and the error of m by the draws. The draws grow until that error is below `target`
posterior sds or `budget` gradients are spent. It cannot represent skewness or a second mode, and m
is that of the mean field, which is off where dependence and skewness meet. A density without a
minimum of that function ends `init_failed`.

Source: Giordano, Ingram and Broderick (2024), JMLR 25(18).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal
from torch import nn

from guides.base.family import Family
from guides.base.fixed_draws import DESIGNS, FixedDraws, Place, linear_response
from guides.base.fixed_search import DENSE, Found, search
from guides.base.flat import build_autoguide, fill
from guides.base.modes import direction
from guides.types import Stop
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UnknownNameError, UsageError
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILY", "Settings", "build", "solve"]

COVARIANCES = ("linear_response", "mean_field")
WIDTHS, ERRORS = "mean_field_scale", "draw_error"  # buffers of the guide
LEAST_DRAWS, MOST_DRAWS = 16, 64  # of a block
CONVERGED = 1e-6  # nats that a Newton step may still promise, twice
NEAR = 1e-2  # the same of a fit that is not_converged but usable
FLAT = 0.1  # nats per sd, the largest slope where there is no Hessian
FRESH = 512  # new draws, without gradients, on which the ELBOs of both covariances are compared
DOUBT = 0.1  # nats by which the ELBO of the linear response may be below that of the mean field
RATIO = 10.0  # first scales that count as much as a factor of e in a scale


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the family.

    Attributes:
        covariance: that of q, `linear_response` or `mean_field`.
        design: of the draws, a name in `guides.base.fixed_draws.DESIGNS`.
        draws: draws of a block, by default twice the dimension between 16 and 64.
        target: error of the means by the draws, in posterior sds, below which they stop growing.
        budget: gradients beyond which they stop growing.

    Raises:
        UnknownNameError: no such covariance or design.
        UsageError: a number that is not positive.
    """

    covariance: str = "linear_response"
    design: str = "matched"
    draws: int | None = None
    target: float = 0.03
    budget: int = 3000

    def __post_init__(self) -> None:
        """Validate the options."""
        if self.covariance not in COVARIANCES:
            raise UnknownNameError("covariance", self.covariance, COVARIANCES)
        if self.design not in DESIGNS:
            raise UnknownNameError("design of draws", self.design, DESIGNS)
        for name in ("draws", "target", "budget"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(
                    f"Option {name} of deterministic is {value}; accepted: a positive number."
                )

    def block(self, dim: int) -> int:
        """Return the draws of a block."""
        return self.draws or min(MOST_DRAWS, max(LEAST_DRAWS, 2 * dim))


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    **options: Any,
) -> nn.Module:
    """Build the normal that `solve` fills; above `DENSE` dimensions it is the mean field.

    After the fit its buffer `mean_field_scale` `[dim]` holds exp(xi), and `draw_error` `[dim]` the
    error of m by the choice of the draws, in posterior sds.

    Raises:
        UnknownNameError: no such covariance or design.
        UsageError: a number that is not positive; errors of `guides.base.flat.build_autoguide`.
    """
    settings = Settings(**options)
    density = density or LogDensity(program, data, dtype=entry.dtype)
    full = settings.covariance == "linear_response" and density.dim <= DENSE
    kind = AutoMultivariateNormal if full else AutoDiagonalNormal
    guide = build_autoguide(kind, program, data, density)
    guide.__dict__["settings"] = settings
    for name in (WIDTHS, ERRORS):
        guide.register_buffer(name, torch.full((density.dim,), math.nan, dtype=density.dtype))
    return guide


def solve(guide: nn.Module, density: LogDensity, generator: torch.Generator) -> tuple[Stop, int]:
    """Minimize on fixed draws, fill the guide, and say how far the draws decide the result.

    Returns:
        Why it ended, and the number of gradients, one per draw and pass.
    """
    settings: Settings = guide.__dict__["settings"]
    before = density.gradient_evaluations
    draws = FixedDraws(density, settings.design, settings.block(density.dim), generator)
    try:
        found = search(density, draws, generator, target=settings.target, budget=settings.budget)
        stop = _conclude(guide, density, draws, settings, found)
    except FitError as error:
        stop = Stop(status="init_failed", step=0, sentence=str(error))
    return stop, density.gradient_evaluations - before


def _conclude(
    guide: nn.Module, density: LogDensity, draws: FixedDraws, settings: Settings, found: Found
) -> Stop:
    """Fill the guide with what was found, and say how good that is."""
    place, hessian, number = found.place, found.hessian, len(draws.noise)
    if hessian is None:
        fill(guide, loc=place.loc, scale=place.scale)
        _record(guide, found)
        return _wide(density, found, number)
    left = hessian.decrement(found.slopes.gradient)
    if not left <= NEAR:
        return Stop(status="init_failed", step=0, sentence=_nothing(density, found, number, left))
    _record(guide, found)
    factor = linear_response(hessian)
    assert factor is not None  # the Hessian is positive definite
    sentence = _optimum(draws, settings, found.error)
    if isinstance(guide, AutoDiagonalNormal):
        fill(guide, loc=place.loc, scale=place.scale)
    else:
        scale = factor.diagonal()
        fill(guide, loc=place.loc, scale=scale, scale_tril=factor / scale[:, None])
        fresh = FixedDraws(density, "mirrored", FRESH, draws.generator)
        lost = fresh.value(place) - fresh.value(Place(place.loc, scale.log()), factor)
        if not lost >= -DOUBT:
            sentence += (
                f" With the covariance of the linear response the ELBO is {-lost:.2g} nats below"
                " that of the mean field: the posterior is far from a normal, and its widths are"
                " in doubt."
            )
    if left > CONVERGED:
        sentence = (
            f"The search ended {left**0.5:.2g} posterior sds from its optimum, by the Hessian"
            f" there. {sentence}"
        )
    good = left <= CONVERGED and found.error <= settings.target
    return Stop(status="ok" if good else "not_converged", step=0, sentence=sentence)


def _record(guide: nn.Module, found: Found) -> None:
    """Write the scales of the mean field and the errors of the means into the guide."""
    for name, value in ((WIDTHS, found.place.scale), (ERRORS, found.errors)):
        guide.get_buffer(name).copy_(value)


def _optimum(draws: FixedDraws, settings: Settings, error: float) -> str:
    """Say how many draws decide the means, and how far."""
    blocks = f"{len(draws.noise)} fixed draws"
    if draws.blocks > 1:
        blocks += f" ({draws.blocks} blocks of {draws.size})"
    if error <= settings.target:
        return (
            f"Optimum of the mean field on {blocks}; by the choice of the draws the means have an"
            f" error of at most {error:.2g} posterior sds (target {settings.target:g})."
        )
    return (
        f"Optimum of the mean field on {blocks}; by the choice of the draws a mean has an error"
        f" of {error:.2g} posterior sds, more than the target of {settings.target:g}: more draws"
        f" would have taken more than {settings.budget} gradients."
    )


def _wide(density: LogDensity, found: Found, number: int) -> Stop:
    """Say what is not known where there are too many dimensions for a Hessian."""
    slope = found.slopes.gradient
    units = torch.cat([found.place.scale, torch.ones_like(found.place.scale)])
    left = float((units * slope).abs().max()) if found.slopes.finite else math.inf
    if not left <= FLAT:
        where = _runaway(density, found)
        sentence = (
            f"No optimum of the mean field on {number} fixed draws: a slope is still {left:.2g}"
            f" nats per posterior sd, and {where} has moved farthest."
        )
        return Stop(status="init_failed", step=0, sentence=sentence)
    sentence = (
        f"Optimum of the mean field on {number} fixed draws. At {density.dim} dimensions (more"
        f" than {DENSE}) no Hessian is formed: the covariance is that of the mean field, and the"
        " error by the choice of the draws is not known."
    )
    return Stop(status="ok", step=0, sentence=sentence)


def _nothing(density: LogDensity, found: Found, number: int, left: float) -> str:
    """Say why there is no optimum."""
    said = (
        "its Hessian is not positive definite where the search ended"
        if math.isinf(left)
        else f"a Newton step still promises {0.5 * left:.2g} nats"
    )
    return (
        f"No optimum of the mean field on {number} fixed draws: {said}, and"
        f" {_runaway(density, found)} has moved farthest; is the posterior proper?"
    )


def _runaway(density: LogDensity, found: Found) -> str:
    """Name what moved farthest, a location in units of its first scale or a log scale."""
    moves = (found.place.loc - found.first.loc) / found.first.scale
    widths = found.place.log_scale - found.first.log_scale
    if float(widths.abs().max()) * RATIO >= float(moves.abs().max()):
        return f"the scale of {direction(density, widths)}"
    return direction(density, moves)


FAMILY = Family(
    name="deterministic",
    q="normal at the optimum of a mean field on fixed draws, with its linear response",
    blind_spot="no skewness, tails or second mode; the mean is that of the mean field",
    build=build,
    options=("covariance", "design", "draws", "target", "budget"),
    solve=solve,
    richer=("full_rank",),
)
