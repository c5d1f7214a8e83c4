"""Bounds of log weights: the means over draws that objectives are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["beta_elbo_nats", "elbo_nats", "iwae_bound_nats"]


def elbo_nats(log_weights: Tensor) -> Tensor:
    """Return the mean of log weights `[draw, ...]` over draws."""
    return log_weights.mean(0)


def iwae_bound_nats(log_weights: Tensor) -> Tensor:
    """Return the importance-weighted bound, log mean exp of log weights `[draw, ...]`."""
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


def beta_elbo_nats(likelihood: Tensor, kl_sample: Tensor, weight: Tensor | float) -> Tensor:
    """Return the mean over draws of log likelihood - weight (log q - log prior)."""
    return (likelihood - weight * kl_sample).mean(0)
