"""Mean field: q(u) = prod_i Normal(u_i; m_i, s_i^2) over the unconstrained vector.

It cannot represent any dependence between the components of u. On a Gaussian posterior with
covariance C the optimum has the right mean and the standard deviations 1 / sqrt((C^-1)_ii): never
wider than the truth, and narrower by 1 / sqrt(C_ii (C^-1)_ii) (Turner & Sahani 2011, "Two problems
with variational expectation maximisation").
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import Tensor, nn

from guides.base.family import Family
from guides.base.flat import (
    FlatGuide,
    NormalGuide,
    Start,
    build_autoguide,
    fill,
    lower_product,
    standard_normal_log_prob,
)
from zoo.density.log_density import LogDensity
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILY", "WhitenedMeanField", "build", "flat"]


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    **options: Any,
) -> nn.Module:
    """Build Pyro's `AutoDiagonalNormal`; errors as in `guides.base.flat.build_autoguide`."""
    density = density or LogDensity(program, data, dtype=entry.dtype)
    return build_autoguide(AutoDiagonalNormal, program, data, density, **options)


def flat(guide: nn.Module, start: Start) -> FlatGuide:
    """Return the guide in whitened coordinates around the start."""
    return WhitenedMeanField(guide, start)


class WhitenedMeanField(NormalGuide):
    """u = m0 + L0 a + s0 exp(b) eps: whitened steps of the location leave the family unchanged."""

    diagonal = True
    width: Tensor
    guide: nn.Module

    def __init__(self, guide: nn.Module, start: Start) -> None:
        super().__init__()
        self.__dict__["guide"] = guide
        self.dim = self.noise_dim = len(start.loc)
        self.register_buffer("origin", start.loc.clone())
        self.register_buffer("tril", start.tril.clone())
        self.register_buffer("width", start.scale.clone())
        self.shift = nn.Parameter(torch.zeros_like(start.loc))
        self.log_scale = nn.Parameter(torch.zeros_like(start.loc))

    def _moments(self) -> tuple[Tensor, Tensor]:
        return (
            self.origin + lower_product(self.tril, self.shift),
            self.width * self.log_scale.exp(),
        )

    def sample(
        self, noise: Tensor, *, index: Tensor | None = None, stl: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map noise `[n, dim]` to points and their log q; see `FlatGuide.sample`."""
        loc, scale = self._moments()
        u = loc + scale * noise
        if stl:
            loc, scale = loc.detach(), scale.detach()
        return u, standard_normal_log_prob((u - loc) / scale) - scale.log().sum()

    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` at points `[n, dim]`."""
        loc, scale = self._moments()
        return standard_normal_log_prob((u - loc) / scale) - scale.log().sum()

    def nearest(self, precision: Tensor) -> Tensor:
        """Take the scales s_i = P_ii^-1/2 in the coordinates u; see `NormalGuide.nearest`."""
        back = self.back
        scale = torch.einsum("ji,jk,ki->i", back, precision, back).rsqrt()
        with torch.no_grad():
            self.log_scale.copy_((scale / self.width.double()).log())
        return (back * scale.square()) @ back.T

    def watched(self) -> Tensor:
        """Return the whitened location shift and the log scales."""
        return torch.cat([self.shift.detach(), self.log_scale.detach()])

    def finish(self) -> None:
        """Fill the autoguide."""
        loc, scale = self._moments()
        fill(self.guide, loc=loc, scale=scale)


FAMILY = Family(
    name="mean_field",
    q="independent normals on the unconstrained vector",
    blind_spot="no dependence between components, so too narrow where they correlate",
    build=build,
    flat=flat,
    normal=True,
    richer=("full_rank", "low_rank", "block_full_rank"),
    slot=0,
)
