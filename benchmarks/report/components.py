"""Draws of every component of every quantity as numpy arrays, shared by an entry's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.report.inputs import EntryReport
from benchmarks.report.theme import Mark, marks
from benchmarks.report.words import severity
from benchmarks.types import Comparison
from zoo.types import Posterior

__all__ = ["Array", "View", "component_draws", "make_view", "moves", "worst_pair"]

Array = np.ndarray[Any, Any]
Key = tuple[str, tuple[int, ...]]
MOST_PAIRED = 24  # components searched for the pair with the worst correlation


def moves(draws: Array) -> bool:
    """Return whether draws differ by more than rounding; those of a point mass do not."""
    return bool(draws.std() > 1e-12 * abs(draws.mean()))


def component_draws(posterior: Posterior) -> dict[Key, Array]:
    """Return the draws `[chain, draw]` of each component; draws of a guide are one chain.

    Components with draws that are not finite are omitted.
    """
    axes = len(posterior.sample_dims)
    found: dict[Key, Array] = {}
    for name, tensor in posterior.quantities().items():
        values = np.asarray(tensor.detach().cpu().numpy(), dtype=float)
        values = values if axes == 2 else values[None]
        for index in np.ndindex(values.shape[2:]):
            column = values[(slice(None), slice(None), *index)]
            if np.isfinite(column).all():
                found[name, tuple(int(i) for i in index)] = column
    return found


@dataclass(frozen=True)
class View:
    """One entry prepared for drawing: draws by method, reference, ranked components, marks."""

    report: EntryReport
    names: tuple[str, ...]
    by_name: Mapping[str, Comparison]
    draws: Mapping[str, Mapping[Key, Array]]
    reference: Mapping[Key, Array]
    order: tuple[Key, ...]
    labels: Mapping[Key, str]
    marks: Mapping[str, Mark]

    @property
    def shown(self) -> list[str]:
        """Methods that have draws to show."""
        return [n for n in self.names if self.draws.get(n)]

    @property
    def guides(self) -> list[str]:
        """Methods with draws that are not NUTS."""
        return [n for n in self.shown if not is_nuts(n)]


def is_nuts(name: str) -> bool:
    """Return whether a row's name is NUTS, with or without a seed."""
    return name.split(" ")[0] == "nuts"


def make_view(report: EntryReport, methods: Sequence[str] = ()) -> View:
    """Evaluate all quantities once.

    `methods` are the columns of the whole report, so that marks agree across entries.
    """
    by_name = report.named()
    names = tuple(by_name)
    draws = {
        n: {} if c.verdict == "fit_failed" else component_draws(c.posterior)
        for n, c in by_name.items()
    }
    reference = (
        component_draws(report.reference.posterior)
        if report.reference.posterior is not None
        and (report.reference.usable or report.reference.kind != "estimated")
        else {}
    )
    worst: dict[Key, float] = {}
    labels: dict[Key, str] = {}
    judged: dict[Key, bool] = {}
    for comparison in report.comparisons:
        for score in comparison.scores:
            key = (score.quantity, score.index)
            labels[key], judged[key] = score.label, score.judged
            worst[key] = max(worst.get(key, 0.0), severity(score))
    everything = dict.fromkeys(key for found in (*draws.values(), reference) for key in found)
    for key in everything:
        labels.setdefault(key, _label(report, key))
    order = sorted(everything, key=lambda k: (not judged.get(k, True), -worst.get(k, 0.0)))
    return View(
        report,
        names,
        by_name,
        draws,
        reference,
        tuple(order),
        labels,
        marks(tuple(methods) or names),
    )


def _label(report: EntryReport, key: Key) -> str:
    name, index = key
    quantity = report.entry.quantities.get(name)
    dims = quantity.dims if quantity is not None else ()
    coords = (
        [report.data.coords.get(d) for d in dims]
        if len(dims) == len(index)
        else [None] * len(index)
    )
    parts = [
        str(c[i]) if c is not None and i < len(c) else str(i)
        for c, i in zip(coords, index, strict=True)
    ]
    return f"{name}[{', '.join(parts)}]" if parts else name


def worst_pair(view: View) -> tuple[Key, Key, str, float, float] | None:
    """Return the pair and method whose correlation is furthest from the truth.

    The tuple is (a, b, method, correlation, true correlation). The finding of the comparison is
    used if there is one. Without a reference the truth is NUTS; without NUTS it is the pair with
    the strongest correlation of any method.
    """
    told = [
        (abs(c.correlations["difference"]), n)
        for n, c in view.by_name.items()
        if c.correlations and n in view.shown
    ]
    if told:
        name = max(told)[1]
        pair = view.by_name[name].correlations
        keys_of = {label: key for key, label in view.labels.items()}
        first, second = (keys_of.get(label) for label in pair["labels"])
        if first is not None and second is not None:
            return first, second, name, float(pair["method"]), float(pair["reference"])
    keys = [
        k for k in view.order if all(k in d and moves(d[k]) for d in view.draws.values() if d)
    ][:MOST_PAIRED]
    truth = view.reference or next((view.draws[n] for n in view.shown if is_nuts(n)), {})
    keys = [k for k in keys if not truth or (k in truth and moves(truth[k]))]
    if len(keys) < 2:
        return None
    exact = (
        np.corrcoef([truth[k].ravel() for k in keys])
        if truth
        else np.zeros((len(keys), len(keys)))
    )
    best: tuple[Key, Key, str, float, float] | None = None
    for name in view.guides or view.shown:
        found = np.corrcoef([view.draws[name][k].ravel() for k in keys])
        gap = np.triu(np.abs(found - exact), 1)
        a, b = (int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape))
        if best is None or gap[a, b] > abs(best[3] - best[4]) + 1e-12:
            best = (keys[a], keys[b], name, float(found[a, b]), float(exact[a, b]))
    return best
