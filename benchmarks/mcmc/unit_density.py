"""The posteriors of several rows side by side, as one density of many points.

Where every latent value belongs to a row, the posterior is a product,

    p(u | x) = prod_i p(u_i | x_i),      log p(x_i, u_i) known for each row,

so chains and particles of one row need not wait for those of another. Points are `[row * n, d]`,
the n points of a row one after another, in coordinates of the row's own: u_i = m_i + L_i z with
m_i and L_i the mean and the Cholesky factor of the guide's q of the row. In them all rows look
alike, so that one kernel fits all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["UnitDensity"]

AT_ONCE = 16_384  # rows times points whose terms are evaluated together
TINY = 1e-8  # relative to an sd


class UnitDensity:
    """Log joint densities of rows in the coordinates of each row's own q.

    Args:
        log_joint: log p(x_i, u_i) `[n, row]` in nats at values `[n, row, d]`.
        draws: draws of the guide `[n, row, d]`, for centers and factors.
    """

    def __init__(self, log_joint: Callable[[Tensor], Tensor], draws: Tensor) -> None:
        self.log_joint = log_joint
        n, self.targets, self.dim = draws.shape
        self.dtype = draws.dtype
        self.center = draws.mean(0)  # [row, d]
        centered = (draws - self.center).transpose(0, 1)  # [row, n, d]
        covariance = centered.mT @ centered / (n - 1)
        scale = covariance.diagonal(dim1=1, dim2=2)
        covariance = covariance + torch.diag_embed(TINY * scale + 1e-300)
        self.factor = torch.linalg.cholesky(covariance)
        self.log_det = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        self.gradient_evaluations = 0

    def batch_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log densities `[row * n]` in nats and gradients `[row * n, d]`.

        Args:
            u: points `[row * n, d]` in the coordinates of the rows.
        """
        self.gradient_evaluations += len(u)
        z = u.reshape(self.targets, -1, self.dim)
        parts = [self._part(part) for part in z.split(max(1, AT_ONCE // self.targets), 1)]
        values = torch.cat([p[0] for p in parts], 1) + self.log_det[:, None]
        return values.flatten(), torch.cat([p[1] for p in parts], 1).flatten(0, 1)

    def _part(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self.log_joint(self._values(z))
            # a row's terms depend on its own values only
            (slope,) = torch.autograd.grad(value.sum(), z)
        return value.detach().T, slope

    def _values(self, z: Tensor) -> Tensor:
        return (self.center[:, None] + z @ self.factor.mT).transpose(0, 1)

    def values(self, x: Tensor) -> Tensor:
        """Return the latent values `[n, row, d]` of points `[row * n, d]`."""
        return self._values(x.reshape(self.targets, -1, self.dim))

    def points(self, values: Tensor) -> Tensor:
        """Return the points `[row * n, d]` of latent values `[n, row, d]`."""
        shifted = (values - self.center).transpose(0, 1)
        z = torch.linalg.solve_triangular(self.factor, shifted.mT, upper=False).mT
        return z.flatten(0, 1)
