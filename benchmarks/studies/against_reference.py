"""What studies over posteriordb share: one process per entry, and errors against the reference."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from scipy.special import logsumexp

import zoo
from benchmarks.arviz_bridge import pareto_k
from benchmarks.metrics.components import Array
from benchmarks.metrics.weights import importance_ess
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from benchmarks.workers import Task, TaskResult, run_tasks

__all__ = ["columns", "measure_each", "posteriordb_names", "raw_and_weighted", "worst"]


def posteriordb_names(quick: bool, few: Collection[str]) -> list[str]:
    """Return the entries of posteriordb; of a quick run those among `few`."""
    names = [name for name in zoo.names() if name.startswith("posteriordb/")]
    return [name for name in names if name in few or not quick]


def measure_each(
    made: Mapping[str, Callable[[], Any]], kept: Kept, work: Work, longest: float
) -> dict[str, Any]:
    """Make the rows that are missing, each name in a process of its own, and return all.

    Args:
        made: what makes the rows of a name.
        kept: rows on disk.
        work: jobs and progress of the study.
        longest: seconds of one name.
    """
    tasks = [Task(name=name, fn=fn) for name, fn in made.items() if name not in kept.rows]

    def done(result: TaskResult) -> None:
        if result.status == "ok":
            kept.put(result.name, result.value)
        work.progress.say(f"{result.name}: {result.error or result.status}")

    run_tasks(tasks, jobs=work.jobs, timeout=longest, on_done=done)
    return {name: kept.rows[name] for name in made if name in kept.rows}


def columns(values: Mapping[str, Array]) -> Array:
    """Return `[draw, component]` from quantities `[chain, draw, *shape]`."""
    return np.concatenate([v.reshape(v.shape[0] * v.shape[1], -1) for v in values.values()], 1)


def worst(
    values: Array, weights: Array | None, center: Array, width: Array
) -> tuple[float, float]:
    """Return the largest mean error in reference sds, and the sd ratio farthest from 1.

    Args:
        values: `[draw, component]`.
        weights: of the draws, normalized, None for equal ones.
        center: means of the reference `[component]`.
        width: sds of the reference `[component]`.
    """
    mean = np.average(values, axis=0, weights=weights)
    ratio = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights)) / width
    error = np.abs((mean - center) / width).max()
    return float(error), float(ratio[np.abs(np.log(ratio)).argmax()])


def raw_and_weighted(
    values: Array, log_weights: Any, center: Array, width: Array
) -> dict[str, float]:
    """Return `k`, `ess`, and `worst` of the draws as they are and with smoothed weights.

    The fields are `mean`, `sd`, `weighted_mean` and `weighted_sd`, whatever k-hat and ESS are.
    """
    k, smoothed = pareto_k(log_weights)
    weights = np.exp(smoothed - logsumexp(smoothed))
    row = {"k": k, "ess": importance_ess(smoothed)}
    row["mean"], row["sd"] = worst(values, None, center, width)
    row["weighted_mean"], row["weighted_sd"] = worst(values, weights, center, width)
    return row
