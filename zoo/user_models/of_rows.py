"""What an entry of a user's program gets if its latent values belong to rows.

Encoders, minibatches, the rows that are compared, and the exact posterior given trained weights:
the fields of `ModelEntry` that the zoo's own autoencoders fill by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.density.faults import unless_it_raises
from zoo.density.log_density import LogDensity
from zoo.density.row_terms import ProgramTerms, has_grid, row_numbers
from zoo.density.sites import default_dtype
from zoo.density.unit_terms import is_local
from zoo.errors import ProgramError, UnknownNameError, UsageError, ZooError, listed
from zoo.fields import COUNT, NAMES, Kind, typed
from zoo.types import Data, ModelEntry, Program
from zoo.user_models.signature import Signature
from zoo.user_models.tied_rows import ROWS_CURE
from zoo.user_models.units import Judged, Units, judged_rows

__all__ = ["AMORTIZE", "Amortize", "Asked", "Fields", "fields_of"]

Amortize = str | Sequence[str] | Callable[[Mapping[str, Any]], Tensor]
AMORTIZE = Kind(
    accepted="the name of an argument, a tuple of names, or a function of the arguments",
    holds=lambda value: isinstance(value, str) or callable(value) or NAMES.holds(value),
)
# Noise of minibatches hides the end of the search from short windows; one draw per step is enough
# beside it.
TRAINING = {
    "lr": 0.01,
    "weight_lr": 0.01,
    "final_lr": 1e-4,
    "num_particles": 1,
    "steps": 24_000,
    "patience": 500,
    "anneal": 2000,
}
ENCODERS = ("amortized", "amortized_full")
PER_ROW = ("mean_field", "block_full_rank")
SAME = 1e-6  # relative, between the terms of all rows and the log density


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the caller asked for by row; `any` says whether rows are needed at all."""

    batched: Sequence[str]
    test: Mapping[str, Any] | None
    judged: Judged | None
    amortize: Amortize | None
    minibatch: int | None
    training: Mapping[str, Any] | None
    families: tuple[str, ...] | None

    @property
    def any(self) -> bool:
        """Whether something was asked for that needs rows."""
        return bool(self.batched) or any(
            x is not None for x in (self.test, self.judged, self.amortize, self.minibatch)
        )


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Fields of the entry, the data its looks at the program use, and what a reader must know."""

    entry: Mapping[str, Any]
    seen: Data
    notices: tuple[str, ...] = ()


def fields_of(
    asked: Asked,
    card: Data,
    units: Units | None,
    build: Callable[[Data], Program],
    dtype: torch.dtype,
    *,
    own: bool,
    learns: bool,
    tied: str = "",
) -> Fields:
    """Return what the rows of a program give its entry.

    Args:
        asked: the arguments of the caller.
        card: all data.
        units: the rows, None if nothing was asked for that needs them and none are known.
        build: `build(data) -> program`.
        dtype: floating type.
        own: whether the caller gave a guide.
        learns: whether the program trains weights.
        tied: how the caller's guide computes q of a row from other rows; all rows are then
            compared.

    Raises:
        UsageError: rows are asked for that the program's latent values do not belong to.
        ProgramError: some rows are asked for, and the guide has no q of some.
    """
    if tied:
        _refuse_some_rows(asked, tied)
    first = ("own",) if own and learns else ()
    plain: dict[str, Any] = {"training": dict(asked.training or {})}
    if first:
        plain["families"] = asked.families or (*first, *ModelEntry.families)
    elif asked.families:
        plain["families"] = asked.families
    if units is None:
        return Fields(entry=plain, seen=card)
    few = _first_rows(card, units)
    local, why = _density_of(build, few, dtype)
    if local is None and asked.judged is not None:
        raise UsageError(
            f"judged compares some of the rows, but {few.size} of {units.size} rows have no"
            f" density: {why}. Take every size from the data, or leave judged out."
        )
    # a plate of two entries is no plate of rows, though it is as long as what is looked at here
    foreign = (
        [s.name for s in local.sites if not set(s.plates) & set(units.plates)] if local else []
    )
    of_rows = local is not None and is_local(local) and not foreign
    if not of_rows and asked.judged is not None:
        assert local is not None
        rest = [s.name for s in local.sites if s.plate_axis is None]
        if not foreign and not rest:
            raise UsageError(
                f"judged compares some of the rows, but {listed(local.discrete)} is summed out of"
                " all rows at once, so that a row has no density of its own; leave judged out."
            )
        others = dict.fromkeys([*foreign, *rest])
        raise UsageError(
            f"judged compares some of the rows, but {listed(others)} is not a continuous value of"
            f" one row: {_other_axis(local, others, card, units)}its posterior needs all of them;"
            " leave judged out."
        )
    some = learns and not tied
    judged = judged_rows(asked.judged, card, units, learns=some) if of_rows else None
    if callable(asked.judged):
        _refuse_other_arguments(asked.judged, "judged", "the Data", "lambda data: data")
    seen = card if judged is None else judged(card)
    if not isinstance(seen, Data):
        raise UsageError(
            f"judged returned {typed(seen)}; accepted: a function Data -> Data that returns the"
            " compared rows, or their numbers."
        )
    entry: dict[str, Any] = {**plain, "judged": judged}
    if asked.amortize is not None:
        entry["amortize"] = _encoder_input(asked.amortize, card, units, dtype)
    if asked.minibatch is not None and learns:
        entry["training"] = {**TRAINING, **plain["training"]}
    if of_rows and (learns or judged is not None):
        encoders = ENCODERS if asked.amortize is not None else ()
        entry["families"] = asked.families or (*(("own",) if own else ()), *encoders, *PER_ROW)
    few_rows = learns or judged is not None
    if local is not None and of_rows and few_rows and has_grid(local) and _adds_up(local):
        entry["reference"] = "exact"  # a grid over the values of each row, given the weights
    said = () if judged is None else (_said(units, seen),)
    if tied:
        said = (*said, f"The guide {tied}; its q is one of all rows, and serves no others.")
    return Fields(entry=entry, seen=seen, notices=(*said, *_more_than_there_are(asked, card)))


def _refuse_some_rows(asked: Asked, tied: str) -> None:
    """Refuse a guide whose rows depend on each other where it would be run on some of them.

    Raises:
        ProgramError: minibatches or compared rows are asked for.
    """
    name = "minibatch" if asked.minibatch is not None else "judged"
    every = asked.judged is None or (isinstance(asked.judged, str) and asked.judged == "all")
    if asked.minibatch is not None or not every:
        raise ProgramError(
            f"The guide {tied}; {name}= runs it on some of the rows, where its q is another one:"
            f" {ROWS_CURE}, or leave {name} out."
        )


def _first_rows(card: Data, units: Units) -> Data:
    """Return two rows, on which the program is looked at."""
    rows = {k: card.train[k][:2] for k in units.batched}
    return Data(
        train={**card.train, **rows},
        observed=card.observed,
        batched=units.batched,
        size=min(2, units.size),
    )


def _other_axis(density: LogDensity, names: Iterable[str], card: Data, units: Units) -> str:
    """Say that values may belong to rows on another axis than the first; empty if none fits."""
    for s in (s for s in density.sites if s.name in names and s.plates):
        lengths = {n for n in s.shape[: len(s.shape) - s.event_dim] if n > 1}
        for name in units.batched:
            found = [k for k, n in enumerate(card.train[name].shape) if k and n in lengths]
            if found:
                return (
                    f"rows are on the first axis of {name!r} ({units.size}), and {s.name!r} lies"
                    f" in the plate {s.plates[0]!r}, as long as its axis {found[0]}; if those are"
                    " the rows, transpose the data, so that they come first, and if not, "
                )
    return ""


def _density_of(
    build: Callable[[Data], Program], data: Data, dtype: torch.dtype
) -> tuple[LogDensity | None, str]:
    """Return the log density of a program, or None and what is wrong with it."""
    try:
        return LogDensity(build(data), data, dtype=dtype), ""
    except ZooError as error:
        return None, str(error).rstrip(".")


def _adds_up(density: LogDensity) -> bool:
    """Whether the terms of the rows, taken one by one, are the log density."""

    def look() -> bool:
        generator = torch.Generator().manual_seed(11)
        u = 0.3 * torch.randn(density.dim, dtype=density.dtype, generator=generator)
        places = torch.cat([s.unit_indices() for s in density.sites], -1)
        with torch.no_grad(), default_dtype(density.dtype):
            whole = float(density.evaluate(u))
            rows = ProgramTerms(density).paired(row_numbers(density), u[places])
        return abs(float(rows.sum()) - whole) <= SAME * max(1.0, abs(whole))

    return unless_it_raises(look, otherwise=False)


def _said(units: Units, seen: Data) -> str:
    return (
        f"Compared are the latent values of {seen.size} units of"
        f" {listed(units.plates)}, the same in every row of the table."
    )


def _more_than_there_are(asked: Asked, card: Data) -> Iterator[str]:
    """Say that a minibatch, or the number of compared rows, is larger than the data."""
    rows = int(card.size or 0)
    if asked.minibatch is not None and asked.minibatch > rows:
        yield (
            f"minibatch={asked.minibatch} is more than the {rows} rows there are, so that every"
            " step reads all of them."
        )
    held = 0 if card.test is None else len(card.test[card.batched[0]])
    known = {"train": (rows, "training"), "test": (held, "held-out")}
    judged: Any = asked.judged
    wanted = judged if isinstance(judged, Mapping) else dict.fromkeys(known, judged)
    for part, (size, word) in known.items():
        number: Any = wanted.get(part)
        if size and COUNT.holds(number) and number > size:
            yield (
                f"judged={number} is more than the {size} {word} rows there are, so that all of"
                " them are compared."
            )


def _encoder_input(
    amortize: Amortize, card: Data, units: Units, dtype: torch.dtype
) -> Callable[[Mapping[str, Any]], Tensor]:
    """Return `ModelEntry.amortize` from the names of arguments or a function of them.

    Raises:
        UnknownNameError: no such argument with one value per row.
        UsageError: a function that returns something else than a matrix with a row per unit, or
            computes a row of it from other rows.
    """
    if callable(amortize):
        example = f"lambda data: data[{units.batched[0]!r}]"
        _refuse_other_arguments(amortize, "amortize", "a dict of the program's arguments", example)
        found = unless_it_raises(lambda: torch.as_tensor(amortize(card.train)), None)
        if found is None or found.ndim != 2 or len(found) != units.size:
            shape = "nothing" if found is None else f"shape {tuple(found.shape)}"
            raise UsageError(
                f"amortize returned {shape}; accepted: the name of an argument, or a function of"
                f" the arguments that returns a matrix with one row per unit, ({units.size}, n)."
            )
        _refuse_tied_features(amortize, card, units, found)
        return amortize
    names = (amortize,) if isinstance(amortize, str) else tuple(amortize)
    for name in names:
        if name not in units.batched:
            raise UnknownNameError("encoder input", name, units.batched)

    def columns(tensors: Mapping[str, Any]) -> Tensor:
        return torch.cat([tensors[n].reshape(len(tensors[n]), -1).to(dtype) for n in names], -1)

    return columns


def _refuse_other_arguments(
    function: Callable[..., Any], name: str, given: str, example: str
) -> None:
    """Reject a function that cannot be called with one argument.

    Raises:
        UsageError: always in that case.
    """
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        takes = listed(Signature.of(function).names) or "nothing"
        raise UsageError(
            f"{name} is a function of {takes}; accepted: a function of one argument, {given}, such"
            f" as {example}."
        ) from None
    except ValueError:  # a builtin has no signature
        return


def _refuse_tied_features(
    amortize: Callable[[Mapping[str, Any]], Tensor], card: Data, units: Units, found: Tensor
) -> None:
    """Reject an encoder input that is another one among few rows; one that fails there is left.

    Raises:
        UsageError: always in that case.
    """
    if units.size < 2:
        return
    rows = torch.tensor([units.size - 1, units.size // 2][: units.size - 1])
    few = {**card.train, **{k: card.train[k][rows] for k in units.batched}}
    some = unless_it_raises(lambda: torch.as_tensor(amortize(few)), found[rows])
    if some.shape != found[rows].shape or not torch.allclose(
        some.double(), found[rows].double(), rtol=1e-5, atol=1e-5, equal_nan=True
    ):
        raise UsageError(
            f"amortize computes the encoder's input of a row from other rows: that of row"
            f" {int(rows[0])} is another one among {len(rows)} rows than among {units.size};"
            " compute statistics of the rows once, outside the function."
        )
