"""Distributions that Pyro does not bring: priors on the positive half-line, counts, change points, censored times, a normal by a root."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

__all__ = ["CensoredWeibull", "HalfStudentT", "LevelShift", "PositiveNormal", "RootNormal", "WordCounts"]


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


class WordCounts(dist.TorchDistribution):
    r"""Word counts of a document whose tokens are independent: a multinomial whose number of tokens may differ between documents.

    \[ p(c) = \frac{(\sum_v c_v)!}{\prod_v c_v!} \prod_v p_v^{c_v} \]

    Args:
        probs: chance of each word, `[*document, word]`, summing to 1.
        totals: number of tokens, `[*document]`; only draws need it.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"probs": constraints.simplex}
    support = constraints.independent(constraints.nonnegative, 1)

    def __init__(self, probs: Tensor, totals: Tensor, validate_args: bool | None = None) -> None:
        self.probs, self.totals = probs, totals
        shape = torch.broadcast_shapes(probs.shape[:-1], totals.shape)
        super().__init__(shape, probs.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WordCounts:
        """Return the same distribution over a larger batch."""
        shape = torch.Size(batch_shape)
        return WordCounts(self.probs.expand(shape + self.event_shape), self.totals.expand(shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(counts) in nats, `[*document]`."""
        orders = (value.sum(-1) + 1).lgamma() - (value + 1).lgamma().sum(-1)
        return orders + torch.special.xlogy(value, self.probs).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw counts, word by word: each is binomial given those before."""
        shape = self._extended_shape(torch.Size(sample_shape))
        probs, left = self.probs.expand(shape), self.totals.expand(shape[:-1])
        rest = probs.flip(-1).cumsum(-1).flip(-1)  # mass of this word and all later ones
        share = (probs / rest.clamp(min=torch.finfo(probs.dtype).tiny)).clamp(0, 1)
        columns = []
        for v in range(shape[-1] - 1):
            columns.append(torch.binomial(left, share[..., v].contiguous()))
            left = left - columns[-1]
        return torch.stack([*columns, left], -1)


class RootNormal(dist.TorchDistribution):
    r"""A multivariate normal given by a root of its precision: precision = R R^T.

    \[ \log p(x) = \log |\det R| - \tfrac{D}{2} \log 2 \pi - \tfrac12 \lVert R^\top (x - \mu) \rVert^2 \]

    No system is solved to evaluate it, and rows that share R share one matrix product. `expand` keeps the parameters
    as they are, so that a plate of rows does not copy R.

    Args:
        loc: mu, `[*batch, D]`.
        root: R, `[*batch, D, D]`, of full rank.
        log_det: log |det R|, `[*batch]`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real_vector, "root": constraints.independent(constraints.real, 2)}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, root: Tensor, log_det: Tensor, batch_shape: Any = None, validate_args: bool | None = None) -> None:
        self.loc, self.root, self.log_det = loc, root, log_det
        shape = torch.broadcast_shapes(loc.shape[:-1], root.shape[:-2], log_det.shape) if batch_shape is None else torch.Size(batch_shape)
        super().__init__(shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RootNormal:
        """Return the same distribution over a larger batch."""
        return RootNormal(self.loc, self.root, self.log_det, batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, `[*batch]`."""
        centered = value - self.loc
        if self.root.ndim > 2 and self.root.shape[-3] == 1 and centered.ndim > 1:  # one root for all rows
            white = centered @ self.root.squeeze(-3)
        else:
            white = (centered.unsqueeze(-2) @ self.root).squeeze(-2)
        constant = 0.5 * value.shape[-1] * math.log(2 * math.pi)
        return self.log_det - constant - 0.5 * white.square().sum(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw mu + inv(R^T) e with standard normal e."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + torch.linalg.solve(self.root.mT, noise.unsqueeze(-1)).squeeze(-1)


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

    @constraints.dependent_property(is_discrete=False, event_dim=0)  # type: ignore[untyped-decorator]
    def support(self) -> Any:
        """From 0 to the limit."""
        return constraints.interval(0.0, self.limit)

    @property
    def atoms(self) -> Tensor:
        """Values that have a probability of their own, `[value, *batch]`."""
        return self.limit.unsqueeze(0)

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
