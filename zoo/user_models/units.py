"""The rows of a program: the plate that holds one unit per row, and the rows that are compared.

Programs for stock Pyro write `pyro.plate("row", len(x))` or the number of rows itself, and a data
loader hands them a batch. Here the plate of the rows gets the length of what is given: `n` rows
in place of the `N` the entry was made with, or a minibatch whose terms are scaled by N / batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import Tensor

from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype, no_validation, samples, trace_program
from zoo.errors import DataError, ProgramError, UnknownNameError, UsageError, described, one_line
from zoo.fields import COUNT, typed
from zoo.types import Data

__all__ = [
    "Judged",
    "Rows",
    "Units",
    "chosen_rows",
    "find_units",
    "held_out",
    "judged_rows",
    "refuse_other_columns",
    "refuse_tied_rows",
]

PARTS = 3  # disjoint minibatches whose log densities must average to that of all rows
SAME = {torch.float64: 1e-6}  # relative difference of these; 1e-4 in single precision
FEW = 10  # compared rows of each part where the caller names none
MANY = 64  # rows above which only a few are compared, if the program learns
Rows = int | Sequence[int]
Judged = Rows | Mapping[str, Rows] | Callable[[Data], Data] | str


@dataclass(frozen=True)
class Units:
    """The plates of a program's rows, the data with one value per row, and how many there are."""

    plates: tuple[str, ...]
    batched: tuple[str, ...]
    size: int

    def given(self, tensors: Mapping[str, Any], otherwise: int) -> int:
        """Return the number of rows in these arguments; `otherwise` if none is there."""
        for name in self.batched:
            value = tensors.get(name)
            if isinstance(value, Tensor) and value.ndim:
                return len(value)
        return otherwise

    @contextmanager
    def plates_of(
        self, rows: int, total: int, index: Tensor | None, *, takes_index: bool
    ) -> Iterator[None]:
        """Run a program on some rows: its plates of rows get their length.

        Args:
            rows: how many rows are given.
            total: how many there are in all, if these are a minibatch.
            index: their numbers, None if these are all.
            takes_index: whether the program hands the index to its plate itself.
        """
        before = SubsampleMessenger.__dict__["_subsample"]

        def sized(
            name: str,
            size: Any = None,
            subsample_size: Any = None,
            subsample: Any = None,
            *rest: Any,
        ) -> Any:
            if name in self.plates:
                if index is None:
                    size = rows
                elif not takes_index:  # what the plate yields counts the rows that are given
                    size, subsample = total, torch.arange(rows)
                elif subsample is not None:
                    size = total
            return before.__func__(name, size, subsample_size, subsample, *rest)

        SubsampleMessenger._subsample = staticmethod(sized)
        try:
            yield
        finally:
            SubsampleMessenger._subsample = before


def find_units(
    trace: poutine.Trace, tensors: Mapping[str, Any], batched: Sequence[str]
) -> Units | None:
    """Return the rows of a program, None if it has no plate over them.

    Without `batched` it is the outermost plate of the observed sites whose size is the length of
    a tensor; all tensors of that length have one value per row.
    """
    lengths = {k: len(v) for k, v in tensors.items() if isinstance(v, Tensor) and v.ndim}
    wanted = {lengths[batched[0]]} if batched and batched[0] in lengths else set(lengths.values())
    nodes = samples(trace)
    size = None
    for node in sorted(nodes, key=lambda n: not n["is_observed"]):
        frames = sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)
        size = next((f.size for f in frames if f.size in wanted), None)
        if size is not None:
            break
    if size is None:
        return None
    plates = set()
    for node in nodes:
        same = [f for f in node["cond_indep_stack"] if f.vectorized and f.size == size]
        if same:
            plates.add(min(same, key=lambda f: f.dim).name)
    rows = tuple(batched) or tuple(k for k, n in lengths.items() if n == size)
    return Units(plates=tuple(sorted(plates)), batched=rows, size=int(size))


def refuse_tied_rows(density: LogDensity) -> None:
    """Reject a program whose minibatches do not average to the log density of all rows.

    Raises:
        ProgramError: it fails on some of its rows, or they depend on each other.
    """
    data = density.data
    size = int(data.size or 0)
    if size < 2 or not set(density.discrete) <= _inside(density):
        return
    generator = torch.Generator().manual_seed(11)
    parts = torch.randperm(size, generator=generator).tensor_split(min(PARTS, size))
    u = 0.3 * torch.randn(density.dim, dtype=density.dtype, generator=generator)
    with torch.no_grad(), no_validation():
        full = density.evaluate(u)
        mean = torch.zeros((), dtype=density.dtype)
        for index in parts:
            few = {k: data.train[k][index] for k in data.batched}
            try:
                part = density.evaluate(u, {**data.train, **few, "index": index})
            except Exception as error:
                raise ProgramError(
                    f"The program cannot run on {len(index)} of its {size} rows"
                    f" ({one_line(error)}); take every size from the data, name every argument"
                    f" with one value per row by batched= (it is {list(data.batched)}), and write"
                    f" pyro.plate(name, len(x)), or pyro.plate(name, {size}, subsample=index) with"
                    " index=None among its arguments."
                ) from error
            mean = mean + len(index) / size * part
    height, near = float(full), SAME.get(density.dtype, 1e-4)
    # a density of zero at this point says nothing of the rows
    if math.isfinite(height) and not abs(height - float(mean)) <= near * max(1.0, abs(height)):
        raise ProgramError(
            f"On all {size} rows the log density is {height:.6g}, minibatches of them average"
            f" to {float(mean):.6g}: the rows depend on each other, or a term stands outside"
            f" their plate; write pyro.plate(name, {size}, subsample=index) around every term of"
            " a row, and name the data with one value per row by batched=."
        )


def _inside(density: LogDensity) -> set[str]:
    """Return the discrete sites inside the plate of the rows."""
    with default_dtype(density.dtype):
        trace = trace_program(density.program, density.data.train)
    return {
        n["name"]
        for n in samples(trace)
        if any(f.vectorized and f.size == density.data.size for f in n["cond_indep_stack"])
    }


# -- held-out and compared rows ----------------------------------------------------------------


def held_out(test: Mapping[str, Any], train: Mapping[str, Any], units: Units) -> dict[str, Any]:
    """Return the arguments of the held-out rows; what is no row is that of the training data.

    Raises:
        UnknownNameError: an argument that the training data lack.
        DataError: an argument with one value per row is missing, or has other columns.
    """
    for name in test:
        if name not in train:
            raise UnknownNameError("held-out data", name, train)
    missing = [name for name in units.batched if name not in test]
    if missing:
        raise DataError(
            f"test has {sorted(test)} but no {missing[0]!r}, which has one value per row; give the"
            " held-out rows of every such argument."
        )
    refuse_other_columns({name: test[name] for name in units.batched}, train, "test")
    lengths = {len(test[name]) for name in units.batched}
    if len(lengths) > 1:
        raise DataError(f"The held-out arguments have {sorted(lengths)} rows; give one number.")
    return {**train, **test}


def refuse_other_columns(rows: Mapping[str, Any], train: Mapping[str, Any], name: str) -> None:
    """Reject rows that have another shape than those of the training data, and what is no tensor.

    Args:
        rows: arguments with one value per row.
        train: those of the training data.
        name: of the dict of rows, for the message.

    Raises:
        DataError: the first such argument.
    """
    for key, theirs in rows.items():
        ours = train[key]
        tensor = isinstance(theirs, Tensor)
        if not tensor or theirs.ndim == 0 or theirs.shape[1:] != ours.shape[1:]:
            what = f"has shape {tuple(theirs.shape)}" if tensor else f"is {typed(theirs)}"
            raise DataError(
                f"{name}[{key!r}] {what}; accepted: rows like those of the training data,"
                f" {_rows_like(ours)}."
            )


def _rows_like(tensor: Tensor) -> str:
    """Return the shape of any number of rows like those of a tensor: `(n, 8)`."""
    return f"({', '.join(['n', *map(str, tensor.shape[1:])])}{',' * (tensor.ndim == 1)})"


def judged_rows(
    judged: Judged | None, data: Data, units: Units, *, learns: bool
) -> Callable[[Data], Data] | None:
    """Return `ModelEntry.judged`: which rows are compared; None compares all of them.

    Args:
        judged: a number of rows (as many of the held-out ones), row numbers of the training data,
            `{"train": ..., "test": ...}` of either, a function of the data, or `"all"`. By default
            ten rows of each part if the program learns and has more than 64 rows.
        data: all of the data.
        units: its rows.
        learns: whether the program trains weights.

    Raises:
        UsageError: another value, or rows that do not exist.
    """
    if callable(judged):
        return judged
    if judged is None:
        if not learns or units.size <= MANY:
            return None
        judged = FEW
    if isinstance(judged, str):
        if judged != "all":
            raise UsageError(
                f"judged is {judged!r}; accepted: a number of rows, row numbers, a dict of them"
                " for 'train' and 'test', or 'all'."
            )
        return None
    if isinstance(judged, Mapping):
        unknown = sorted(set(judged) - {"train", "test"})
        if unknown:
            raise UnknownNameError("part of judged", unknown[0], ("train", "test"))
        parts = dict(judged)
    else:
        parts = {"train": judged}
        if COUNT.holds(judged) and data.test is not None:
            parts["test"] = judged
    found = _Compared(
        {
            part: _numbers(rows, data.train if part == "train" else data.test, part, units)
            for part, rows in parts.items()
        },
        units,
    )
    found(data)
    return found


def _numbers(
    rows: Rows, tensors: Mapping[str, Any] | None, part: str, units: Units
) -> tuple[int, ...]:
    """Return row numbers of a part; a number of rows is spread evenly."""
    if tensors is None:
        raise UsageError("judged names held-out rows, but no test= was given; pass test=....")
    return chosen_rows(rows, units.given(tensors, units.size), "judged", f" of {part}")


def chosen_rows(rows: Any, size: int, name: str, where: str = "") -> tuple[int, ...]:
    """Return the numbers of some rows: those that are given, or as many, spread evenly over all.

    Args:
        rows: a number of rows, of which there are at most all, or different row numbers: a
            sequence, an array or a tensor of integers.
        size: how many rows there are.
        name: of the argument, for the message.
        where: whose rows they are, for the message.

    Raises:
        UsageError: another value, no row, or rows that do not exist.
    """
    if COUNT.holds(rows):
        if rows < 1:
            raise UsageError(f"{name} is {rows}; accepted: at least 1 row.")
        return tuple(torch.linspace(0, size - 1, min(int(rows), size)).long().unique().tolist())
    given = rows.tolist() if getattr(rows, "ndim", 0) == 1 else rows
    known = isinstance(given, Sequence | range) and all(COUNT.holds(row) for row in given)
    if not known or not 0 < len(given) == len({r for r in given if 0 <= r < size}):
        raise UsageError(
            f"{name} has the rows {described(rows)}{where}; accepted: a number of rows, or"
            f" different row numbers from 0 to {size - 1}."
        )
    return tuple(int(row) for row in given)


@dataclass(frozen=True)
class _Compared:
    """Take the compared rows of the training and the held-out data."""

    rows: Mapping[str, tuple[int, ...]]
    units: Units

    def __call__(self, data: Data) -> Data:
        """Return these rows as data of their own."""
        both = {"train": data.train, "test": data.test or {}}
        taken = {
            name: torch.cat([both[part][name][list(rows)] for part, rows in self.rows.items()])
            for name in self.units.batched
        }
        words = {"train": "", "test": " held out"}
        coords = dict(data.coords)
        for plate in self.units.plates:
            known = data.coords.get(plate)
            coords[plate] = [
                f"{known[r] if known is not None and part == 'train' else r}{words[part]}"
                for part, rows in self.rows.items()
                for r in rows
            ]
        return Data(
            train={**data.train, **taken},
            observed=data.observed,
            batched=data.batched,
            size=sum(map(len, self.rows.values())),
            coords=coords,
            dims=data.dims,
            source=data.source,
            licence=data.licence,
        )
