"""`zoo trust`: how far a fit can be trusted where no truth is known."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo
from benchmarks.cli.console import print_json, say
from benchmarks.run.plan import make_plan
from zoo.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.comparison.assessment import Assessment

__all__ = ["seconds_of", "trust"]

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
MARKS = {True: "ok", False: "failed", None: "open"}


def seconds_of(text: str | None) -> float | None:
    """Return the seconds of `60`, `60s`, `2m` or `1h`, None for None.

    Raises:
        UsageError: another text, or no positive time.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"--budget got {text!r}; accepted: a time such as 60s, 2m or 1h.")
    return float(found[1]) * UNITS[found[2]]


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

    Without a family Laplace is assessed first, then the first family of the entry, unless Laplace
    already earns trust.
    """
    if family is not None and file is not None:
        raise UsageError("zoo trust got both --guide and --fit; give one of them.")
    from benchmarks.comparison.assess import assess
    from benchmarks.workers import one_thread

    limit = seconds_of(budget)
    results = []
    with one_thread():
        for fit in _fits(model, family, file, seed, data_seed, quick):
            line = f"{fit.entry.key} {fit.family}"
            if not fit.ok:
                print(f"zoo: {line}: {fit.stop.sentence}", file=sys.stderr, flush=True)
                continue
            print(f"zoo: {line}: fitted in {fit.cost.seconds:.1f} s", file=sys.stderr, flush=True)
            found = assess(fit, seed=seed, budget=limit, progress=_progress)
            results.append(found)
            if found.gate == 0:
                break
    if not results:  # each has said why
        return 1
    if as_json:
        documents = [r.to_json() for r in results]
        print_json(documents[-1] if family or file else {"schema": 1, "fits": documents})
    else:
        for found in results:
            _print(found)
    return results[-1].gate if gate else 0


def _fits(
    model: str, family: str | None, file: Path | None, seed: int, data_seed: int, quick: bool
) -> Any:
    """Yield the fits to be assessed, each made when its turn comes."""
    import guides
    from benchmarks.run import methods
    from benchmarks.run.prepare import prepare, vi_config

    if file is not None:
        entry = zoo.load(model)
        yield guides.load(file, entry, data=entry.load_data(data_seed))
        return
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
    # Laplace trains no weights
    first = () if entry.learns else ("laplace",)
    for name in names or dict.fromkeys((*first, entry.families[0])):
        yield methods.fitted(
            entry,
            name,
            prepared.data,
            vi_config(plan),
            seed=seed,
            given=None,
            trains=entry.learns,
            training=prepared.training,
        )


def _progress(line: str) -> None:
    print(f"zoo:   {line}", file=sys.stderr, flush=True)


def _print(found: Assessment) -> None:
    say(found.sentence)
    width = max(len(c.name) for c in found.checks)
    for check in found.checks:
        say(f"  {MARKS[check.passed]:>6}  {check.name:<{width}}  {check.sentence}")
    say(
        f"  cost: {found.seconds:.1f} s, {found.gradients:,} gradients,"
        f" {found.depth:,} one after another; the fit {found.fit.cost.seconds:.1f} s"
    )
