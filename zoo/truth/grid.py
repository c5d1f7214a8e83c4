"""Exact posteriors of latent-variable models with up to three latent dimensions, on a grid.

For data x_i with latent z in R^d, d <= 3, and points z_g with weights w_g of a product grid that
all data share,

    log p(x_i) = log sum_g w_g p(z_g) p(x_i | z_g)             [nats]
    p(z_g | x_i) = w_g p(z_g) p(x_i | z_g) / p(x_i)

The decoder is run once on the grid; the likelihood of all images is then one matrix product. The
trapezoid rule is used, whose error falls faster than any power of the step for a smooth integrand
that vanishes at the boundary. `check` doubles the number of points per axis and measures the mass
near the boundary of the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import UsageError

__all__ = [
    "BernoulliLikelihood",
    "GaussianLikelihood",
    "GridCheck",
    "LatentGrid",
    "SequentialLikelihood",
    "box_for",
    "standard_normal",
]

POINTS = {1: 1001, 2: 201, 3: 61}
LARGEST = 3
MOST_POINTS = 700_000
BORDER = 1e-6  # largest admissible posterior mass near the boundary
CHUNK = 4_000_000  # entries of one block [row, point]
EDGE = 0.06  # share of the box on each side that counts as its boundary
Function = Callable[[Tensor], Tensor]


def standard_normal(points: Tensor) -> Tensor:
    """Return the log density of independent standard normals, `[point, d] -> [point]`, in nats."""
    return -0.5 * points.square().sum(-1) - 0.5 * points.shape[-1] * math.log(2 * math.pi)


class BernoulliLikelihood:
    """log p(x | z) = sum_j x_j l_j - softplus(l_j) with the logits l = decoder(z); x in {0, 1}.

    Args:
        decoder: any PyTorch callable `[point, d] -> [point, pixel]` that returns logits.
    """

    def __init__(self, decoder: Function) -> None:
        self.decoder = decoder

    def prepare(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope `[point, pixel]` and intercept `[point]` of the log likelihood in x."""
        logits = torch.cat([self.decoder(part) for part in points.split(20_000)])
        return logits, -torch.nn.functional.softplus(logits).sum(-1)

    def log_prob(self, x: Tensor, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """Return log p(x | z) `[row, point]` in nats."""
        logits, constant = prepared
        return torch.addmm(constant, x, logits.T)

    def paired(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x_i | z_i) in nats, for x `[row, pixel]` and z `[*batch, row, d]`."""
        logits = self.decoder(z)
        return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)


class SequentialLikelihood:
    """Likelihood in which every pixel also depends on the previous ones, l = decoder(z) + W x.

    It is that of `zoo.distributions.multivariate.SequentialBernoulli`.

    Args:
        decoder: any PyTorch callable `[point, d] -> [point, pixel]` that returns logits.
        weight: W `[pixel, pixel]`; only the part below the diagonal is used.
    """

    def __init__(self, decoder: Function, weight: Tensor) -> None:
        self.decoder, self.weight = decoder, weight

    def prepare(self, points: Tensor) -> Tensor:
        """Return the decoder's logits `[point, pixel]`."""
        return torch.cat([self.decoder(part) for part in points.split(20_000)])

    def log_prob(self, x: Tensor, prepared: Tensor) -> Tensor:
        """Return log p(x | z) `[row, point]` in nats.

        The normalizer depends on the row, so every row is a separate pass.
        """
        seen = x @ self.weight.tril(-1).T
        softplus = torch.nn.functional.softplus
        return torch.stack(
            [
                prepared @ row + row @ own - softplus(prepared + own).sum(-1)
                for row, own in zip(x, seen, strict=True)
            ]
        )

    def paired(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x_i | z_i) for rows with their own points, in nats."""
        logits = self.decoder(z) + x @ self.weight.tril(-1).T
        return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)


class GaussianLikelihood:
    """x | z ~ Normal(decoder(z), sigma^2 I).

    Args:
        decoder: any PyTorch callable `[point, d] -> [point, pixel]` that returns means.
        sigma: noise standard deviation in the units of x.
    """

    def __init__(self, decoder: Function, sigma: float) -> None:
        self.decoder, self.sigma = decoder, sigma

    def prepare(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and intercept in x of the part of the log likelihood that depends on z."""
        mean = torch.cat([self.decoder(part) for part in points.split(20_000)])
        return mean / self.sigma**2, -0.5 * (mean / self.sigma).square().sum(-1)

    def log_prob(self, x: Tensor, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """Return log p(x | z) `[row, point]` in nats."""
        own = -0.5 * (x / self.sigma).square().sum(-1) - x.shape[-1] * (
            math.log(self.sigma) + 0.5 * math.log(2 * math.pi)
        )
        return torch.addmm(prepared[1], x, prepared[0].T) + own[:, None]

    def paired(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x_i | z_i) for rows with their own points, in nats."""
        return torch.distributions.Normal(self.decoder(z), self.sigma).log_prob(x).sum(-1)


@dataclass(frozen=True, kw_only=True)
class GridCheck:
    """Accuracy of a grid: changes on doubling its points per axis, and mass near the boundary."""

    log_evidence_change: float
    mean_change: float
    log_sd_change: float
    border_mass: float

    @property
    def ok(self) -> bool:
        """Whether the grid is accurate enough to serve as the ground truth.

        Doubling must change log p(x) by less than 0.001 nats and moments by less than 0.001 sd,
        and the mass near the boundary must be below 1e-6.
        """
        return (
            self.log_evidence_change < 1e-3
            and max(self.mean_change, self.log_sd_change) < 1e-3
            and self.border_mass < BORDER
        )

    @property
    def sentence(self) -> str:
        """The figures of the check in one sentence."""
        return (
            f"Doubling the grid changes log p(x) by at most {self.log_evidence_change:.1g} nats,"
            f" means by {self.mean_change:.1g}, log sds by {self.log_sd_change:.1g} sd; at most"
            f" {self.border_mass:.1g} of a posterior lies near the border."
        )


def box_for(log_prior: Function, latent: int, *, widest: float = 12.0) -> float:
    """Return the half width of a box with all but about 1e-11 of a prior centered near zero.

    It is at most `widest`. The prior bounds the extent of the posterior up to the likelihood
    ratio; `LatentGrid.check` measures the mass at the boundary.
    """
    radius = torch.linspace(1.0, widest, 45, dtype=torch.float64)
    directions = torch.cat(
        [torch.eye(latent, dtype=torch.float64), -torch.eye(latent, dtype=torch.float64)]
    )
    with torch.no_grad():
        values = (
            log_prior((radius[:, None, None] * directions).reshape(-1, latent))
            .reshape(len(radius), -1)
            .amax(-1)
        )
        top = float(
            log_prior(torch.zeros(1, latent, dtype=torch.float64)).max().maximum(values.max())
        )
    outside = (values > top - 24.5).nonzero()
    return (
        float(radius[min(len(radius) - 1, int(outside.max()) + 1)])
        if len(outside)
        else float(radius[0])
    )


class LatentGrid:
    """A product grid over the latent space, with the decoder evaluated on it once.

    Args:
        likelihood: one of the likelihoods above, around any PyTorch decoder.
        latent: number of latent dimensions, 1 to 3.
        log_prior: log p(z) at points `[point, d]`; default the standard normal.
        points: points per axis; default 1,001, 201 and 61 in one, two and three dimensions.
        half_width: half the width of the box, one number or one per axis `[d]`; default from the
            prior.
        center: center of the box `[d]`; default zero.
        coarse: a grid over the same box with half the intervals per axis; a likelihood with a
            method `refine` then evaluates rows only where that grid shows mass.

    Raises:
        UsageError: more than three dimensions.
    """

    def __init__(
        self,
        likelihood: Any,
        latent: int,
        *,
        log_prior: Function = standard_normal,
        points: int | None = None,
        half_width: float | Tensor | None = None,
        center: Tensor | None = None,
        coarse: LatentGrid | None = None,
    ) -> None:
        if not 1 <= latent <= LARGEST:
            raise UsageError(
                f"A grid over {latent} latent dimensions is too large; accepted: 1 to {LARGEST}."
                " Use NUTS per datum beyond."
            )
        self.likelihood, self.latent, self.log_prior = likelihood, latent, log_prior
        self.number = POINTS[latent] if points is None else points
        self.half_width = box_for(log_prior, latent) if half_width is None else half_width
        half = torch.as_tensor(self.half_width, dtype=torch.float64).expand(latent)
        axis = torch.linspace(-1.0, 1.0, self.number, dtype=torch.float64)
        self.axes = [
            float(half[k]) * axis + (0.0 if center is None else float(center[k]))
            for k in range(latent)
        ]
        self.points = torch.cartesian_prod(*self.axes).reshape(-1, latent)  # [point, d]
        self.step = half * (2.0 / (self.number - 1))  # [d]
        self.log_weight = float(self.step.log().sum())
        with torch.no_grad():
            self.log_prior_values = log_prior(self.points)
            self._prepared: Any = (
                likelihood.prepare(self.points)
                if coarse is None or not hasattr(likelihood, "refine")
                else likelihood.refine(coarse._prepared, self.points)
            )
        self._moments: tuple[Tensor, tuple[Tensor, Tensor, Tensor]] | None = None
        self._checked: tuple[Tensor, GridCheck] | None = None

    def log_joint(self, x: Tensor) -> Tensor:
        """Return log p(x_i, z_g) `[row, point]` in nats."""
        with torch.no_grad():
            return self.likelihood.log_prob(x, self._prepared) + self.log_prior_values

    def blocks(self, x: Tensor) -> Any:
        """Yield slices of rows with their log joint, so that memory stays bounded."""
        size = max(1, CHUNK // len(self.points))
        for begin in range(0, len(x), size):
            rows = slice(begin, min(begin + size, len(x)))
            yield rows, self.log_joint(x[rows])

    def log_evidence(self, x: Tensor) -> Tensor:
        """Return log p(x_i) `[row]` in nats."""
        return torch.cat([joint.logsumexp(-1) + self.log_weight for _, joint in self.blocks(x)])

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p(x_i) `[row]`, posterior means `[row, d]` and covariances `[row, d, d]`.

        The result is cached for the last tensor.
        """
        if self._moments is not None and self._moments[0] is x:
            return self._moments[1]
        parts = []
        square = (self.points[:, :, None] * self.points[:, None, :]).reshape(len(self.points), -1)
        for _, joint in self.blocks(x):
            total = joint.logsumexp(-1, keepdim=True)
            weight = (joint - total).exp()
            mean = weight @ self.points
            second = (weight @ square).reshape(-1, self.latent, self.latent)
            parts.append(
                (total[:, 0] + self.log_weight, mean, second - mean[:, :, None] * mean[:, None, :])
            )
        evidence, mean, covariance = (torch.cat(p) for p in zip(*parts, strict=True))
        self._moments = (x, (evidence, mean, covariance))
        return evidence, mean, covariance

    def border_mass(self, x: Tensor) -> Tensor:
        """Return the posterior mass `[row]` in the outermost 6 percent of the box on each side."""
        middle = torch.stack([a.mean() for a in self.axes])
        near = ((self.points - middle).abs() > (1 - 2 * EDGE) * self.half_width).any(-1)
        return torch.cat(
            [
                (joint[:, near].logsumexp(-1) - joint.logsumexp(-1)).exp()
                for _, joint in self.blocks(x)
            ]
        )

    def doubled(self) -> LatentGrid:
        """Return the grid with twice as many intervals per axis over the same box."""
        center = torch.stack([a.mean() for a in self.axes])
        return LatentGrid(
            self.likelihood,
            self.latent,
            log_prior=self.log_prior,
            points=2 * self.number - 1,
            half_width=self.half_width,
            center=center,
            coarse=self,
        )

    def check(self, x: Tensor, fine: LatentGrid | None = None) -> GridCheck:
        """Compare with the doubled grid and measure the mass near the boundary.

        Args:
            x: images `[row, pixel]`; the result is cached for the last tensor.
            fine: `self.doubled()`, if it exists already.
        """
        if self._checked is None or self._checked[0] is not x:
            coarse, double = self.moments(x), (fine or self.doubled()).moments(x)
            sd = double[2].diagonal(dim1=-2, dim2=-1).sqrt()
            ratio = (coarse[2].diagonal(dim1=-2, dim2=-1).clamp(min=1e-300).sqrt() / sd).log()
            found = GridCheck(
                log_evidence_change=float((coarse[0] - double[0]).abs().max()),
                mean_change=float(((coarse[1] - double[1]) / sd).abs().max()),
                log_sd_change=float(ratio.abs().max()),
                border_mass=float(self.border_mass(x).max()),
            )
            self._checked = (x, found)
        return self._checked[1]

    def sufficient(self, x: Tensor) -> LatentGrid:
        """Return a grid for which `check` is ok, widened or refined from this one as needed.

        If none is ok within the limit of points, the last one within the limit is returned.
        """
        grid = self
        while True:
            fine = grid.doubled()
            found = grid.check(x, fine)
            if found.ok:
                return grid
            other = grid.wider() if found.border_mass >= BORDER else fine
            del fine  # four times as large: free it before the next one is built
            if other.number**grid.latent > MOST_POINTS:
                return grid
            grid = other

    def wider(self) -> LatentGrid:
        """Return the grid over a box 1.5 times as wide, with the same step."""
        center = torch.stack([a.mean() for a in self.axes])
        return LatentGrid(
            self.likelihood,
            self.latent,
            log_prior=self.log_prior,
            points=3 * (self.number - 1) // 2 + 1,
            half_width=1.5 * self.half_width,
            center=center,
        )

    def sample(self, x: Tensor, n: int, seed: int) -> Tensor:
        """Return n independent posterior draws of every row, `[n, row, d]`.

        A grid point is drawn by its mass and then shifted by a triangular variate of one step to
        each side, so the draws follow the multilinear interpolation of the grid's density. Its
        variance exceeds the posterior's by step^2 / 6.
        """
        stream = np.random.Generator(np.random.PCG64(seed))
        out = torch.empty(n, len(x), self.latent, dtype=torch.float64)
        for rows, joint in self.blocks(x):
            cumulative = (joint - joint.logsumexp(-1, keepdim=True)).exp().cumsum(-1)
            uniform = torch.as_tensor(stream.random((joint.shape[0], n))) * cumulative[:, -1:]
            # [row, n]
            chosen = torch.searchsorted(cumulative, uniform).clamp(max=len(self.points) - 1)
            move = (
                torch.as_tensor(
                    stream.triangular(-1.0, 0.0, 1.0, (joint.shape[0], n, self.latent))
                )
                * self.step
            )
            out[:, rows] = (self.points[chosen] + move).transpose(0, 1)
        return out

    def around(
        self, mean: Tensor, covariance: Tensor, *, points: int | None = None, sds: float = 9.0
    ) -> LatentGrid:
        """Return a finer grid around one posterior, at most as wide as this one.

        Args:
            mean: posterior mean `[d]`.
            covariance: posterior covariance `[d, d]`.
            points: points per axis; default those of this grid.
            sds: half width of the box in posterior sds.
        """
        # [d]: along an axis the data say nothing about, the box is far wider than along the others
        reach = sds * covariance.diagonal().sqrt()
        return LatentGrid(
            self.likelihood,
            self.latent,
            log_prior=self.log_prior,
            points=points or self.number,
            half_width=torch.minimum(reach, torch.as_tensor(self.half_width, dtype=reach.dtype)),
            center=mean,
        )

    def aggregate(self, x: Tensor) -> Tensor:
        """Return the log aggregate posterior density, log (1/n) sum_i p(z_g | x_i), `[point]`."""
        total = torch.zeros(len(self.points), dtype=torch.float64)
        for _, joint in self.blocks(x):
            total += (joint - joint.logsumexp(-1, keepdim=True) - self.log_weight).exp().sum(0)
        return (total / len(x)).clamp(min=1e-300).log()

    def information(self, x: Tensor) -> dict[str, float]:
        """Return the mutual information of image and latent, and the KL of the aggregate.

        I = (1/n) sum_i KL(p(z | x_i) || aggregate) is at most log n. The second number is the KL
        of the aggregate from the prior; the two sum to the mean KL from the prior. Both are exact,
        in nats, under the empirical distribution of the data.
        """
        aggregate, weight = self.aggregate(x), math.exp(self.log_weight)
        mutual = from_prior = 0.0
        for _, joint in self.blocks(x):
            posterior = joint - joint.logsumexp(-1, keepdim=True) - self.log_weight
            mass = posterior.exp() * weight
            mutual += float((mass * (posterior - aggregate)).sum())
            from_prior += float((mass * (posterior - self.log_prior_values)).sum())
        total = float((aggregate.exp() * weight * (aggregate - self.log_prior_values)).sum())
        return {
            "mutual_information_nats": mutual / len(x),
            "aggregate_kl_nats": total,
            "mean_kl_nats": from_prior / len(x),
        }
