"""Checks of minibatches: the given index is used, and the density is unbiased."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.contract.check import Rule, rules
from zoo.contract.subject import Failed, Skipped, Subject
from zoo.density.log_density import default_dtype, trace_program
from zoo.density.nodes import is_subsample

__all__ = ["CHECKS"]


def _size(subject: Subject) -> int:
    if not subject.data.batched or subject.data.size is None:
        raise Skipped("The entry has no minibatches.")
    return subject.data.size


def _slice(subject: Subject, index: Tensor) -> dict[str, Any]:
    train = subject.data.train
    return {**train, **{k: train[k][index] for k in subject.data.batched}, "index": index}


def _shuffled(size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(11))


def index_used(subject: Subject) -> str:
    """A plate of the program holds exactly the rows that were requested."""
    size = _size(subject)
    index = _shuffled(size)[: max(1, size // 3)]
    with default_dtype(subject.entry.dtype):
        trace = trace_program(subject.program, _slice(subject, index))
    plates = {
        n["name"]: n["value"]
        for n in trace.nodes.values()
        if is_subsample(n.get("fn")) and n["fn"].size == size
    }
    if not plates:
        raise Failed(
            f"No plate of size {size} appears; write pyro.plate(name, {size}, subsample=index)."
        )
    # a program of a user's own that runs on the rows it is given counts them anew
    counts = getattr(subject.program, "counts_rows", False)
    wanted = torch.arange(len(index)) if counts else index
    if not any(isinstance(v, Tensor) and torch.equal(v, wanted) for v in plates.values()):
        raise Failed(
            f"Plates {sorted(plates)} do not use the index they are given; write pyro.plate(name,"
            f" {size}, subsample=index)."
        )
    return f"The plate of {size} units holds the {len(index)} units it is given."


def minibatch_unbiased(subject: Subject) -> str:
    """The disjoint minibatches of a shuffled partition average to the full log density."""
    size = _size(subject)
    if size < 2:
        raise Skipped("One unit cannot be split.")
    parts = _shuffled(size).tensor_split(min(3, size))
    worst = 0.0
    with torch.no_grad():
        for u in subject.points[:3]:
            full = subject.density.evaluate(u)
            mean = sum(
                len(i) / size * subject.density.evaluate(u, _slice(subject, i)) for i in parts
            )
            worst = max(worst, ((mean - full).abs() / (1 + full.abs())).item())
    if not worst < 1e-9:
        raise Failed(
            f"Minibatches average to another log density (off by {worst:.2g}, relative); match"
            " rows, local sites and index."
        )
    return f"{len(parts)} disjoint minibatches average to the full log density within {worst:.1g}."


def row_order(subject: Subject) -> str:
    """Reordering the units together with their index changes nothing."""
    order = _shuffled(_size(subject))
    u = subject.points[0]
    with torch.no_grad():
        full, moved = (
            subject.density.evaluate(u),
            subject.density.evaluate(u, _slice(subject, order)),
        )
    if not torch.isclose(full, moved, rtol=1e-9, atol=1e-9):
        raise Failed(
            f"Reordering the units changes the log density from {full.item():.8g} to"
            f" {moved.item():.8g} nats; pair rows by index."
        )
    return "Reordering the units with their index changes nothing."


CHECKS = rules(
    Rule(
        name="index_used",
        why=(
            "A plate that draws its own rows pairs the wrong rows and local latents, without a"
            " warning."
        ),
        body=index_used,
    ),
    Rule(
        name="minibatch_unbiased",
        why="A biased minibatch density trains every guide towards another posterior.",
        body=minibatch_unbiased,
    ),
    Rule(
        name="row_order",
        why=(
            "Units are exchangeable: an order that matters means rows and latents are paired"
            " wrongly."
        ),
        body=row_order,
    ),
)
