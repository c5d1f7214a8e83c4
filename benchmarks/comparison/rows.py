"""Some rows of a fit: their data, their log density, and the guide's q of each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pyro.infer.autoguide import AutoGuide
from torch import Tensor

import guides
from benchmarks.comparison.best_in_family import LocalQ
from benchmarks.comparison.row_normals import NEEDED, row_normals
from guides.base.local import LocalGuide
from guides.draws import density_of
from guides.session import program_for, session
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.types import Data
from zoo.user_models.tied_rows import ROWS_CURE

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["part_of", "q_of_rows"]


def part_of(data: Data, tensors: Any, chosen: Tensor) -> Data:
    """Return some rows of a part as data of their own.

    Args:
        data: the data of a fit.
        tensors: the arguments of the part, such as `data.train`.
        chosen: numbers of the rows.
    """
    subset = {k: tensors[k][chosen] for k in data.batched}
    numbers = [int(c) for c in chosen]
    names = [str(c) for c in numbers]
    own = tensors is data.train
    coords = {
        k: ([v[i] for i in numbers] if own else names) if len(v) == data.size else v
        for k, v in data.coords.items()
    }
    return dataclasses.replace(
        data,
        train={**tensors, **subset},
        test=None,
        size=len(chosen),
        coords={"image": names, **coords},
    )


def q_of_rows(
    fit: Fit, few: Data, chosen: Tensor, *, held_out: bool = False
) -> tuple[LogDensity, LocalQ]:
    """Return the log density of some rows, and the guide's q of each.

    Args:
        fit: a fit of a program whose latent values all belong to rows.
        few: the rows, by `part_of`.
        chosen: their numbers in the training data.
        held_out: the guide was not fitted to them.

    Raises:
        UsageError: a guide that knows only its own rows, asked for others, or no normals.
    """
    serves = guides.family_of(fit.family, fit.entry).amortized or hasattr(fit.guide, "transferred")
    if serves:
        moved = guides.transfer(fit, few)
        density = density_of(moved)
        if isinstance(moved.guide, LocalGuide):
            return density, LocalQ.of(moved.guide)
        with session(fit.entry.dtype):
            return density, row_normals(moved.guide, density, fit.family, serves=True)
    if held_out:
        tied = getattr(fit.entry.own_guides.get(fit.family), "tied", "")
        if tied:
            raise UsageError(
                f"The {fit.family} guide of {fit.entry.name} has no q of held-out rows: it {tied};"
                f" {ROWS_CURE}, or name training rows only."
            )
        raise UsageError(
            f"The {fit.family} guide of {fit.entry.name} has no encoder, so it has no q for"
            " held-out rows; give data without test rows, or an amortized guide."
        )
    own = fit.family in fit.entry.own_guides and not isinstance(fit.guide, AutoGuide)
    if not own and not isinstance(fit.guide, LocalGuide):
        raise UsageError(
            f"{NEEDED}; {fit.family} has one q of all rows of {fit.entry.name} together; accepted:"
            " amortized, amortized_full, block_full_rank, or a guide of your own that draws the"
            " values of a row from normals."
        )
    if isinstance(fit.guide, LocalGuide):
        whole = LocalQ.of(fit.guide)
    else:
        with session(fit.entry.dtype):
            whole = row_normals(fit.guide, density_of(fit), fit.family)
    with session(fit.entry.dtype):
        program = program_for(fit.program, fit.entry, few)
        return LogDensity(program, few, dtype=fit.entry.dtype), whole.take(chosen)
