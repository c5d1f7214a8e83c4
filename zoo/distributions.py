"""Distributions that Pyro does not bring: two priors on the positive half-line, a change of level, a censored time."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

__all__ = ["CensoredWeibull", "HalfStudentT", "LevelShift", "PositiveNormal"]


class PositiveNormal(dist.TorchDistribution):
    r"""A normal distribution restricted to the positive numbers.

    \[ p(x) = \frac{N(x; \mu, \sigma)}{\Phi(\mu / \sigma)}, \qquad x > 0 \]

    Args:
        loc: mu, mean of the unrestricted normal.
        scale: sigma, its standard deviation, > 0.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.positive
    has_rsample = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PositiveNormal:
        """Return the same distribution over a larger batch."""
        return PositiveNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats."""
        normal: Tensor = dist.Normal(self.loc, self.scale, validate_args=False).log_prob(value)
        return normal - torch.special.log_ndtr(self.loc / self.scale)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw by inversion of the distribution function."""
        shape = self._extended_shape(torch.Size(sample_shape))
        below = torch.special.ndtr(-self.loc / self.scale)  # mass of the normal below 0
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        tiny = torch.finfo(self.loc.dtype).tiny
        return (self.loc + self.scale * torch.special.ndtri(below + uniform * (1 - below))).clamp(min=tiny)


class HalfStudentT(dist.TorchDistribution):
    r"""The absolute value of a Student-t variable around 0: p(x) = 2 t(x; df, 0, scale), x > 0.

    Args:
        df: degrees of freedom, > 0.
        scale: > 0.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"df": constraints.positive, "scale": constraints.positive}
    support = constraints.positive
    has_rsample = True

    def __init__(self, df: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.df, self.scale = broadcast_all(df, scale)
        super().__init__(self.df.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HalfStudentT:
        """Return the same distribution over a larger batch."""
        return HalfStudentT(self.df.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats."""
        whole: Tensor = dist.StudentT(self.df, 0.0, self.scale, validate_args=False).log_prob(value)
        return whole + math.log(2.0)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw a Student-t variable and drop its sign."""
        whole: Tensor = dist.StudentT(self.df, 0.0, self.scale, validate_args=False).rsample(sample_shape)
        return whole.abs()


class LevelShift(dist.TorchDistribution):
    r"""A series of independent normals whose mean changes once, at a time that is summed out.

    \[ p(x) = \frac{1}{T - 1} \sum_{c=1}^{T-1} \prod_{t \le c} N(x_t; \mu_1, \sigma) \prod_{t > c} N(x_t; \mu_2, \sigma) \]

    All T - 1 terms come from one cumulative sum: the cost is that of T densities, not of T^2.

    Args:
        loc: mu, means before and after the change, `[*batch, 2]`.
        scale: sigma, `[*batch]`, > 0.
        length: T, number of times, at least 2.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real_vector, "scale": constraints.positive}
    support = constraints.real_vector

    def __init__(self, loc: Tensor, scale: Tensor, length: int, validate_args: bool | None = None) -> None:
        batch = torch.broadcast_shapes(loc.shape[:-1], scale.shape)
        self.loc, self.scale, self.length = loc.expand(*batch, 2), scale.expand(batch), length
        super().__init__(batch, torch.Size((length,)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LevelShift:
        """Return the same distribution over a larger batch."""
        return LevelShift(self.loc.expand(*batch_shape, 2), self.scale.expand(batch_shape), self.length, validate_args=False)

    def joint(self, value: Tensor) -> Tensor:
        """Return log p(value, c) for every last time c of the first level, `[*batch, T - 1]`, nats."""
        normal = dist.Normal(self.loc.unsqueeze(-1), self.scale[..., None, None], validate_args=False)
        terms = normal.log_prob(value.unsqueeze(-2))  # [*batch, 2, T]
        gain = (terms[..., 0, :] - terms[..., 1, :]).cumsum(-1)[..., :-1]
        return terms[..., 1, :].sum(-1, keepdim=True) + gain - math.log(self.length - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats."""
        return self.joint(value).logsumexp(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw a time of change, then the series."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            last = torch.randint(self.length - 1, (*shape[:-1], 1), device=self.loc.device)
            early = torch.arange(self.length, device=self.loc.device) <= last
            mean = torch.where(early, self.loc[..., :1], self.loc[..., 1:])
            return mean + self.scale.unsqueeze(-1) * torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)


class CensoredWeibull(dist.TorchDistribution):
    r"""A Weibull waiting time that is watched until a limit: min(X, limit).

    \[ p(x) = \frac{k}{\lambda} \Big(\frac{x}{\lambda}\Big)^{k-1} e^{-(x / \lambda)^k} \; (x < \text{limit}), \qquad
       P(X \ge \text{limit}) = e^{-(\text{limit} / \lambda)^k} \; (x = \text{limit}) \]

    The measure is Lebesgue's below the limit plus a point mass at it.

    Args:
        log_scale: log lambda.
        shape: k, > 0.
        limit: where watching ends, > 0.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "log_scale": constraints.real,
        "shape": constraints.positive,
        "limit": constraints.positive,
    }
    support = constraints.positive

    def __init__(self, log_scale: Tensor, shape: Tensor, limit: Tensor | float, validate_args: bool | None = None) -> None:
        self.log_scale, self.shape_parameter, self.limit = broadcast_all(log_scale, shape, limit)
        super().__init__(self.log_scale.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CensoredWeibull:
        """Return the same distribution over a larger batch."""
        scale, shape, limit = (t.expand(batch_shape) for t in (self.log_scale, self.shape_parameter, self.limit))
        return CensoredWeibull(scale, shape, limit)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density below the limit, the log probability of reaching it at the limit, in nats."""
        seen = torch.minimum(value, self.limit)
        log_ratio = self.shape_parameter * (seen.log() - self.log_scale)  # (x / lambda)^k, its log
        event = self.shape_parameter.log() - seen.log() + log_ratio
        return torch.where(value < self.limit, event, 0.0) - log_ratio.exp()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw a time by inversion and cut it at the limit."""
        with torch.no_grad():
            wait = torch.empty(self._extended_shape(torch.Size(sample_shape)), dtype=self.limit.dtype, device=self.limit.device)
            return torch.minimum((self.log_scale + wait.exponential_().log() / self.shape_parameter).exp(), self.limit)
