"""Batch and match: a full normal fitted by closed-form updates from the scores of its draws.

q(u) = Normal(u; m, S). An update draws from q and takes the normal whose own scores match those of
log p on these draws, with a penalty for leaving q (`guides.base.batch_match` has the formulas, and
`guides.base.batch_search` the rates and the stopping rule). It begins at the mode and curvature of
`laplace`, or where there is no mode at the start of the other families.

The mean is that of the best ELBO for this covariance, E_q[grad log p] = 0; the covariance makes
S cov(grad log p) S = S, and is narrower than that of the best ELBO where the posterior is not
normal. It cannot represent skewness, tails or a second mode. Far from a normal the updates may not
settle, which is said, as is a misfit of the scores. An improper posterior whose tails fall off can
have such a normal too, with a large misfit. A full matrix of more than 300 dimensions is refused.

Source: Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei and Saul (2024), ICML, PMLR 235.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor, nn

from guides.base.batch_match import Normal
from guides.base.batch_search import Found, search
from guides.base.family import Family
from guides.base.fixed_draws import DESIGNS
from guides.base.flat import build_autoguide, fill
from guides.base.initialize import find_start
from guides.base.modes import direction
from guides.families import laplace
from guides.types import Stop
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UnknownNameError, UsageError
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILY", "LARGEST", "Settings", "build", "solve"]

LARGEST = 300  # dimensions
LEAST_DRAWS = 32  # of an update; four times the dimension where that is more
POINTS = 10  # tried by each of two starts that find none of finite density, uncounted
ERRORS = "draw_error"  # buffer of the guide
DOUBT = 0.3  # misfit of the scores from which the widths are in doubt


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the family.

    Attributes:
        design: of the draws, a name in `guides.base.fixed_draws.DESIGNS`; `independent` is that
            of the paper.
        draws: draws of an update, by default four times the dimension and at least 32.
        target: error of the result by the draws, in posterior sds and log sds, at which it ends.
        budget: gradients after which no further update begins, those of the start aside; by
            default 3,000, or those of 24 updates where that is more.

    Raises:
        UnknownNameError: no such design.
        UsageError: a number that is not positive.
    """

    design: str = "matched"
    draws: int | None = None
    target: float = 0.02
    budget: int | None = None

    def __post_init__(self) -> None:
        """Validate the options."""
        if self.design not in DESIGNS:
            raise UnknownNameError("design of draws", self.design, DESIGNS)
        for name in ("draws", "target", "budget"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(
                    f"Option {name} of batch_and_match is {value}; accepted: a positive number."
                )

    def batch(self, dim: int) -> int:
        """Return the draws of an update."""
        return self.draws or max(LEAST_DRAWS, 4 * dim)

    def gradients(self, dim: int) -> int:
        """Return the budget of all updates."""
        return self.budget or max(3000, 24 * self.batch(dim))


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    **options: Any,
) -> nn.Module:
    """Build the normal that `solve` fills.

    After the fit its buffer `draw_error` `[dim]` holds the error of the location by the choice of
    the draws, in posterior sds.

    Raises:
        UnknownNameError: no such design.
        UsageError: more than 300 dimensions, or a number that is not positive; errors of
            `guides.base.flat.build_autoguide`.
    """
    settings = Settings(**options)
    density = density or LogDensity(program, data, dtype=entry.dtype)
    if density.dim > LARGEST:
        raise UsageError(
            f"batch_and_match keeps a full covariance matrix of at most {LARGEST} dimensions and"
            f" {entry.name} has {density.dim:,}; use low_rank."
        )
    guide = build_autoguide(AutoMultivariateNormal, program, data, density)
    guide.__dict__["settings"] = settings
    guide.register_buffer(ERRORS, torch.full((density.dim,), math.nan, dtype=density.dtype))
    return guide


def solve(guide: nn.Module, density: LogDensity, generator: torch.Generator) -> tuple[Stop, int]:
    """Find the start, update until the average settles, fill the guide, and say how it ended.

    Returns:
        Why it ended, and the number of gradients of start and updates.
    """
    settings: Settings = guide.__dict__["settings"]
    dim, before = density.dim, density.gradient_evaluations
    try:
        begin, where, spent = _begin(guide, density, generator)
    except FitError as error:
        tried = 2 * POINTS + density.gradient_evaluations - before
        return Stop(status="init_failed", step=0, sentence=str(error)), tried
    before = density.gradient_evaluations
    found = search(
        density,
        begin,
        generator,
        draws=settings.batch(dim),
        design=settings.design,
        target=settings.target,
        budget=settings.gradients(dim),
    )
    spent += density.gradient_evaluations - before
    factor = found.normal.factor.to(density.dtype)
    scale = factor.diagonal()
    fill(
        guide,
        loc=found.normal.mean.to(density.dtype),
        scale=scale,
        scale_tril=factor / scale[:, None],
    )
    guide.get_buffer(ERRORS).copy_(found.errors[:dim])
    if found.bad is not None:
        sentence = (
            f"After {found.updates} updates fewer than half of the draws had a finite score,"
            f" however narrow the normal, first at {density.nonfinite_sites(found.bad)}; the last"
            " average is kept."
        )
        return Stop(status="nan", step=found.updates, sentence=sentence), spent
    if found.wide is not None:
        sentence = (
            f"After {found.updates} updates {direction(density, found.wide)} is"
            f" {math.exp(float(found.wide.max())):.1g} times as wide as at the start, and widens"
            " further; is the posterior proper?"
        )
        return Stop(status="init_failed", step=found.updates, sentence=sentence), spent
    good = found.settled(settings.target)
    sentence = f"{_end(found, settings, good)} It began at {where}.{_shape(found)}{_lost(found)}"
    return (
        Stop(status="ok" if good else "not_converged", step=found.updates, sentence=sentence),
        spent,
    )


def _begin(
    guide: nn.Module, density: LogDensity, generator: torch.Generator
) -> tuple[Normal, str, int]:
    """Return the first normal, what it is, and the gradients it cost.

    Raises:
        FitError: no point with a finite density.
    """
    stop, spent = laplace.solve(guide, density, generator)
    if stop.status == "ok":
        scale: Tensor = getattr(guide, "scale")  # noqa: B009
        lower: Tensor = getattr(guide, "scale_tril")  # noqa: B009
        loc: Tensor = getattr(guide, "loc")  # noqa: B009
        factor = scale.detach()[:, None] * lower.detach()
        begin = Normal(mean=loc.detach().double(), factor=factor.double())
        return begin, "the mode and its curvature", spent
    start = find_start(density, generator)
    begin = Normal(mean=start.loc.double(), factor=start.tril.double())
    return begin, "a mean field, since no mode was found", spent + start.gradients


def _end(found: Found, settings: Settings, good: bool) -> str:
    """Say how the updates ended, and how well their average is known."""
    number = f"the average of the last {found.averaged} of {found.updates} updates"
    if good:
        return (
            f"Settled: by the choice of the draws {number} has an error of at most"
            f" {found.error:.2g} posterior sds (target {settings.target:g})."
        )
    if found.averaged < 2:
        return f"The budget ended after {found.updates} updates; more gradients are needed."
    if not found.still:
        return (
            f"The budget ended while still moving: {number} has"
            f" {float(found.left.abs().max()):.2g} posterior sds left to go."
        )
    return (
        f"The budget ended before the updates settled: {number} has an error of"
        f" {found.error:.2g} posterior sds by the choice of the draws (target"
        f" {settings.target:g}), as happens where the posterior is far from a normal."
    )


def _shape(found: Found) -> str:
    """Say if the posterior is far from a normal where the updates ended."""
    if found.misfit <= DOUBT:
        return ""
    return (
        f" The scores miss those of a normal by {found.misfit:.2g} of their size (a regression:"
        f" below {DOUBT:g}): the posterior is far from a normal, and the widths are in doubt."
    )


def _lost(found: Found) -> str:
    """Say how many draws had no finite score, and what was done about it."""
    said = ""
    if found.dropped[0]:
        said += (
            f" {found.dropped[0]} draws without a finite score were left out,"
            f" {found.dropped[1]} of them in the updates that are averaged."
        )
    if found.narrowed:
        said += (
            f" {found.narrowed} times the widths were halved because fewer than half of the draws"
            " had a finite score."
        )
    return said


FAMILY = Family(
    name="batch_and_match",
    q="one multivariate normal whose scores match those of the posterior",
    blind_spot="no skewness, tails or second mode; too narrow where the posterior has them",
    build=build,
    options=("design", "draws", "target", "budget"),
    solve=solve,
    richer=("full_rank", "flow"),
)
