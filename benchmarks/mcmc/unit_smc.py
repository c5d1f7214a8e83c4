"""Tempered sequential Monte Carlo of many rows at once: draws and an evidence of each.

Every row has islands of its own; stages, metrics and steps come from one pilot, in which a stage
is as long as nine of ten rows allow. See `benchmarks.mcmc.tempered_smc`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.mcmc.batched_hmc import Path, Streams
from benchmarks.mcmc.islands import APART
from benchmarks.mcmc.tempered_smc import pilot, run_plan
from benchmarks.mcmc.unit_density import UnitDensity
from zoo.seeds import derive_seed

__all__ = ["ISLANDS", "PARTICLES", "RowBase", "UnitSmc", "unit_smc"]

ISLANDS, PARTICLES = 8, 512  # of each row
MOVES, EXTRA, LEAPFROGS = 2, 4, 6  # of a stage, further ones at the last, steps of each: few
# latent values need less than a whole posterior
DIRECT = 4096  # points of the base by which SMC is confirmed
ENOUGH, AGREE = 100, 4.0  # effective ones of them, and errors within which both evidences lie
# Of the base: share, factor on every sd, degrees of freedom.
GUIDE, PRIOR = (0.7, 2.0, 7), (0.3, 1.2, 3)


@dataclass(frozen=True, kw_only=True)
class UnitSmc:
    """Draws and evidences of rows.

    Attributes:
        values: `[row, island, particle, d]`, equally weighted within an island.
        log_z: log Z-hat of every island, `[row, island]`, nats.
        direct: log Z by importance sampling from points of the base alone, `[row]`, nats.
        direct_ess: effective sample size of their weights, `[row]`.
        acceptance: mean acceptance of the last transition.
        gradients, depth: evaluations of the density, all and one after another.
    """

    values: Tensor
    log_z: Tensor
    direct: Tensor
    direct_ess: Tensor
    acceptance: float
    gradients: int
    depth: int

    @property
    def evidence(self) -> tuple[Tensor, Tensor]:
        """Log Z of each row `[row]` with its standard error, nats.

        The log of the mean Z-hat, plus half of its relative variance: the logarithm of an unbiased
        estimate is too low by that much, and the mean over many rows would show it.
        """
        k = self.log_z.shape[1]
        value = self.log_z.logsumexp(1) - math.log(k)
        se = torch.exp(self.log_z - value[:, None]).std(1) / k**0.5
        return value + 0.5 * se.square(), se

    @property
    def apart(self) -> Tensor:
        """Whether the islands of a row lie more than one nat apart, `[row]`."""
        return ~(self.log_z.amax(1) - self.log_z.amin(1) <= APART)

    @property
    def confirmed(self) -> Tensor:
        """Whether importance sampling from the base alone gives the evidence of a row, `[row]`.

        It does if its weights leave 100 points and both values lie within four errors: nothing
        that the base covers is then missed, whatever chains can or cannot forget.
        """
        value, se = self.evidence
        error = (se.square() + 1 / self.direct_ess).sqrt()
        near = (value - self.direct).abs() <= AGREE * error
        return near & (self.direct_ess >= ENOUGH)

    def take(self, rows: Tensor) -> UnitSmc:
        """Return the rows with these numbers."""
        return replace(
            self,
            values=self.values[rows],
            log_z=self.log_z[rows],
            direct=self.direct[rows],
            direct_ess=self.direct_ess[rows],
        )

    def draws(self, n: int, seed: int) -> Tensor:
        """Return n equally weighted draws of every row `[n, row, d]`, rows independent."""
        rows, _, each, _ = self.values.shape
        generator = torch.Generator().manual_seed(seed)
        weights = torch.softmax(self.log_z, 1)[:, :, None].expand(-1, -1, each) / each
        chosen = torch.multinomial(weights.flatten(1), n, replacement=True, generator=generator)
        flat = self.values.flatten(1, 2)
        return flat[torch.arange(rows)[:, None], chosen].transpose(0, 1)

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return means `[row, ...]` of values `[row, island, particle, ...]` with their errors.

        The error is that of a ratio of unbiased sums over islands.
        """
        k = self.log_z.shape[1]
        islands = values.mean(2)
        share = torch.softmax(self.log_z, 1).reshape(*self.log_z.shape, *[1] * (islands.ndim - 2))
        mean = (share * islands).sum(1)
        error = (share * (islands - mean[:, None])).square().sum(1) * (k / (k - 1))
        return mean, error.sqrt()


class RowBase:
    """A mixture of two t densities for every row: the widened q of the row, and the prior.

    Draws are stratified as in `Mixture`. Everything is in the coordinates of the rows.

    Args:
        density: the rows.
        prior: draws of the prior `[n, row, d]`.
        particles: points of one island.
    """

    def __init__(self, density: UnitDensity, prior: Tensor, particles: int) -> None:
        rows, dim, dtype = density.targets, density.dim, density.dtype
        self.targets, self.dim, self.particles = rows, dim, particles
        at = density.points(prior).reshape(rows, -1, dim)
        center = at.mean(1)
        covariance = (at - center[:, None]).mT @ (at - center[:, None]) / (at.shape[1] - 1)
        eye = torch.eye(dim, dtype=dtype).expand(rows, -1, -1)
        wide = torch.linalg.cholesky(covariance + 1e-9 * covariance.diagonal(0, 1, 2).diag_embed())
        self.parts = (
            (torch.zeros(rows, dim, dtype=dtype), GUIDE[1] * eye, GUIDE[2]),
            (center, PRIOR[1] * wide, PRIOR[2]),
        )
        first = round(particles * GUIDE[0] / (GUIDE[0] + PRIOR[0]))
        self.counts = (first, particles - first)
        self.log_shares = tuple(math.log(count / particles) for count in self.counts)

    def draw(self, streams: Streams) -> Tensor:
        """Return points `[row * island * particle, d]`; streams are of row and island."""
        drawn = []
        for (center, factor, freedom), count in zip(self.parts, self.counts, strict=True):
            normal = streams.normal(count, self.dim, center.dtype)
            squares = streams.normal(count, freedom, center.dtype).square().mean(1).sqrt()
            z = (normal / squares[:, None]).reshape(self.targets, -1, self.dim)
            x = center[:, None] + z @ factor.mT
            drawn.append(x.reshape(len(streams.generators), count, self.dim))
        return torch.cat(drawn, 1).flatten(0, 1)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log q `[row * n]` at points `[row * n, d]` in nats and its gradients."""
        at = x.reshape(self.targets, -1, self.dim)
        values, slopes = [], []
        for share, (center, factor, freedom) in zip(self.log_shares, self.parts, strict=True):
            z = torch.linalg.solve_triangular(
                factor, (at - center[:, None]).mT, upper=False
            ).mT  # [row, n, d]
            square = z.square().sum(2)
            log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
            power = 0.5 * (freedom + self.dim)
            constant = math.lgamma(power) - math.lgamma(freedom / 2)
            constant -= 0.5 * self.dim * math.log(freedom * math.pi)
            values.append(
                share + constant - log_det[:, None] - power * torch.log1p(square / freedom)
            )
            pulled = -2 * power / (freedom + square)[..., None] * z
            slopes.append(torch.linalg.solve_triangular(factor.mT, pulled.mT, upper=True).mT)
        total = torch.stack(values).logsumexp(0)
        weights = torch.exp(torch.stack(values) - total)[..., None]
        slope = (weights * torch.stack(slopes)).sum(0)
        return total.flatten(), slope.flatten(0, 1)


def unit_smc(
    density: UnitDensity,
    prior: Tensor,
    *,
    islands: int = ISLANDS,
    particles: int = PARTICLES,
    seed: int = 0,
) -> UnitSmc:
    """Run the pilot, and counting islands of every row.

    Args:
        density: the rows.
        prior: draws of the prior `[n, row, d]`.
        islands: of each row, at least 2 for an error.
        particles: points of an island.
        seed: of all noise.

    Raises:
        FitError: the density is finite at no point of the base, or the path does not end.
    """
    base = RowBase(density, prior, particles)
    rows = density.targets
    plan = pilot(
        density, base, targets=rows, seed=seed, moves=MOVES, extra=EXTRA, leapfrogs=LEAPFROGS
    )
    path = Path(density, base)
    seeds = [derive_seed(seed, "smc", "row", i, k) for i in range(rows) for k in range(islands)]
    state, log_z, _, moved = run_plan(path, base, plan, Streams(seeds))
    fresh = Streams([derive_seed(seed, "smc", "direct", i) for i in range(rows)])
    start = path(RowBase(density, prior, DIRECT).draw(fresh))
    assert start.log_q is not None
    weights = (start.log_p - start.log_q).double().reshape(rows, -1)
    values = density.values(state.x)  # [island * particle, row, d]
    return UnitSmc(
        values=values.transpose(0, 1).reshape(rows, islands, particles, density.dim),
        log_z=log_z.reshape(rows, islands),
        direct=weights.logsumexp(1) - math.log(DIRECT),
        direct_ess=torch.exp(2 * weights.logsumexp(1) - (2 * weights).logsumexp(1)),
        acceptance=float(moved.acceptance.mean()),
        gradients=path.gradients + plan.gradients,
        depth=path.calls + plan.depth,
    )
