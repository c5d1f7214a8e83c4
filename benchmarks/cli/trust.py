"""`zoo trust`: how far a fit can be trusted where no truth is known."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo
from benchmarks.cli.arguments import seconds_of
from benchmarks.cli.console import print_json, say
from benchmarks.run.plan import make_plan
from zoo.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.comparison.assessment import Assessment

__all__ = ["trust"]

MARKS = {True: "ok", False: "failed", None: "open"}


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What is printed of an assessment: its lines, its document and its gate."""

    lines: list[str]
    document: dict[str, Any]
    gate: int


def trust(
    model: str,
    family: str | None,
    file: Path | None,
    *,
    budget: str | None,
    gate: bool,
    seed: int,
    data_seed: int,
    quick: bool,
    as_json: bool,
) -> int:
    """Assess a fit and print every step; with a gate 1 if it is not trusted, 4 if unknown.

    Without a family Laplace and the first family of the entry are assessed, side by side where
    there are two cores. The second is left out of the answer if Laplace already earns trust.
    """
    if family is not None and file is not None:
        raise UsageError("zoo trust got both --guide and --fit; give one of them.")
    from benchmarks.workers import one_thread

    limit = seconds_of(budget, "--budget")
    results = []
    with one_thread():
        fits = _fits(model, family, file, seed, data_seed, quick)
        for told in _side_by_side(fits, seed, limit):
            found = told()
            if found is None:
                continue
            results.append(found)
            if found.gate == 0:
                break
    if not results:  # each has said why
        return 1
    if as_json:
        documents = [r.document for r in results]
        print_json(documents[-1] if family or file else {"schema": 1, "fits": documents})
    else:
        for found in results:
            for line in found.lines:
                say(line)
    return results[-1].gate if gate else 0


def _side_by_side(
    fits: Sequence[tuple[str, Callable[[], Any]]], seed: int, limit: float | None
) -> list[Callable[[], _Told | None]]:
    """Return functions that give what is told of each fit, which may have been assessed by then.

    Two fits are assessed in two processes where there are two cores; a single one in this process.
    """
    from benchmarks.workers import Task, cores, run_tasks
    from zoo.compiler.torch_private import load_tracing

    works = [functools.partial(_assessed, name, make, seed, limit) for name, make in fits]
    if len(works) == 1 or cores() == 1:
        return list(works)
    tasks = [Task(name, work) for (name, _), work in zip(fits, works, strict=True)]
    load_tracing()
    return [result.unwrap for result in run_tasks(tasks, len(tasks))]


def _assessed(name: str, make: Callable[[], Any], seed: int, limit: float | None) -> _Told | None:
    """Make a fit and assess it, with every step on stderr; None if there is no usable fit."""
    from benchmarks.comparison.assess import assess

    def progress(line: str) -> None:
        print(f"zoo:   {name} {line}", file=sys.stderr, flush=True)

    fit = make()
    line = f"{fit.entry.key} {fit.family}"
    if not fit.ok:
        print(f"zoo: {line}: {fit.stop.sentence}", file=sys.stderr, flush=True)
        return None
    print(f"zoo: {line}: fitted in {fit.cost.seconds:.1f} s", file=sys.stderr, flush=True)
    found = assess(fit, seed=seed, budget=limit, progress=progress)
    return _Told(lines=_lines(found), document=found.to_json(), gate=found.gate)


def _fits(
    model: str, family: str | None, file: Path | None, seed: int, data_seed: int, quick: bool
) -> list[tuple[str, Callable[[], Any]]]:
    """Return the fits to be assessed: the name of each family, and what makes its fit."""
    import guides
    from benchmarks.run import methods
    from benchmarks.run.prepare import prepare, vi_config

    if file is not None:
        entry = zoo.load(model)
        fit = guides.load(file, entry, data=entry.load_data(data_seed))
        return [(fit.family, lambda: fit)]
    names = [family] if family is not None else None
    plan = make_plan(
        entries=[model],
        guides=names or "all",
        nuts=False,
        seeds=[seed],
        data_seed=data_seed,
        quick=quick,
    )
    prepared = prepare(plan, model)
    entry = prepared.entry

    def make(name: str) -> Any:
        return methods.fitted(
            entry,
            name,
            prepared.data,
            vi_config(plan),
            seed=seed,
            given=None,
            trains=entry.learns,
            training=prepared.training,
        )

    # Laplace trains no weights
    first = () if entry.learns else ("laplace",)
    return [
        (name, functools.partial(make, name))
        for name in names or dict.fromkeys((*first, entry.families[0]))
    ]


def _lines(found: Assessment) -> list[str]:
    width = max(len(c.name) for c in found.checks)
    return [
        found.sentence,
        *(f"  {MARKS[c.passed]:>6}  {c.name:<{width}}  {c.sentence}" for c in found.checks),
        f"  cost: {found.seconds:.1f} s, {found.gradients:,} gradients,"
        f" {found.depth:,} one after another; the fit {found.fit.cost.seconds:.1f} s",
    ]
