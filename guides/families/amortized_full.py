"""Amortized with full covariance: the encoder also gives the Cholesky factor of each unit.

    q(u) = Normal(u_global; m, L L^T) prod_i Normal(u_i; m(x_i), T(x_i) T(x_i)^T)

It cannot represent curved or multimodal local posteriors, nor dependence between local and global
values.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from guides.base.family import Family
from guides.families import amortized
from guides.families.amortized import flat, start
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILY", "build", "flat", "start"]


def build(program: Program, data: Data, entry: ModelEntry, **options: Any) -> nn.Module:
    """Build the guide; arguments and errors as in `guides.families.amortized.build`."""
    return amortized.build(program, data, entry, head="full", **options)


FAMILY = Family(
    name="amortized_full",
    q="an encoder network per unit with a full covariance of the unit's local values",
    blind_spot="no dependence between units, no skewness",
    build=build,
    options=amortized.FAMILY.options,
    defaults=amortized.FAMILY.defaults,
    flat=flat,
    start=start,
    amortized=True,
    encoder=True,
    richer=("amortized_flow",),
)
