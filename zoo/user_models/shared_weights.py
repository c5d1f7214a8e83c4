"""Weights that a program and its guide both compute with, called as a network or read as a tensor.

In Pyro such a weight is one thing, here each of the two would own a copy of it, also where it is
read without a gradient, as `decoder.weight.detach()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo.compiler.torch_private import TorchDispatchMode
from zoo.density.faults import unless_it_raises
from zoo.density.sites import default_dtype, no_validation, samples
from zoo.errors import ProgramError
from zoo.seeds import seeded
from zoo.user_models.lift_params import SHARED_CURE, TWICE, LiftedProgram
from zoo.user_models.units import Units

__all__ = ["refuse_shared_weights"]

FEW = 2  # rows that show which weights are read


def refuse_shared_weights(
    program: tuple[Any, LiftedProgram],
    guide: tuple[Any, LiftedProgram],
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    units: Units | None,
) -> None:
    """Refuse a weight that is trained in one of the two and read in both.

    Args:
        program: what the caller wrote, and its copy.
        guide: likewise.
        tensors: the data.
        dtype: floating type.
        units: the rows of the program.

    Raises:
        ProgramError: the first such weight, with the cure.
    """
    origins = [_origins(*pair) for pair in (program, guide)]
    trained = {id(theirs) for found in origins for ours, theirs in found if ours.requires_grad}
    if not trained:
        return
    few = tensors if units is None else {**tensors, **{k: tensors[k][:FEW] for k in units.batched}}
    known = [pair for found in origins for pair in found]
    used = []
    for (_, made), found in zip((program, guide), origins, strict=True):
        back = {id(ours): id(theirs) for ours, theirs in found}
        nothing: tuple[set[int], set[int]] = (set(), set())
        read, memory = unless_it_raises(partial(_read, made, few, dtype), nothing)
        if not (read or memory) and units is not None:
            read, memory = unless_it_raises(partial(_read, made, tensors, dtype), nothing)
        detached = {id(t) for pair in found for t in pair if _memory(t) in memory}
        others = {id(theirs) for _, theirs in known if _memory(theirs) in memory}
        used.append({back.get(key, key) for key in read | detached} | others)
    both = used[0] & used[1] & trained
    if not both:
        return
    for theirs, made in (program, guide):
        for name, net in _networks(theirs, made):
            part = next((k for k, weight in net.named_parameters() if id(weight) in both), "")
            if part:
                written = made.asked.unregistered.get(name) or name
                raise ProgramError(f"{part!r} of the network {written!r} {TWICE} {SHARED_CURE}")


def _networks(theirs: Any, made: LiftedProgram) -> Iterator[tuple[str, nn.Module]]:
    yield from made.asked.nets.items()
    if isinstance(theirs, nn.Module):
        yield type(theirs).__name__, theirs


def _origins(theirs: Any, made: LiftedProgram) -> list[tuple[Tensor, Tensor]]:
    """Return each weight of the copy with the caller's weight that it was copied from."""
    pairs: list[tuple[Iterable[Tensor], Iterable[Tensor]]] = [
        (net.parameters(), original.parameters())
        for net, original in zip(made.nets.values(), made.asked.nets.values(), strict=True)
    ]
    if isinstance(theirs, nn.Module):
        pairs.append((made.inner.parameters(), theirs.parameters()))
    return [pair for ours, given in pairs for pair in zip(ours, given, strict=True)]


def _read(
    made: LiftedProgram, tensors: Mapping[str, Any], dtype: torch.dtype
) -> tuple[set[int], set[int]]:
    """Return the identities of the leaves that values and densities of sites depend on.

    Beside them stand the addresses of all memory that operations read, which also tell of what is
    detached.
    """
    with (
        default_dtype(dtype),
        seeded(0),
        torch.enable_grad(),
        no_validation(),
        poutine.block(),
        _Reads() as reads,
    ):
        trace = poutine.trace(made).get_trace(**tensors)
        trace.compute_log_prob()
    nodes = samples(trace)
    tensors_of = [v for n in nodes for v in (n["value"], n["log_prob"]) if isinstance(v, Tensor)]
    left = [v.grad_fn for v in tensors_of if v.grad_fn is not None]
    found = {id(v) for v in tensors_of if v.requires_grad and v.grad_fn is None}
    seen = set(left)
    while left:
        step = left.pop()
        if (leaf := getattr(step, "variable", None)) is not None:
            found.add(id(leaf))
        after = {before for before, _ in step.next_functions if before is not None} - seen
        seen |= after
        left += after
    return found, reads.memory


class _Reads(TorchDispatchMode):
    """Collects the addresses of the memory that operations are given."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the tensors among the arguments, and run the operation."""
        for value in tree_leaves((args, kwargs or {})):
            if isinstance(value, Tensor):
                self.memory.add(_memory(value))
        return func(*args, **(kwargs or {}))


def _memory(weight: Tensor) -> int:
    return weight.untyped_storage().data_ptr()
