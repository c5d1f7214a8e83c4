"""Witness of a kept cell: numbers of its program that reveal any change of the program.

A program can change in a module it imports, in a file it reads, or in a package that is upgraded:
no list of files is complete. Every cell therefore stores a few numbers of the program and of its
guide,

    log p(u, data), its gradient and each quantity at three fixed points u;
    log q and the draws at fixed noise,

evaluated eagerly. A cell is reused only if the same numbers result today.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides.draws import density_of, weighted_draws
from guides.session import session

if TYPE_CHECKING:
    from guides.types import Fit
    from zoo.density.log_density import LogDensity
    from zoo.types import Data, ModelEntry

__all__ = ["FILE", "difference", "of_guide", "of_program", "short"]

FILE = "witness.json"
POINTS = 3
DIRECTIONS = 4
DIGITS = 12  # in the name of a cell; comparisons use TOLERANCE
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
SEED = 32_452_843

Numbers = Sequence[float | None]
Record = Mapping[str, Numbers]


def of_program(
    entry: ModelEntry, data: Data, density: LogDensity
) -> dict[str, list[float | None]]:
    """Return numbers of a program at three fixed points, evaluated eagerly.

    Vectors are reduced to their norm and four projections on fixed random directions, which any
    change moves.

    Args:
        entry: the entry whose quantities are evaluated.
        data: the data argument of the quantities.
        density: the log density of the program on these data.

    Returns:
        lists of numbers by name; None for a number that is not finite.
    """
    generator = torch.Generator().manual_seed(SEED)
    points = 0.4 * torch.randn(POINTS, density.dim, dtype=torch.float64, generator=generator).to(
        density.dtype
    )
    values, slopes = [], []
    for point in points:
        value, slope = density.eager_gradient(point)
        values.append(value.reshape(1))
        slopes.append(slope)
    out = {"log_density": torch.cat(values), "gradient": _projected(torch.stack(slopes))}
    with torch.no_grad():
        draws = density.constrain(points)
        for name, quantity in entry.quantities.items():
            out[f"quantity {name}"] = _projected(quantity.fn(draws, data).reshape(POINTS, -1))
    return {name: _numbers(x) for name, x in out.items()}


def of_guide(fit: Fit) -> dict[str, list[float | None]]:
    """Return log q and the unconstrained draws of a fitted guide at fixed noise."""
    with session(fit.entry.dtype):
        u, _, log_q = weighted_draws(fit.guide, density_of(fit), POINTS, SEED)
    return {"guide log q": _numbers(log_q), "guide draws": _numbers(_projected(u))}


def difference(kept: Record, fresh: Record, dtype: torch.dtype) -> str:
    """Return the name of the first entry in which two records differ, or an empty string."""
    tolerance = TOLERANCE.get(dtype, 1e-4)
    for name in (*fresh, *(n for n in kept if n not in fresh)):
        one, other = kept.get(name), fresh.get(name)
        if one is None or other is None or len(one) != len(other):
            return name
        scale = max((abs(x) for x in (*one, *other) if x is not None), default=0.0)
        for a, b in zip(one, other, strict=True):
            if (a is None) != (b is None):
                return name
            if a is not None and b is not None and not abs(a - b) <= tolerance * (1.0 + scale):
                return name
    return ""


def short(record: Record) -> dict[str, list[str]]:
    """Return the record with the digits that two runs on one machine share, to name a cell."""
    return {
        name: [f"{x:.{DIGITS}g}" if x is not None else "" for x in numbers]
        for name, numbers in record.items()
    }


def _projected(x: Tensor) -> Tensor:
    """Return norm and projections of the rows of `[point, number]`: `[point, 1 + directions]`."""
    x = x.detach().to(torch.float64)
    generator = torch.Generator().manual_seed(SEED + x.shape[1])
    directions = torch.randn(
        x.shape[1], DIRECTIONS, dtype=torch.float64, generator=generator
    ) / math.sqrt(max(1, x.shape[1]))
    return torch.cat([x.norm(dim=1, keepdim=True), x @ directions], 1)


def _numbers(x: Tensor) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in x.detach().double().reshape(-1).tolist()]


def load(text: str) -> dict[str, list[float | None]]:
    """Read a record written by `strict_json`."""
    out: dict[str, Any] = json.loads(text)
    return out
