"""Names and flags of the `zoo` command; the work is in the modules of `benchmarks.cli`.

torch is imported only when something runs. Exit codes: 0 success; 1 a gate failed (a check, a fit,
a reference); 2 a usage error; 3 an infrastructure error; 130 and 143 interrupted. Results go to
stdout, everything else to stderr.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.environment import shadowed

__all__ = ["app", "main"]

CARDS = "CUDA_VISIBLE_DEVICES"
_found: dict[str, str | None] = {}  # value of `CARDS` when the command started

app = typer.Typer(
    name="zoo",
    help=(
        "Pyro programs with certified reference posteriors: how far may variational inference be"
        " trusted?"
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|FILE.py",
        help="an entry, with options as in 'name[d=10,rho=0.95]', or a model file",
    ),
]
Models = Annotated[
    list[str], typer.Argument(metavar="MODEL|FILE.py...", help="entries or model files")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document and nothing else")]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", min=1, max=1024, help="processes at once; changes run times, not draws"
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="seed of the inference")]
DataSeed = Annotated[
    int,
    typer.Option(
        "--data-seed",
        min=0,
        max=2**63 - 1,
        help="seed of generated data; only 0 has stored references",
    ),
]
Restarts = Annotated[
    int,
    typer.Option(
        "--restarts", min=1, max=1000, help="independent starts per fit; the best is kept"
    ),
]
Compile = Annotated[
    str, typer.Option("--compile", metavar="auto|on|off", help="compile the hot functions")
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="cpu|cuda",
        help="where fits take their steps; chains stay on the processor",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="smaller budgets, the same gates")]


@app.callback()
def common(
    posteriordb: Annotated[
        Path | None,
        typer.Option(
            "--posteriordb", metavar="DIR", help="copy of posteriordb, in place of POSTERIORDB"
        ),
    ] = None,
) -> None:
    """Handle the options of every command."""
    _hide_cards()
    if posteriordb is not None:
        os.environ["POSTERIORDB"] = str(posteriordb)


@app.command("list")
def list_models(
    tag: Annotated[str | None, typer.Option("--tag", help="only entries with this tag")] = None,
    long: Annotated[
        bool,
        typer.Option(
            "--long", help="also count parameters and observations (imports every model)"
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the entries and plug-ins; a broken one is shown."""
    from benchmarks.cli.browse import list_models as run

    run(tag, long, as_json)


@app.command()
def show(model: Model, as_json: Json = False) -> None:
    """Show the card of one entry."""
    from benchmarks.cli.browse import show as run

    run(model, as_json)


@app.command()
def doctor() -> None:
    """Say what is wrong with this installation."""
    from benchmarks.cli.browse import doctor as run

    raise typer.Exit(run())


@app.command()
def check(
    model: Model,
    bounds: Annotated[
        bool,
        typer.Option("--bounds", help="audit objectives and bounds instead (docs/bound_audit.md)"),
    ] = False,
) -> None:
    """Run the contract checks on an entry or a model file."""
    from benchmarks.cli.author import check as run

    raise typer.Exit(run(model, bounds))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="name of the model: [a-z][a-z0-9_]*")],
    folder: Annotated[Path, typer.Option("--dir", help="where to write NAME.py")] = Path(),
) -> None:
    """Write a model file that passes `zoo check` at once."""
    from benchmarks.cli.author import new as run

    run(name, folder)


@app.command()
def compare(
    models: Models,
    guides: Annotated[
        str,
        typer.Option(
            "--guides",
            metavar="FAMILY,...|all",
            help="guide families; all = those each entry lists",
        ),
    ] = "all",
    no_nuts: Annotated[bool, typer.Option("--no-nuts", help="leave out the NUTS row")] = False,
    engine: Annotated[
        str, typer.Option("--engine", metavar="nutpie|pyro", help="implementation of NUTS")
    ] = "nutpie",
    seed: Seed = 0,
    data_seed: DataSeed = 0,
    restarts: Restarts = 1,
    quick: Quick = False,
    compile_: Compile = "auto",
    device: Device = "cpu",
    jobs: Jobs = 2,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="run directory; default out/<entries>-<hash>; again resumes"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score guides and NUTS against the reference; write a report."""
    from benchmarks.cli.compare import compare as run

    if device != "cpu":
        _show_cards()
    names = [g.strip() for g in guides.split(",") if g.strip()]
    fields = {
        "entries": models,
        "guides": "all" if names == ["all"] else names,
        "nuts": not no_nuts,
        "engine": engine,
        "seeds": [seed],
        "data_seed": data_seed,
        "restarts": restarts,
        "quick": quick,
        "compile": compile_,
        "device": device,
    }
    raise typer.Exit(run(fields, jobs, out, as_json))


@app.command()
def fit(
    model: Model,
    guide: Annotated[str, typer.Option("--guide", metavar="FAMILY", help="guide family")],
    seed: Seed = 0,
    data_seed: DataSeed = 0,
    restarts: Restarts = 1,
    quick: Quick = False,
    compile_: Compile = "auto",
    device: Device = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", help="write the fit here; guides.load reads it")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit one guide and say how the optimization ended."""
    from benchmarks.cli.compare import fit as run

    if device != "cpu":
        _show_cards()
    options = {"restarts": restarts, "quick": quick, "compile": compile_, "device": device}
    raise typer.Exit(run(model, guide, seed, data_seed, options, out, as_json))


@app.command()
def reference(
    model: Model,
    write: Annotated[
        bool, typer.Option("--write", help="compute and store the reference")
    ] = False,
    check_: Annotated[
        bool,
        typer.Option(
            "--check", help="verify the stored reference against the program as it is now"
        ),
    ] = False,
    small: Annotated[
        bool,
        typer.Option(
            "--small", help="with --write: 2,000 draws instead of 10,000, the same gates"
        ),
    ] = False,
    jobs: Jobs = 2,
) -> None:
    """Show, verify or write the reference of an entry."""
    from benchmarks.cli.author import reference as run

    raise typer.Exit(run(model, write, check_, jobs, small))


@app.command()
def report(
    run_dir: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="folder written by `zoo compare`")
    ],
    html: Annotated[Path | None, typer.Option("--html", help="write the page here")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="write the Markdown here")
    ] = None,
) -> None:
    """Render a finished run again, or print its table."""
    from benchmarks.cli.compare import report as run

    run(run_dir, html, markdown)


@app.command()
def study(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="the study to measure; without one they are listed"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="small budgets, for trying")] = False,
    part: Annotated[
        str | None,
        typer.Option("--part", help="measure only this part, again; the others stay as they are"),
    ] = None,
    jobs: Jobs = 2,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="folder of rows and page; default out/studies/NAME"),
    ] = None,
    render: Annotated[
        bool,
        typer.Option("--render", help="render the rows that are there, or the published, again"),
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="also write the published page; full runs only")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the studies behind docs/results, or measure one; resumes."""
    from benchmarks.cli.study import study as run

    run(
        name,
        quick=quick,
        part=part,
        jobs=jobs,
        out=out,
        render=render,
        write=write,
        as_json=as_json,
    )


@app.command()
def bench(
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="three short pairs, no full rank, no cold starts: minutes, not an hour"
        ),
    ] = False,
    peers: Annotated[
        str,
        typer.Option(
            "--peers", metavar="auto|none|PEER,...", help="numpyro, stan, pymc; auto = installed"
        ),
    ] = "auto",
    only: Annotated[
        str,
        typer.Option(
            "--only", metavar="ENTRY,...", help="some of the eight entries, growth, commands"
        ),
    ] = "",
    pairs: Annotated[
        int | None, typer.Option("--pairs", help="interleaved pairs; default 5, quick 3")
    ] = None,
    cold: Annotated[
        bool,
        typer.Option(
            "--cold/--no-cold", help="time starts with empty caches too, half of the run"
        ),
    ] = True,
    out: Annotated[
        Path, typer.Option("--out", help="folder for bench.json, bench.md, bench.svg and logs")
    ] = Path("out/bench"),
    page: Annotated[
        Path | None,
        typer.Option(
            "--page", help="also write the tables between the marks of this Markdown page"
        ),
    ] = None,
) -> None:
    """Time gradients, SVI and NUTS beside Pyro and other systems."""
    from benchmarks.cli.bench import bench as run

    chosen = (
        None
        if peers == "auto"
        else [p.strip() for p in peers.split(",") if p.strip() not in ("", "none")]
    )
    raise typer.Exit(
        run(
            out,
            quick,
            chosen,
            [n.strip() for n in only.split(",") if n.strip()],
            pairs,
            cold,
            page,
        )
    )


def _hide_cards() -> None:
    """Hide graphics cards from torch.

    If torch sees one, processes forked from this one cannot differentiate.
    """
    _found.setdefault(CARDS, os.environ.get(CARDS))
    os.environ[CARDS] = ""


def _show_cards() -> None:
    """Restore the graphics cards this command started with; nothing has used one yet."""
    before = _found.pop(CARDS, None)
    os.environ.pop(CARDS, None)
    if before is not None:
        os.environ[CARDS] = before


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with the documented exit code.

    Tracebacks are shown only with ZOO_DEBUG=1.
    """
    # More threads than free cores are several times slower, and a fork beside OpenMP threads can
    # hang.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    signal.signal(signal.SIGTERM, _terminated)
    _take_any_stream()
    sys.exit(_run(argv))


def _take_any_stream() -> None:
    """Print to streams of any encoding, with replacement characters, and to closed ones."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _run(argv: list[str] | None) -> int:
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
    from zoo.errors import ZooError  # late: a package that shadows zoo has no errors module

    try:
        app(args=argv, prog_name="zoo")
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # typer turns it into exit code 1
            return _reader_left()
        if left.code == 130:
            _say("interrupted; finished cells are kept, and the same command resumes")
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except KeyboardInterrupt:
        _say("interrupted; finished cells are kept, and the same command resumes")
        return 130
    except ZooError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(
            f"{error.strerror or error} ({error.filename}); check the path, the space and the"
            " permissions there.",
            3,
        )
    except MemoryError:
        return _fail("out of memory; use fewer --jobs, or a smaller model.", 3)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return _fail(
            f"unexpected {type(error).__name__}: {first}; this is a bug: run again with"
            " ZOO_DEBUG=1 for the traceback.",
            3,
        )


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
