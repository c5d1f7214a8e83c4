"""Names and flags of the `zoo` command; the work is in the modules of `benchmarks.cli`.

torch is imported only when something runs. Exit codes: 0 success; 1 a gate failed (a check, a fit,
a reference); 2 a usage error; 3 an infrastructure error; 130 and 143 interrupted. Results go to
stdout, everything else to stderr.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.arguments import (
    Compile,
    DataSeed,
    Device,
    Engine,
    Jobs,
    Json,
    Model,
    Models,
    Quick,
    Restarts,
    Seed,
    families,
    seconds_of,
    studies,
    timed,
)
from benchmarks.cli.environment import hide_cards, show_cards

__all__ = ["app"]

app = typer.Typer(
    name="zoo",
    help=(
        "Pyro programs with certified reference posteriors: how far may variational inference be"
        " trusted?"
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"zoo {metadata.version('posterior-zoo')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="print the version and exit"
        ),
    ] = False,
    posteriordb: Annotated[
        Path | None,
        typer.Option(
            "--posteriordb", metavar="DIR", help="copy of posteriordb, in place of POSTERIORDB"
        ),
    ] = None,
) -> None:
    """Handle the options of every command."""
    hide_cards()
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
            autocompletion=families,
        ),
    ] = "all",
    no_nuts: Annotated[bool, typer.Option("--no-nuts", help="leave out the NUTS row")] = False,
    no_trust: Annotated[
        bool,
        typer.Option("--no-trust", help="assess no fit where no truth is known and NUTS is off"),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="add a row of tempered SMC, begun from the guides")
    ] = False,
    reweight: Annotated[
        bool, typer.Option("--reweight", help="add beside every family its draws, reweighted")
    ] = False,
    engine: Engine = "nutpie",
    target_accept: Annotated[
        float,
        typer.Option(
            "--target-accept",
            metavar="P",
            help="acceptance rate of NUTS; 0.95 or 0.99 takes smaller steps where draws diverge",
        ),
    ] = 0.8,
    seed: Seed = 0,
    data_seed: DataSeed = 0,
    restarts: Restarts = 1,
    quick: Quick = False,
    compile_: Compile = "auto",
    device: Device = "cpu",
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="60s", help="of each cell; then its row says timeout"),
    ] = None,
    jobs: Jobs = 2,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help=(
                "run directory, resumed or extended: each of its families with each of its seeds;"
                " default out/<entries>-<hash>"
            ),
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score guides and NUTS against the reference; write a report."""
    from benchmarks.cli.compare import compare as run

    if device != "cpu":
        show_cards()
    names = [g.strip() for g in guides.split(",") if g.strip()]
    fields = {
        "entries": models,
        "guides": "all" if names == ["all"] else names,
        "nuts": not no_nuts,
        "engine": engine,
        "target_accept": target_accept,
        "seeds": [seed],
        "data_seed": data_seed,
        "restarts": restarts,
        "quick": quick,
        "compile": compile_,
        "device": device,
        "repair": repair,
        "reweight": reweight,
        "trust": not no_trust,
    }
    limit = seconds_of(timeout, "--timeout", least=1)
    raise typer.Exit(run(fields, jobs, out, as_json, limit))


@app.command()
def fit(
    model: Model,
    guide: Annotated[
        str,
        typer.Option("--guide", metavar="FAMILY", help="guide family", autocompletion=families),
    ],
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
        show_cards()
    options = {"restarts": restarts, "quick": quick, "compile": compile_, "device": device}
    raise typer.Exit(run(model, guide, seed, data_seed, options, out, as_json))


@app.command()
def trust(
    model: Model,
    guide: Annotated[
        str | None,
        typer.Option(
            "--guide",
            metavar="FAMILY",
            help="assess this family; without it laplace, then the first one of the entry",
            autocompletion=families,
        ),
    ] = None,
    fit_: Annotated[
        Path | None, typer.Option("--fit", metavar="FILE", help="assess a fit of `zoo fit --out`")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="60s", help="skip what is forecast to take longer"),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="exit 0 if trusted, 1 if not, 4 if it cannot be known")
    ] = False,
    seed: Seed = 0,
    data_seed: DataSeed = 0,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Say how far a fit can be trusted where no truth is known."""
    from benchmarks.cli.trust import trust as run

    raise typer.Exit(
        run(
            model,
            guide,
            fit_,
            budget=budget,
            gate=gate,
            seed=seed,
            data_seed=data_seed,
            quick=quick,
            as_json=as_json,
        )
    )


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
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            metavar="FILE.py",
            help="a model file of the run that may be executed; otherwise none is",
        ),
    ] = None,
) -> None:
    """Render a finished run again, or print its table."""
    from benchmarks.cli.compare import report as run

    run(run_dir, html, markdown, model or ())


@app.command()
def study(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="the study to measure; without one they are listed",
            autocompletion=studies,
        ),
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
            "--only",
            metavar="ENTRY,...",
            help="some of the eight entries, growth, commands",
            autocompletion=timed,
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
    """Time gradients, SVI and NUTS against Pyro and other systems."""
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
