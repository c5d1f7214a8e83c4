"""Multivariate distributions: marginal regression, binary sequences, counts, level shifts."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["LevelShift", "MarginalRegression", "RootNormal", "SequentialBernoulli", "WordCounts"]


class MarginalRegression(dist.TorchDistribution):
    """Responses `[row]` of a linear regression with independent normal weights integrated out.

    Args:
        x: columns, `[row, column]`.
        products: x'x, `[column, column]`.
        sd: prior sds of the weights, `[*batch, column]`.
        sigma: sd of the noise, `[*batch]`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "sd": constraints.positive,
        "sigma": constraints.positive,
    }
    support = constraints.independent(constraints.real, 1)

    def __init__(self, x: Tensor, products: Tensor, sd: Tensor, sigma: Tensor) -> None:
        self.x, self.products, self.sd, self.sigma = x, products, sd, sigma
        super().__init__(sigma.shape, x.shape[:1], validate_args=False)

    def posterior(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the posterior of weight / sd given the responses.

        Returns:
            The lower Cholesky factor L of A, and inv(L) S X'y / sigma.
        """
        scaled = self.sd / self.sigma.unsqueeze(-1)
        eye = torch.eye(self.x.shape[-1], dtype=self.x.dtype)
        root = torch.linalg.cholesky(
            scaled.unsqueeze(-1) * self.products * scaled.unsqueeze(-2) + eye
        )
        return root, torch.linalg.solve_triangular(
            root, (scaled * (value @ self.x)).unsqueeze(-1), upper=False
        ).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the joint log density of all responses, `[*batch]`, in nats."""
        root, white = self.posterior(value)
        rest = (value.square().sum(-1) - white.square().sum(-1)) / self.sigma.square()
        half_log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (
            -0.5 * len(self.x) * math.log(2 * math.pi)
            - len(self.x) * self.sigma.log()
            - half_log_det
            - 0.5 * rest
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw weights, then responses."""
        shape = (*sample_shape, *self.batch_shape)
        with torch.no_grad():
            weight = self.sd * torch.randn(*shape, self.x.shape[-1], dtype=self.x.dtype)
            return weight @ self.x.T + self.sigma.unsqueeze(-1) * torch.randn(
                *shape, len(self.x), dtype=self.x.dtype
            )


class SequentialBernoulli(dist.TorchDistribution):
    r"""Binary values in sequence, each depending on the previous ones.

    \[ x_j \sim \mathrm{Bernoulli}(\mathrm{logit} = l_j + \sum_{k < j} W_{jk} x_k) \]

    Args:
        logits: l `[*batch, value]`.
        weight: W `[value, value]`; only the part below the diagonal is used.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits: Tensor, weight: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.weight = logits, weight
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SequentialBernoulli:
        """Expand the batch shape."""
        return SequentialBernoulli(
            self.logits.expand(*batch_shape, self.logits.shape[-1]),
            self.weight,
            validate_args=False,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) `[*batch]` in nats."""
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits + value @ self.weight.tril(-1).T
        return (value * logits - torch.nn.functional.softplus(logits)).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw the values one after the other."""
        with torch.no_grad():
            logits = self.logits.expand(self._extended_shape(torch.Size(sample_shape)))
            uniform, x = torch.rand_like(logits), torch.zeros_like(logits)
            for j in range(logits.shape[-1]):
                x[..., j] = (
                    uniform[..., j]
                    < torch.sigmoid(logits[..., j] + x[..., :j] @ self.weight[j, :j])
                ).to(x.dtype)
            return x


class WordCounts(dist.TorchDistribution):
    r"""Word counts of a document with independent tokens.

    This is a multinomial whose number of tokens may differ between documents:

    \[ p(c) = \frac{(\sum_v c_v)!}{\prod_v c_v!} \prod_v p_v^{c_v} \]

    Args:
        probs: probability of each word, `[*document, word]`, summing to 1.
        totals: number of tokens, `[*document]`; needed only for draws.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"probs": constraints.simplex}
    support = constraints.independent(constraints.nonnegative, 1)

    def __init__(self, probs: Tensor, totals: Tensor, validate_args: bool | None = None) -> None:
        self.probs, self.totals = probs, totals
        shape = torch.broadcast_shapes(probs.shape[:-1], totals.shape)
        super().__init__(shape, probs.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WordCounts:
        """Expand the batch shape."""
        shape = torch.Size(batch_shape)
        return WordCounts(
            self.probs.expand(shape + self.event_shape),
            self.totals.expand(shape),
            validate_args=False,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(counts) in nats, `[*document]`."""
        orders = (value.sum(-1) + 1).lgamma() - (value + 1).lgamma().sum(-1)
        return orders + torch.special.xlogy(value, self.probs).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw counts word by word: each is binomial given the previous ones."""
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
    r"""A multivariate normal parametrized by a root of its precision: precision = R R^T.

    \[ \log p(x) = \log |\det R| - \tfrac{D}{2} \log 2 \pi
       - \tfrac12 \lVert R^\top (x - \mu) \rVert^2 \]

    Evaluating it needs no linear solve, and rows that share R share one matrix product. `expand`
    keeps the parameters, so that a plate of rows does not copy R.

    Args:
        loc: mu, `[*batch, D]`.
        root: R, `[*batch, D, D]`, of full rank.
        log_det: log |det R|, `[*batch]`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real_vector,
        "root": constraints.independent(constraints.real, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        root: Tensor,
        log_det: Tensor,
        batch_shape: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.root, self.log_det = loc, root, log_det
        shape = (
            torch.broadcast_shapes(loc.shape[:-1], root.shape[:-2], log_det.shape)
            if batch_shape is None
            else torch.Size(batch_shape)
        )
        super().__init__(shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RootNormal:
        """Expand the batch shape without copying the parameters."""
        return RootNormal(self.loc, self.root, self.log_det, batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, `[*batch]`."""
        centered = value - self.loc
        # one root for all rows
        if self.root.ndim > 2 and self.root.shape[-3] == 1 and centered.ndim > 1:
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
    r"""A series of independent normals whose mean changes once, at a marginalized time.

    \[ p(x) = \frac{1}{T - 1} \sum_{c=1}^{T-1} \prod_{t \le c} N(x_t; \mu_1, \sigma) \prod_{t > c}
    N(x_t; \mu_2, \sigma) \]

    All T - 1 terms come from one cumulative sum, at the cost of T densities instead of T^2.

    Args:
        loc: mu, means before and after the change, `[*batch, 2]`.
        scale: sigma, `[*batch]`, > 0.
        length: T, number of times, at least 2.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real_vector,
        "scale": constraints.positive,
    }
    support = constraints.real_vector

    def __init__(
        self, loc: Tensor, scale: Tensor, length: int, validate_args: bool | None = None
    ) -> None:
        batch = torch.broadcast_shapes(loc.shape[:-1], scale.shape)
        self.loc, self.scale, self.length = loc.expand(*batch, 2), scale.expand(batch), length
        super().__init__(batch, torch.Size((length,)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LevelShift:
        """Expand the batch shape."""
        return LevelShift(
            self.loc.expand(*batch_shape, 2),
            self.scale.expand(batch_shape),
            self.length,
            validate_args=False,
        )

    def joint(self, value: Tensor) -> Tensor:
        """Return log p(value, c) for each last time c of level one, `[*batch, T - 1]`, nats."""
        normal = dist.Normal(
            self.loc.unsqueeze(-1), self.scale[..., None, None], validate_args=False
        )
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
            return mean + self.scale.unsqueeze(-1) * torch.randn(
                shape, dtype=self.loc.dtype, device=self.loc.device
            )
