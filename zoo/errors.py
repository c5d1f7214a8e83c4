"""Errors: one sentence with what was given, what is accepted, and what to do.

Every error a user can cause derives from `ZooError`, so that the command line can print it without
a traceback and choose the exit code, and a script can catch all of them at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

__all__ = [
    "DataError",
    "FitError",
    "InfrastructureError",
    "LostWorkerError",
    "ProgramError",
    "ReferenceError",
    "UnknownKeyError",
    "UnknownNameError",
    "UsageError",
    "ZooError",
    "command_line",
    "described",
    "did_you_mean",
    "in_command",
    "listed",
    "one_line",
    "printable",
    "spelled",
]

MOST_SHOWN = 24  # names that a message lists; of more it shows the first twelve
_command_line = ContextVar("zoo_command_line", default=False)


class ZooError(Exception):
    """Base of all deliberate errors; the command line returns `exit_code`."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the finished message: constructors of subclasses take other arguments."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[ZooError], args: tuple[Any, ...], attributes: dict[str, Any]) -> ZooError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class UsageError(ZooError):
    """The request cannot be understood or carried out as written (exit code 2)."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not among the accepted ones; the message lists the nearest guess."""

    def __init__(self, kind: str, got: Any, accepted: Iterable[str], *, hint: str = "") -> None:
        names = sorted(accepted)
        few = names if len(names) <= MOST_SHOWN else names[:12]
        shown = ", ".join(few) + (f", ... ({len(names)} in all)" if len(few) < len(names) else "")
        guess = did_you_mean(got, names) if isinstance(got, str) else ""
        written = repr(got) if isinstance(got, str) else described(got)
        super().__init__(
            f"Unknown {kind} {written}{guess}; accepted:"
            f" {shown or 'none'}.{' ' + hint if hint else ''}"
        )


class UnknownKeyError(UnknownNameError, KeyError):
    """A name that a mapping lacks; also a `KeyError`, as that of a dict."""

    __str__ = Exception.__str__  # that of a KeyError shows its message in quotes


class DataError(UsageError):
    """Invalid data: NaN, a wrong dtype or shape, or a value outside the support."""


class ProgramError(UsageError):
    """A Pyro program that cannot be handled correctly; the message names site and cure."""


class ReferenceError(ZooError):
    """A stored reference that is corrupt, stale or fails its gates."""


class FitError(ZooError):
    """A fit that produced no usable guide; the message names the step, the site and the cure."""


class InfrastructureError(ZooError):
    """A failure of the machine: full disk, unwritable folder, killed worker (exit code 3)."""

    exit_code = 3


class LostWorkerError(InfrastructureError):
    """A worker that was stopped or ended without an answer; `status` says how (exit code 3)."""

    def __init__(self, message: str, *, status: Literal["killed", "timeout", "error"]) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def command_line() -> Iterator[None]:
    """Let messages made inside name the options of the command, not the arguments of a call.

    A forked worker inherits it.
    """
    before = _command_line.set(True)
    try:
        yield
    finally:
        _command_line.reset(before)


def in_command() -> bool:
    """Whether the caller is a command, and not a program in Python."""
    return _command_line.get()


def spelled(python: str, command: str) -> str:
    """Return how the caller writes an argument: in Python, or as an option of the command."""
    return command if in_command() else python


def described(value: Any) -> str:
    """Return a value in a few words: short text as it is, a tensor or table by type and shape.

    Its numbers are never shown, nor are those of tensors inside a tuple, a list or a dict.
    """
    kind, shape = type(value).__name__, getattr(value, "shape", ())
    if isinstance(shape, tuple) and shape:
        return f"a {kind} of shape {tuple(shape)}"
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | tuple | list):
        shown = [described(part) for part in parts]
        if any(" of shape (" in text for text in shown):
            return f"a {kind} with {listed(shown, 2, quoted=False)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def did_you_mean(got: str, accepted: Iterable[str]) -> str:
    """Return text such as ` (did you mean 'x'?)` for the nearest name, or an empty string."""
    near = difflib.get_close_matches(got, list(accepted), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def listed(words: Iterable[str], most: int = 5, *, quoted: bool = True) -> str:
    """Return words for a sentence: all of them, or some and how many more: `a, b and 55 more`.

    One more than `most` are all shown, for "and 1 more" is no shorter.
    """
    shown = [repr(word) if quoted else word for word in words]
    few = shown if len(shown) <= most + 1 else shown[:most]
    return ", ".join(few) + (f" and {len(shown) - most} more" if len(few) < len(shown) else "")


def printable(text: str) -> str:
    """Replace control characters, so that foreign text cannot control the terminal."""
    return "".join(
        (
            c
            if c in "\n\t" or c.isprintable() or (c.isspace() and ord(c) > 159)
            else "\N{REPLACEMENT CHARACTER}"
        )
        for c in text
    )


_REPORTS = re.compile(
    r"[^.;:]*\b(please (file|report|open)|(file|create) an issue|report a bug|github\.com"
    r"|github issue)[^.;]*[.;]?",
    re.IGNORECASE,
)


# of a tensor that is written out
_NUMBERS = re.compile(r"tensor\(\s*\[[^()]{40,}\](?:,[^()]*)?\)")


def one_line(error: BaseException, longest: int = 240) -> str:
    """Return the message of an error of others on one line.

    Requests to report it elsewhere are removed, as are Pyro's table of shapes and the numbers of
    tensors, unless they are few.
    """
    text = str(error).partition("Trace Shapes:")[0]
    text = _NUMBERS.sub("tensor([...])", text)
    text = " ".join(_REPORTS.sub(" ", text).split()).rstrip(".;: ")
    return text if len(text) <= longest else text[: longest - 3] + "..."
