"""Block full rank: a separate full-covariance normal per unit, without encoder.

    q(u) = Normal(u_global; m, L L^T) prod_i Normal(u_i; m_i, T_i T_i^T)

It has no amortization gap. With independent units and no global site its optimum is that of
`full_rank`, with a fraction of the parameters. It cannot represent curved or multimodal local
posteriors, nor dependence between units or between local and global values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from guides.base.family import Family
from guides.base.local import LocalGuide
from guides.families.amortized import flat, start
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError, described
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILY", "TableGuide", "build", "flat", "start"]


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    head: str = "full",
    **options: Any,
) -> nn.Module:
    """Build the guide.

    Raises:
        FitError: the program has no local site in a minibatch plate.
        UsageError: a head that is neither `diagonal` nor `full`.
    """
    if head not in ("diagonal", "full"):
        raise UsageError(f"head is {described(head)}; accepted: diagonal, full.")
    return TableGuide(density or LogDensity(program, data, dtype=entry.dtype), head=head)


class TableGuide(LocalGuide):
    """A guide with a table of per-datum parameters instead of an encoder."""

    base: Tensor

    def __init__(self, density: LogDensity, *, head: str) -> None:
        super().__init__(density, full=True, head=head)
        self.table = nn.Parameter(torch.zeros(self.size, self.head.numbers, dtype=density.dtype))
        self.register_buffer("base", torch.zeros_like(self.table))

    def begin_local(self, scale: Tensor, loc: Tensor) -> None:
        """Initialize every unit at its own location and scale."""
        self.base[:, : self.width].copy_((loc - self.center) / self.spread)
        self.base[:, self.width : 2 * self.width].copy_((scale / self.spread).log())

    def numbers(self, units: Tensor | None) -> Tensor:
        """Return the rows of these units, with locations in units of the start's scale."""
        table, base = (
            (self.table, self.base) if units is None else (self.table[units], self.base[units])
        )
        width = self.width
        return torch.cat(
            [
                base[:, :width] + base[:, width : 2 * width].exp() * table[:, :width],
                base[:, width:] + table[:, width:],
            ],
            -1,
        )


FAMILY = Family(
    name="block_full_rank",
    q="a normal with full covariance of its own for every unit",
    blind_spot="no dependence between units",
    build=build,
    options=("head",),
    flat=flat,
    start=start,
)
