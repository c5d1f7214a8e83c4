"""Guides that come with a user's program: written by hand, made of it, or trained elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoGuideList
from torch import Tensor, nn

from zoo.density.faults import unless_it_raises
from zoo.density.sites import default_dtype, samples, trace_program
from zoo.errors import UsageError, described, listed
from zoo.storage import digest_of
from zoo.types import ModelEntry, Program
from zoo.user_models.discover import discover, refuse_own_subsamples
from zoo.user_models.lift_params import DIVIDER, Lifted, LiftedProgram, refuse_shared
from zoo.user_models.nested import Nested
from zoo.user_models.signature import Signature
from zoo.user_models.units import Units

__all__ = ["OwnGuide", "own_guides", "trained_values", "unread_values"]

Guides = dict[str, Callable[..., Any]]


@dataclass(frozen=True)
class OwnGuide:
    """Builds a caller's guide anew, for any number of rows.

    Attributes:
        guide, lifted, dtype: the guide, what it asks for, and its floating type.
        amortized: it computes the approximation of a row from the row, so that it also serves
            rows it was not fitted to.
        digest: of the values it was trained to elsewhere, empty if it is trained here; draws
            depend on nothing else that is trained.
    """

    guide: Callable[..., Any]
    lifted: Lifted
    dtype: torch.dtype
    amortized: bool = False
    digest: str = ""

    def __call__(self, program: Any, data: Any, entry: Any) -> LiftedProgram:
        """Return a new copy of the guide."""
        made = LiftedProgram(self.guide, self.lifted, self.dtype, rows=data.size)
        return made.requires_grad_(False) if self.digest else made


def own_guides(
    guide: Any,
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    nested: Nested,
    program: LiftedProgram,
    units: Units | None,
    *,
    trained: bool,
) -> Guides:
    """Return `ModelEntry.own_guides`.

    Args:
        guide: what the caller gave.
        tensors: the data by flat name.
        dtype: floating type.
        nested: how arguments are put together.
        program: the lifted program, whose weights the guide must not share.
        units: the rows of the program.
        trained: the guide is scored as it is.

    Raises:
        UsageError: something that is no guide, or that is not trained.
        ProgramError: a guide that cannot be run, or that shares weights with the program.
    """
    if guide is None and not trained:
        return {}
    maker = guide.func if isinstance(guide, functools.partial) else guide
    if trained:
        if not callable(guide) or isinstance(guide, type | functools.partial):
            raise UsageError(
                "trained=True needs a guide that has been trained, and guide is"
                f" {described(guide)}; accepted: a function with the model's arguments, or a"
                " module such as an AutoGuide."
            )
    else:
        _refuse_bound(guide, maker)
        if isinstance(maker, type) and issubclass(maker, AutoGuide):
            return {"own": lambda program, data, entry: guide(program)}
        if _makes_guides(guide, nested.assemble(tensors)):
            return {"own": lambda program, data, entry: _made(guide, program, entry)}
        if not callable(guide):
            raise UsageError(
                f"guide is a {type(guide).__name__}; accepted: a function with the model's"
                " arguments or an AutoGuide class."
            )
    lifted, trace = discover(guide, tensors, dtype, nested)
    refuse_own_subsamples(trace)
    if trained:  # what both share is one value then
        lifted = trained_values(lifted, "the guide")
    else:
        refuse_shared(program.asked, lifted)
    if units is not None:
        lifted = replace(lifted, units=_plates(units, trace))
    found = OwnGuide(guide, lifted, dtype)
    if units is not None:
        found = replace(found, amortized=_serves_other_rows(found, program, tensors, units))
    if trained:
        values = dict(found(program, _Rows(units), None).state_dict())
        found = replace(found, digest=digest_of(values))
    return {"own": found}


@dataclass(frozen=True)
class _Rows:
    units: Units | None

    @property
    def size(self) -> int | None:
        return None if self.units is None else self.units.size


def _refuse_bound(guide: Any, maker: Any) -> None:
    listed = "a function of the program that makes it: guide=lambda program: ..."
    if isinstance(guide, AutoGuideList) or maker is AutoGuideList:
        raise UsageError(
            f"guide is an AutoGuideList, which is bound to one copy of the model; pass {listed}."
        )
    if isinstance(guide, AutoGuide):
        kind = type(guide).__name__
        raise UsageError(
            f"guide is an {kind} bound to another copy of the model; pass the class: guide={kind},"
            f" or functools.partial({kind}, ...), or {listed}; or trained=True to score it as it"
            " is."
        )


def _makes_guides(guide: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether a function takes the program and returns a guide.

    Its one required argument is then none of the data.
    """
    if not callable(guide) or isinstance(guide, nn.Module):
        return False
    signature = Signature.of(guide)
    needed = signature.required
    return len(needed) == 1 and signature.names[0] in needed and not needed & set(arguments)


def _made(guide: Callable[..., Any], program: Program, entry: ModelEntry) -> Any:
    made = guide(program)
    if not callable(made):
        raise UsageError(
            f"The guide function of {entry.name} returned a {type(made).__name__}; accepted: a"
            " guide, e.g. an AutoGuide of the program it is given."
        )
    return made


def _plates(units: Units, trace: Any) -> Units:
    """Return the rows with the plates of that size that the guide has."""
    frames = (f for n in samples(trace) for f in n["cond_indep_stack"] if f.vectorized)
    return replace(
        units,
        plates=tuple(sorted({*units.plates, *(f.name for f in frames if f.size == units.size)})),
    )


def _serves_other_rows(
    guide: OwnGuide, program: LiftedProgram, tensors: Mapping[str, Any], units: Units
) -> bool:
    """Whether the guide runs on some of its rows and draws each site for them.

    One with a parameter per row does not: it knows only its own rows.
    """
    few = max(2, min(3, units.size - 1))
    if few >= units.size:
        return False
    part = {**tensors, **{k: tensors[k][:few] for k in units.batched}}

    def look() -> list[poutine.Trace]:
        with default_dtype(guide.dtype):
            return [trace_program(p, part) for p in (program, guide(program, _Rows(units), None))]

    none: list[poutine.Trace] = []
    traces = unless_it_raises(look, none)
    if not traces:  # the guide needs all of its rows
        return False
    theirs, own = ({n["name"]: n for n in samples(trace)} for trace in traces)
    return all(
        name in theirs and theirs[name]["value"].shape == node["value"].shape
        for name, node in own.items()
        if not node["infer"].get("is_auxiliary")
    )


# -- values trained elsewhere ------------------------------------------------------------------


def trained_values(lifted: Lifted, owner: str) -> Lifted:
    """Return what a program or guide asks for, with the values it was trained to.

    `pyro.param` values are read from Pyro's parameter store; networks hold theirs themselves.

    Raises:
        UsageError: a parameter that is in no store, or a network whose values in the store are
            not those it holds.
    """
    store = pyro.get_param_store()
    values = {}
    for name in lifted.values:
        if name not in store:
            known = listed(store) or "nothing"
            raise UsageError(
                f"trained=True, but Pyro's parameter store has no {name!r} (it has {known}), which"
                f" {owner} needs; train first, in this process, or load its parameters."
            )
        values[name] = store[name].detach().clone()
    for name, net in lifted.nets.items():
        for part, held in net.named_parameters():
            key = f"{name}{DIVIDER}{part}"
            if key in store and not _same(store[key], held):
                raise UsageError(
                    f"The network {name!r} of {owner} holds other values of {part!r} than Pyro's"
                    " parameter store; run pyro.module(name, net, update_module_params=True) once"
                    " to take those of the store, or clear the store to take the network's."
                )
    return replace(lifted, values=values, frozen={*lifted.frozen, *lifted.nets})


def unread_values(*asked: Lifted) -> Iterator[str]:
    """Say that values in Pyro's parameter store are not where a fit starts."""
    store = pyro.get_param_store()
    names = [
        name
        for lifted in asked
        for name, value in lifted.values.items()
        if name in store and not _same(store[name], value)
    ]
    if names:
        yield (
            f"Pyro's parameter store holds other values of {listed(dict.fromkeys(names))}: a"
            " fit starts at the initial values of the program and trains them anew; trained=True"
            " scores those of the store."
        )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.detach().double(), b.detach().double()))
