"""Execute a plan: cells in forked processes, references, comparisons, tables and report.

Each cell is written when it is done. The same call on the same folder resumes an interrupted run:
complete cells with the same key are reused, and comparisons are repeated only if the reference or
the code of the comparison has changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.arviz_bridge import load_arviz
from benchmarks.report import render_html, render_markdown
from benchmarks.run.cell import NUTS, Cell, differs, run_cell
from benchmarks.run.estimates import ESTIMATES
from benchmarks.run.evaluate import evaluate
from benchmarks.run.plan import Plan, planned
from benchmarks.run.prepare import duration, plan_cells, prepare, slow
from benchmarks.run.progress import Events
from benchmarks.run.record import failed_cell
from benchmarks.run.results import costs_csv, results_csv
from benchmarks.run.run_result import RunResult
from benchmarks.run.store import RunDir, strict_json
from benchmarks.types import base_of
from benchmarks.workers import Task, TaskResult, one_thread, run_tasks
from zoo.compiler import cache
from zoo.compiler import compile as compiled
from zoo.compiler.torch_private import load_tracing
from zoo.compiler.trace import trace
from zoo.errors import InfrastructureError, LostWorkerError, UsageError, listed, spelled
from zoo.types import ModelEntry

__all__ = ["execute", "write_pages"]

# what another attempt may cure; NaN and failed starts would recur
RETRY = ("error", "killed", "timeout")


def execute(
    plan: Plan,
    *,
    out: Path | None = None,
    jobs: int = 2,
    entries: Sequence[ModelEntry] | None = None,
    events: Events | None = None,
    timeout: float | None = None,
    pages: bool = True,
) -> RunResult:
    """Execute a plan, or resume an earlier run of it.

    Args:
        plan: what to run; a run that is there keeps its rows and takes further families and seeds.
        out: run directory, by default `plan.default_folder()`.
        jobs: processes at once; results do not depend on it.
        entries: entry objects in place of `plan.entries`, for models that have no name.
        events: progress callbacks.
        timeout: seconds that one cell, one comparison or one predictive check may take.
        pages: also write `results.csv`, `costs.csv`, `report.html` and `report.md`.

    Raises:
        UsageError: bad input (nothing is written), or a folder with other content.
        InfrastructureError: the folder cannot be written.
        KeyboardInterrupt: after every worker was stopped; complete cells remain and the same call
            resumes.
    """
    load_tracing()
    events = events or Events()
    folder = plan.default_folder() if out is None else out
    asked, plan = plan, planned(folder, plan)
    with one_thread():
        prepared = [prepare(plan, request) for request in entries or plan.entries]
        keys = [p.entry.key for p in prepared]
        if len(set(keys)) != len(keys):
            raise UsageError(f"Entries {keys} name one of them twice; give each once.")
        cells = plan_cells(plan, prepared)
        with RunDir.create(folder, plan) as run:
            if run.unprotected:
                events.warn(run.unprotected)
            for p in prepared:
                if p.remark:
                    events.say(p.remark)
            cells = _run_missing(cells, asked, run, jobs, events, timeout)
            result = evaluate(cells, run, jobs, events, timeout)
            run.keep({c.name for c in cells}, say=events.say)
            if pages:
                write_pages(run, result, jobs, events)
            return result


def _warm_up(*, traced: bool) -> None:
    """Import once what every forked cell would import: ArviZ, netCDF, modules of a trace.

    The worker that compares a cell needs ArviZ too, so it is loaded for a single cell as well.
    """
    import h5netcdf  # noqa: F401

    load_arviz()
    if not traced:
        return

    def slope(x: torch.Tensor) -> list[torch.Tensor]:
        point = x.detach().requires_grad_(True)
        return list(torch.autograd.grad(point.exp().sum(), point))

    trace(slope, [torch.ones(1)])


def _kept(
    cell: Cell, run: RunDir, there: Mapping[str, Sequence[str]], events: Events
) -> Cell | None:
    """Return the stored cell if its witness matches the current program, with a message if not."""
    found = ""
    for name in sorted(there.get(cell.key, ()), key=lambda n: n != cell.name):
        found = differs(cell, run, name)
        if not found:
            return cell if name == cell.name else replace(cell, stored=name)
    if found:
        events.warn(
            f"{cell.label}: the stored cell no longer matches the program ({found} differs); it"
            " is computed again"
        )
    return None


def _by_key(run: RunDir, events: Events) -> dict[str, list[str]]:
    """Return folders of complete cells by key, without those that need another attempt."""
    there: dict[str, list[str]] = {}
    for name in run.names():
        content = run.read(name, warn=events.warn)
        if content is not None and content["status"] not in RETRY:
            there.setdefault(content["key"], []).append(name)
    return there


def _with_others(cell: Cell, kept: Mapping[str, Cell]) -> Cell:
    """Return a cell with the cells it needs as stored; their names may be from another machine."""
    trainer = None if cell.given is None else kept.get(cell.given.name, cell.given)
    starts = tuple(kept.get(c.name, c) for c in cell.starts)
    return replace(cell, given=trainer, starts=starts)


def _say_outdated(missing: Sequence[Cell], run: RunDir, events: Events) -> None:
    """Report cells that exist, but for other data or another version of the model or package."""
    asked = {(c.prepared.entry.key, c.method, c.seed): c.key for c in missing}
    contents = [content for n in run.names() if (content := run.read(n)) is not None]
    outdated = {
        (c["entry"], c["method"], c["seed"])
        for c in contents
        if asked.get((c["entry"], c["method"], c["seed"])) not in (None, c["key"])
    }
    if outdated:
        events.warn(
            f"kept cells of other data, of a guide with other values, or of an earlier version of"
            f" the model or of this package ({len(outdated)}), are computed again, with all"
            f" families and seeds of this folder; give another folder ({spelled('out=', '--out')})"
            " to keep what it holds"
        )


def _say_further(missing: Sequence[Cell], asked: Plan, events: Events) -> None:
    """Report cells that run although this call did not ask for their method with their seed."""
    further: dict[str, list[str]] = {}  # the methods of each entry and seed
    for cell in missing:
        families = asked.families(cell.prepared.entry.families)
        base = base_of(cell.method)
        other = not asked.nuts if base == NUTS else base not in (*families, *ESTIMATES)
        if other or cell.seed not in asked.seeds:
            named = further.setdefault(f"{cell.prepared.entry.key} seed {cell.seed}", [])
            named.append(cell.method)
    if further:
        which = "; ".join(f"{k}: {listed(names, 8, quoted=False)}" for k, names in further.items())
        number = sum(map(len, further.values()))
        events.say(
            f"each family is combined with each seed of the folder, so {number} further"
            f" cell{'s come' if number > 1 else ' comes'} in ({which}); give another folder"
            f" ({spelled('out=', '--out')}) to leave {'them' if number > 1 else 'it'} out"
        )


def _run_missing(
    cells: list[Cell], asked: Plan, run: RunDir, jobs: int, events: Events, timeout: float | None
) -> list[Cell]:
    """Run the missing cells and return all of them, under their names on disk."""
    there = _by_key(run, events)
    kept: dict[str, Cell] = {}
    for cell in cells:
        trainer = None if cell.given is None else kept.get(cell.given.name)
        if cell.given is not None and trainer is None:
            continue  # its weights are trained again
        if any(c.name not in kept for c in cell.starts):
            continue  # it begins from guides that are fitted again
        if (found := _kept(cell, run, there, events)) is not None:
            kept[cell.name] = _with_others(found, kept)
    missing = [_with_others(c, kept) for c in cells if c.name not in kept]
    for cell in missing:
        run.fits.pop(cell.name, None)
    _say_outdated(missing, run, events)
    cells = [kept[c.name] if c.name in kept else _with_others(c, kept) for c in cells]
    if not missing:
        events.say("every cell is complete already")
        return cells
    seconds = {c.name: c.prepared.seconds[c.method] for c in missing}
    total = max(
        sum(seconds.values()) / jobs,
        max(seconds.values()) / (min(jobs, 4) if all(c.method == NUTS for c in missing) else 1),
    )
    done = len(cells) - len(missing)
    reused = f", {done} {'is' if done == 1 else 'are'} complete already" if done else ""
    events.say(
        f"{len(missing)} of {len(cells)} cells to run{reused}; about {duration(total)} with {jobs}"
        f" job{'s' if jobs > 1 else ''}"
    )
    for sentence in slow(missing, total):
        events.say(sentence)
    _say_further(missing, asked, events)
    events.begin("cells", len(missing))
    _warm_up(traced=len(missing) > 1)
    trainers = {c.given.name for c in cells if c.given is not None}
    chains = min(jobs, 4)
    long = _worth_all_workers(missing, seconds, jobs)
    waves: list[tuple[list[Cell], int, int]] = [
        ([c for c in missing if c.name in trainers], jobs, 1),
        ([c for c in missing if c.name in long], max(1, jobs // chains), chains),
        ([c for c in missing if c.name not in long | trainers and not c.starts], jobs, 1),
        ([c for c in missing if c.starts], jobs, 1),
    ]
    ahead = _compiler_ahead()
    try:
        for wave, workers, inner in waves:
            _run_wave(
                sorted(wave, key=lambda c: -seconds[c.name]),
                run,
                workers,
                inner,
                events,
                timeout,
                ahead,
            )
    finally:
        events.finish()
    return cells


def _worth_all_workers(cells: list[Cell], seconds: Mapping[str, float], jobs: int) -> set[str]:
    """Return the NUTS cells whose chains run in parallel.

    They are those that would outlast all other cells on the other workers. Shorter ones use one
    worker each: they spend most of their time compiling, and a second worker would wait.
    """
    total = sum(seconds.values())
    return {
        c.name
        for c in cells
        if c.method == NUTS and (jobs - 1) * seconds[c.name] > total - seconds[c.name]
    }


def _compiler_ahead() -> Callable[[], None]:
    """Return a function that loads the compiler into this process, once.

    It does so after a worker has compiled something, so that later workers are forked with it.
    """
    before, done = cache.count(), False

    def ahead() -> None:
        nonlocal done
        if not done and cache.count() > before:
            done = True
            compiled.load_compiler()

    return ahead


def _run_wave(
    cells: list[Cell],
    run: RunDir,
    workers: int,
    inner: int,
    events: Events,
    timeout: float | None,
    ahead: Callable[[], None],
) -> None:
    named = {c.label: c for c in cells}

    def meanwhile() -> None:
        ahead()
        events.waiting()

    def done(result: TaskResult) -> None:
        cell = named[result.name]
        if result.status == "ok":
            status, sentence = result.value
            run.checked.add(cell.name)
        elif isinstance(result.exception, InfrastructureError) and not isinstance(
            result.exception, LostWorkerError
        ):
            raise result.exception
        else:
            # a chain of the cell
            lost = result.exception if isinstance(result.exception, LostWorkerError) else None
            status = result.status if lost is None else lost.status
            sentence = (
                f"{cell.label} ended as {result.status}: {result.error}"
                if lost is None
                else str(lost)
            )
            with run.draft(cell.name) as folder:
                (folder / "log.txt").write_text(result.trace or f"{sentence}\n", encoding="utf-8")
                (folder / "cell.json").write_text(
                    strict_json(failed_cell(cell.head, status, sentence, result.seconds)),
                    encoding="utf-8",
                )
        events.done(cell.label, status, sentence, result.seconds)

    def task(cell: Cell) -> Task:
        return Task(cell.label, lambda: run_cell(cell, run, inner))

    # The device context belongs to one process and does not survive a fork.
    on_card = any(c.config.get("device", "cpu") != "cpu" for c in cells)
    run_tasks(
        [task(c) for c in cells],
        workers,
        timeout,
        done,
        retries=1,
        meanwhile=meanwhile,
        in_process=on_card,
    )


def write_pages(
    run: RunDir, result: RunResult, jobs: int = 1, events: Events | None = None
) -> None:
    """Write the two tables and the two reports of a run; report failures to `events`."""
    warn = functools.cache((events or Events()).warn)

    run.write("results.csv", results_csv(result.cells))
    run.write("costs.csv", costs_csv(result.cells))
    run.write("report.html", render_html(result.report, jobs, warn))
    run.write("report.md", render_markdown(result.report, say=warn))
