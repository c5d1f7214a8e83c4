"""Entries from existing Pyro models: `zoo.from_program(model, {"x": x, "y": y})`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.density.faults import program_faults, unless_it_raises
from zoo.density.guide_density import summed_out
from zoo.density.likelihood import has_likelihood, untouched_data
from zoo.density.log_density import LogDensity
from zoo.density.propriety import may_not_exist
from zoo.density.sites import samples
from zoo.density.symmetries import Symmetry, symmetries
from zoo.errors import DataError, ProgramError, UnknownNameError, UsageError, listed
from zoo.fields import FLAG, MAPPING, NAMES, POSITIVE, TEXT, accepted
from zoo.types import DTYPE, QUANTITIES, Data, ModelEntry, Quantity
from zoo.user_models.coefficients import coordinates_of
from zoo.user_models.discover import discover, refuse_own_subsamples
from zoo.user_models.from_trace import all_discrete, facts, of_finite_sum, quantities_of
from zoo.user_models.lift_params import LiftedProgram
from zoo.user_models.nested import Nested, flatten
from zoo.user_models.of_rows import AMORTIZE, Amortize, Asked, fields_of
from zoo.user_models.own_guides import (
    OwnGuide,
    own_guides,
    refuse_no_forward,
    refuse_other_sites,
    trained_values,
    unread_by_guides,
    unread_values,
    unregistered,
)
from zoo.user_models.signature import Signature
from zoo.user_models.tables import columns_of, is_frame, numbers_of
from zoo.user_models.units import Judged, held_out
from zoo.user_models.which_rows import rows_of

__all__ = ["as_data", "from_program"]


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
    test: Mapping[str, Any] | Sequence[Any] | None = None,
    judged: Judged | None = None,
    amortize: Amortize | None = None,
    batched: Sequence[str] = (),
    minibatch: int | None = None,
    training: Mapping[str, Any] | None = None,
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
        coords: labels along those axes; those of coefficients of the columns of a data frame are
            by default the names of the columns.
        name: name of the entry.
        observed: the arguments whose removal gives the prior predictive; by default found in the
            trace.
        guide: the caller's own guide: a function with the model's arguments, or an `AutoGuide`
            class.
        trained: guide and program have been trained already and are scored as they are: their
            `pyro.param` values are read from Pyro's parameter store, those of networks and
            modules (also of an `AutoGuide` that is bound to its own copy of the model) from these.
        title: one line for tables.
        quantities: what to compare on instead of the sites, e.g. from `zoo.quantities`.
        test: the arguments of held-out rows, by name or by position like `data`; what has no rows
            may be left out.
        judged: the rows whose latent values are compared: a number of them, spread evenly over
            the training and over the held-out rows; row numbers of the training data;
            `{"train": ..., "test": ...}` of either; a function `Data -> Data`; `"all"`. If the
            program learns and every latent value belongs to a row, it is ten of each by default.
        amortize: the input of the encoder of the `amortized` families: the name of an argument
            with one value per row, several names, or a function of the arguments that returns
            `[row, feature]`.
        batched: the arguments with one value per row; by default those as long as the outermost
            plate around the observed sites.
        minibatch: number of rows per step of a fit. A model or guide without an argument
            `index` runs on the rows it is given, scaled by all / given inside its plate; with
            `index=None` among its arguments it hands the row numbers to its plate itself.
        training: settings of fits to all rows, fields of `guides.FitConfig`.
        families: the guide families that `all` stands for; the first trains the weights.
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
    refuse_no_forward(model, "model")
    accepted(
        "from_program",
        dims=(dims, MAPPING | None),
        coords=(coords, MAPPING | None),
        name=(name, TEXT),
        observed=(observed, NAMES | None),
        trained=(trained, FLAG),
        title=(title, TEXT | None),
        quantities=(quantities, QUANTITIES | None),
        amortize=(amortize, AMORTIZE | None),
        batched=(batched, NAMES),
        minibatch=(minibatch, POSITIVE | None),
        training=(training, MAPPING | None),
        families=(families, NAMES | None),
        dtype=(dtype, DTYPE),
    )
    signature = Signature.of(model)
    frames: dict[str, tuple[str, ...]] = {}
    tensors, nested = _by_name(data, signature, dtype, frames)
    asked = Asked(
        batched=batched,
        test=None if test is None else _by_name(test, signature, dtype, {}, "test")[0],
        judged=judged,
        amortize=amortize,
        minibatch=minibatch,
        training=training,
        families=families,
    )
    _check_names(signature, tensors, nested, observed, batched)
    Data(train=tensors)  # refuses NaN, empty and odd tensors before the program meets them
    lifted, trace = discover(model, tensors, dtype, nested, points=True)
    refuse_own_subsamples(trace)
    if trained:
        lifted = trained_values(lifted, "the program")
    weights = any(p.requires_grad for p in LiftedProgram(model, lifted, dtype).parameters())
    learns = weights and not trained
    seen_by = tuple(observed) if observed is not None else _observed(trace, tensors)
    rows_found = rows_of(
        model, lifted, trace, tensors, seen_by, dtype, asked, learns=learns, guide=guide
    )
    units = rows_found.units
    lifted = replace(lifted, units=units)
    rows: dict[str, Any] = {} if units is None else {"batched": units.batched, "size": units.size}
    if asked.test is not None and units is not None:
        rows["test"] = held_out(asked.test, tensors, units)
    card = Data(
        train=tensors,
        observed=seen_by,
        coords=dict(coords or {}),
        dims=dict(dims or {}),
        source=source,
        licence=licence,
        **rows,
    )

    def build(given: Data) -> LiftedProgram:
        made = LiftedProgram(model, lifted, dtype, rows=given.size)
        return made.requires_grad_(False) if trained else made

    program = LiftedProgram(model, lifted, dtype, rows=card.size)
    some = judged is not None and not (isinstance(judged, str) and judged == "all")
    asked_of: dict[str, Any] = {"trained": trained, "minibatch": minibatch, "some": some}
    own = own_guides(guide, tensors, dtype, nested, program, units, model=model, **asked_of)
    if "own" in (families or ()) and not own:
        raise UsageError(
            "families has 'own', a guide of your own, but there is none; pass guide=: a function"
            " with the model's arguments, or an AutoGuide class."
        )
    tied = next((t for g in own.values() if (t := getattr(g, "tied", ""))), "")
    found = fields_of(asked, card, units, build, dtype, own=bool(own), learns=learns, tied=tied)
    shared: dict[str, Any] = {
        "name": name,
        "title": title
        or (inspect.getdoc(model) or f"{name}: a Pyro model of yours").partition("\n")[0],
        "make_data": lambda seed: card,
        "build": build,
        "dtype": dtype,
        "learns": learns,
        "minibatch": minibatch,
        "tags": frozenset({"from_program"}),
    }
    if all_discrete(trace):
        return of_finite_sum(trace, program, card, dtype, shared, quantities)
    density = LogDensity(build(found.seen), found.seen, dtype=dtype)
    named = coordinates_of(trace, density, card, frames)
    card = replace(card, coords={**named, **card.coords})
    for made in own.values():
        if isinstance(made, OwnGuide):
            refuse_other_sites(made, card, trace, density)
            summed_out(made(None, found.seen, None), density)
    left = [name for name in signature.names if name not in tensors and name != "index"]
    nothing = _without_likelihood(trace, density, observed, left, own)
    none: tuple[Symmetry, ...] = ()
    free = unless_it_raises(lambda: symmetries(density), none) if quantities is None else none
    absent = unless_it_raises(lambda: may_not_exist(density), "")
    of_guides = [g.lifted for g in own.values() if isinstance(g, OwnGuide)]
    asking = () if trained else (("program", lifted), *(("guide", g) for g in of_guides))
    return ModelEntry(
        quantities=(
            dict(quantities)
            if quantities is not None
            else quantities_of(trace, density, card, lifted, program, free)
        ),
        own_guides=own,
        notices=(
            *rows_found.notices,
            *found.notices,
            *facts(trace, density, lifted),
            *(symmetry.sentence for symmetry in free),
            *nothing,
            *((f"T{absent[1:]}; give flat sites a prior.",) if absent else ()),
            *unread_values(*(asked for _, asked in asking)),
            *(said for owner, asked in asking for said in unregistered(owner, asked)),
        ),
        **{"reference": "nuts", **shared, **found.entry},
    )


def _without_likelihood(
    trace: poutine.Trace,
    density: LogDensity,
    observed: Sequence[str] | None,
    left: Sequence[str] = (),
    own: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Name the data that neither an observed site nor a guide depends on, or no observed site.

    Raises:
        ProgramError: data are given, but nothing is observed, and `observed=()` does not say so.
    """
    given = [k for k, v in density.data.train.items() if isinstance(v, Tensor)]
    if has_likelihood(trace):
        loose = listed(unread_by_guides(own, density, untouched_data(density)))
        return (
            (
                f"Data {loose} touch no likelihood term: other values leave every observed site"
                " as it is; was an obs= forgotten?",
            )
            if loose
            else ()
        )
    if given and observed is None:
        missing = (
            f" The data have no {listed(left)}, which kept the default of the"
            " program: is a column or a key missing?"
            if left
            else ""
        )
        raise ProgramError(
            "The program has no likelihood: no site has obs= and there is no pyro.factor, so its"
            f" posterior is its prior and data {listed(given)} inform nothing; write"
            " pyro.sample(..., obs=...), or pass observed=() if the prior is what you want."
            f"{missing}"
        )
    return ("The program has no likelihood: its posterior is its prior.",)


# -- data --------------------------------------------------------------------------------------


def _by_name(
    data: Any,
    signature: Signature,
    dtype: torch.dtype,
    frames: dict[str, tuple[str, ...]],
    place: str = "data",
) -> tuple[dict[str, Any], Nested]:
    """Return the tensors by name; `frames` receives the columns of data frames, by argument."""
    if is_frame(data):
        needed = [n for n in signature.names if n in signature.required and n != "index"]
        taken = columns_of(data, () if signature.open_ended else signature.names, needed, place)
        data = {k: numbers_of(k, column, f"{place}[{k!r}]") for k, column in taken.items()}
        frames[""] = tuple(data)
    if not isinstance(data, Mapping):
        if not isinstance(data, tuple | list):
            loads = isinstance(data, DataLoader)
            tensors = "; give the tensors of all its rows, and minibatch= takes the batches"
            raise UsageError(
                f"{place} is a {type(data).__name__}; accepted: a dict of the model's arguments, a"
                " tuple of them in order, or a data frame whose columns have their names"
                f"{tensors if loads else ''}."
            )
        if len(data) > len(signature.names):
            raise UsageError(
                f"{place} has {len(data)} values but the model takes {len(signature.names)}"
                f" arguments: {list(signature.names)}."
            )
        data = dict(zip(signature.names, data, strict=False))

    def convert(key: str, value: Any) -> Any:
        if is_frame(value):
            frames[key] = tuple(map(str, value.columns))
        return as_data(key, value, dtype)

    return flatten(data, convert)


def as_data(key: str, value: Any, dtype: torch.dtype) -> Any:
    """Turn arrays, data frames and lists of numbers into tensors; leave all else unchanged.

    Floats get the entry's dtype.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, DataLoader):
        raise DataError(
            f"Data {key!r} is a DataLoader; give the tensors of all its rows, such as"
            " torch.cat([batch[0] for batch in loader]); minibatch= then takes the batches."
        )
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
    if signature.needs_instance and "self" in missing:
        raise UsageError(
            "The model is a method without its object, since it needs 'self'; give that of an"
            " object, such as vae.model of vae = VAE()."
        )
    if missing:
        raise UsageError(
            f"The model needs {listed(missing)} but data has {listed(sorted(given))}; add"
            " what is missing to data."
        )
    for key in observed or ():
        if key not in tensors:
            raise UnknownNameError("observed data", key, tensors)
    for key in batched:
        if not isinstance(tensors.get(key), Tensor):
            raise UnknownNameError(
                "batched data", key, [k for k, v in tensors.items() if isinstance(v, Tensor)]
            )


# -- what the trace says -----------------------------------------------------------------------


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
