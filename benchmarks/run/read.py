"""Read a run back from its folder; nothing in the folder is executed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.run.cell import Cell, differs
from benchmarks.run.evaluate import evaluate
from benchmarks.run.plan import Plan
from benchmarks.run.prepare import command, file_of, plan_cells, prepare, unnamed
from benchmarks.run.progress import Events
from benchmarks.run.record import SCHEMA
from benchmarks.run.run_result import RunResult
from benchmarks.run.store import RunDir
from benchmarks.workers import one_thread
from zoo.errors import UsageError, spelled

__all__ = ["cure", "read_run", "stored_cells", "unavailable"]


def read_run(
    path: Path, *, models: Sequence[Path | str] = (), events: Events | None = None
) -> RunResult:
    """Rebuild the result of a run, finished or not, from its folder; no method is run.

    Args:
        path: the folder of the run.
        models: model files that may be executed. A run may come from somebody else, so a file is
            never executed only because a plan names it.
        events: progress callbacks.

    Raises:
        UsageError: the folder has no run, none of its cells belongs to the current models, or the
            plan names a model that is neither in the registry nor given.
    """
    events = events or Events()
    run = RunDir.open(path)
    unknown = unavailable(run.plan, models)
    if unknown:
        raise UsageError(
            f"The run in {str(path)!r} is of {', '.join(map(repr, unknown))}, and reading a run"
            f" executes no model by itself; {cure(path, unknown, models)}."
        )
    with one_thread(), contextlib.closing(run):
        prepared = [prepare(run.plan, _given(r, models)) for r in run.plan.entries]
        cells = _stored(plan_cells(run.plan, prepared), run, events)
        if not cells:
            raise UsageError(
                f"{str(path)!r} has no whole cell; run `{command(run.plan)} --out {path}` first."
            )
        return evaluate(cells, run, 1, events)


def stored_cells(path: Path, *, events: Events | None = None) -> list[dict[str, Any]]:
    """Return the contents of all whole cells as they were written, without loading any program.

    Raises:
        UsageError: the folder has no run, or no whole cell.
    """
    warn = (events or Events()).warn
    with contextlib.closing(RunDir.open(path)) as run:
        found = [run.read(name, warn=warn) for name in run.names()]
    cells = [content for content in found if content is not None]
    if not cells:
        raise UsageError(f"{str(path)!r} has no whole cell; repeat the command that made it.")
    return cells


def unavailable(plan: Plan, models: Sequence[Path | str] = ()) -> list[str]:
    """Return the requests of a plan that cannot be loaded without executing a file not given."""
    python = unnamed(plan)
    return [r for r in plan.entries if r in python or _given(r, models) is None]


def cure(path: Path, unknown: Sequence[str], models: Sequence[Path | str] = ()) -> str:
    """Return what makes the report of a run anew whose models `unavailable` names."""
    files = [f for f in map(file_of, unknown) if f]
    if not files:
        return (
            f"{', '.join(map(repr, unknown))} was given in Python and has no file: repeat the call"
            f" of compare_program with out={str(path)!r}, which runs no finished row again"
        )
    given = ", ".join(repr(str(m)) for m in models)
    other = f"it was made by {', '.join(map(repr, files))}, not by {given}; " if models else ""
    again = spelled(
        f"`read_run({str(path)!r}, models=['FILE.py'])`", f"`zoo report {path} --model FILE.py`"
    )
    return f"{other}give the model file that made it: {again}"


def _given(request: str, models: Sequence[Path | str]) -> Any:
    """Return a request with the given model file of the same name in place of the plan's.

    None if no such file is given; an entry's name is returned as it is.
    """
    file = file_of(request)
    if not file:
        return request
    name = request[len(file) :]
    same = [str(m) for m in models if Path(m).name == Path(file).name]
    return f"{same[0]}{name}" if same else None


def _stored(cells: list[Cell], run: RunDir, events: Events) -> list[Cell]:
    """Return the cells on disk, with a warning for those of an earlier version of the programs."""
    there: dict[tuple[Any, ...], tuple[str, str]] = {}
    for name in run.names():
        content = run.read(name, warn=events.warn)
        if content is not None and content.get("schema") == SCHEMA:
            row = content["entry"], content["method"], content["seed"]
            there[row] = name, content["key"]
    found, older = [], 0
    for cell in cells:
        kept = there.get((cell.prepared.entry.key, cell.method, cell.seed))
        if kept is not None:
            stored, key = kept
            older += key != cell.key or bool(differs(cell, run, stored))
            found.append(replace(cell, stored=stored))
    if older:
        events.warn(
            f"{older} of {len(found)} cells were made by an earlier version of the programs; `zoo"
            " compare` would run them again"
        )
    return found
