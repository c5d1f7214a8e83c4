"""Linear maps that whiten draws: x = m + L z, dense or diagonal plus low rank.

With n draws of d coordinates and C their covariance, D the diagonal matrix of their sds:

    d <= n / 10   L = chol((1 - rho) C + rho D^2), rho = d / n
    else          L = v^1/2 D (I + U diag(s) U'), U the directions that are no noise of variance v

The second costs d times the rank. Its eigenvalues are those of a spiked covariance: with
gamma = d / n a sample eigenvalue a v outside v (1 -+ sqrt(gamma))^2 belongs to the population
eigenvalue v (a + 1 - gamma +- sqrt((a + 1 - gamma)^2 - 4 a)) / 2. Source: Baik and Silverstein
(2006), Eigenvalues of large sample covariance matrices of spiked population models, Journal of
Multivariate Analysis 97.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Metric"]

ROWS = 10  # draws per coordinate for a dense matrix
RANK = 32  # most directions of the low-rank form
TINY = 1e-12  # of a variance, relative


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A map x = L z of whitened coordinates, `[dim]`.

    Attributes:
        scale: sds `[dim]`; of the low-rank form the diagonal in front of it.
        factor: lower triangular L `[dim, dim]`, None for the low-rank form.
        basis: orthonormal directions `[dim, rank]` of the low-rank form.
        stretch: s `[rank]`: the square roots of their eigenvalues, minus one.
    """

    scale: Tensor
    factor: Tensor | None = None
    basis: Tensor | None = None
    stretch: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor) -> Metric:
        """Return the metric of draws `[n, dim]`; a constant coordinate has the sd 1e-8."""
        n, dim = x.shape
        centered = x - x.mean(0)
        scale = centered.square().sum(0).div(max(n - 1, 1)).sqrt()
        scale = torch.where(torch.isfinite(scale) & (scale > 1e-8), scale, 1e-8)
        if dim * ROWS <= n:
            correlation = (centered / scale).T @ (centered / scale) / (n - 1)
            correlation.diagonal().add_(TINY)
            factor, failed = torch.linalg.cholesky_ex(correlation)
            if int(failed) == 0:
                return cls(scale=scale, factor=scale[:, None] * factor)
        return cls._low_rank(centered / scale, scale)

    @classmethod
    def _low_rank(cls, standardized: Tensor, scale: Tensor) -> Metric:
        n, dim = standardized.shape
        _, singular, rows = torch.linalg.svd(standardized, full_matrices=False)
        sample, gamma = singular.square() / max(n - 1, 1), dim / n
        level, spikes = _noise_level(sample, gamma, dim)
        relative = sample / level
        middle = relative + 1 - gamma
        root = (middle.square() - 4 * relative).clamp(min=0).sqrt()
        value = torch.where(relative > 1, middle + root, middle - root).clamp(min=1e-6) / 2
        strength = torch.where(spikes, value.log().abs(), 0.0)
        order = strength.argsort(descending=True)[: min(RANK, int(spikes.sum()))]
        return cls(
            scale=scale * level**0.5,
            basis=rows[order].T.contiguous(),
            stretch=value[order].sqrt() - 1,
        )

    @classmethod
    def diagonal(cls, scale: Tensor) -> Metric:
        """Return the diagonal metric of sds `[dim]`."""
        return cls(scale=scale, basis=scale.new_zeros(len(scale), 0), stretch=scale.new_zeros(0))

    def widened(self, by: float) -> Metric:
        """Return the metric with every sd multiplied by a number."""
        factor = None if self.factor is None else by * self.factor
        return Metric(scale=by * self.scale, factor=factor, basis=self.basis, stretch=self.stretch)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.scale)

    @property
    def log_det(self) -> Tensor:
        """The logarithm of the determinant of L."""
        if self.factor is not None:
            return self.factor.diagonal().log().sum()
        assert self.stretch is not None
        return self.scale.log().sum() + torch.log1p(self.stretch).sum()

    def push(self, z: Tensor) -> Tensor:
        """Return L z for rows `[n, dim]`."""
        if self.factor is not None:
            return z @ self.factor.T
        return self.scale * self._turn(z, self.stretch)

    def pull(self, gradient: Tensor) -> Tensor:
        """Return L' g: gradients `[n, dim]` in x as gradients in z."""
        if self.factor is not None:
            return gradient @ self.factor
        return self._turn(gradient * self.scale, self.stretch)

    def whiten(self, x: Tensor) -> Tensor:
        """Return L^-1 x for rows `[n, dim]`."""
        if self.factor is not None:
            return torch.linalg.solve_triangular(self.factor, x.T, upper=False).T
        return self._turn(x / self.scale, self._inverse)

    def unpull(self, gradient: Tensor) -> Tensor:
        """Return L^-T g: gradients `[n, dim]` in z as gradients in x."""
        if self.factor is not None:
            return torch.linalg.solve_triangular(self.factor.T, gradient.T, upper=True).T
        return self._turn(gradient, self._inverse) / self.scale

    @property
    def _inverse(self) -> Tensor:
        assert self.stretch is not None
        return 1 / (1 + self.stretch) - 1

    def _turn(self, rows: Tensor, stretch: Tensor | None) -> Tensor:
        assert self.basis is not None
        assert stretch is not None
        return rows + (rows @ self.basis * stretch) @ self.basis.T


def _noise_level(sample: Tensor, gamma: float, dim: int) -> tuple[float, Tensor]:
    """Return the variance of the directions that are noise, and which ones are not.

    The eigenvalues of noise of variance v lie within v (1 -+ sqrt(gamma))^2, and their mean is v.
    """
    level, spikes = float(sample.median()), torch.zeros_like(sample, dtype=torch.bool)
    for _ in range(10):
        low, high = (max(1 - gamma**0.5, 0.0)) ** 2, (1 + gamma**0.5) ** 2
        spikes = (sample > level * high) | (sample < level * low)
        level = max(float(sample[~spikes].sum()) / max(dim - int(spikes.sum()), 1), TINY)
    return level, spikes
