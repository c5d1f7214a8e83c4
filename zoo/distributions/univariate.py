"""Univariate distributions: priors on the positive half-line, and censored times."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

from zoo.distributions.location_scale import LocationScale

__all__ = ["CensoredWeibull", "HalfStudentT", "PositiveNormal"]


class PositiveNormal(LocationScale):
    r"""A normal distribution restricted to the positive numbers.

    \[ p(x) = \frac{N(x; \mu, \sigma)}{\Phi(\mu / \sigma)}, \qquad x > 0 \]

    Args:
        loc: mu, mean of the unrestricted normal.
        scale: sigma, its standard deviation, > 0.
    """

    support = constraints.positive

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
        return (self.loc + self.scale * torch.special.ndtri(below + uniform * (1 - below))).clamp(
            min=tiny
        )


class HalfStudentT(dist.TorchDistribution):
    r"""The absolute value of a Student-t variable around 0: p(x) = 2 t(x; df, 0, scale), x > 0.

    Args:
        df: degrees of freedom, > 0.
        scale: > 0.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "df": constraints.positive,
        "scale": constraints.positive,
    }
    support = constraints.positive
    has_rsample = True

    def __init__(
        self, df: Tensor | float, scale: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.df, self.scale = broadcast_all(df, scale)
        super().__init__(self.df.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HalfStudentT:
        """Expand the batch shape."""
        return HalfStudentT(
            self.df.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats."""
        whole: Tensor = dist.StudentT(self.df, 0.0, self.scale, validate_args=False).log_prob(
            value
        )
        return whole + math.log(2.0)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw the absolute value of a Student-t variable."""
        whole: Tensor = dist.StudentT(self.df, 0.0, self.scale, validate_args=False).rsample(
            sample_shape
        )
        return whole.abs()


class CensoredWeibull(dist.TorchDistribution):
    r"""A Weibull waiting time, right-censored at a limit: min(X, limit).

    \[ p(x) = \frac{k}{\lambda} \Big(\frac{x}{\lambda}\Big)^{k-1} e^{-(x / \lambda)^k} \; (x <
    \text{limit}), \qquad
       P(X \ge \text{limit}) = e^{-(\text{limit} / \lambda)^k} \; (x = \text{limit}) \]

    The base measure is Lebesgue's below the limit plus a point mass at it.

    Args:
        log_scale: log lambda.
        shape: k, > 0.
        limit: the censoring time, > 0.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "log_scale": constraints.real,
        "shape": constraints.positive,
        "limit": constraints.positive,
    }

    @constraints.dependent_property(is_discrete=False, event_dim=0)  # type: ignore[untyped-decorator]
    def support(self) -> Any:
        """The interval from 0 to the limit."""
        return constraints.interval(0.0, self.limit)

    @property
    def atoms(self) -> Tensor:
        """Values with positive probability, `[value, *batch]`."""
        return self.limit.unsqueeze(0)

    def __init__(
        self,
        log_scale: Tensor,
        shape: Tensor,
        limit: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.log_scale, self.shape_parameter, self.limit = broadcast_all(log_scale, shape, limit)
        super().__init__(self.log_scale.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CensoredWeibull:
        """Expand the batch shape."""
        scale, shape, limit = (
            t.expand(batch_shape) for t in (self.log_scale, self.shape_parameter, self.limit)
        )
        return CensoredWeibull(scale, shape, limit)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density below the limit, the log probability at the limit, in nats."""
        seen = torch.minimum(value, self.limit)
        log_ratio = self.shape_parameter * (seen.log() - self.log_scale)  # (x / lambda)^k, its log
        event = self.shape_parameter.log() - seen.log() + log_ratio
        return torch.where(value < self.limit, event, 0.0) - log_ratio.exp()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw a time by inversion and censor it at the limit."""
        with torch.no_grad():
            wait = torch.empty(
                self._extended_shape(torch.Size(sample_shape)),
                dtype=self.limit.dtype,
                device=self.limit.device,
            )
            return torch.minimum(
                (self.log_scale + wait.exponential_().log() / self.shape_parameter).exp(),
                self.limit,
            )
