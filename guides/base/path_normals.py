"""Normals along a path of L-BFGS, and the mixture of those that are kept.

After l accepted steps with differences s of points and y of gradients of -log p, the inverse
Hessian is that of L-BFGS in compact form (Byrd, Nocedal and Schnabel 1994), with a diagonal alpha
in place of a multiple of the identity (Gilbert and Lemarechal 1989):

    H = diag(alpha) + B G B',     B = [diag(alpha) Y, S]
    G = [0, -E^-1; -E^-T, E^-T (D + Y' diag(alpha) Y) E^-1]

E is the upper triangle of S'Y and D its diagonal. With a thin QR of diag(alpha)^-1/2 B = Q R and
the eigenvalues of I + R G R' = V diag(l) V' the covariance and its symmetric root are

    H = A (I + W diag(l - 1) W') A,   root: A (I + W diag(l^1/2 - 1) W'),   A = diag(alpha)^1/2

with W = Q V, and log |H| = sum log alpha + sum log l. No matrix of the dimension is formed.

Source: Zhang, Carpenter, Gelman and Vehtari (2022), JMLR 23(306), algorithms 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guides.base.flat import FlatGuide, standard_normal_log_prob

__all__ = ["NormalMixture", "PathNormal", "diagonal", "from_pairs"]


@dataclass(frozen=True, kw_only=True)
class PathNormal:
    """Normal(loc, A (I + W diag(stretch^2 - 1) W') A) with A = diag(scale).

    Attributes:
        loc: mean `[dim]`.
        scale: A `[dim]`.
        directions: W `[dim, rank]`, orthonormal columns; those not in use are zero.
        stretch: l^1/2 `[rank]`, one where a column is not in use.
    """

    loc: Tensor
    scale: Tensor
    directions: Tensor
    stretch: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Return loc + A (I + W diag(stretch - 1) W') noise for noise `[n, dim]`."""
        along = noise @ self.directions
        return self.loc + self.scale * (noise + (along * (self.stretch - 1)) @ self.directions.T)

    def log_prob(self, u: Tensor) -> Tensor:
        """Return the log density `[n]` in nats at points `[n, dim]`."""
        z = (u - self.loc) / self.scale
        along = z @ self.directions
        white = z + (along * (1 / self.stretch - 1)) @ self.directions.T
        volume = self.scale.log().sum() + self.stretch.log().sum()
        return standard_normal_log_prob(white) - volume

    def product(self, vector: Tensor) -> Tensor:
        """Return the covariance times a vector `[dim]`."""
        inner = self.scale * vector
        along = self.directions.T @ inner
        return self.scale * (inner + self.directions @ ((self.stretch.square() - 1) * along))

    @property
    def covariance(self) -> Tensor:
        """The covariance `[dim, dim]`."""
        inside = (self.directions * (self.stretch.square() - 1)) @ self.directions.T
        inside = inside + torch.eye(len(self.loc), dtype=self.loc.dtype)
        return self.scale[:, None] * inside * self.scale

    @property
    def sds(self) -> Tensor:
        """Marginal standard deviations `[dim]`."""
        extra = self.directions.square() @ (self.stretch.square() - 1)
        return self.scale * (1 + extra).clamp(min=0.0).sqrt()

    @property
    def widest(self) -> Tensor:
        """The longest axis `[dim]`, of the length of its standard deviation."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors[:, -1] * values[-1].clamp(min=0.0).sqrt()


def diagonal(alpha: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Return the diagonal `[dim]` after a step s with change y of the gradient of -log p.

    1 / alpha' = a / (b alpha) + y^2 / b - a s^2 / (b c alpha^2), where a = y' diag(alpha) y,
    b = s'y > 0 and c = s' diag(alpha)^-1 s.
    """
    a = (change.square() * alpha).sum()
    b = step @ change
    c = (step.square() / alpha).sum()
    inverse = a / (b * alpha) + change.square() / b - a * step.square() / (b * c * alpha.square())
    return 1 / inverse


def from_pairs(
    alpha: Tensor,
    steps: Sequence[Tensor],
    changes: Sequence[Tensor],
    point: Tensor,
    gradient: Tensor,
    rank: int,
) -> PathNormal | None:
    """Return the normal at a point of a path, None where rounding leaves no covariance.

    Its mean is point + H gradient, where a Newton step with H leads.

    Args:
        alpha: the diagonal `[dim]`, positive.
        steps: differences of points, each `[dim]`, oldest first.
        changes: differences of the gradients of -log p, each `[dim]`.
        point: the point `[dim]`.
        gradient: of log p there `[dim]`.
        rank: columns of `directions`, at least min(dim, 2 len(steps)).
    """
    s, y = torch.stack(list(steps), 1), torch.stack(list(changes), 1)  # [dim, pair]
    root = alpha.sqrt()
    inner = s.T @ y
    upper, none = torch.triu(inner), torch.zeros_like(inner)
    wide = torch.diag(inner.diagonal()) + y.T @ (alpha[:, None] * y)
    back = torch.linalg.solve_triangular(upper, torch.eye(len(upper), dtype=s.dtype), upper=True)
    middle = torch.cat(
        [torch.cat([none, -back], 1), torch.cat([-back.T, back.T @ wide @ back], 1)], 0
    )
    q, r = torch.linalg.qr(torch.cat([root[:, None] * y, s / root[:, None]], 1))
    small = torch.eye(len(r), dtype=s.dtype) + r @ middle @ r.T
    if not bool(torch.isfinite(small).all()):
        return None
    values, vectors = torch.linalg.eigh(0.5 * (small + small.T))
    if not float(values[0]) > 0:
        return None
    directions, stretch = s.new_zeros(len(point), rank), s.new_ones(rank)
    directions[:, : len(r)] = q @ vectors
    stretch[: len(r)] = values.sqrt()
    normal = PathNormal(loc=point, scale=root, directions=directions, stretch=stretch)
    loc = point + normal.product(gradient)
    if not bool(torch.isfinite(loc).all()):
        return None
    return PathNormal(loc=loc, scale=root, directions=directions, stretch=stretch)


class NormalMixture(FlatGuide):
    """q(u) = sum_k w_k Normal(u; loc_k, H_k), with at most a fixed number of normals.

    Buffers, over components that are not in use too, which have weight 0: `weight` and
    `weight_error` `[component]`, `loc` and `scale` `[component, dim]`, `directions`
    `[component, dim, rank]`, `stretch` `[component, rank]`.
    """

    weight: Tensor
    weight_error: Tensor
    loc: Tensor
    scale: Tensor
    directions: Tensor
    stretch: Tensor

    def __init__(self, dim: int, most: int, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dim, self.noise_dim = dim, dim + 1
        weight = torch.zeros(most, dtype=dtype)
        weight[0] = 1.0
        self.register_buffer("weight", weight)
        self.register_buffer("weight_error", torch.zeros(most, dtype=dtype))
        self.register_buffer("loc", torch.zeros(most, dim, dtype=dtype))
        self.register_buffer("scale", torch.ones(most, dim, dtype=dtype))
        self.register_buffer("directions", torch.zeros(most, dim, rank, dtype=dtype))
        self.register_buffer("stretch", torch.ones(most, rank, dtype=dtype))

    def fill(self, normals: Sequence[PathNormal], weights: Tensor, errors: Tensor) -> None:
        """Take these normals with their weights `[component]` and the errors of these."""
        self.weight.zero_()
        self.weight_error.zero_()
        self.weight[: len(normals)] = weights.to(self.weight.dtype)
        self.weight_error[: len(normals)] = errors.to(self.weight.dtype)
        for k, normal in enumerate(normals):
            for name in ("loc", "scale", "directions", "stretch"):
                getattr(self, name)[k] = getattr(normal, name).to(self.weight.dtype)

    @property
    def normals(self) -> list[PathNormal]:
        """The components in use."""
        return [
            PathNormal(
                loc=self.loc[k],
                scale=self.scale[k],
                directions=self.directions[k],
                stretch=self.stretch[k],
            )
            for k in range(int((self.weight > 0).sum()))
        ]

    def sample(
        self, noise: Tensor, *, index: Tensor | None = None, stl: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map noise `[n, 1 + dim]` to points and log q: its first value chooses the component."""
        normals = self.normals
        below = self.weight[: len(normals) - 1].cumsum(0)
        chosen = torch.searchsorted(below, torch.special.ndtr(noise[:, 0]).contiguous())
        u = torch.empty_like(noise[:, 1:])
        for k, normal in enumerate(normals):
            u[chosen == k] = normal.at(noise[chosen == k, 1:])
        return u, self.log_prob_flat(u)

    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` at points `[n, dim]`."""
        normals = self.normals
        parts = torch.stack([normal.log_prob(u) for normal in normals], -1)
        return torch.logsumexp(parts + self.weight[: len(normals)].log(), -1)
