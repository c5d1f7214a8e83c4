"""Whether a guide computes the q of a row from the rows beside it.

Statistics of the rows that are given, a `BatchNorm` that tracks none, a recurrent layer that
reads rows as time, or a table read by the place of a row give it another q among few rows than
among many. A last layer or a table of zeros hides it until it is trained, so that guides are also
looked at with other weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor, nn

from zoo.density.faults import unless_it_raises
from zoo.density.nodes import base_of
from zoo.density.sites import default_dtype, masked, no_validation, samples
from zoo.seeds import seeded
from zoo.user_models.units import Units

__all__ = ["ROWS_CURE", "WAYS", "moved", "tied_rows"]

ROWS_CURE = (
    "let a BatchNorm track running statistics and call .eval(), give recurrent layers"
    " batch_first=True, compute statistics of rows once, outside the guide, and read a table by"
    " the numbers of the rows (index=None among the arguments), not by their place"
)
MOST = 64  # rows that stand for all
SAME = {torch.float64: 1e-6}  # relative difference of log q; 0.01 in single precision
WAYS = ("factors", "terms")  # in which weights are moved; the first keeps their signs
NEAR_ZERO = 1e-8
M = TypeVar("M", bound=nn.Module)


def moved(made: M, way: str) -> M:
    """Move every weight that is trained to where training might take it; return the module.

    Args:
        made: a copy of its own, which is changed.
        way: of `WAYS`; factors keep a scale positive, terms also move weights that are tiny.
    """
    generator = torch.Generator().manual_seed(7)
    for weight in made.parameters():
        if not (weight.requires_grad and weight.dtype.is_floating_point):
            continue
        old, inputs = weight.detach(), weight.numel() // max(1, len(weight)) if weight.ndim else 1
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        term = (noise / max(1, inputs) ** 0.5).to(old)
        if way == "factors":
            term = torch.where(old.abs() > NEAR_ZERO, old * (0.5 * noise.tanh()).to(old), term)
        with torch.no_grad():
            weight.add_(term)
    return made


def tied_rows(
    guide: Any,
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    *,
    indexed: bool = False,
    draws: Any = None,
    units: Units | None = None,
) -> str:
    """Say how log q of a row among few rows differs from that among many; empty if it does not.

    Args:
        guide: a guide in evaluation mode.
        tensors: its arguments.
        dtype: floating type.
        indexed: hand it some rows as a minibatch, with their numbers.
        draws: the guide that draws the compared values, itself by default. Within a scale that
            is tiny beside its mean, log q of own draws is rounding.
        units: its rows, if it does not know them itself.

    Returns:
        The fragment ``computes q of 'z' at a row from ...``, or which site it draws among many
        rows only; also empty if the guide cannot be run on few rows, or has noise beside its
        sites.
    """
    units = guide.asked.units if units is None else units
    if units is None:
        return ""
    size = min(MOST, units.given(tensors, units.size))
    many = torch.arange(size)
    few = many[[-1, size // 2]] if size > 2 else many[-1:]  # in another order and place
    if size < 2:
        return ""

    def run(
        rows: Tensor, values: Mapping[str, Tensor], seed: int, guide: Any = guide
    ) -> dict[str, Any]:
        some: dict[str, Any] = {k: tensors[k][rows] for k in units.batched}
        if indexed:
            some["index"] = rows
        held = poutine.condition(guide, data=dict(values))
        with default_dtype(dtype), seeded(seed), torch.no_grad(), no_validation(), poutine.block():
            trace = poutine.trace(held).get_trace(**{**tensors, **some})
            trace.compute_log_prob()
        return {n["name"]: n for n in samples(trace)}

    def axis_of(node: Mapping[str, Any]) -> int | None:
        frames = (f for f in node["cond_indep_stack"] if f.vectorized)
        return next((f.dim for f in frames if f.name in units.plates), None)

    def of_rows(node: dict[str, Any]) -> Tensor | None:
        """Return log q of each row, the value itself of a point; None outside the rows' plate."""
        axis = axis_of(node)
        if axis is None:
            return None
        if isinstance(base_of(node["fn"]), Delta):
            value = node["value"].movedim(axis - node["fn"].event_dim, 0)
        else:
            value = masked(node).movedim(axis, 0)
        return value.reshape(len(value), -1).double().sum(-1)

    def look() -> str:
        drawn = {
            name: node
            for name, node in run(many, {}, 0, draws or guide).items()
            if not isinstance(base_of(node["fn"]), Delta)  # follows from the others
        }
        every = {name: node["value"] for name, node in drawn.items()}
        some = {}
        for name, node in drawn.items():
            axis = axis_of(node)
            some[name] = (
                node["value"]
                if axis is None
                else node["value"].index_select(axis - node["fn"].event_dim, few)
            )
        whole, again, part = run(many, every, 1), run(many, every, 2), run(few, some, 1)
        for name, node in whole.items():
            if name not in part:
                return (
                    f"draws {name!r} among {size} rows and not among {len(few)}: its number of"
                    " steps is that of the longest row, and belongs to x.shape[1]"
                )
            one, other = of_rows(node), of_rows(part[name])
            second = of_rows(again[name])
            if one is None or other is None or second is None:
                continue
            if not _same(one, second, dtype):  # noise of its own
                return ""
            if not _same(one[few], other, dtype):
                apart = (one[few] - other).abs().nan_to_num(torch.inf)
                k = int(apart.argmax())
                return (
                    f"computes q of {name!r} at a row from other rows or from its place among"
                    f" them: at row {int(few[k])} log q of one value is {float(one[few[k]]):.4g}"
                    f" nats among {size} rows and {float(other[k]):.4g} among {len(few)}"
                )
        return ""

    return unless_it_raises(look, "")


def _same(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    near = SAME.get(dtype, 1e-2)
    return torch.allclose(one, other, rtol=near, atol=near, equal_nan=True)
