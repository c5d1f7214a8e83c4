"""The stick-breaking coordinates of a simplex, as families of topics need them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["later", "offset"]


def later(a: Tensor) -> Tensor:
    """Return sum_{j > i} a_j along the last axis, without the last entry."""
    return a.flip(-1).cumsum(-1).flip(-1)[..., 1:]


def offset(a: Tensor) -> Tensor:
    """Return the offset of the stick-breaking bijection, which maps zero to even weights."""
    return torch.arange(a.shape[-1] - 1, 0, -1, dtype=a.dtype).log()
