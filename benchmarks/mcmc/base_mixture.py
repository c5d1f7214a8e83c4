"""Mixtures of densities that can be drawn from: where tempered SMC begins.

    q(x) = sum_k w_k q_k(x)      over the unconstrained vector

The first component is a guide's normal approximation, widened: a multivariate t density, as are
those at modes that the guide misses. Another one covers the prior. Draws are stratified: each
island takes the same whole number of points from each component, and the weights are these shares
exactly, so that the importance weights p / q stay unbiased. Source of the stratified estimate:
Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions,
Technometrics 37.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.mcmc.batched_hmc import Streams
from benchmarks.mcmc.metric import Metric
from zoo.errors import UsageError

__all__ = ["Component", "Mixture", "Part"]


@dataclass(frozen=True, kw_only=True)
class Component:
    """One t density.

    Attributes:
        name: what it stands for.
        share: its share of the points; shares need not sum to one.
        center: `[dim]`.
        metric: L; the covariance of the normal behind it is L L'.
        freedom: degrees of freedom.
    """

    name: str
    share: float
    center: Tensor
    metric: Metric
    freedom: int = 7

    @property
    def dtype(self) -> torch.dtype:
        """Of its points."""
        return self.center.dtype

    def draw(self, streams: Streams, count: int) -> Tensor:
        """Return draws `[island * count, dim]`."""
        normal = streams.normal(count, self.metric.dim, self.dtype)
        squares = streams.normal(count, self.freedom, self.dtype).square().mean(1).sqrt()
        return self.center + self.metric.push(normal / squares[:, None])

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density `[n]` at points `[n, dim]`, in nats."""
        return self._of_distance(self.metric.whiten(x - self.center).square().sum(1))

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density `[n]` at `[n, dim]`, in nats, and its gradients."""
        z = self.metric.whiten(x - self.center)
        square = z.square().sum(1)
        nu, dim = self.freedom, self.metric.dim
        slope = self.metric.unpull(-(nu + dim) / (nu + square)[:, None] * z)
        return self._of_distance(square), slope

    def _of_distance(self, square: Tensor) -> Tensor:
        nu, dim = self.freedom, self.metric.dim
        constant = (
            math.lgamma((nu + dim) / 2) - math.lgamma(nu / 2) - 0.5 * dim * math.log(nu * math.pi)
        )
        return constant - self.metric.log_det - 0.5 * (nu + dim) * torch.log1p(square / nu)


class Part(Protocol):
    """A normalized density of a mixture."""

    @property
    def name(self) -> str:
        """What it stands for."""

    @property
    def share(self) -> float:
        """Its share of the points; shares need not sum to one."""

    def draw(self, streams: Streams, count: int) -> Tensor:
        """Return draws `[island * count, dim]`; those of an island do not depend on the others."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density `[n]` at points `[n, dim]`, in nats."""

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density `[n]` at `[n, dim]`, in nats, and its gradients."""


class Mixture:
    """A mixture of densities with stratified draws.

    Args:
        components: at least one; every share is rounded to whole points of an island.
        particles: points of one island.

    Raises:
        UsageError: no component, or fewer points than components.
    """

    def __init__(self, components: Sequence[Part], particles: int) -> None:
        if not components or particles < len(components):
            raise UsageError(
                f"A base got {len(components)} components and {particles} particles; accepted: at"
                " least one component and as many particles."
            )
        total = sum(c.share for c in components)
        counts = [max(1, round(particles * c.share / total)) for c in components]
        counts[0] += particles - sum(counts)
        self.components = tuple(components)
        self.counts = tuple(counts)
        self.particles = particles
        self.log_shares = [math.log(count / particles) for count in counts]

    def draw(self, streams: Streams) -> Tensor:
        """Return points `[island * particles, dim]`."""
        islands = len(streams.generators)
        parts = [
            component.draw(streams, count).reshape(islands, count, -1)
            for component, count in zip(self.components, self.counts, strict=True)
        ]
        return torch.cat(parts, 1).flatten(0, 1)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log q `[n]` at points `[n, dim]` in nats and its gradients `[n, dim]`."""
        found = [c.value_and_gradient(x) for c in self.components]
        if len(found) == 1:
            return found[0]
        values = torch.stack(
            [share + value for share, (value, _) in zip(self.log_shares, found, strict=True)]
        )
        total = values.logsumexp(0)
        weights = torch.exp(values - total)
        slopes = torch.stack([gradient for _, gradient in found])
        slope = (weights[..., None] * slopes).sum(0)
        return total, slope

    def nearest(self, x: Tensor) -> Tensor:
        """Return the index `[n]` of the component of largest density at each point."""
        return torch.stack([c.log_prob(x) for c in self.components]).argmax(0)
