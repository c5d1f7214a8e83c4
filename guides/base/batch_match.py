"""Batch and match: the closed-form update of a normal from the scores of a batch of its draws.

With draws z_b of q_t = Normal(m, S) and their scores g_b = grad log p(z_b), the next normal
minimizes an estimate of the score divergence plus a penalty for leaving q_t,

    1/B sum_b |grad log q(z_b) - g_b|^2_S' + 2/r KL(q_t, q),      S' the covariance of q.

With the means and the covariances (z, C) of the draws and (g, G) of the scores, it is

    U  = r G + r/(1+r) g g'
    V  = S + r C + r/(1+r) (m - z)(m - z)'
    S' U S' + S' = V,        S' = R f(R' U R) R',   V = R R',   f(x) = 2 / (1 + sqrt(1 + 4 x))
    m' = 1/(1+r) m + r/(1+r) (S' g + z)

The form with R is symmetric and positive definite by construction. A normal target is a fixed
point whatever the draws; with more draws than dimensions and a large rate r, one update reaches
it. Of another target the fixed point has E[g] = 0, as the best ELBO does, and S cov(g) S = S:
scores that vary more than those of a normal make it narrower than the normal of the best ELBO.

Everything is computed in whitened coordinates, in which q_t is the standard normal.

Source: Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei and Saul (2024), ICML, PMLR 235.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Moments", "Normal", "bounded", "lower", "matched", "moments"]

LONGEST = 10.0  # root mean square of a move per dimension, in sds
WIDEST = 4.0  # factor by which a width may change in one update
TINY = 1e-300


class Moments(NamedTuple):
    """Means `[dim]` and covariances `[dim, dim]` of draws and of their scores."""

    mean: Tensor
    covariance: Tensor
    score: Tensor
    score_covariance: Tensor


def moments(points: Tensor, scores: Tensor) -> Moments:
    """Return the moments of draws `[draw, dim]` and scores `[draw, dim]`, with 1/B."""
    mean, score = points.mean(0), scores.mean(0)
    apart, along = points - mean, scores - score
    number = len(points)
    return Moments(mean, apart.T @ apart / number, score, along.T @ along / number)


def matched(found: Moments, rate: float) -> tuple[Tensor, Tensor]:
    """Return the update of a standard normal: mean `[dim]` and Cholesky factor `[dim, dim]`.

    Args:
        found: moments of its draws and of their scores, float64.
        rate: r, the weight of the batch against the normal that it was drawn from.
    """
    share = rate / (1.0 + rate)
    u = rate * found.score_covariance + share * torch.outer(found.score, found.score)
    eye = torch.eye(len(found.mean), dtype=found.mean.dtype)
    v = eye + rate * found.covariance + share * torch.outer(found.mean, found.mean)
    root = torch.linalg.cholesky(v)
    values, vectors = torch.linalg.eigh(root.T @ u @ root)
    # clamp: rounding makes zeros negative
    weights = 2.0 / (1.0 + (1.0 + 4.0 * values.clamp(min=0.0)).sqrt())
    half = root @ vectors * weights.sqrt()  # half half' is the covariance
    factor = lower(half)
    mean = share * (factor @ (factor.T @ found.score) + found.mean)
    return mean, factor


def bounded(found: Moments, rate: float) -> tuple[Tensor, Tensor]:
    """Return the update with its move in bounds: mean `[dim]` and Cholesky factor `[dim, dim]`.

    No width changes by more than a factor of 4, and the mean by at most ten sds per dimension
    (root mean square). A mean is not held back where a width narrows: the draws that say so say
    where to, and of a normal both are right.
    """
    mean, factor = matched(found, rate)
    vectors, widths, _ = torch.linalg.svd(factor)
    allowed = widths.clamp(1 / WIDEST, WIDEST)
    if not bool((allowed == widths).all()):
        factor = lower(vectors * allowed)
        along = widths.clamp(max=WIDEST).square() * (vectors.T @ found.score)
        mean = rate / (1.0 + rate) * (vectors @ along + found.mean)
    far = float(mean.norm()) / math.sqrt(len(mean))
    return mean * min(1.0, LONGEST / max(far, TINY)), factor


def lower(root: Tensor) -> Tensor:
    """Return the Cholesky factor `[dim, dim]` of W W' for W `[dim, any]`, without forming it."""
    triangle = torch.linalg.qr(root.T).R
    return (triangle * triangle.diagonal().sign()[:, None]).T


@dataclass(frozen=True, kw_only=True)
class Normal:
    """A normal over the flat vector: mean `[dim]` and Cholesky factor `[dim, dim]`, float64."""

    mean: Tensor
    factor: Tensor

    @property
    def sds(self) -> Tensor:
        """The standard deviations `[dim]`."""
        return self.factor.square().sum(1).sqrt()

    def moved(self, mean: Tensor, factor: Tensor) -> Normal:
        """Return the normal that has this mean and factor in the coordinates of this one."""
        return Normal(mean=self.mean + self.factor @ mean, factor=self.factor @ factor)
