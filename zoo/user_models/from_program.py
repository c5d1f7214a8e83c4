"""Entries from existing Pyro models: `zoo.from_program(model, {"x": x, "y": y})`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoGuideList
from torch import Tensor

from zoo.density.faults import program_faults, unless_it_raises
from zoo.density.likelihood import has_likelihood, untouched_data
from zoo.density.log_density import LogDensity
from zoo.density.nodes import is_subsample
from zoo.density.propriety import may_not_exist
from zoo.density.sites import samples
from zoo.density.symmetries import Symmetry, symmetries
from zoo.errors import DataError, ProgramError, UnknownNameError, UsageError
from zoo.storage import digest_of
from zoo.types import Data, ModelEntry, Program, Quantity
from zoo.user_models.discover import discover
from zoo.user_models.from_trace import all_discrete, facts, of_finite_sum, quantities_of
from zoo.user_models.lift_params import Lifted, LiftedProgram, Trained
from zoo.user_models.nested import Nested, flatten
from zoo.user_models.signature import Signature
from zoo.user_models.tables import columns_of, is_frame, numbers_of

__all__ = ["from_program"]


@program_faults("loaded")
def from_program(
    model: Callable[..., Any],
    data: Mapping[str, Any] | Sequence[Any],
    dims: Mapping[str, tuple[str, ...]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    name: str = "my_model",
    observed: Sequence[str] | None = None,
    guide: Callable[..., Any] | None = None,
    *,
    trained: bool = False,
    title: str | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    batched: Sequence[str] = (),
    minibatch: int | None = None,
    families: tuple[str, ...] | None = None,
    source: str = "given by the caller",
    licence: str = "not stated",
    dtype: torch.dtype = torch.float64,
) -> ModelEntry:
    """Make an entry of an existing Pyro model.

    Its quantities are its latent sites, positive ones as logarithms. `pyro.param` and
    `pyro.module` inside the model or the guide are lifted onto a module that owns them, so that
    they are trained; the global parameter store is never touched, and the caller's networks keep
    their weights.

    Args:
        model: a function or a `PyroModule`.
        data: its arguments by name, or by position as a tuple; arrays, data frames and lists
            become tensors. Tensors inside a dict, a list or an object are data of their own,
            called `argument.key`. Of a data frame, the columns named like arguments are taken.
        dims: names of the axes of data and latent sites.
        coords: labels along those axes.
        name: name of the entry.
        observed: the arguments whose removal gives the prior predictive; by default found in the
            trace.
        guide: the caller's own guide: a function with the model's arguments, or an `AutoGuide`
            class.
        trained: the guide has been trained already and is scored as it is: its `pyro.param` values
            are read from Pyro's parameter store, those of a module (also of an `AutoGuide` that is
            bound to its own copy of the model) from the module.
        title: one line for tables.
        quantities: what to compare on instead of the sites, e.g. from `zoo.quantities`.
        batched: arguments with one row per unit of the minibatch plate; the model must then take
            `index=None` too.
        minibatch: number of units per minibatch.
        families: the guide families of `--guides all`.
        source: where the data come from.
        licence: the terms under which they may be shared.
        dtype: floating dtype of trace, fit and draws.

    Raises:
        DataError: the program cannot be conditioned on the data.
        ProgramError: the program cannot be handled correctly; the message holds the cure.
        UsageError: arguments that do not fit the model.
    """
    if not callable(model):
        raise UsageError(
            f"The model is a {type(model).__name__}; accepted: a function of the data or a"
            " PyroModule."
        )
    signature = Signature.of(model)
    tensors, nested = _by_name(data, signature, dtype)
    _check_names(signature, tensors, nested, observed, batched)
    Data(train=tensors)  # refuses NaN, empty and odd tensors before the program meets them
    lifted, trace = discover(model, tensors, dtype, nested, points=True)
    _refuse_own_subsamples(trace)
    known = tuple(observed) if observed is not None else _observed(trace, tensors)
    size = _rows(tensors, batched)
    card = Data(
        train=tensors,
        observed=known,
        batched=tuple(batched),
        size=size,
        coords=dict(coords or {}),
        dims=dict(dims or {}),
        source=source,
        licence=licence,
    )

    def build(_: Data) -> Program:
        return LiftedProgram(model, lifted, dtype)

    program = LiftedProgram(model, lifted, dtype)
    own = (
        _trained(guide, tensors, dtype, nested, program)
        if trained
        else _own_guides(guide, tensors, dtype, nested, lifted)
    )
    shared: dict[str, Any] = {
        "name": name,
        "title": title
        or (inspect.getdoc(model) or f"{name}: a Pyro model of yours").partition("\n")[0],
        "make_data": lambda seed: card,
        "build": build,
        "dtype": dtype,
        "learns": any(p.requires_grad for p in program.parameters()),
        "minibatch": minibatch,
        "tags": frozenset({"from_program"}),
    }
    if all_discrete(trace):
        return of_finite_sum(trace, program, card, dtype, shared, quantities)
    density = LogDensity(program, card, dtype=dtype)
    nothing = _without_likelihood(trace, density, observed)
    none: tuple[Symmetry, ...] = ()
    free = unless_it_raises(lambda: symmetries(density), none) if quantities is None else none
    absent = unless_it_raises(lambda: may_not_exist(density), "")
    return ModelEntry(
        quantities=(
            dict(quantities)
            if quantities is not None
            else quantities_of(trace, density, card, lifted, program, free)
        ),
        reference="nuts",
        families=families or ModelEntry.families,
        own_guides=own,
        notices=(
            *facts(trace, density, lifted),
            *(symmetry.sentence for symmetry in free),
            *nothing,
            *((f"T{absent[1:]}; give flat sites a prior.",) if absent else ()),
        ),
        **shared,
    )


def _without_likelihood(
    trace: poutine.Trace, density: LogDensity, observed: Sequence[str] | None
) -> tuple[str, ...]:
    """Name the data that no observed site depends on, and a program that observes nothing.

    Raises:
        ProgramError: data are given, but nothing is observed, and `observed=()` does not say so.
    """
    given = [k for k, v in density.data.train.items() if isinstance(v, Tensor)]
    if has_likelihood(trace):
        loose = ", ".join(repr(k) for k in untouched_data(density))
        return (
            (
                f"Data {loose} touch no likelihood term: other values leave every observed site"
                " as it is; was an obs= forgotten?",
            )
            if loose
            else ()
        )
    if given and observed is None:
        raise ProgramError(
            "The program has no likelihood: no site has obs= and there is no pyro.factor, so its"
            f" posterior is its prior and data {', '.join(map(repr, given))} inform nothing; write"
            " pyro.sample(..., obs=...), or pass observed=() if the prior is what you want."
        )
    return ("The program has no likelihood: its posterior is its prior.",)


# -- data --------------------------------------------------------------------------------------


def _by_name(data: Any, signature: Signature, dtype: torch.dtype) -> tuple[dict[str, Any], Nested]:
    if is_frame(data):
        data = columns_of(data, () if signature.open_ended else signature.names)
    if not isinstance(data, Mapping):
        if not isinstance(data, tuple | list):
            raise UsageError(
                f"data is a {type(data).__name__}; accepted: a dict of the model's arguments, a"
                " tuple of them in order, or a data frame whose columns have their names."
            )
        if len(data) > len(signature.names):
            raise UsageError(
                f"data has {len(data)} values but the model takes {len(signature.names)}"
                f" arguments: {list(signature.names)}."
            )
        data = dict(zip(signature.names, data, strict=False))
    return flatten(data, lambda key, value: _tensor(key, value, dtype))


def _tensor(key: str, value: Any, dtype: torch.dtype) -> Any:
    """Turn arrays, data frames and lists of numbers into tensors; leave all else unchanged.

    Floats get the entry's dtype.
    """
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "to_numpy"):
        value = numbers_of(key, value)
    elif isinstance(value, list):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise DataError(
                f"Data {key!r} is a ragged list; give rows of one length, or pad and mask them."
            ) from error
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise DataError(
                f"Data {key!r} has dtype {value.dtype}; accepted: numbers and booleans. Encode"
                " text as integers first."
            )
        value = torch.from_numpy(
            np.array(value, dtype=value.dtype if value.dtype.kind in "fb" else np.int64, order="C")
        )
    if isinstance(value, Tensor):
        value = value.detach()
        return value.to(dtype) if value.dtype.is_floating_point else value
    return value


def _check_names(
    signature: Signature,
    tensors: Mapping[str, Any],
    nested: Nested,
    observed: Sequence[str] | None,
    batched: Sequence[str],
) -> None:
    given = nested.assemble(tensors)
    if not signature.open_ended:
        for key in given:
            if key not in signature.names:
                raise UnknownNameError("argument of the model", key, signature.names)
    missing = sorted(signature.required - set(given) - {"index"})
    if missing:
        raise UsageError(
            f"The model needs {missing} but data has {sorted(given)}; add them to data."
        )
    for key in observed or ():
        if key not in tensors:
            raise UnknownNameError("observed data", key, tensors)
    for key in batched:
        if not isinstance(tensors.get(key), Tensor):
            raise UnknownNameError(
                "batched data", key, [k for k, v in tensors.items() if isinstance(v, Tensor)]
            )
    if batched and not signature.takes_index:
        text = (
            "give the model an argument index=None and write pyro.plate(name, size,"
            " subsample=index)"
        )
        raise ProgramError(
            f"batched={list(batched)} needs minibatches, but the model takes no index; {text}."
        )


def _rows(tensors: Mapping[str, Any], batched: Sequence[str]) -> int | None:
    return int(tensors[batched[0]].shape[0]) if batched and tensors[batched[0]].ndim else None


# -- what the trace says -----------------------------------------------------------------------


def _refuse_own_subsamples(trace: poutine.Trace) -> None:
    for node in trace.nodes.values():
        fn = node.get("fn")
        if is_subsample(fn) and fn.subsample_size is not None and fn.subsample_size < fn.size:
            name = node["name"]
            raise ProgramError(
                f"Plate {name!r} draws its own random subsample of {fn.subsample_size} of"
                f" {fn.size} rows, so the posterior would be a different one in every run; add an"
                f" argument index=None to the model, write pyro.plate({name!r}, {fn.size},"
                " subsample=index), index the data outside, and pass batched=[...]."
            )


def _observed(trace: poutine.Trace, tensors: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the arguments that reach `obs=`: by storage, else by equal numbers."""
    values = [
        n["value"]
        for n in samples(trace)
        if n["is_observed"] and isinstance(n["value"], Tensor) and n["value"].numel()
    ]
    given = {k: v for k, v in tensors.items() if isinstance(v, Tensor)}
    found = {
        k
        for k, v in given.items()
        for x in values
        if v.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    }
    for x in values:
        if not any(
            given[k].untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for k in found
        ):
            found |= {
                k
                for k, v in given.items()
                if v.numel() == x.numel() and bool((v.reshape(-1) == x.reshape(-1)).all())
            }
    return tuple(k for k in tensors if k in found)


# -- guides ------------------------------------------------------------------------------------


def _own_guides(
    guide: Any, tensors: Mapping[str, Any], dtype: torch.dtype, nested: Nested, of_program: Lifted
) -> dict[str, Callable[..., Any]]:
    if guide is None:
        return {}
    maker = guide.func if isinstance(guide, functools.partial) else guide
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
    if isinstance(maker, type) and issubclass(maker, AutoGuide):
        return {"own": lambda program, data, entry: guide(program)}
    if _makes_guides(guide, nested.assemble(tensors)):
        return {"own": lambda program, data, entry: _made(guide, program, entry)}
    if not callable(guide):
        raise UsageError(
            f"guide is a {type(guide).__name__}; accepted: a function with the model's arguments"
            " or an AutoGuide class."
        )
    lifted: Lifted
    lifted, trace = discover(guide, tensors, dtype, nested)
    _refuse_own_subsamples(trace)
    _refuse_shared(of_program, lifted)
    return {"own": lambda program, data, entry: LiftedProgram(guide, lifted, dtype)}


def _refuse_shared(program: Lifted, guide: Lifted) -> None:
    """Refuse what program and guide both train: in Pyro it is one thing, here it would be two.

    Raises:
        ProgramError: the first such parameter or network, with the cure.
    """
    nets = {id(net) for name, net in program.nets.items() if name not in program.frozen}
    shared = [f"pyro.param({name!r})" for name in guide.values if name in program.values]
    shared += [
        f"the network {name!r}"
        for name, net in guide.nets.items()
        if name not in guide.frozen and id(net) in nets
    ]
    if shared:
        raise ProgramError(
            f"{shared[0]} is trained in the program and in the guide; each would get a copy of its"
            " own, and the ELBO would exceed that of the pair as written. Give the guide a"
            " parameter of another name, or fix the value in one of the two."
        )


def _trained(
    guide: Any,
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    nested: Nested,
    program: torch.nn.Module,
) -> dict[str, Callable[..., Any]]:
    """Return a guide with the values it was trained to, frozen.

    Raises:
        UsageError: no guide, one that is not made yet, a parameter that was not trained, or a
            program with weights of its own.
    """
    if not callable(guide) or isinstance(guide, type | functools.partial):
        raise UsageError(
            f"trained=True needs a guide that has been trained, and guide is {guide!r}; accepted:"
            " a function with the model's arguments, or a module such as an AutoGuide."
        )
    if any(p.requires_grad for p in program.parameters()):
        raise UsageError(
            "trained=True scores a guide of a program without weights of its own, but this one"
            " trains some; give it their trained values as constants."
        )
    lifted, _ = discover(guide, tensors, dtype, nested)
    store = pyro.get_param_store()
    for name in lifted.values:
        if name not in store:
            known = ", ".join(map(repr, store)) or "nothing"
            raise UsageError(
                f"trained=True, but Pyro's parameter store has no {name!r} (it has {known}); train"
                " the guide first, in this process, or load its parameters."
            )
        lifted.values[name] = store[name].detach().clone().to(dtype)
    made = LiftedProgram(guide, lifted, dtype)
    return {"own": Trained(guide, lifted, dtype, digest_of(dict(made.state_dict())))}


def _makes_guides(guide: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether a function takes the program and returns a guide.

    Its one required argument is then none of the data.
    """
    if not callable(guide) or isinstance(guide, torch.nn.Module):
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
