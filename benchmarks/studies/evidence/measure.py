"""Rows of `docs/results/evidence.md`: log Z by 16 islands of tempered SMC, an entry each."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import guides
import zoo
from benchmarks.comparison.estimate_from import estimate_from
from benchmarks.mcmc.tempered_smc import ISLANDS
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from benchmarks.trust.estimate import SMC_DIMENSIONS, evidence_holds
from benchmarks.workers import Task, TaskResult, run_tasks
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites
from zoo.errors import FitError, one_line
from zoo.truth import evidence as stored
from zoo.truth.stored import fingerprint
from zoo.types import Data, ModelEntry

__all__ = ["evidence_row", "measure"]

STARTS = ("laplace", "mean_field", "full_rank")  # the first that can be fitted
QUICK = ("coin", "linear_regression")
NUMBERS = 60_000  # entries of all results in one evaluation of the density
LONGEST = 1200.0  # seconds of one row
MOVED = "Chains from the points of SMC moved them, so its evidence is not that of the posterior."
Row = dict[str, Any]


def measure(part: str, work: Work) -> dict[str, Row]:
    """Measure the rows that are missing, each in a process of its own."""
    kept = Kept(work.out / "rows.json")
    names = list(QUICK if work.quick else zoo.names())
    tasks = [
        Task(name=name, fn=functools.partial(evidence_row, name))
        for name in names
        if name not in kept.rows
    ]

    def done(result: TaskResult) -> None:
        failed = {"status": result.status, "why": str(result.error)}
        row = result.value if result.status == "ok" else failed
        kept.put(result.name, row)
        said = row["why"] if row["status"] != "ok" else f"{row['value']:.3f} +- {row['se']:.3f}"
        work.progress.say(f"{result.name}: {said}")

    run_tasks(tasks, jobs=work.jobs, timeout=LONGEST, on_done=done)
    return {name: kept.rows[name] for name in names}


def evidence_row(name: str, seed: int = 0) -> Row:
    """Return log Z of an entry with its error, and the exact value if there is one.

    `status` is `ok`, `in doubt`, or `left out`; `why` says why.
    """
    entry = zoo.load(name)
    if entry.learns:
        return _without("its weights are trained, so the evidence is that of each training")
    if entry.reference_of is not None:
        return _without(f"another form of {entry.reference_of}, with the same evidence")
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    if density.dim > SMC_DIMENSIONS:
        return _without(f"{density.dim} coordinates, at most {SMC_DIMENSIONS}")
    if flat_sites(density):
        return _without("an improper prior: there is no evidence")
    numbers = density.work().numbers
    if numbers > NUMBERS:
        return _without(
            f"{numbers:,} numbers in one evaluation of the density, at most {NUMBERS:,}"
        )
    with session(entry.dtype):
        density.compile("auto", expected_calls=10**6, expected_points=10**6)
        fit = _first_fit(entry, data, seed)
        if fit is None:
            return _without("no guide to begin from could be fitted")
        try:
            found, _ = estimate_from(fit, density, islands=2 * ISLANDS, seed=seed)
        except FitError as error:
            return {"status": "in doubt", "why": one_line(error), "dimensions": density.dim}
    exact = entry.exact(data)
    known = None if exact is None else exact.log_evidence
    why = found.doubt or ("" if evidence_holds(found.posterior) else MOVED)
    return {
        "status": "in doubt" if why else "ok",
        "why": why,
        "dimensions": density.dim,
        "family": fit.family,
        "value": found.evidence.value,
        "se": found.evidence.se,
        "low": found.evidence.low,
        "high": found.evidence.high,
        "islands": len(found.evidence.islands),
        "exact": known,
        "elbo": None if fit.elbo is None else fit.elbo.value_nats,
        "gradients": density.gradient_evaluations,
        "seconds": found.posterior.cost.seconds,
        "fingerprint": fingerprint(density, stored.points(entry.key, density)),
    }


def _first_fit(entry: ModelEntry, data: Data, seed: int) -> guides.Fit | None:
    fits: Iterable[guides.Fit] = (guides.fit(entry, f, seed=seed, data=data) for f in STARTS)
    return next((fit for fit in fits if fit.ok), None)


def _without(why: str) -> Row:
    return {"status": "left out", "why": why}
