"""Amortized with a flow: affine couplings transform the encoder's full-covariance normal.

    u_i = m(x_i) + T(x_i) f(eps_i; h(x_i)),
    f = four affine couplings conditioned on h (Dinh, Sohl-Dickstein & Bengio 2017)

It cannot represent dependence between local and global values; well separated modes stay connected
by a bridge.
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
    return amortized.build(program, data, entry, head="flow", **options)


FAMILY = Family(
    name="amortized_flow",
    q="an encoder network per unit with a flow: curved, skewed and two-peaked local posteriors",
    blind_spot="no dependence between units",
    build=build,
    options=amortized.FAMILY.options,
    defaults=amortized.FAMILY.defaults,
    flat=flat,
    start=start,
    amortized=True,
    encoder=True,
)
