"""Amortized with full covariance: the encoder also gives the Cholesky factor of each unit's local values.

    q(u) = Normal(u_global; m, L L^T) prod_i Normal(u_i; m(x_i), T(x_i) T(x_i)^T)

It cannot represent curved or multimodal local posteriors, nor dependence between local and global values.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from guides.families import amortized
from guides.families.amortized import flat, start
from zoo.types import Data, ModelEntry, Program

NAME = "amortized_full"
DESCRIPTION = "an encoder network per unit with a full covariance of the unit's local values"
OPTIONS, DEFAULTS, AMORTIZED = amortized.OPTIONS, amortized.DEFAULTS, True

__all__ = ["DESCRIPTION", "NAME", "build", "flat", "start"]


def build(program: Program, data: Data, entry: ModelEntry, **options: Any) -> nn.Module:
    """Build the guide; arguments and errors as in `guides.families.amortized.build`."""
    return amortized.build(program, data, entry, head="full", **options)
