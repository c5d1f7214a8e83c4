"""`zoo compare`, `zoo fit`, `zoo report`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cli.console import print_json, print_table
from benchmarks.run.plan import PLAN_FILE, make_plan, read_plan
from benchmarks.run.progress import Console
from benchmarks.run.store import disk_errors, write_atomic
from zoo.errors import InfrastructureError, UnknownNameError, UsageError

__all__ = ["compare", "fit", "report"]


def compare(
    fields: dict[str, Any],
    jobs: int,
    out: Path | None,
    as_json: bool,
    timeout: float | None = None,
) -> int:
    """Execute the plan and print its table, or one JSON document; 1 if a gate failed."""
    from benchmarks.run.execute import execute

    if not fields["guides"]:
        raise UsageError(
            "--guides names no family; give one or more, separated by commas, or all."
        )
    _check_choice("--engine", fields["engine"], ("nutpie", "pyro"))
    _check_compile(fields["compile"])
    _check_device(fields["device"], fields["compile"])
    plan, events = make_plan(**fields), Console()
    events.say("preparing")
    result = execute(plan, out=out, jobs=jobs, events=events, timeout=timeout)
    if as_json:
        print_json(result.document())
    else:
        _print_table(result.report)
        print(f"report: {result.path / 'report.html'}")
    for failure in result.failures:
        events.warn(failure)
    return 1 if result.failures else 0


def _check_compile(mode: str) -> None:
    from zoo.compiler.policy import MODES

    _check_choice("--compile", mode, MODES)


def _check_choice(flag: str, got: str, accepted: tuple[str, ...]) -> None:
    if got not in accepted:
        raise UnknownNameError(f"value of {flag}", got, accepted)


def _check_device(device: str, compile_: str) -> None:
    """Refuse an unusable device before anything is prepared for it."""
    from zoo.compiler.cuda import check_device

    check_device(device)
    if device != "cpu" and compile_ == "off":
        raise UsageError(f"--device {device} runs compiled steps only; leave out --compile off.")


def _print_table(run: Any) -> None:
    from benchmarks.report import render_table

    terminal = sys.stdout.isatty()
    sys.stdout.write(
        render_table(
            run, shutil.get_terminal_size((120, 40)).columns if terminal else 120, terminal
        )
    )


def report(
    run_dir: Path, html: Path | None, markdown: Path | None, models: Sequence[Path]
) -> None:
    """Render a run into the requested files, or print its table.

    Without the programs of the run, which may be files that are not executed unasked, its stored
    verdicts are printed.
    """
    from benchmarks.report import render_html, render_markdown
    from benchmarks.run.read import cure, read_run, stored_cells, unavailable

    events = Console()
    if html is None and markdown is None and (run_dir / PLAN_FILE).exists():
        missing = unavailable(read_plan(run_dir / PLAN_FILE), models)
        if missing:
            _print_stored(stored_cells(run_dir, events=events))
            events.say(
                "these are the stored verdicts, for reading a run executes no model by itself; to"
                f" make the report anew, {cure(run_dir, missing, models)}."
            )
            return
    result = read_run(run_dir, models=models, events=events)
    for path, render in ((html, render_html), (markdown, render_markdown)):
        if path is not None:
            write_atomic(path, render(result.report))
            print(path)
    if html is None and markdown is None:
        _print_table(result.report)


def _print_stored(cells: Sequence[Mapping[str, Any]]) -> None:
    from benchmarks.report.overview import tidy
    from benchmarks.report.theme import in_order

    columns = ("entry", "method", "seed", "status", "verdict", "sentence")
    entries = list(dict.fromkeys(cell["entry"] for cell in cells))
    order = in_order(cell["method"] for cell in cells)
    rows = [
        [{**cell, "verdict": _stored_word(cell)}.get(name) for name in columns]
        for cell in sorted(
            cells, key=lambda c: (entries.index(c["entry"]), order.index(c["method"]), c["seed"])
        )
    ]
    print_table(
        list(columns),
        [["-" if value in (None, "") else tidy(str(value)) for value in r] for r in rows],
    )


def _stored_word(cell: Mapping[str, Any]) -> str:
    """Return the word of the report for a stored cell, empty if it has no verdict."""
    from benchmarks.report.words import row_word

    if not cell.get("verdict"):
        return ""
    stop, reference = cell.get("stop") or {}, cell.get("reference") or {}
    return row_word(
        cell["method"],
        cell["verdict"],
        cell["status"],
        drawn=stop.get("status") != cell["status"],
        chains=cell.get("mcmc") is not None,
        reference=reference.get("kind", "none") != "none",
    )


def fit(
    model: str,
    family: str,
    seed: int,
    data_seed: int,
    options: dict[str, Any],
    out: Path | None,
    as_json: bool,
) -> int:
    """Fit one guide, write it if requested, and print how it ended; 1 if it is unusable."""
    import guides
    from benchmarks.run.prepare import prepare, vi_config
    from benchmarks.workers import one_thread

    _check_compile(options["compile"])
    _check_device(options["device"], options["compile"])
    plan = make_plan(
        entries=[model], guides=[family], nuts=False, seeds=[seed], data_seed=data_seed, **options
    )
    _check_target(out)
    with one_thread():
        prepared = prepare(plan, model)
        result = guides.fit(
            prepared.entry, family, seed=seed, data=prepared.data, progress=True, **vi_config(plan)
        )
        if out is not None and result.ok:
            guides.save(result, out)
    elbo = (
        None
        if result.elbo is None
        else {"value_nats": result.elbo.value_nats, "se": result.elbo.se}
    )
    stop = {
        "status": result.stop.status,
        "sentence": result.stop.sentence,
        "step": result.stop.step,
    }
    written = str(out) if out is not None and result.ok else None
    if as_json:
        seconds = result.cost.seconds
        print_json(
            {
                "schema": 1,
                "entry": prepared.entry.key,
                "method": family,
                "seed": seed,
                "stop": stop,
                "elbo": elbo,
                "seconds": seconds,
                "file": written,
            }
        )
    else:
        bound = "" if elbo is None else f", ELBO {elbo['value_nats']:.2f} +- {elbo['se']:.2g} nats"
        print(
            f"{prepared.entry.key} {family}: {stop['status']}{bound}, {result.cost.seconds:.1f} s;"
            f" {stop['sentence']}"
        )
        if written:
            print(f"written: {written}")
    return 0 if result.ok else 1


def _check_target(out: Path | None) -> None:
    """Refuse a path that cannot be written before spending minutes on the fit."""
    if out is None:
        return
    if out.is_dir():
        raise UsageError(
            f"--out {str(out)!r} is a folder; give a file name such as {str(out / 'guide.pt')!r}."
        )
    with disk_errors(out.parent):
        if not out.parent.is_dir():
            raise InfrastructureError(
                f"--out {str(out)!r}: the folder {str(out.parent)!r} does not exist; make it"
                " first."
            )
        tempfile.TemporaryFile(dir=out.parent).close()
