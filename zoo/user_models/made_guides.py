"""Guides that a function makes of the program: `guide=lambda program: ...`, an AutoGuide class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import nn

from zoo.density.faults import unless_it_raises
from zoo.density.guide_scales import fault_of_scales
from zoo.density.sites import default_dtype
from zoo.errors import ProgramError, UsageError, described, did_you_mean, listed, one_line
from zoo.seeds import seeded
from zoo.user_models.discover import discover
from zoo.user_models.global_state import restored
from zoo.user_models.lift_params import LiftedProgram
from zoo.user_models.signature import Signature
from zoo.user_models.tied_rows import WAYS, moved, tied_rows
from zoo.user_models.units import Units

__all__ = [
    "MadeGuide",
    "as_lifted",
    "makes_guides",
    "refuse_other_scales",
    "tied_by",
    "try_making",
]

Maker = Callable[..., Any]


@dataclass(frozen=True)
class MadeGuide:
    """Makes a caller's guide of the program.

    Attributes:
        guide: the function or class that makes it.
        tied: how it computes q of a row from the rows beside it; empty if it does not.
    """

    guide: Maker
    tied: str = ""

    def __call__(self, program: Any, data: Any, entry: Any) -> Any:
        """Return a new guide.

        Raises:
            UsageError: the function returned something else.
        """
        made = self.guide(program)
        if not callable(made):
            raise UsageError(
                f"The guide function of {entry.name} returned a {type(made).__name__}; accepted: a"
                " guide, e.g. an AutoGuide of the program it is given."
            )
        return made


def makes_guides(guide: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether a function takes the program and returns a guide.

    Its one required argument is then none of the data.
    """
    if not callable(guide) or isinstance(guide, nn.Module):
        return False
    signature = Signature.of(guide)
    needed = signature.required
    return len(needed) == 1 and signature.names[0] in needed and not needed & set(arguments)


@contextmanager
def _aside(program: LiftedProgram, dtype: torch.dtype) -> Iterator[None]:
    """Make and run guides without a trace in the state of the process."""
    with (
        restored(),
        default_dtype(dtype),
        poutine.block(),
        pyro.settings.context(module_local_params=True),
        program.asked.around(dtype),
    ):
        yield


def try_making(
    guide: Maker, program: LiftedProgram, data: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Make a guide of the program once: a guide whose argument is misspelled looks alike.

    Raises:
        UsageError: it fails, or returns something else.
    """
    failed = None
    try:
        with _aside(program, dtype):
            made = guide(program)
        what = f"returned {described(made)}"
    except Exception as error:
        text = one_line(error)
        shown = f": {text}" if type(program).__name__ not in text else ""
        made, failed, what = None, error, f"failed ({type(error).__name__}{shown})"
    if not callable(made):
        name = Signature.of(guide).names[0]
        raise UsageError(
            f"The guide takes {name!r}{did_you_mean(name, data)}, which the data do not have (they"
            f" have {listed(data)}), so it was called with the program and {what}; accepted: a"
            " function with the model's arguments, or one that makes a guide of the program."
        ) from failed


def refuse_other_scales(
    guide: Maker,
    program: LiftedProgram,
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    units: Units,
    minibatch: int,
) -> None:
    """Refuse a guide that has no q of some rows, or scales their sites otherwise.

    Raises:
        ProgramError: always in that case, with the cure.
    """
    if minibatch >= units.size:
        return
    index = torch.arange(minibatch)
    few = {**tensors, **{k: tensors[k][index] for k in units.batched}, "index": index}

    def look() -> str:
        with _aside(program, dtype):
            made = _run_once(guide, program, tensors, dtype)
            return fault_of_scales(program, made, few, units.size, "own")

    if fault := unless_it_raises(look, ""):
        raise ProgramError(fault)


def tied_by(
    guide: Maker,
    program: LiftedProgram,
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    units: Units,
) -> str:
    """Say how a made guide computes q of a row from the rows beside it; empty if it does not.

    Autoguides have values of their own for every row, which no other row changes.
    """

    def look(way: str) -> str:
        with _aside(program, dtype):
            first = _run_once(guide, program, tensors, dtype)
            if isinstance(first, AutoGuide):
                return ""
            changed = moved(_run_once(guide, program, tensors, dtype), way) if way else first
            indexed = Signature.of(first).takes_index
            if isinstance(first, LiftedProgram):
                indexed = first.takes_index
            known: dict[str, Any] = {"indexed": indexed, "draws": first.eval(), "units": units}
            return tied_rows(changed.eval(), tensors, dtype, **known)

    for way in ("", *WAYS):
        if text := unless_it_raises(partial(look, way), ""):
            return f"{text}, with other weights than it starts from" if way else text
    return ""


def _run_once(
    guide: Maker, program: LiftedProgram, tensors: Mapping[str, Any], dtype: torch.dtype
) -> nn.Module:
    """Make a guide and run it on all data, by which autoguides find their sites."""
    with seeded(0):
        made = as_lifted(guide(program), tensors, dtype)
        made(**tensors)
    return made


def as_lifted(made: Any, tensors: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """Return a guide that was made as a module; a fit lifts a function likewise."""
    if isinstance(made, nn.Module):
        return made
    return LiftedProgram(made, discover(made, tensors, dtype)[0], dtype)
