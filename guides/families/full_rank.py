"""Full rank: q(u) = Normal(u; m, L L^T) over the unconstrained vector, L lower triangular.

It cannot represent skewness, heavy or light tails, or more than one mode. On a Gaussian posterior
it is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor, nn

from guides.base.family import Family
from guides.base.flat import (
    FlatGuide,
    NormalGuide,
    Start,
    build_autoguide,
    fill,
    standard_normal_log_prob,
    triangular,
)
from zoo.compiler.triangular import small
from zoo.density.log_density import LogDensity
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILY", "WhitenedFullRank", "build", "flat"]


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    **options: Any,
) -> nn.Module:
    """Build Pyro's `AutoMultivariateNormal`; errors as in `guides.base.flat.build_autoguide`."""
    density = density or LogDensity(program, data, dtype=entry.dtype)
    return build_autoguide(AutoMultivariateNormal, program, data, density, **options)


def flat(guide: nn.Module, start: Start) -> FlatGuide:
    """Return the guide in whitened coordinates around the start."""
    return WhitenedFullRank(guide, start)


def _slope(factor: Tensor, deviation: Tensor, noise: Tensor) -> Tensor:
    """Return T^-T noise `[n, dim]`, for large T as (T T')^-1 (T noise).

    The Cholesky solve has a C function in compiled graphs, the triangular solve has none.
    """
    if small(factor, noise.T):
        return torch.linalg.solve_triangular(factor.T, noise.T, upper=True).T
    return torch.cholesky_solve(deviation.T, factor).T


class WhitenedFullRank(NormalGuide):
    """u = m0 + L0 (a + T eps): the same family, as L0 T is lower triangular."""

    guide: nn.Module

    def __init__(self, guide: nn.Module, start: Start) -> None:
        super().__init__()
        self.__dict__["guide"] = guide
        self.dim = self.noise_dim = len(start.loc)
        self.register_buffer("origin", start.loc.clone())
        self.register_buffer("tril", start.tril.clone())
        self.shift = nn.Parameter(torch.zeros_like(start.loc))
        self.log_scale = nn.Parameter(torch.zeros_like(start.loc))
        self.lower = nn.Parameter(torch.zeros_like(start.tril), requires_grad=self.dim > 1)

    def _log_q(self, white: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
        z = torch.linalg.solve_triangular(factor, (white - shift).T, upper=False).T
        return (
            standard_normal_log_prob(z)
            - factor.diagonal().log().sum()
            - self.tril.diagonal().log().sum()
        )

    def sample(
        self, noise: Tensor, *, index: Tensor | None = None, stl: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map noise `[n, dim]` to points and their log q; see `FlatGuide.sample`."""
        factor = triangular(self.lower, self.log_scale)
        deviation = noise @ factor.T
        white = self.shift + deviation
        log_q = (
            standard_normal_log_prob(noise)
            - factor.diagonal().log().sum()
            - self.tril.diagonal().log().sum()
        )
        if stl:  # the value needs no solve; the slope in `white` is -T^-T noise
            slope = _slope(factor.detach(), deviation.detach(), noise)
            log_q = log_q.detach() - ((white - white.detach()) * slope).sum(-1)
        return self.origin + white @ self.tril.T, log_q

    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` at points `[n, dim]`."""
        white = torch.linalg.solve_triangular(self.tril, (u - self.origin).T, upper=False).T
        return self._log_q(white, self.shift, triangular(self.lower, self.log_scale))

    def nearest(self, precision: Tensor) -> Tensor:
        """Take the covariance P^-1; see `NormalGuide.nearest`."""
        covariance = torch.linalg.inv(precision)
        covariance = 0.5 * (covariance + covariance.T)
        factor = torch.linalg.cholesky(covariance)
        with torch.no_grad():
            self.log_scale.copy_(factor.diagonal().log())
            self.lower.copy_(factor.tril(-1))
        return covariance

    def watched(self) -> Tensor:
        """Return the location's whitened shift and the log scales."""
        return torch.cat([self.shift.detach(), self.log_scale.detach()])

    def finish(self) -> None:
        """Fill the autoguide, whose factor is diag(scale) times a unit lower triangular matrix."""
        factor = self.tril @ triangular(self.lower, self.log_scale)
        scale = factor.diagonal()
        fill(
            self.guide,
            loc=self.origin + self.tril @ self.shift,
            scale=scale,
            scale_tril=factor / scale[:, None],
        )


FAMILY = Family(
    name="full_rank",
    q="one multivariate normal on the unconstrained vector",
    blind_spot="no skewness, tails or second mode",
    build=build,
    flat=flat,
    normal=True,
    richer=("flow",),
    slot=1,
)
