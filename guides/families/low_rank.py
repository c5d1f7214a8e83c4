"""Low rank plus diagonal: q(u) = Normal(u; m, S (W W^T + D) S), W `[dim, rank]`.

D is diagonal. It cannot represent skewness, tails or a second mode, nor more than `rank` shared
directions of dependence. It is useful above a few hundred dimensions; below, `full_rank` is both
faster and richer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal
from torch import Tensor, nn

from guides.base.family import Family
from guides.base.flat import (
    FlatGuide,
    NormalGuide,
    Start,
    build_autoguide,
    fill,
    standard_normal_log_prob,
)
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILY", "WhitenedLowRank", "best_factors", "build", "flat", "principal_factors"]

SWEEPS, FEW = 1000, 10  # of `best_factors`, from afar and where it was before
CLOSE = 1e-4  # relative change of the scales that ends it


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    rank: int | None = None,
    **options: Any,
) -> nn.Module:
    """Build Pyro's `AutoLowRankMultivariateNormal`, of rank ceil(sqrt(dim)) by default.

    Raises:
        UsageError: a rank outside 1..dim.
    """
    density = density or LogDensity(program, data, dtype=entry.dtype)
    rank = math.ceil(math.sqrt(density.dim)) if rank is None else rank
    if not 1 <= rank <= density.dim:
        raise UsageError(
            f"rank is {rank}; accepted: an integer from 1 to the dimension {density.dim}."
        )
    return build_autoguide(
        AutoLowRankMultivariateNormal, program, data, density, rank=rank, **options
    )


def flat(guide: nn.Module, start: Start) -> FlatGuide:
    """Return the guide in whitened coordinates around the start."""
    return WhitenedLowRank(guide, start)


def principal_factors(correlation: Tensor, rank: int, sweeps: int = 50) -> tuple[Tensor, Tensor]:
    """Return W `[dim, rank]` and d `[dim]` with W W^T + diag(d) near the matrix.

    The method is that of iterated principal factors (Harman 1976).
    """
    total = correlation.diagonal()
    unique = 0.5 * total
    factor = correlation.new_zeros(len(total), rank)
    for _ in range(sweeps):
        values, vectors = torch.linalg.eigh(correlation - torch.diag(unique))
        factor = vectors[:, -rank:] * values[-rank:].clamp(min=0).sqrt()
        unique = (total - factor.square().sum(-1)).clamp(min=0.02 * total)
    return factor, unique


def best_factors(
    precision: Tensor, rank: int, unique: Tensor, sweeps: int = SWEEPS
) -> tuple[Tensor, Tensor]:
    """Return W `[dim, rank]` and d `[dim]` that minimize tr(P S) - log |S|, S = W W^T + diag(d).

    For given d the best W has the eigenvectors of d^1/2 P d^1/2 with the smallest eigenvalues, as
    in factor analysis; for given W each d_i is scaled towards (S^-1)_ii = P_ii. The two alternate.

    Args:
        precision: P `[dim, dim]`, positive definite.
        rank: columns of W.
        unique: d to begin with.
        sweeps: how often at most.
    """
    own = precision.diagonal()
    factor, height = precision.new_zeros(len(own), rank), math.inf
    before, change, power = unique, torch.zeros_like(own), 1.0
    for _ in range(sweeps):
        root = unique.sqrt()
        values, vectors = torch.linalg.eigh(root[:, None] * precision * root)
        values, vectors = values[:rank], vectors[:, :rank]
        weight = (1.0 / values.clamp(min=1e-12) - 1.0).clamp(min=0.0)
        low = (unique * own).sum() + (weight * values - weight.log1p()).sum() - unique.log().sum()
        if float(low) > height:  # the scales went too far: half of that way
            power *= 0.5
            change = 0.5 * change
        else:
            height, before = float(low), unique
            factor = root[:, None] * vectors * weight.sqrt()
            inverse = (1.0 - (vectors.square() * (weight / (1.0 + weight))).sum(-1)) / unique
            change = power * (inverse / own).log()
            power = min(1.0, 1.2 * power)
        if float(change.abs().max()) < CLOSE:
            break
        unique = before * change.exp()
    return factor, before


class WhitenedLowRank(NormalGuide):
    """u = m0 + L0 a + s0 (W eps_1 + exp(b) eps_2) with noise (eps_1 `[rank]`, eps_2 `[dim]`)."""

    width: Tensor
    guide: nn.Module
    rank: int
    _unique: Tensor | None

    def __init__(self, guide: nn.Module, start: Start) -> None:
        super().__init__()
        self.__dict__["guide"] = guide
        self.dim = len(start.loc)
        self.rank = int(getattr(guide, "rank"))  # noqa: B009
        self.noise_dim = self.dim + self.rank
        covariance = start.tril @ start.tril.T
        width = covariance.diagonal().sqrt()
        factor, unique = principal_factors(covariance / (width[:, None] * width), self.rank)
        # a zero factor is a saddle point that no gradient leaves
        if not bool(factor.any()):
            generator = torch.Generator().manual_seed(self.dim)
            factor = 0.1 * torch.randn(factor.shape, dtype=factor.dtype, generator=generator)
        self.__dict__["_unique"] = None  # scales of the last call of `nearest`
        self.register_buffer("origin", start.loc.clone())
        self.register_buffer("tril", start.tril.clone())
        self.register_buffer("width", width)
        self.shift = nn.Parameter(torch.zeros_like(start.loc))
        self.log_scale = nn.Parameter(0.5 * unique.log())
        self.factor = nn.Parameter(factor)

    def _pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.origin + self.tril @ self.shift,
            self.width[:, None] * self.factor,
            self.width * self.log_scale.exp(),
        )

    def _log_q(self, u: Tensor, loc: Tensor, factor: Tensor, scale: Tensor) -> Tensor:
        """Apply Woodbury's identity to (D^2 + F F^T)^-1, with a rank x rank Cholesky factor."""
        r = (u - loc) / scale
        scaled = factor / scale[:, None]
        inner = torch.linalg.cholesky(torch.eye(self.rank, dtype=u.dtype) + scaled.T @ scaled)
        inside = (r @ scaled).T
        saved = (inside * torch.cholesky_solve(inside, inner)).sum(0)
        logdet = scale.log().sum() + inner.diagonal().log().sum()
        return standard_normal_log_prob(r) + 0.5 * saved - logdet

    def sample(
        self, noise: Tensor, *, index: Tensor | None = None, stl: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map noise `[n, rank + dim]` to points and their log q; see `FlatGuide.sample`."""
        loc, factor, scale = self._pieces()
        u = loc + noise[:, : self.rank] @ factor.T + scale * noise[:, self.rank :]
        if stl:
            loc, factor, scale = loc.detach(), factor.detach(), scale.detach()
        return u, self._log_q(u, loc, factor, scale)

    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` at points `[n, dim]`."""
        return self._log_q(u, *self._pieces())

    def nearest(self, precision: Tensor) -> Tensor:
        """Take the best factors in the coordinates u / width; see `NormalGuide.nearest`.

        There can be several optima. The first call begins at the diagonal guide, later ones at the
        last scales.
        """
        width = self.width.double()
        back = torch.linalg.inv(self.tril.double()) * width  # v of u / width
        own = back.T @ precision @ back
        if self._unique is None:
            factor, unique = best_factors(own, self.rank, 1.0 / own.diagonal())
        else:
            factor, unique = best_factors(own, self.rank, self._unique, FEW)
        self.__dict__["_unique"] = unique
        with torch.no_grad():
            self.factor.copy_(factor)
            self.log_scale.copy_(0.5 * unique.log())
        spread = back @ factor
        return spread @ spread.T + (back * unique) @ back.T

    def watched(self) -> Tensor:
        """Return the whitened location shift and the log marginal scales.

        Factor and diagonal can be traded off against each other, so they are not watched.
        """
        variance = self.factor.detach().square().sum(-1) + (2 * self.log_scale.detach()).exp()
        return torch.cat([self.shift.detach(), 0.5 * variance.log()])

    def finish(self) -> None:
        """Fill the autoguide, whose factor is relative to its diagonal scale."""
        loc, factor, scale = self._pieces()
        fill(self.guide, loc=loc, scale=scale, cov_factor=factor / scale[:, None])


FAMILY = Family(
    name="low_rank",
    q="multivariate normal with low rank plus diagonal covariance",
    blind_spot="only `rank` shared directions of dependence",
    build=build,
    options=("rank",),
    flat=flat,
    richer=("full_rank",),
    slot=2,
)
