"""Text alternatives of figures: the values they show, for readers who do not see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from benchmarks.report.components import Array, Key, View
from benchmarks.report.figures_cost import cost_points
from benchmarks.report.inputs import FitSummary
from benchmarks.report.numbers import count, plain
from benchmarks.types import PredictiveCheck

__all__ = ["costs", "intervals", "listed", "margin", "replications", "stops", "weights"]

MOST = 14  # values in one text; the tables of the report have all


def listed(parts: Iterable[str]) -> str:
    """Join values to one text; beyond `MOST` the rest is counted."""
    found = list(parts)
    left = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return "; ".join([*found[:MOST], *left])


def costs(view: View, by: Literal["gradients", "seconds"]) -> str:
    """Return worst error, as `cost_points` has it, and cost of every method."""
    unit = "gradients" if by == "gradients" else "s"
    return listed(
        f"{name} {plain(y, 2)} at {count(x) if by == 'gradients' else plain(x, 2)} {unit}"
        for name, (x, y, _) in cost_points(view, by).items()
    )


def intervals(view: View, shown: int) -> str:
    """Return median and 90 % interval of the worst component, in sds around the reference mean."""
    keys = [k for k in view.order if k in view.reference and view.reference[k].std() > 0]
    if not keys or not shown:
        return ""
    key = keys[0]
    center, sd = view.reference[key].mean(), view.reference[key].std()
    rows = {"reference": view.reference} | {n: view.draws[n] for n in view.shown}
    return f"{view.labels[key]}, in reference sds: " + listed(
        f"{name} {_interval((draws[key] - center) / sd)}"
        for name, draws in rows.items()
        if key in draws
    )


def margin(view: View, key: Key) -> str:
    """Return median and 90 % interval of one component under the reference and every method."""
    rows = {"reference": view.reference} | {n: view.draws[n] for n in view.shown}
    return listed(
        f"{name} {_interval(draws[key])}" for name, draws in rows.items() if key in draws
    )


def _interval(draws: Array) -> str:
    low, middle, high = (plain(float(q), 3) for q in np.quantile(draws, (0.05, 0.5, 0.95)))
    return f"{middle} [{low}, {high}]"


def stops(view: View, fits: Mapping[str, FitSummary]) -> str:
    """Return final loss in nats and last step of every fit that is drawn."""
    found = {n: np.asarray(f.losses) for n, f in fits.items() if n in view.marks}
    last = {n: v[-max(3, len(v) // 10) :] for n, v in found.items() if v.size > 1}
    return listed(
        f"{n} {plain(float(np.median(v)), 4)} nats at step {count(len(found[n]))}"
        for n, v in last.items()
    )


def weights(view: View, *, moved: bool = False) -> str:
    """Return k-hat per method, or with `moved` its largest mean error before and after."""
    found = {n: c.pareto_k for n, c in view.by_name.items() if c.pareto_k is not None}
    if not moved:
        return listed(
            f"{n} {plain(k.value, 2)} (at most {plain(k.threshold, 2)})" for n, k in found.items()
        )
    worst = {
        n: max(k.reweighted.items(), key=lambda item: abs(item[1][0]))
        for n, k in found.items()
        if k.reweighted
    }
    return listed(
        f"{n} {label} {plain(raw, 2, sign=True)} to {plain(new, 2, sign=True)}"
        for n, (label, (raw, new)) in worst.items()
    )


def replications(check: PredictiveCheck) -> str:
    """Return mean and sd of the observed values, and of those replicated by every method."""
    rows = {"observed": check.observed} | dict(check.replicated)
    return listed(
        f"{name} mean {plain(float(np.mean(v)), 3)}, sd {plain(float(np.std(v)), 3)}"
        for name, v in rows.items()
    )
