"""An exception of torch, Pyro or the author's code in one sentence: site, statement, cure."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

import pyro.primitives

from zoo.errors import DataError, ProgramError, UnknownNameError, UsageError, ZooError, one_line

__all__ = [
    "as_program_error",
    "is_author",
    "is_own_fault",
    "place_of",
    "program_faults",
    "unless_it_raises",
]

T = TypeVar("T")

_ROOMS = tuple(str(Path(__file__).parents[2] / room) for room in ("zoo", "guides", "benchmarks"))
_LIBRARIES = ("site-packages", "dist-packages", "<frozen", "/lib/python")
# what calls a function that is decorated by a context
_DECORATED = next(c for c in ContextDecorator.__call__.__code__.co_consts if hasattr(c, "co_code"))
_SAMPLE = pyro.primitives.sample.__code__
_CURES = (
    (
        r"only one element tensors|ambiguous|data-dependent|tracing tensor|Tensor-likes? .*bool",
        "the program branches on a random value or reads it out of torch; compute both branches"
        " and choose with torch.where or a mask, so that one fixed set of sites is run",
    ),
    (
        r"dtype|scalar type|can't be cast|bool tensor|used as indices|Double|Float",
        "give data and constants one type: floats for what is computed with, integers for indices;"
        " dtype=torch.float32 runs the whole entry in single precision",
    ),
    (
        r"positive.definite|singular",
        "keep the matrix positive definite, e.g. with a small multiple of the identity",
    ),
    (
        r"index .*out of (range|bounds)",
        "a table has no entry of this number: make it longer, or give numbers that it has",
    ),
    (
        r"shape|size|dimension|broadcast|expand|must match|Sizes of tensors",
        "check the shapes of data, plates and events at this site",
    ),
    (
        r"Multiple (sample|param) sites named",
        "give every site a name of its own, in a loop such as f'x_{i}'",
    ),
    (r"not implemented|NotImplemented", "write this statement with operations torch has"),
)


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    found, seen = [], error.__traceback__
    while seen is not None:
        found.append((seen.tb_frame, seen.tb_lineno))
        seen = seen.tb_next
    return found


def _is_ours(name: str) -> bool:
    return name.startswith(_ROOMS) and "/zoo/models/" not in name


def _is_library(name: str) -> bool:
    return any(part in name for part in _LIBRARIES)


def is_author(name: str) -> bool:
    """Whether a file belongs neither to this project nor to a library."""
    return not _is_ours(name) and not _is_library(name)


def place_of(error: BaseException) -> tuple[str, str]:
    """Return the site and the author's statement an error came from, empty if there is none."""
    site = statement = ""
    for frame, line in _frames(error):
        file = frame.f_code.co_filename
        if frame.f_code is _SAMPLE:
            site = str(frame.f_locals.get("name", ""))
        elif is_author(file):
            text = linecache.getline(file, line).strip()
            statement = f"{Path(file).name}:{line}: {text}" if text else f"line {line}"
    named = re.search(r"site '([^']+)'", str(error))
    return (named.group(1) if named else site), statement


def is_own_fault(error: BaseException) -> bool:
    """Whether an error was raised by code of this project itself, and so is no program's."""
    frames = _frames(error)
    return bool(frames) and _is_ours(frames[-1][0].f_code.co_filename)


def _nameless(error: BaseException, statement: str) -> ProgramError | None:
    """Return the sentence for a `pyro.sample` whose name is no string; its value may be long."""
    for frame, _ in _frames(error):
        name = frame.f_locals.get("name") if frame.f_code is _SAMPLE else ""
        if not isinstance(name, str):
            kind = type(name).__name__
            line = f", in `{statement}`" if statement else ""
            return ProgramError(
                f"A pyro.sample statement has a {kind} for its name{line}; accepted: a string, as"
                ' in pyro.sample("y", ...).'
            )
    return None


def as_program_error(error: Exception, doing: str = "run", noun: str = "program") -> ZooError:
    """Return the error as a sentence for the author of a program; one of ours as it is.

    Args:
        error: as it was caught.
        doing: what was done with the program, after 'cannot be'.
        noun: what it is called.
    """
    if isinstance(error, ZooError):
        return error
    site, statement = place_of(error)
    nameless = _nameless(error, statement)
    if nameless:
        return nameless
    text, kind = one_line(error), type(error).__name__
    at = f" at site {site!r}" if site and f"site '{site}'" not in text else ""
    line = f", in `{statement}`" if statement else ""
    parameter = re.match(r"Expected parameter (\w+)", str(error))
    if isinstance(error, ValueError) and parameter:
        what = parameter.group(1)
        cure = (
            "make it positive by torch.nn.functional.softplus plus a floor such as 1e-4, and"
            " standardize the input of its network"
            if what in ("scale", "rate", "concentration", "scale_tril", "variance", "df")
            else "check how it is computed"
        )
        named = re.search(r"""sample\(\s*["']([^"']+)["']""", statement)
        site = site or (named.group(1) if named else "")
        where = f"Site {site!r}" if site else "A distribution"
        wanted = text.partition(", but found")[0]
        return ProgramError(f"{where} has a {what} outside its range{line}: {wanted}; {cure}.")
    if isinstance(error, ValueError) and ("invalid" in str(error) or "support" in str(error)):
        return DataError(
            f"The {noun} rejects its data{at}{line}: {text}. Check the observed values against"
            " the support."
        )
    cures = () if isinstance(error, AttributeError | NameError) else _CURES
    cure = next((c for sign, c in cures if re.search(sign, text, re.I)), f"fix the {noun}")
    if isinstance(error, NotImplementedError) and not text:  # what torch's base classes raise
        missing = traceback.extract_tb(error.__traceback__)[-1].name
        text = f"its distribution does not define {missing!r}"
        cure = "define it in the class, or use another distribution"
    return ProgramError(f"The {noun} cannot be {doing} ({kind}){at}{line}: {text}; {cure}.")


@contextmanager
def program_faults(doing: str) -> Iterator[None]:
    """Turn what a program raises into one sentence; errors of this project stay as they are."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        _refuse_arguments(error)
        if is_own_fault(error):
            raise
        raise as_program_error(error, doing) from error


def _refuse_arguments(error: Exception) -> None:
    """Refuse arguments that a function of this project does not take; it was then never entered.

    Raises:
        UsageError: always in that case.
    """
    frame, _ = _frames(error)[-1]
    function = frame.f_locals.get("func")
    code = getattr(function, "__code__", None)
    if frame.f_code is not _DECORATED or function is None or code is None:
        return
    if not _is_ours(code.co_filename):
        return
    names = inspect.signature(function).parameters
    for given in frame.f_locals.get("kwds", {}):
        if given not in names:
            raise UnknownNameError(f"argument of {function.__name__}", given, names) from None
    raise UsageError(f"{one_line(error).rstrip('.')}; accepted: {', '.join(names)}.") from None


def unless_it_raises(look: Callable[[], T], otherwise: T) -> T:
    """Return what a look at far points finds; a program may fail there, as a fit would report.

    Errors of this project's own code are raised: they are no program's.
    """
    try:
        return look()
    except Exception as error:
        if is_own_fault(error) and not isinstance(error, ZooError):
            raise
        return otherwise
