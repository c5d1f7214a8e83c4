"""Checks of the card, of its data, and of side effects of loading them."""

from __future__ import annotations

from typing import Any

import torch

from zoo.contract.check import Rule, rules
from zoo.contract.subject import Failed, Skipped, Subject
from zoo.user_models.global_state import differences, state
from zoo.user_models.model_file import side_effects

__all__ = ["CHECKS"]


def card(subject: Subject) -> str:
    """The card names what it is and describes what is compared."""
    entry = subject.entry
    if not entry.title.strip() or "\n" in entry.title:
        raise Failed(
            f"The title is {entry.title!r}; write one line a reader recognizes the model by."
        )
    if len(set(entry.families)) != len(entry.families):
        raise Failed(f"families lists a name twice: {entry.families}; keep each once.")
    return f"{entry.title}: {len(entry.quantities)} quantities, reference {entry.reference}."


def citation(subject: Subject) -> str:
    """The card cites where the model comes from."""
    if not subject.entry.cites:
        raise Skipped(
            "The card cites nothing; add cites=('Author (year), title',) before sharing the model."
        )
    return f"Cites {len(subject.entry.cites)} source{'s' if len(subject.entry.cites) > 1 else ''}."


def data(subject: Subject) -> str:
    """The data load, keep their type, and say their source and licence."""
    made = subject.entry.load_data()
    for field in ("source", "licence"):
        if not getattr(made, field).strip():
            raise Failed(
                f"Data.{field} is empty; say where the numbers come from and under which terms"
                " they may be shared."
            )
    for name, value in made.train.items():
        if (
            isinstance(value, torch.Tensor)
            and value.dtype.is_floating_point
            and value.dtype != subject.entry.dtype
        ):
            raise Failed(
                f"Data {name!r} is {value.dtype} but the entry's dtype is {subject.entry.dtype};"
                " convert it in make_data."
            )
    if subject.entry.minibatch is not None and not made.batched:
        raise Failed(
            f"minibatch={subject.entry.minibatch} needs batched data; name the tensors with one"
            " row per unit in Data.batched."
        )
    shapes = ", ".join(
        f"{k} {list(v.shape)}" for k, v in made.train.items() if isinstance(v, torch.Tensor)
    )
    return f"Data {shapes or 'none'}; source and licence stated."


def data_repeatable(subject: Subject) -> str:
    """The same data seed gives the same data."""
    one, two = subject.entry.load_data(0), subject.entry.load_data(0)
    for part in ("train", "test"):
        a, b = getattr(one, part) or {}, getattr(two, part) or {}
        for name in {*a, *b}:
            if name not in a or name not in b or not _equal(a[name], b[name]):
                raise Failed(
                    f"Two loads with data seed 0 differ in {part}[{name!r}]; derive every random"
                    " number from the seed."
                )
    return "Two loads with data seed 0 are equal."


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return (
        bool(a == b)
        if isinstance(a, int | float | str | bool | tuple | type(None))
        else type(a) is type(b)
    )


def no_global_state(subject: Subject) -> str:
    """Loading, making data, building and evaluating have no side effects on global state."""
    loading = side_effects(subject.entry)
    if loading:
        raise Failed(
            f"Loading the file changes {', '.join(loading)} (restored here); use a local"
            " generator, pass dtypes explicitly, and leave settings to whoever runs the model."
        )
    before = state()
    made = subject.entry.load_data()
    subject.entry.program(made)
    density = subject.density
    density.gradient(subject.points[0])
    changed = differences(before, state())
    if changed:
        raise Failed(
            f"Making the data or evaluating the model changes {', '.join(changed)}; use a local"
            " generator and pass dtypes explicitly."
        )
    return "Random streams, parameter store, default dtype, threads and settings are untouched."


CHECKS = rules(
    Rule(
        name="card",
        why="Tables and reports need one line to name the model by.",
        body=card,
        tier="entry",
    ),
    Rule(
        name="citation",
        why="A reader must be able to find where the model comes from.",
        body=citation,
    ),
    Rule(
        name="data",
        why=(
            "Numbers without source and licence cannot be shared; mixed float types lose digits"
            " silently."
        ),
        body=data,
    ),
    Rule(
        name="data_repeatable",
        why="A reference holds for one data set only; data that move make every comparison wrong.",
        body=data_repeatable,
    ),
    Rule(
        name="no_global_state",
        why="State left behind changes the results of whatever runs next in the process.",
        body=no_global_state,
    ),
)
