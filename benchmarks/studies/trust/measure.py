"""Rows of `docs/results/trust.md`: assessments of fits whose truth is known but not shown.

| part | one row is |
|---|---|
| fits | an assessment of one family on one entry with one seed, and its errors by the reference |
| hard | the same on targets with exact samplers (`benchmarks.studies.trust.hard_targets`) |
| exact_draws | drift of exact draws: any finding is a false alarm |
| cost | seconds of one assessment, beside NUTS on the same posterior |
| evidence | log Z by SMC from a mean-field or a Laplace fit, where the exact value is known |
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import guides
import zoo
from benchmarks.comparison.assess import assess
from benchmarks.comparison.score import compare
from benchmarks.mcmc.base_mixture import Component, Mixture
from benchmarks.mcmc.metric import Metric
from benchmarks.mcmc.tempered_smc import ISLANDS, PARTICLES, Smc, tempered
from benchmarks.reference.find import find
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept, json_rows
from benchmarks.studies.trust.cost import cost_rows
from benchmarks.studies.trust.hard import hard_rows
from benchmarks.studies.trust.worst import worst
from benchmarks.trust.drift import drift_of
from benchmarks.trust.estimate import SMC_DIMENSIONS, estimate, evidence_holds
from benchmarks.trust.judged import Judged
from benchmarks.types import Comparison
from benchmarks.workers import Task, TaskResult, run_tasks
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.seeds import derive_seed
from zoo.types import Data, Posterior, Reference

__all__ = ["FAMILIES", "measure"]

FAMILIES = ("laplace", "mean_field", "low_rank", "full_rank")
SEEDS = (0, 1, 2)
QUICK = ("coin", "eight_schools", "linear_regression")
# Raise it when `assess` is to find something else: rows of another protocol are measured again.
PROTOCOL = 3
PUBLISHED = Path("docs/results/trust.json")
LONGEST = 1200.0  # seconds of one row
TRUE_DRAWS = 4000  # of the guide, others than those that are assessed
NINETY = 1.645  # standard errors of a two-sided 90 % interval
EXACT_SEEDS, QUICK_EXACT_SEEDS = 140, 10
EXACT_ENTRIES = ("correlated_gaussian", "linear_regression", "banana")
EXACT_DRAWS, EXACT_PILOT = 2048, 512
DIMENSIONS = (10, 31, 128, 150)  # of standard normals whose evidence is one
OVERDISPERSED, OFFSET = 2.0, 0.3  # of the base of these normals
Row = dict[str, Any]


def measure(part: str, work: Work) -> dict[str, Row]:
    """Measure the rows of a part that are missing, each in a process of its own.

    Rows that take longer than 20 minutes are left out, and counted with that reason.
    """
    kept = Kept(work.out / "rows.json")
    if not work.quick:
        _carry(part, kept)
    parts = {
        "fits": _fits,
        "hard": hard_rows,
        "exact_draws": _exact,
        "evidence": _evidence,
        "cost": cost_rows,
    }
    makers = dict(parts[part](work.quick))
    tasks = [Task(name=n, fn=make) for n, make in makers.items() if n not in kept.rows]

    def done(result: TaskResult) -> None:
        failed = {"status": result.status, "why": str(result.error)}
        row = result.value if result.status == "ok" else failed
        kept.put(result.name, {**row, "protocol": PROTOCOL})
        work.progress.say(f"{result.name}: {_short(row)}")

    run_tasks(tasks, jobs=work.jobs, timeout=LONGEST, on_done=done)
    return {name: kept.rows[name] for name in makers}


def _carry(part: str, kept: Kept, published: Path = PUBLISHED) -> None:
    """Take over the published rows of the same protocol: a study of hours is made in sessions."""
    missing = {
        name: row
        for name, row in json_rows(published).get(part, {}).items()
        if row.get("protocol") == PROTOCOL and name not in kept.rows
    }
    for name, row in missing.items():
        kept.put(name, row)


def _short(row: Row) -> str:
    shown = ("status", "verdict", "true_verdict", "found", "error", "why")
    return ", ".join(f"{k} {row[k]}" for k in shown if row.get(k) not in (None, ""))


# -- fits ----------------------------------------------------------------------------------------


def _fits(quick: bool) -> Iterable[tuple[str, Callable[[], Row]]]:
    # by seed, then in a fixed random order: what an interrupted run has is a fair sample
    pairs = list(itertools.product(QUICK if quick else zoo.names(), FAMILIES[: 2 if quick else 4]))
    random.Random(0).shuffle(pairs)
    for seed in SEEDS[:1] if quick else SEEDS:
        for name, family in pairs:
            yield f"{name} {family} s{seed}", functools.partial(fit_row, name, family, seed)


def fit_row(name: str, family: str, seed: int) -> Row:
    """Return one assessment with its true errors; `status` says why there is none."""
    entry = zoo.load(name)
    if entry.learns or (family not in entry.families and family != "laplace"):
        return {"status": "left out", "why": "another family, or a program that is trained"}
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    if density.dim > SMC_DIMENSIONS:
        return {"status": "left out", "why": f"{density.dim} coordinates"}
    truth = find(entry, data, nuts=None)
    if truth.kind == "none" or not truth.usable:
        return {"status": "left out", "why": truth.reason}
    fit = guides.fit(entry, family, seed=seed, data=data)
    if not fit.ok:
        return {"status": fit.stop.status, "why": fit.stop.sentence}
    found = assess(fit, seed=seed)
    true = _true(fit, truth, seed)
    row = {
        "status": "ok",
        "entry": name,
        "family": family,
        "seed": seed,
        "dimensions": density.dim,
        "verdict": found.verdict,
        "gate": found.gate,
        "sentence": found.sentence,
        "true_verdict": true.verdict,
        **{f"true_{k}": v for k, v in worst(true).items()},
        "checks": {c.name: c.passed for c in found.checks},
        "kl": None if found.kl is None else [found.kl.value, found.kl.se, found.kl.bound],
        "seconds": found.seconds,
        "fit_seconds": fit.cost.seconds,
        "gradients": found.gradients,
        "depth": found.depth,
    }
    if found.comparison is not None:
        row |= {f"estimated_{k}": v for k, v in worst(found.comparison).items()}
        row |= _held(found.comparison, true)
        weights = found.comparison.pareto_k
        row["k_hat"] = None if weights is None else weights.value
    if found.repaired is not None:
        repaired = compare(found.repaired, truth, distances="none", heldout=False, climb=False)
        row |= {"repaired": found.repaired.method}
        row |= {f"repaired_{k}": v for k, v in worst(repaired).items()}
    return row


def _true(fit: guides.Fit, truth: Reference, seed: int) -> Comparison:
    draws = guides.draw(fit, TRUE_DRAWS, seed=derive_seed(seed, "study", "trust"))
    return compare(draws, truth, fit=fit, distances="none", heldout=False, climb=False)


def _held(estimated: Comparison, true: Comparison) -> Row:
    """Return how many 90 % intervals of mean errors and log sd ratios hold the true ones."""
    by_label = {s.label: s for s in true.scores if s.judged}
    held = looks = 0
    for s in estimated.scores:
        t = by_label.get(s.label)
        if t is None or not s.judged:
            continue
        for gap, se in (
            (s.mean_error - t.mean_error, np.hypot(s.mean_error_se, t.mean_error_se)),
            (s.log_sd_ratio - t.log_sd_ratio, np.hypot(s.log_sd_ratio_se, t.log_sd_ratio_se)),
        ):
            looks += 1
            held += bool(abs(gap) <= NINETY * se)
    return {"held": held, "looks": looks}


# -- exact draws ---------------------------------------------------------------------------------


def _exact(quick: bool) -> Iterable[tuple[str, Callable[[], Row]]]:
    for name in EXACT_ENTRIES:
        number = QUICK_EXACT_SEEDS if quick else EXACT_SEEDS
        yield name, functools.partial(exact_row, name, number)


def exact_row(name: str, number: int) -> Row:
    """Return how often exact draws raise a finding, and how often any change is significant."""
    entry = zoo.load(name)
    data = entry.load_data()
    analytic = entry.exact(data)
    assert analytic is not None
    found = rejected = 0
    with session(entry.dtype):
        density = LogDensity(entry.program(data), data, dtype=entry.dtype)
        density.compile("auto", expected_calls=10**6, expected_points=10**6)
        judged = Judged(density, entry, data)
        for seed in range(number):
            drawn = analytic.sample(EXACT_DRAWS + EXACT_PILOT, seed)
            u = density.unconstrain({s.name: drawn[s.name] for s in density.sites})
            drift = drift_of(density, u[:EXACT_DRAWS], judged, pilot=u[EXACT_DRAWS:], seed=seed)
            found += drift.found
            rejected += drift.rejects_no_drift
    return {"status": "ok", "seeds": number, "found": found, "rejected": rejected}


# -- evidence ------------------------------------------------------------------------------------


def _evidence(quick: bool) -> Iterable[tuple[str, Callable[[], Row]]]:
    for dim in DIMENSIONS[:2] if quick else DIMENSIONS:
        yield f"normal, {dim} dimensions", functools.partial(normal_row, dim)
    for name in QUICK[::2] if quick else _closed_forms():
        for family in ("laplace", "mean_field"):
            yield f"{name} {family}", functools.partial(evidence_row, name, family)


def _closed_forms() -> list[str]:
    out = []
    for name in zoo.names():
        entry = zoo.load(name)
        if entry.analytic is None or entry.learns or name.startswith("posteriordb/"):
            continue
        data = entry.load_data()
        analytic = entry.exact(data)
        known = None if analytic is None else analytic.log_evidence
        density = LogDensity(entry.program(data), data, dtype=entry.dtype)
        if known is not None and density.dim <= SMC_DIMENSIONS:
            out.append(name)
    return out


def normal_row(dim: int) -> Row:
    """Return log Z of a standard normal, which is 0, from a wider base beside its center."""

    def program() -> None:
        zeros = torch.zeros(dim, dtype=torch.float64)
        pyro.sample("x", dist.Normal(zeros, 1.0).to_event(1))

    density = LogDensity(program, Data(train={}))
    density.compile("auto", expected_calls=10**6, expected_points=10**6)
    base = Component(
        name="wide",
        share=1.0,
        center=torch.full((dim,), OFFSET, dtype=torch.float64),
        metric=Metric.diagonal(torch.full((dim,), OVERDISPERSED, dtype=torch.float64)),
    )
    return _estimate(tempered(density, Mixture([base], PARTICLES), islands=2 * ISLANDS), 0.0)


def evidence_row(name: str, family: str) -> Row:
    """Return log Z of an entry beside its closed form."""
    entry = zoo.load(name)
    data = entry.load_data()
    analytic = entry.exact(data)
    assert analytic is not None
    exact = analytic.log_evidence
    fit = guides.fit(entry, family, seed=0, data=data)
    if not fit.ok:
        return {"status": fit.stop.status, "why": fit.stop.sentence}
    posterior: Posterior = guides.draw(fit, PARTICLES)
    assert posterior.unconstrained is not None
    with session(entry.dtype):
        density = LogDensity(fit.program, data, dtype=entry.dtype)
        density.compile("auto", expected_calls=10**6, expected_points=10**6)
        found = estimate(density, entry, data, posterior.unconstrained, islands=2 * ISLANDS)
    assert exact is not None
    return _estimate(found.smc, exact) | {"known": evidence_holds(found.posterior)}


def _estimate(smc: Smc, exact: float) -> Row:
    found = smc.evidence
    return {
        "status": "ok",
        "exact": exact,
        "value": found.value,
        "se": found.se,
        "error": found.value - exact,
        "islands": len(found.islands),
        "known": found.known,
        "pilot": smc.plan.log_z,
        "gradients": smc.gradients,
    }
