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
from zoo.density.guide_sites import fault_of_sites, sites_of
from zoo.density.likelihood import unread_by
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype, samples, trace_program
from zoo.errors import ProgramError, UsageError, described, did_you_mean, listed
from zoo.storage import digest_of
from zoo.types import Data
from zoo.user_models.discover import discover, refuse_own_subsamples
from zoo.user_models.global_state import restored
from zoo.user_models.lift_params import DIVIDER, Lifted, LiftedProgram, refuse_shared
from zoo.user_models.made_guides import (
    MadeGuide,
    as_lifted,
    makes_guides,
    refuse_other_scales,
    tied_by,
    try_making,
)
from zoo.user_models.nested import Nested
from zoo.user_models.shared_weights import refuse_shared_weights
from zoo.user_models.signature import Signature
from zoo.user_models.tied_rows import WAYS, moved, tied_rows
from zoo.user_models.units import Units

__all__ = [
    "OwnGuide",
    "own_guides",
    "refuse_no_forward",
    "refuse_other_sites",
    "trained_values",
    "unread_by_guides",
    "unread_values",
    "unregistered",
]

Guides = dict[str, Callable[..., Any]]


@dataclass(frozen=True)
class OwnGuide:
    """Builds a caller's guide anew, for any number of rows.

    Attributes:
        guide, lifted, dtype: the guide, what it asks for, and its floating type.
        amortized: it computes the approximation of a row from the row, so that it also serves
            rows it was not fitted to.
        tied: how it computes q of a row from the rows beside it, so that its q is one of all rows;
            empty if it does not.
        digest: of the values it was trained to elsewhere, empty if it is trained here; draws
            depend on nothing else that is trained.
    """

    guide: Callable[..., Any]
    lifted: Lifted
    dtype: torch.dtype
    amortized: bool = False
    tied: str = ""
    digest: str = ""

    def __call__(self, program: Any, data: Any, entry: Any) -> LiftedProgram:
        """Return a new copy of the guide."""
        made = LiftedProgram(self.guide, self._for(data), self.dtype, rows=data.size)
        return made.requires_grad_(False) if self.digest else made

    def _for(self, data: Any) -> Lifted:
        """Return what it asks for on these rows: a parameter per row has as many values."""
        units = self.lifted.units
        if self.amortized or self.digest or units is None or data.size in (None, units.size):
            return self.lifted

        def look() -> Lifted:
            nested = self.lifted.nested
            return discover(self.guide, data.train, self.dtype, nested, noun="guide")[0]

        found = unless_it_raises(look, self.lifted)
        values = self.lifted.values
        sized = {k: found.values[k] for k in values if k in found.values}
        return replace(self.lifted, values={**values, **sized})


def own_guides(
    guide: Any,
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    nested: Nested,
    program: LiftedProgram,
    units: Units | None,
    *,
    model: Any,
    trained: bool,
    minibatch: int | None = None,
    some: bool = False,
) -> Guides:
    """Return `ModelEntry.own_guides`.

    Args:
        guide: what the caller gave.
        tensors: the data by flat name.
        dtype: floating type.
        nested: how arguments are put together.
        program: the lifted program, whose weights the guide must not share.
        units: the rows of the program.
        model: the program as the caller wrote it.
        trained: the guide is scored as it is.
        minibatch: rows of a step, None for all.
        some: only some of the rows are compared.

    Raises:
        UsageError: something that is no guide, or that is not trained.
        ProgramError: a guide that cannot be run, or that shares weights with the program, or that
            is made of the program and has no q of a minibatch.
    """
    if guide is None and not trained:
        return {}
    refuse_no_forward(guide, "guide")
    maker = guide.func if isinstance(guide, functools.partial) else guide
    if trained:
        if not callable(guide) or isinstance(maker, type):
            raise UsageError(
                "trained=True needs a guide that has been trained, and guide is"
                f" {described(guide)}; accepted: a function with the model's arguments, or a"
                " module such as an AutoGuide."
            )
    else:
        _refuse_bound(guide, maker)
        automatic = isinstance(maker, type) and issubclass(maker, AutoGuide)
        if automatic or makes_guides(guide, nested.assemble(tensors)):
            if not automatic:
                try_making(guide, program, nested.assemble(tensors), dtype)
            tied = ""
            if units is not None:
                of_program = guide, program, tensors, dtype, units
                if minibatch is not None:
                    refuse_other_scales(*of_program, minibatch)
                tied = tied_by(*of_program)
            return {"own": MadeGuide(guide, tied)}
        if not callable(guide):
            raise UsageError(
                f"guide is a {type(guide).__name__}; accepted: a function with the model's"
                " arguments or an AutoGuide class."
            )
    _refuse_arguments(guide, nested.assemble(tensors))
    lifted, trace = discover(guide, tensors, dtype, nested, noun="guide")
    refuse_own_subsamples(trace)
    if trained:  # what both share is one value then
        lifted = trained_values(lifted, "the guide")
    else:
        refuse_shared(program.asked, lifted)
    if units is not None:
        lifted = replace(lifted, units=_plates(units, trace))
    found = OwnGuide(guide, lifted, dtype)
    if not trained:
        made = found(program, _Rows(units), None)
        refuse_shared_weights((model, program), (guide, made), tensors, dtype, units)
    if units is not None:
        serves = _serves_other_rows(found, program, tensors, units)
        if trained and some and not serves:
            raise ProgramError(
                f"The guide was trained to values for its {units.size} rows and cannot be run on"
                " some of them, which judged= compares; leave judged out."
            )
        looks = [found(program, _Rows(units), None).eval()]
        if not trained:  # weights of zero hide what training brings about
            looks += [moved(found(program, _Rows(units), None).eval(), way) for way in WAYS]

        def seen(*, indexed: bool) -> str:
            for look in looks:
                if text := tied_rows(look, tensors, dtype, indexed=indexed, draws=looks[0]):
                    later = "" if look is looks[0] else ", with other weights than it starts from"
                    return f"{text}{later}"
            return ""

        alone = seen(indexed=False) if serves else ""
        # a parameter per row is found by its number in a minibatch, and by its place without
        part = seen(indexed=True) if looks[0].takes_index else alone
        tied = part or (alone if trained else "")
        found = replace(found, amortized=serves and not (alone or tied), tied=tied)
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


def unread_by_guides(
    own: Mapping[str, Callable[..., Any]], density: LogDensity, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Return those of some data that none of the guides depends on.

    Args:
        own: what `own_guides` returned.
        density: of the program.
        names: of the data.
    """
    for make in own.values() if names else ():
        with restored(), pyro.settings.context(module_local_params=True):
            tensors, dtype = density.data.train, density.dtype
            made = as_lifted(make(density.program, density.data, None), tensors, dtype)
            made = moved(made, WAYS[0])  # a table of zeros hides what is read from it
            names = unread_by(made, tensors, names, dtype)
    return names


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


def refuse_no_forward(program: Any, noun: str) -> None:
    """Reject a module that cannot be called, as one whose methods are the program and the guide.

    Raises:
        UsageError: always in that case.
    """
    if isinstance(program, nn.Module) and type(program).forward is nn.Module.forward:
        kind = type(program).__name__
        raise UsageError(
            f"The {noun} is a {kind}, which has no forward(); pass the method that is the {noun},"
            f" such as {kind.lower()}.{noun}."
        )


def _refuse_arguments(guide: Callable[..., Any], data: Mapping[str, Any]) -> None:
    """Reject a guide that cannot be called with the data, as the program is.

    Raises:
        UsageError: it needs an argument that the data lack, or does not take one they have.
    """
    signature = Signature.of(guide)
    missing = sorted(signature.required - set(data) - {"index"})
    unknown = [] if signature.open_ended else [k for k in data if k not in signature.names]
    if not missing and not unknown:
        return
    if not unknown:
        raise UsageError(
            f"The guide needs {listed(missing)}{did_you_mean(missing[0], data)} but data has"
            f" {listed(data)}; add what is missing to data, or give the argument a default."
        )
    takes = listed(signature.names) or "nothing"
    raise UsageError(
        f"The guide takes {takes} and not {listed(unknown)} of data; the program and the guide are"
        f" called with the same arguments by name, so write def guide({', '.join(data)})."
    )


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


def unregistered(owner: str, lifted: Lifted) -> Iterator[str]:
    """Say that networks look trainable and are held fixed, since stock Pyro would not see them."""
    for name in lifted.unregistered.values():
        net = f"the network {name!r}" if name else "a network"
        fixed = f"{name}.requires_grad_(False)" if name else "requires_grad_(False)"
        word = name.rpartition(".")[2] or "net"
        yield (
            f"The {owner} calls {net} without pyro.module, so that its weights are held as they"
            f" are, as in stock Pyro; write pyro.module({word!r}, {name or word}) to train them,"
            f" or {fixed} if they are meant to be fixed."
        )


def refuse_other_sites(
    guide: OwnGuide, data: Data, trace: poutine.Trace, density: LogDensity
) -> None:
    """Reject a guide whose latent sites are not those of the program.

    Args:
        guide: the guide.
        data: all of the data.
        trace: of the program on them.
        density: of the program, on some of its rows.

    Raises:
        ProgramError: a site that it misses, has too many, or draws with another shape.
    """
    wanted = sites_of(trace, [s.name for s in density.sites])
    discrete = {**dict.fromkeys(density.discrete), **sites_of(trace, density.discrete)}
    observed = [node["name"] for node in samples(trace) if node["is_observed"]]
    with default_dtype(guide.dtype):
        made = guide(None, data, None)
        fault = fault_of_sites(made, data.train, wanted, discrete, "own", observed)
    if fault:
        raise ProgramError(fault)


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
