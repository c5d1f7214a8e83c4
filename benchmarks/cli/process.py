"""The process around a command: streams, signals, errors as sentences, exit codes."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback

from benchmarks.cli.commands import app
from benchmarks.cli.environment import shadowed

__all__ = ["main", "run"]

MEMORY = "out of memory; use fewer --jobs, or a smaller model."
RESUMED = ("compare", "study")  # commands that keep what they have finished


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with the documented exit code.

    Tracebacks are shown only with ZOO_DEBUG=1.
    """
    # More threads than free cores are several times slower, and a fork with OpenMP threads can
    # hang.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    signal.signal(signal.SIGTERM, _terminated)
    _take_any_stream()
    sys.exit(run(argv))


def _take_any_stream() -> None:
    """Print to streams of any encoding, with replacement characters, and to closed ones."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def run(argv: list[str] | None) -> int:
    """Run one command and return its exit code; every error is one sentence on stderr."""
    if sys.flags.optimize >= 2:
        _say(
            "python runs with -OO, which removes the docstrings that Pyro needs to be imported;"
            " run it without, or with -O."
        )
        return 2
    hidden = shadowed()
    if hidden is not None:
        _say(hidden)
        return 3
    from zoo.errors import (
        ZooError,
        command_line,
    )  # late: a package that shadows zoo has no errors module
    from zoo.storage import usable_cache_home

    usable_cache_home()
    try:
        with command_line():
            app(args=argv, prog_name="zoo")
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # typer turns it into exit code 1
            return _reader_left()
        if left.code in (130, 143):
            _say(_interrupted(argv))
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except KeyboardInterrupt:
        _say(_interrupted(argv))
        return 130
    except ZooError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(_of_system(error), 3)
    except MemoryError:
        return _fail(MEMORY, 3)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return _fail(
            f"unexpected {type(error).__name__}: {first}; this is a bug: run again with"
            " ZOO_DEBUG=1 for the traceback.",
            3,
        )


def _of_system(error: OSError) -> str:
    """Return a sentence on an error of the system; that of a stream has no path."""
    what = error.strerror or str(error)
    if error.errno == errno.ENOMEM:
        return MEMORY
    if error.filename is None:
        return f"{what}; check the space and the permissions where the output goes."
    return f"{what} ({error.filename}); check the path, the space and the permissions there."


def _interrupted(argv: list[str] | None) -> str:
    given = sys.argv[1:] if argv is None else argv
    command = next((word for word in given if not word.startswith("-")), "")
    if command in RESUMED:
        return "interrupted; finished cells are kept, and the same command resumes"
    return "interrupted; nothing was kept"


def _reader_left() -> int:
    """Exit successfully when the reader of a pipe has closed it, as in `zoo list | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _fail(sentence: str, code: int) -> int:
    if os.environ.get("ZOO_DEBUG") == "1":
        traceback.print_exc()
    _say(" ".join(sentence.split()))
    return code


def _say(sentence: str) -> None:
    # without zoo.errors, which may be what is missing
    text = "".join(c if c.isprintable() else "?" for c in sentence)
    print(f"zoo: {text}", file=sys.stderr, flush=True)
