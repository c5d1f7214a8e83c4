"""Distributions of several values together that Pyro does not bring: a regression without its weights, binary values in a row."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["MarginalRegression", "SequentialBernoulli"]


class MarginalRegression(dist.TorchDistribution):
    """Responses `[row]` of a linear regression with independent normal weights integrated out.

    Args:
        x: columns, `[row, column]`.
        products: x'x, `[column, column]`.
        sd: prior sds of the weights, `[*batch, column]`.
        sigma: sd of the noise, `[*batch]`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"sd": constraints.positive, "sigma": constraints.positive}
    support = constraints.independent(constraints.real, 1)

    def __init__(self, x: Tensor, products: Tensor, sd: Tensor, sigma: Tensor) -> None:
        self.x, self.products, self.sd, self.sigma = x, products, sd, sigma
        super().__init__(sigma.shape, x.shape[:1], validate_args=False)

    def posterior(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower factor of A, and inv(L) S X'y / sigma, of the posterior of weight / sd given the responses."""
        scaled = self.sd / self.sigma.unsqueeze(-1)
        eye = torch.eye(self.x.shape[-1], dtype=self.x.dtype)
        root = torch.linalg.cholesky(scaled.unsqueeze(-1) * self.products * scaled.unsqueeze(-2) + eye)
        return root, torch.linalg.solve_triangular(root, (scaled * (value @ self.x)).unsqueeze(-1), upper=False).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of all responses together, `[*batch]`, nats."""
        root, white = self.posterior(value)
        rest = (value.square().sum(-1) - white.square().sum(-1)) / self.sigma.square()
        half_log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * len(self.x) * math.log(2 * math.pi) - len(self.x) * self.sigma.log() - half_log_det - 0.5 * rest

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw weights, then responses."""
        shape = (*sample_shape, *self.batch_shape)
        with torch.no_grad():
            weight = self.sd * torch.randn(*shape, self.x.shape[-1], dtype=self.x.dtype)
            return weight @ self.x.T + self.sigma.unsqueeze(-1) * torch.randn(*shape, len(self.x), dtype=self.x.dtype)


class SequentialBernoulli(dist.TorchDistribution):
    r"""Binary values one after the other, each seeing those before it.

    \[ x_j \sim \mathrm{Bernoulli}(\mathrm{logit} = l_j + \sum_{k < j} W_{jk} x_k) \]

    Args:
        logits: l `[*batch, value]`.
        weight: W `[value, value]`; only what lies below the diagonal is used.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits: Tensor, weight: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.weight = logits, weight
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SequentialBernoulli:
        """Return the same distribution over a larger batch."""
        return SequentialBernoulli(self.logits.expand(*batch_shape, self.logits.shape[-1]), self.weight, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) `[*batch]` in nats."""
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits + value @ self.weight.tril(-1).T
        return (value * logits - torch.nn.functional.softplus(logits)).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw the values in their order."""
        with torch.no_grad():
            logits = self.logits.expand(self._extended_shape(torch.Size(sample_shape)))
            uniform, x = torch.rand_like(logits), torch.zeros_like(logits)
            for j in range(logits.shape[-1]):
                x[..., j] = (uniform[..., j] < torch.sigmoid(logits[..., j] + x[..., :j] @ self.weight[j, :j])).to(x.dtype)
            return x
