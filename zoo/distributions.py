"""Distributions that Pyro does not bring: truncated normal, half Student-t, word counts, and a normal by a root of its precision."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

__all__ = ["HalfStudentT", "PositiveNormal", "RootNormal", "WordCounts"]


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
