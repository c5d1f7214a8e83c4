"""Columns of data frames as numbers; what is no number is named with its column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from zoo.errors import DataError, listed

__all__ = ["columns_of", "is_frame", "numbers_of"]

WHAT = {"M": "dates", "m": "durations", "U": "text", "S": "text", "c": "complex numbers"}

CURES = {
    "dates": "Give numbers, e.g. days: ({0} - {0}.min()).dt.days",
    "durations": "Give numbers, e.g. seconds: {0}.dt.total_seconds()",
    "complex numbers": "Give real and imaginary parts as two arguments",
}


def is_frame(value: Any) -> bool:
    """Return whether a value is a data frame of pandas, polars or their kin."""
    return hasattr(value, "to_numpy") and hasattr(value, "columns")


def columns_of(
    frame: Any, wanted: tuple[str, ...], needed: Iterable[str] = (), place: str = "data"
) -> dict[str, Any]:
    """Return the columns of a data frame that a program takes, by name.

    Args:
        frame: the data frame.
        wanted: the arguments of the program; empty if it takes any.
        needed: those without a default.
        place: what the caller gave it as, `data` or `test`.

    Raises:
        DataError: none of the columns is an argument, or a needed one is missing.
    """
    _refuse_twins(place, frame)
    found = {str(name): frame[name] for name in frame.columns}
    taken = {name: column for name, column in found.items() if not wanted or name in wanted}
    if not taken:
        raise DataError(
            f"{place} is a data frame with the columns {listed(found)}, and none of them is an"
            f" argument of the model ({listed(wanted)}); rename the columns, or give a dict of the"
            " model's arguments."
        )
    missing = [name for name in needed if name not in taken]
    if missing:
        rest = [name for name in found if name not in taken]
        which = "the data frame" if place == "data" else f"the {place} frame"
        matrix = f"{{{missing[0]!r}: frame[[...]], {next(iter(taken))!r}: ...}}"
        other = f"; no argument takes its columns {listed(rest)}" if rest else ""
        raise DataError(
            f"The model needs {listed(missing)}, and {which} has no such"
            f" column{'s' if len(missing) > 1 else ''}{other}. Rename columns, or give a dict of"
            f" the model's arguments, {matrix} for a matrix of several columns."
        )
    return taken


def numbers_of(key: str, table: Any, place: str = "") -> np.ndarray[Any, Any]:
    """Return a series or a data frame as an array of numbers or booleans.

    Columns of different number types are brought to one.

    Args:
        key: the argument of the program.
        table: its value.
        place: what the caller would write for it, by default its name.

    Raises:
        DataError: a column holds text, dates or missing values; the message names it.
    """
    if not is_frame(table):
        return _column(key, "", table, place or key)
    _refuse_twins(key, table)
    arrays = [
        _column(key, str(name), table[name], f"{place or key}[{name!r}]") for name in table.columns
    ]
    return np.column_stack(arrays) if arrays else np.empty((0, 0))


def _refuse_twins(key: str, table: Any) -> None:
    """Refuse columns of one name, of which `table[name]` gives all."""
    twins = [str(name) for name, number in Counter(table.columns).items() if number > 1]
    if twins:
        raise DataError(
            f"Data {key!r} has several columns {listed(twins)}; give every column a name of its"
            " own."
        )


def _column(key: str, name: str, column: Any, place: str) -> np.ndarray[Any, Any]:
    values = np.asarray(column.to_numpy())
    where = f"Column {name!r} of data {key!r}" if name else f"Data {key!r}"
    missing = _missing(values)
    if missing:
        raise DataError(
            f"{where} has {missing} missing of {values.size} values; drop or impute those rows"
            " first."
        )
    if values.dtype.kind in "fiub":
        return values
    kinds = {type(v) for v in values.ravel()}
    if kinds and all(issubclass(k, (int, float, bool, np.number, np.bool_)) for k in kinds):
        return values.astype(bool if kinds <= {bool, np.bool_} else np.float64)
    what = WHAT.get(values.dtype.kind, "text or objects")
    cure = CURES.get(what, "Give codes, e.g. pandas.factorize({0})[0]").format(place)
    raise DataError(
        f"{where} holds {what}, such as {values.ravel()[0]!r}; accepted: numbers and booleans."
        f" {cure}{', or leave the column out.' if name else '.'}"
    )


def _missing(values: np.ndarray[Any, Any]) -> int:
    """Count None, NaN, NaT and NA: what is not equal to itself, or cannot be compared."""
    if values.dtype.kind in "fiubMm":
        return int((values != values).sum())
    return sum(1 for v in values.ravel() if v is None or not _equals_itself(v))


def _equals_itself(value: Any) -> bool:
    try:
        return bool(value == value)
    except TypeError:  # pandas.NA
        return False
