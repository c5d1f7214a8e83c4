"""Comparison of chains with published draws: moments and a pooled R-hat, a row per entry.

For every component of every quantity, with means m, standard deviations s and their Monte Carlo
standard errors:

    |m - m'| / sqrt(se(m)^2 + se(m')^2) <= 4,
    |s - s'| / sqrt(se(s)^2 + se(s')^2) <= 4,
    R-hat of all chains together <= 1.01.

Both sides are chains, so both have errors (ArviZ `mcse_mean`, `mcse_sd`). Density parity shows
that the program is the same function; this shows that sampling it gives the same posterior.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import zoo
from benchmarks import arviz_bridge
from benchmarks.mcmc.diagnostics import diagnose
from benchmarks.mcmc.nuts import run_nuts
from benchmarks.metrics.components import Array, component_names, evaluate
from benchmarks.reference.find import find
from benchmarks.reference.gates import SIGMAS
from benchmarks.run.progress import Events
from benchmarks.run.store import strict_json, write_atomic
from benchmarks.studies.draw_parity.render import CAREFUL, USUAL
from benchmarks.studies.record import Work
from benchmarks.thresholds import RHAT
from zoo.errors import UsageError
from zoo.types import ModelEntry, Posterior

__all__ = ["measure", "parity", "run"]

QUICK_ENTRIES = 3


def parity(ours: Posterior, theirs: Posterior, *, target_accept: float = USUAL) -> dict[str, Any]:
    """Compare two sets of chains of the same entry.

    Args:
        ours: chains of a sampler under test, dims `("chain", "draw")`.
        theirs: the chains to compare with.
        target_accept: target acceptance of the sampler under test, for the table.

    Returns:
        the columns of the table: gaps in combined standard errors, each with the component of the
            largest.

    Raises:
        UsageError: one side has no chains, or the two belong to different entries.
    """
    for side in (ours, theirs):
        if side.sample_dims != ("chain", "draw"):
            raise UsageError(
                f"Draw parity got draws of {side.method!r} without chains; accepted: chains of"
                " NUTS or published ones."
            )
    if ours.entry.name != theirs.entry.name:
        raise UsageError(
            f"Draw parity got draws of {ours.entry.name!r} and {theirs.entry.name!r}; give two"
            " posteriors of one entry."
        )
    labels, own = _stack(ours)
    _, other = _stack(theirs)
    mean = _gap(
        own.mean((0, 1)) - other.mean((0, 1)),
        arviz_bridge.mcse_mean(own),
        arviz_bridge.mcse_mean(other),
    )
    sd = _gap(
        own.std((0, 1), ddof=1) - other.std((0, 1), ddof=1),
        arviz_bridge.mcse_sd(own),
        arviz_bridge.mcse_sd(other),
    )
    length = min(own.shape[1], other.shape[1])
    rhat = arviz_bridge.rhat(np.concatenate([_thin(own, length), _thin(other, length)]))
    health, cost = diagnose(ours), ours.cost
    passed = bool((mean <= SIGMAS).all() and (sd <= SIGMAS).all() and (rhat <= RHAT).all())
    return {
        "entry": ours.entry.key,
        "passed": passed,
        "target_accept": target_accept,
        "components": len(labels),
        "mean_gap": float(mean.max()),
        "mean_at": labels[int(mean.argmax())],
        "sd_gap": float(sd.max()),
        "sd_at": labels[int(sd.argmax())],
        "rhat_pooled": float(rhat.max()),
        "rhat_at": labels[int(rhat.argmax())],
        "draws": own.shape[0] * own.shape[1],
        "ess_bulk_min": health.ess_bulk_min,
        "ess_tail_min": health.ess_tail_min,
        "divergences": health.divergences,
        "gradient_evaluations": cost.gradient_evaluations,
        "seconds": cost.seconds,
        "compile_seconds": cost.compile_seconds,
        "ess_per_second": (
            (health.ess_bulk_min or 0.0) / cost.seconds if cost.seconds > 0 else None
        ),
    }


def _stack(posterior: Posterior) -> tuple[list[str], Array]:
    """Return labels and values `[chain, draw, component]` of every quantity, judged or not."""
    labels, parts = [], []
    for name, value in evaluate(posterior).items():
        labels += [
            c.label
            for c in component_names(
                name, posterior.entry.quantities[name], value.shape[2:], posterior.data
            )
        ]
        parts.append(value.reshape(*value.shape[:2], -1))
    return labels, np.concatenate(parts, -1)


def _gap(difference: Array, one: Array, two: Array) -> Array:
    """Return |difference| in combined standard errors.

    It is infinite if a side has no error, so that this cannot pass.
    """
    se = np.sqrt(one**2 + two**2)
    return np.where(se > 0, np.abs(difference) / np.where(se > 0, se, 1.0), math.inf)


def _thin(x: Array, length: int) -> Array:
    """Keep evenly spaced draws of every chain: a pooled R-hat needs chains of equal length."""
    return x[:, np.linspace(0, x.shape[1] - 1, length).round().astype(int)]


def run(
    entries: Sequence[ModelEntry],
    folder: Path,
    *,
    seed: int = 0,
    jobs: int = 2,
    events: Events | None = None,
) -> list[dict[str, Any]]:
    """Run NUTS at full settings on every entry and return the rows; resumes.

    Each row is kept in a JSON file in `folder`. An entry with divergences runs again at target
    acceptance 0.99: smaller steps cure a sampler that cannot follow the density, but not a wrong
    density. Both rows are returned.
    """
    events = events or Events()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for entry in entries:
        for accept in (USUAL, CAREFUL):
            rows.append(_row_of(entry, folder, seed=seed, jobs=jobs, accept=accept))
            events.say(
                f"{entry.key} at {accept}: {'passed' if rows[-1]['passed'] else 'NOT passed'}"
            )
            if not rows[-1]["divergences"]:
                break
    return rows


def _row_of(
    entry: ModelEntry, folder: Path, *, seed: int, jobs: int, accept: float
) -> dict[str, Any]:
    """Read the row of one run from its file, or run and write it."""
    file = (
        folder / f"{entry.name.replace('/', '--')}{'' if accept == USUAL else f'--{accept}'}.json"
    )
    if not file.exists():
        data = entry.load_data()
        truth = find(entry, data)
        if truth.posterior is None:
            raise UsageError(
                f"{entry.key} has no reference draws ({truth.reason}); draw parity needs an entry"
                " that has."
            )
        ours = run_nuts(entry, seed=seed, data=data, draws=1500, jobs=jobs, target_accept=accept)
        write_atomic(
            file,
            strict_json(
                {**parity(ours, truth.posterior, target_accept=accept), "notes": list(ours.notes)}
            ),
        )
    row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return row


def measure(work: Work) -> list[dict[str, Any]]:
    """Compare the chains of every posterior of posteriordb with its published draws.

    A quick run takes the first three.
    """
    entries = [zoo.load(name) for name in zoo.names() if name.startswith("posteriordb/")]
    entries = [entry for entry in entries if entry.published is not None]
    for entry in entries[:1]:
        entry.load_data()  # fails early if there is no copy of posteriordb
    return run(
        entries[:QUICK_ENTRIES] if work.quick else entries,
        work.out,
        jobs=work.jobs,
        events=work.progress,
    )
