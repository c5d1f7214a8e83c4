"""From drawn cells to a result: find each truth once, compare every cell with it, and gather what the report shows."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cells import comparison_of, digest_of, machine, reference_record, versions
from benchmarks.events import Events
from benchmarks.prepare import command
from benchmarks.store import RunDir, strict_json
from benchmarks.work import NUTS, Cell, code_digest, compare_cell, load_fit, load_posterior
from benchmarks.workers import Task, TaskResult, run_tasks
from zoo.errors import InfrastructureError
from zoo.types import Posterior, Reference

if TYPE_CHECKING:
    from benchmarks.report.inputs import ReportInput

__all__ = ["RunResult", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """An executed plan: where it lies, its cells as JSON, its references and what the report is made from."""

    path: Path
    cells: list[dict[str, Any]]
    references: dict[str, dict[str, Any]]
    report: ReportInput
    failures: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return what `zoo compare --json` prints."""
        return {"schema": 1, "cells": self.cells, "references": self.references, "run_dir": str(self.path)}


def evaluate(cells: list[Cell], run: RunDir, jobs: int, events: Events) -> RunResult:
    """Compare what is not compared yet, write it into the cells where the run is ours, and return the result."""
    contents = {c.name: content for c in cells if (content := run.read(c.name, warn=events.warn)) is not None}
    posteriors = {c.name: load_posterior(c, run, contents[c.name]) for c in cells if c.name in contents}
    references = _references(cells, posteriors, contents, run, events)
    stale = [c for c in cells if c.name in contents and not _compared(contents[c.name], references[c.prepared.entry.key], run.locked)]
    if stale:
        contents.update(_compare(stale, contents, posteriors, references, run, jobs, events))
    present = [c for c in cells if c.name in contents]
    report = _report(run, present, posteriors, references, contents)
    return RunResult(
        path=run.path,
        cells=[contents[c.name] for c in present],
        references={key: reference_record(r) for key, r in references.items()},
        report=report,
        failures=_failures([contents[c.name] for c in present]),
    )


def _compared(content: dict[str, Any], reference: Reference, strict: bool) -> bool:
    """Whether a cell holds a comparison; `strict`: with this very reference, by the code as it is now."""
    if content["verdict"] == "fit_failed" and not content["scores"]:
        return True
    seen = content["reference"]
    return content["verdict"] is not None and seen is not None and (not strict or seen["digest"] == _truth(reference))


def _truth(reference: Reference) -> str:
    return f"{digest_of(reference)}-{code_digest('compare')[:16]}"


def _references(
    cells: list[Cell], posteriors: dict[str, Posterior], contents: dict[str, dict[str, Any]], run: RunDir, events: Events
) -> dict[str, Reference]:
    """Find the truth of every entry once; where nothing else is known it is the NUTS row of the first seed."""
    from benchmarks import references as finder

    found: dict[str, Reference] = {}
    for cell in cells:
        entry = cell.prepared.entry
        if entry.key in found:
            continue
        rows = [c for c in cells if c.prepared.entry.key == entry.key and c.method == NUTS and c.name in contents]
        nuts = next((posteriors[c.name] for c in rows if contents[c.name]["status"] in ("ok", "unusable")), None)
        given = load_fit(cell, run) if entry.learns else None
        options: dict[str, Any] = {} if given is None else {"given": given}
        found[entry.key] = finder.find(entry, cell.prepared.data, nuts=nuts, **options)
        if not found[entry.key].usable:
            events.warn(f"{entry.key}: {found[entry.key].reason}")
    return found


def _compare(
    cells: list[Cell],
    contents: dict[str, dict[str, Any]],
    posteriors: dict[str, Posterior],
    references: dict[str, Reference],
    run: RunDir,
    jobs: int,
    events: Events,
) -> dict[str, dict[str, Any]]:
    named = {f"{c.label} compared": c for c in cells}
    scored: dict[str, dict[str, Any]] = {}

    def done(result: TaskResult) -> None:
        cell = named[result.name]
        if result.status == "ok":
            content = result.value
        elif isinstance(result.exception, InfrastructureError):
            raise result.exception
        else:
            content = {**contents[cell.name], "status": "error", "notes": [f"The comparison failed: {result.error}"]}
            events.warn(f"{cell.label}: the comparison failed: {result.error}")
        if content["reference"] is not None:
            content["reference"]["digest"] = _truth(references[cell.prepared.entry.key])
        if run.locked:
            run.rewrite(cell.name, "cell.json", strict_json(content))
        scored[cell.name] = content
        events.done(result.name, content["verdict"] or "error", "", result.seconds)

    def task(name: str, cell: Cell) -> Task:
        reference = references[cell.prepared.entry.key]
        itself = reference.posterior is posteriors[cell.name]
        return Task(name, lambda: compare_cell(cell, run, contents[cell.name], reference, itself))

    importlib.import_module("sklearn.ensemble")  # here and once: every forked comparison would take a second for it
    importlib.import_module("sklearn.model_selection")
    events.begin("comparisons", len(cells))
    try:
        run_tasks([task(n, c) for n, c in named.items()], jobs, on_done=done)
    finally:
        events.finish()
    return scored


def _report(
    run: RunDir, cells: list[Cell], posteriors: dict[str, Posterior], references: dict[str, Reference], contents: dict[str, dict[str, Any]]
) -> ReportInput:
    from benchmarks.predictions import table
    from benchmarks.predictive import predictive_checks
    from benchmarks.report.inputs import EntryReport, ReportInput, method_names

    entries = []
    for key, reference in references.items():
        own = [c for c in cells if c.prepared.entry.key == key and contents[c.name]["verdict"] is not None]
        comparisons = [comparison_of(contents[c.name], posteriors[c.name], reference, load_fit(c, run)) for c in own]
        nuts = next((p.posterior for p in comparisons if p.posterior.method == NUTS and p.posterior.stats), None)
        first = next(c for c in cells if c.prepared.entry.key == key)
        entry, data = first.prepared.entry, first.prepared.data
        shown = dict(zip(method_names(comparisons), (c.posterior for c in comparisons), strict=True))
        learned = load_fit(first, run) if entry.learns else None
        program = entry.program(data) if learned is None else learned.program
        ppc = predictive_checks(entry, data, program, {m: p for m, p in shown.items() if p.draws})
        rows = dict(zip(method_names(comparisons), comparisons, strict=True))
        predictions = table(entry, data, rows, reference, seed=run.plan.seeds[0])
        entries.append(
            EntryReport(entry=entry, data=data, reference=reference, comparisons=comparisons, nuts=nuts, ppc=ppc, predictions=predictions)
        )
    plan = run.plan
    seeds = {"seeds": list(plan.seeds), "data_seed": plan.data_seed}
    meta = {"command": command(plan), "versions": versions(), "machine": machine(), **seeds}
    return ReportInput(entries=entries, meta=meta)


def _failures(cells: list[dict[str, Any]]) -> list[str]:
    """Say which gates failed: fits that gave nothing usable and references that must not be used."""
    failed = []
    for cell in cells:
        row = f"{cell['entry']} {cell['method']}" + (f" seed {cell['seed']}" if cell["seed"] else "")
        if cell["status"] not in ("ok", "not_converged") or cell["verdict"] in (None, "fit_failed"):
            failed.append(f"{row}: {cell['status']}: {cell['sentence'] or (cell['stop'] or {}).get('sentence', '')}")
        elif cell["verdict"] == "reference_unusable":
            failed.append(f"{row}: {cell['sentence']}")
    return failed
