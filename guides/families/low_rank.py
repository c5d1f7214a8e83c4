"""Low rank plus diagonal: q(u) = Normal(u; m, S (W W^T + D) S), W `[dim, rank]`.

D is diagonal. It cannot represent skewness, tails or a second mode, nor more than `rank` shared
directions of dependence. It is useful above a few hundred dimensions; below, `full_rank` is both
faster and richer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.optimize
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

# of `best_factors`: alternations from afar, steps after them, steps where it begins nearby
SWEEPS, MANY, FEW = 20, 500, 10
LEAST = 1e-3  # variance of its own that a coordinate keeps, as a share of 1 / P_ii


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
    precision: Tensor, rank: int, begin: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return W `[dim, rank]` and d `[dim]` that minimize tr(P S) - log |S|, S = W W^T + diag(d).

    There can be several optima. From afar, first the best W of the best diagonal alternates with
    scales moved towards (S^-1)_ii = P_ii: for given d it has the eigenvectors of d^1/2 P d^1/2
    with the smallest eigenvalues, as in factor analysis. Then scipy's L-BFGS-B moves both. Every
    d_i stays above 0.001 / P_ii.

    Args:
        precision: P `[dim, dim]`, positive definite.
        rank: columns of W.
        begin: W and d to begin with, where they are nearly right; only a few steps are taken.
    """
    if begin is None:
        unique = 1.0 / precision.diagonal()
        factor, unique = _spectral(precision, rank, unique)
        for _ in range(SWEEPS):
            inverse = (factor @ factor.T + torch.diag(unique)).inverse()
            ratio = inverse.diagonal() / precision.diagonal()
            factor, unique = _spectral(precision, rank, unique * ratio.sqrt())
        return _polished(precision, factor, unique, MANY)
    return _polished(precision, *begin, FEW)


def _spectral(precision: Tensor, rank: int, unique: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best W for given d, and d."""
    root = unique.sqrt()
    values, vectors = torch.linalg.eigh(root[:, None] * precision * root)
    weight = (1.0 / values[:rank].clamp(min=1e-12) - 1.0).clamp(min=1e-6)  # zero is a saddle
    return root[:, None] * vectors[:, :rank] * weight.sqrt(), unique


def _polished(
    precision: Tensor, factor: Tensor, unique: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Return W and d after some steps of L-BFGS-B on the cost, in units of the scales given."""
    width = unique.sqrt().numpy()
    scaled = precision.numpy() * width[:, None] * width
    dim, rank = factor.shape

    def cost(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        w, d = x[: dim * rank].reshape(dim, rank), np.exp(x[dim * rank :])
        covariance = w @ w.T + np.diag(d)
        rest = scaled - np.linalg.inv(covariance)
        value = 0.5 * (float((scaled * covariance).sum()) - np.linalg.slogdet(covariance)[1])
        return value, np.concatenate([(rest @ w).ravel(), 0.5 * rest.diagonal() * d])

    first = np.concatenate([(factor.numpy() / width[:, None]).ravel(), np.zeros(dim)])
    low = np.log(LEAST / scaled.diagonal())
    bounds = [(None, None)] * (dim * rank) + [(min(0.0, float(x)), None) for x in low]
    found = scipy.optimize.minimize(
        cost,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": iterations, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-7},
    )
    w, d = found.x[: dim * rank].reshape(dim, rank), np.exp(found.x[dim * rank :])
    return torch.as_tensor(width[:, None] * w), torch.as_tensor(width**2 * d)


class WhitenedLowRank(NormalGuide):
    """u = m0 + L0 a + s0 (W eps_1 + exp(b) eps_2) with noise (eps_1 `[rank]`, eps_2 `[dim]`)."""

    width: Tensor
    guide: nn.Module
    rank: int
    _last: tuple[Tensor, Tensor] | None

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
        self.__dict__["_last"] = None  # factors of the last call of `nearest`
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

        The first call searches from afar, later ones from the last factors.
        """
        width = self.width.double()
        back = self.back * width  # v of u / width
        own = back.T @ precision @ back
        factor, unique = best_factors(own, self.rank, self._last)
        self.__dict__["_last"] = factor, unique
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
    normal=True,
    richer=("full_rank",),
    slot=2,
)
