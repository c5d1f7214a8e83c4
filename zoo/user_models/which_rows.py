"""Which arguments of a program are its rows, and whether its rows depend on each other.

An argument may be as long as the rows and no row: a constant per pixel beside as many pictures as
pixels. Which it is shows where the program runs on some rows: their terms must be those they have
among all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from zoo.density.faults import unless_it_raises
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype, samples, trace_program
from zoo.density.unit_terms import is_local
from zoo.errors import ProgramError, listed
from zoo.types import Data
from zoo.user_models.discover import discover
from zoo.user_models.from_trace import all_discrete
from zoo.user_models.lift_params import Lifted, LiftedProgram
from zoo.user_models.of_rows import Asked
from zoo.user_models.tied_rows import WAYS, moved, tied_rows
from zoo.user_models.units import Units, find_units, refuse_tied_rows

__all__ = ["Found", "rows_of"]

MOST = 512  # rows on which the program is looked at, spread evenly over all
EACH = 4  # arguments of one length, above which only one of them at a time may be a constant


@dataclass(frozen=True)
class Found:
    """The rows of a program, and what a reader must know of them."""

    units: Units | None
    notices: tuple[str, ...] = ()


def rows_of(
    model: Callable[..., Any],
    lifted: Lifted,
    trace: poutine.Trace,
    tensors: Mapping[str, Any],
    observed: tuple[str, ...],
    dtype: torch.dtype,
    asked: Asked,
    *,
    learns: bool,
    guide: Any = None,
) -> Found:
    """Return the rows of a program if they are asked for, if it learns, or if it has a guide.

    Args:
        model: the program as the caller wrote it.
        lifted: what it asks for.
        trace: of one run.
        tensors: its arguments.
        observed: those that are observed, which are rows if they are as long.
        dtype: floating type.
        asked: what the caller asked for by row.
        learns: whether the program trains weights.
        guide: the caller's guide.

    Raises:
        ProgramError: rows are asked for, but there is no plate over them, the program cannot run
            on some of them, or they depend on each other.
    """
    if not (asked.any or learns or guide is not None):
        return Found(None)
    units = find_units(trace, tensors, asked.batched)
    if units is None and asked.any:
        rows = {k: len(v) for k, v in tensors.items() if isinstance(v, Tensor) and v.ndim}
        lengths = listed((f"{k}: {n}" for k, n in rows.items()), quoted=False)
        raise ProgramError(
            f"Rows are asked for (test, judged, amortize, minibatch or batched), but no plate of"
            f" the program is as long as one of its data ({lengths}); write with pyro.plate('row',"
            " len(x)) around what belongs to a row."
        )
    if units is None or all_discrete(trace):
        return Found(units)
    look = _Look(model, lifted, tensors, observed, dtype, learns, guide)
    said: tuple[str, ...] = ()
    error = look.fault(units)
    if not asked.batched:
        units, error, said = look.choose(units, error, _encoder_names(asked))
    error = error or look.other_sites(units)
    if error is not None and asked.any:
        raise error
    if not (asked.any or learns):  # rows serve a guide that computes the q of each, or nothing
        kept = error is None and look.serves(units)
        return Found(units, said) if kept else Found(None)
    if error is None:
        return Found(units, said)
    reason, _, cure = str(error).rpartition("; ")
    if "depend on each other" in reason:
        cure = "compute what ties the rows outside the program."
    alone = "so all rows are taken at once, and no row is fitted, compared or judged alone"
    return Found(None, (f"{reason}; {alone}: {cure}",))


def _encoder_names(asked: Asked) -> tuple[str, ...]:
    """Return the arguments that an encoder reads row by row."""
    wanted = asked.amortize
    if isinstance(wanted, str):
        return (wanted,)
    return () if wanted is None or callable(wanted) else tuple(wanted)


@dataclass(frozen=True)
class _Look:
    """Runs a program on some of its rows."""

    model: Callable[..., Any]
    lifted: Lifted
    tensors: Mapping[str, Any]
    observed: tuple[str, ...]
    dtype: torch.dtype
    learns: bool
    guide: Any

    def _data(self, units: Units) -> Data:
        rows = torch.linspace(0, units.size - 1, min(MOST, units.size)).long().unique()
        taken = self.tensors
        if len(rows) < units.size:
            taken = {**taken, **{k: taken[k][rows] for k in units.batched}}
        observed = tuple(k for k in self.observed if k in taken)
        return Data(train=dict(taken), observed=observed, batched=units.batched, size=len(rows))

    def _density(self, units: Units, way: str = "") -> LogDensity:
        data = self._data(units)
        lifted = replace(self.lifted, units=units)
        program = LiftedProgram(self.model, lifted, self.dtype, rows=data.size)
        density = LogDensity(moved(program, way) if way else program, data, dtype=self.dtype)
        if way:  # it has a value at one point
            density.evaluate(torch.zeros(density.dim, dtype=self.dtype))
        return density

    def fault(self, units: Units) -> ProgramError | None:
        """Say why the program has no terms of rows; also beyond weights that start at zero."""
        none: LogDensity | None = None
        fine: ProgramError | None = None
        ways = WAYS if self.learns and self.dtype == torch.float64 else ()
        for way in ("", *ways):
            problem: list[ProgramError] = []
            density = unless_it_raises(partial(self._noted, units, way, problem), none)
            if density is None:
                if problem and not way and units.size > MOST:  # it runs on all of them
                    return problem[0]
                continue
            if error := unless_it_raises(partial(_tie, density), fine):
                return error
        return None

    def _noted(self, units: Units, way: str, problem: list[ProgramError]) -> LogDensity:
        try:
            return self._density(units, way)
        except ProgramError as error:
            problem.append(error)
            raise

    def serves(self, units: Units) -> bool:
        """Whether every latent value belongs to a row, and the guide has a q of each."""
        local = unless_it_raises(lambda: is_local(self._density(units)), otherwise=False)
        return local and self._has_guide and self._guided(units)

    def choose(
        self, units: Units, error: ProgramError | None, inputs: tuple[str, ...]
    ) -> tuple[Units, ProgramError | None, tuple[str, ...]]:
        """Find out which of the arguments as long as the rows are no rows.

        Args:
            units: the rows, if every such argument is one.
            error: the fault that the program has then.
            inputs: arguments that are rows, since an encoder reads them as such.
        """
        free = [k for k in units.batched if k not in self.observed and k not in inputs]
        if len(units.batched) < 2:
            return units, error, ()
        most = len(free) if error is not None and len(free) <= EACH else 1
        sets = (s for n in range(1, most + 1) for s in combinations(free, n))
        for left in sets if error is not None or self._has_guide else ():
            rest = tuple(k for k in units.batched if k not in left)
            other = replace(units, batched=rest)
            if not rest or self.fault(other) is not None:
                continue
            if error is None:  # the program does not tell; the guide may
                as_rows, whole = self._guided(units), self._guided(other)
                if as_rows and whole:
                    return units, None, (_chosen(units.batched, left, unsure=True),)
                if not whole:
                    continue
            return other, None, (_chosen(rest, left),)
        return units, error, ()

    @property
    def _has_guide(self) -> bool:
        automatic = isinstance(self.guide, type) and issubclass(self.guide, AutoGuide)
        return callable(self.guide) and not automatic

    def _guided(self, units: Units) -> bool:
        """Whether the guide runs on some rows, with the q they have among all."""

        def look() -> bool:
            nested = self.lifted.nested
            lifted, trace = discover(self.guide, self.tensors, self.dtype, nested, noun="guide")
            frames = [f for n in samples(trace) for f in n["cond_indep_stack"] if f.vectorized]
            plates = {*units.plates, *(f.name for f in frames if f.size == units.size)}
            own = replace(units, plates=tuple(sorted(plates)))
            for way in ("", WAYS[0]):
                made = LiftedProgram(
                    self.guide, replace(lifted, units=own), self.dtype, rows=own.size
                ).eval()
                made = moved(made, way) if way else made
                few = {k: self.tensors[k][: max(2, own.size // 2)] for k in own.batched}
                with default_dtype(self.dtype):
                    trace_program(made, {**self.tensors, **few})
                if tied_rows(made, self.tensors, self.dtype, units=own):
                    return False
            return True

        return unless_it_raises(look, otherwise=False)

    def other_sites(self, units: Units) -> ProgramError | None:
        """Say that among few rows the program has other sites, as with steps up to the longest."""
        for row in self._shortest(units):
            none: list[str] = []
            missing = unless_it_raises(partial(self._missing, units, row), none)
            if missing:
                deep = [k for k in units.batched if self.tensors[k].ndim > 1]
                return ProgramError(
                    f"Among few rows the program has no site {missing[0]!r}: its number of steps"
                    " is that of the longest row it is given; take the number of steps from"
                    f" {(deep or list(units.batched))[0]}.shape[1], which is one for all rows."
                )
        return None

    def _shortest(self, units: Units) -> Iterator[int]:
        for name in units.batched:
            value = self.tensors[name]
            if not value.dtype.is_floating_point:
                yield int(value.reshape(len(value), -1).long().sum(-1).argmin())

    def _missing(self, units: Units, row: int) -> list[str]:
        """Return the sites that two copies of a row lack."""
        lifted = replace(self.lifted, units=units)
        program = LiftedProgram(self.model, lifted, self.dtype, rows=2)
        few = {k: self.tensors[k][[row, row]] for k in units.batched}
        with default_dtype(self.dtype):
            traces = [trace_program(program, {**self.tensors, **more}) for more in ({}, few)]
        whole, part = ([n["name"] for n in samples(trace)] for trace in traces)
        return [name for name in whole if name not in part]


def _tie(density: LogDensity) -> ProgramError | None:
    try:
        refuse_tied_rows(density)
    except ProgramError as error:
        return error
    return None


def _chosen(rows: tuple[str, ...], left: tuple[str, ...], *, unsure: bool = False) -> str:
    as_long = f"{listed(left)} {'is' if len(left) == 1 else 'are'} as long"
    why = "and may be no row" if unsure else "but no row: the terms of a row need all of it"
    return f"Taken as rows: {listed(rows)}; {as_long} {why}; batched= chooses."
