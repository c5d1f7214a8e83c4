"""The process around a command: exit codes, sentences on stderr, streams and signals."""

import errno
import io
import os
import signal
import sys
from types import SimpleNamespace

import pytest

from benchmarks.cli import process
from benchmarks.cli.process import main, run
from zoo.errors import InfrastructureError, UsageError

RESUMES = "zoo: interrupted; finished cells are kept, and the same command resumes\n"


@pytest.fixture
def app(monkeypatch):
    """The commands, of which each test decides how they end."""
    ended = SimpleNamespace(error=None, calls=[])

    def call(args, prog_name):
        ended.calls.append((args, prog_name))
        if ended.error is not None:
            raise ended.error

    monkeypatch.setattr(process, "app", call)
    monkeypatch.delenv("ZOO_DEBUG", raising=False)
    return ended


def test_a_command_that_ends_has_exit_code_0(app, capsys):
    assert run(["list"]) == 0
    assert app.calls == [(["list"], "zoo")]
    assert capsys.readouterr() == ("", "")


def coded(code):
    error = SystemExit()
    error.code = code
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (coded(0), 0, ""),
        (coded(None), 0, ""),
        (coded(1), 1, ""),
        (coded(2), 2, ""),
        (coded("text"), 1, ""),
        (coded(130), 130, RESUMES),
        (coded(143), 143, RESUMES),
        (KeyboardInterrupt(), 130, RESUMES),
        (UsageError("No such\n  name; give another."), 2, "zoo: No such name; give another.\n"),
        (InfrastructureError("No space; make some."), 3, "zoo: No space; make some.\n"),
        (
            OSError(13, "Permission denied", "a/b"),
            3,
            "zoo: Permission denied (a/b); check the path, the space and the permissions there.\n",
        ),
        (
            OSError("odd"),
            3,
            "zoo: odd; check the space and the permissions where the output goes.\n",
        ),
        (
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            3,
            "zoo: out of memory; use fewer --jobs, or a smaller model.\n",
        ),
        (MemoryError(), 3, "zoo: out of memory; use fewer --jobs, or a smaller model.\n"),
        (
            ValueError("first\nsecond"),
            3,
            "zoo: unexpected ValueError: first; this is a bug: run again with ZOO_DEBUG=1 for the"
            " traceback.\n",
        ),
        (
            KeyError(),
            3,
            "zoo: unexpected KeyError: ; this is a bug: run again with ZOO_DEBUG=1 for the"
            " traceback.\n",
        ),
        (UsageError("a\x1b[31m b"), 2, "zoo: a?[31m b\n"),
    ],
)
def test_every_end_has_its_exit_code_and_one_sentence(app, capsys, error, code, said):
    app.error = error
    assert run(["compare", "coin"]) == code
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("words", [["trust", "coin"], ["--help"], [], ["-x", "fit"]])
def test_an_interrupted_command_that_keeps_nothing_says_so(app, capsys, monkeypatch, words):
    app.error = KeyboardInterrupt()
    assert run(words) == 130
    assert capsys.readouterr() == ("", "zoo: interrupted; nothing was kept\n")
    monkeypatch.setattr(sys, "argv", ["zoo", "study", "trust"])
    assert run(None) == 130
    assert capsys.readouterr() == ("", RESUMES)


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_tracebacks_are_shown_when_asked_for(app, capsys, monkeypatch, value, shown):
    app.error = ValueError("odd")
    monkeypatch.setenv("ZOO_DEBUG", value)
    assert run([]) == 3
    assert ("Traceback" in capsys.readouterr().err) == shown


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_reader_that_leaves_is_no_error(app, monkeypatch, wrapped):
    """typer turns a broken pipe into exit code 1; stdout then leads nowhere."""
    moved = []
    names = {"open": os.open, "devnull": os.devnull, "O_WRONLY": os.O_WRONLY}
    dup2 = lambda a, b: moved.append((os.write(a, b"lost"), os.close(a), b))  # noqa: E731
    monkeypatch.setattr(process, "os", SimpleNamespace(**names, dup2=dup2))
    app.error = BrokenPipeError()
    if wrapped:
        app.error = SystemExit(1)
        app.error.__context__ = BrokenPipeError()
    assert run([]) == 0
    assert moved == [(4, None, 1)]


def test_docstrings_are_needed(app, capsys, monkeypatch):
    for level, code in ((2, 2), (3, 2), (1, 0)):
        flags = SimpleNamespace(optimize=level)
        streams = {"stdout": sys.stdout, "stderr": sys.stderr}
        monkeypatch.setattr(process, "sys", SimpleNamespace(flags=flags, **streams))
        assert run([]) == code
    assert capsys.readouterr().err == 2 * (
        "zoo: python runs with -OO, which removes the docstrings that Pyro needs to be imported;"
        " run it without, or with -O.\n"
    )


def test_a_package_that_hides_zoo_is_named(app, capsys, monkeypatch):
    monkeypatch.setattr(process, "shadowed", lambda: "another zoo is imported.")
    assert run([]) == 3
    assert app.calls == []
    assert capsys.readouterr().err == "zoo: another zoo is imported.\n"


def test_the_process_has_one_thread_and_ends_with_the_exit_code(monkeypatch):
    environment = {"MKL_NUM_THREADS": "4"}
    monkeypatch.setattr(process, "os", SimpleNamespace(environ=environment))
    handlers = []
    monkeypatch.setattr(signal, "signal", lambda *a: handlers.append(a))
    monkeypatch.setattr(process, "run", lambda argv: 7 if argv is None else 5)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 7
    with pytest.raises(SystemExit) as left:
        main(["list"])
    assert left.value.code == 5
    assert environment == {
        "MKL_NUM_THREADS": "4",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    assert handlers == [(signal.SIGTERM, process._terminated)] * 2


def test_a_terminated_process_ends_with_128_and_the_signal():
    with pytest.raises(SystemExit) as left:
        process._terminated(15, None)
    assert left.value.code == 143


def test_streams_replace_what_they_cannot_encode_and_closed_ones_swallow(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)
    process._take_any_stream()
    print("Größe", flush=True)
    assert raw.getvalue() == b"Gr??e\n"
    assert sys.stderr.name == os.devnull
    print("lost", file=sys.stderr)
    sys.stderr.close()
    plain = SimpleNamespace(write=print)
    monkeypatch.setattr(sys, "stderr", plain)
    process._take_any_stream()
    assert sys.stderr is plain
