"""Modes where paths ended, and their masses by the pooled draws of all paths.

With K normals q_k and n draws of each, a draw u has the weight p(u) / q(u) of their mixture

    q(u) = 1/K sum_k q_k(u)

instead of p(u) / q_k(u) of its own normal, as in the paper: then normals of the same mode share
its draws, and no draw in the tail of its own normal but in the midst of another has a large
weight. Weights are truncated at sqrt(number of draws) times their mean (Ionides 2008).

The masses v_m of the modes are the weights with the smallest KL(p, sum_m v_m q_m) for the normals
q_m that answer for them,

    v_m = sum_i w_i r_im / sum_i w_i,      r_im = v_m q_m(u_i) / sum_l v_l q_l(u_i)

which are the shares of the draws where modes are apart. Their errors are those of ratios, from the
spread of w_i (r_im - v_m) among draws of one normal, times the inverse of 1 minus the derivative
of the right side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from guides.base.path_normals import PathNormal
from guides.base.path_search import Path, evaluated
from zoo.density.log_density import LogDensity

__all__ = ["Answer", "Pool", "groups", "masses", "pool"]

ALONG = 17  # points between the ends of two paths
ROUNDS = 500  # of the fixed point of the masses
VALLEY = 0.5  # nats, of a valley between two ends that makes two modes of them


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A path, the number of its best point, and the normal there."""

    path: Path
    number: int
    normal: PathNormal


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Pooled draws of K normals, n of each.

    Attributes:
        log_p: log density in nats `[K, n]`.
        log_q: of every normal at these draws `[K, n, K]`.
    """

    log_p: Tensor
    log_q: Tensor

    @property
    def elbos(self) -> Tensor:
        """E[log p - log q_k] of every normal by its own draws `[K]`."""
        own = self.log_q.diagonal(dim1=0, dim2=2).T  # [normal, draw]
        return (self.log_p - own).mean(-1)

    @property
    def log_weights(self) -> Tensor:
        """Truncated weights of the mixture `[K, n]`, in nats."""
        number = self.log_p.numel()
        mixture = torch.logsumexp(self.log_q, -1) - math.log(len(self.log_p))
        raw = self.log_p - mixture
        mean = torch.logsumexp(raw.flatten(), 0) - math.log(number)
        return raw.clamp(max=float(mean) + 0.5 * math.log(number))

    @property
    def ess(self) -> float:
        """The effective sample size of the weights, 1 / sum of their squares."""
        weights = torch.softmax(self.log_weights.flatten(), 0)
        return float(1 / weights.square().sum())


def pool(
    density: LogDensity, normals: list[PathNormal], draws: int, generator: torch.Generator
) -> Pool:
    """Draw from every normal and evaluate log p and every log q."""
    noise = torch.randn(len(normals), draws, density.dim, dtype=torch.float64, generator=generator)
    u = torch.cat([n.at(own) for n, own in zip(normals, noise, strict=True)])
    log_q = torch.stack([normal.log_prob(u) for normal in normals], -1)
    shape = (len(normals), draws)
    return Pool(
        log_p=evaluated(density, u).reshape(shape), log_q=log_q.reshape(*shape, len(normals))
    )


def groups(density: LogDensity, paths: list[Path]) -> list[list[int]]:
    """Return the numbers of the paths of every mode, the highest end first.

    Two paths ended in one mode if the log density has no valley on the straight line between
    their ends: nowhere more than 0.5 nats below the lower of the two.
    """
    order = sorted(range(len(paths)), key=lambda k: -paths[k].heights[-1])
    found: list[list[int]] = []
    share = torch.linspace(0, 1, ALONG, dtype=torch.float64)[1:-1, None]
    for k in order:
        for own in found:
            top, low = paths[own[0]], paths[k]
            between = evaluated(density, top.end + share * (low.end - top.end))
            if float(between.min()) >= low.heights[-1] - VALLEY:
                own.append(k)
                break
        else:
            found.append([k])
    return found


def masses(pooled: Pool, chosen: list[int]) -> tuple[Tensor, Tensor]:
    """Return the mass of the mode of every chosen normal and its standard error, each `[mode]`."""
    log_q = pooled.log_q[..., chosen]  # [normal, draw, mode]
    log_weights = pooled.log_weights
    weights = torch.softmax(log_weights.flatten(), 0).reshape(log_weights.shape)[..., None]
    number = len(chosen)
    mass = torch.full((number,), 1 / number, dtype=log_q.dtype)
    shares = torch.softmax(log_q, -1)
    for _ in range(ROUNDS):
        before = mass
        shares = torch.softmax(log_q + mass.log(), -1)
        mass = (weights * shares).sum((0, 1)).clamp(min=1e-300)
        if bool((mass - before).abs().max() < 1e-10):
            break
    # draws of one normal vary among each other; how many each normal has is no chance
    parts = weights * (shares - mass)
    parts = (parts - parts.mean(1, keepdim=True)).flatten(0, 1)  # [draw, mode]
    spread = parts.T @ parts
    moving = torch.diag((weights * shares).sum((0, 1)) / mass)
    moving = moving - torch.einsum("kdm,kdl->ml", weights * shares, shares) / mass
    back = torch.linalg.pinv(torch.eye(number, dtype=mass.dtype) - moving)
    return mass, (back @ spread @ back.T).diagonal().clamp(min=0.0).sqrt()
