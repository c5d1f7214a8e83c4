"""Table of class probabilities of one entry as cells of text, and its figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.comparison.baselines import Interval, PredictionRow, PredictionTable
from benchmarks.metrics.calibration import reliability, total_variation
from benchmarks.report.numbers import DASH, plain
from benchmarks.report.theme import OUTLINED, Mark, canvas, light

__all__ = ["caption", "cells", "diagram", "examples", "heads"]

COLUMNS = ("accuracy", "log_loss", "ece", "adaptive_ece", "brier")
BASELINE_MARKS = (
    ("m5", (0, (4, 1.5))),
    ("m6", (0, (1, 1))),
    ("ref-line", (0, (6, 1.5, 1.5, 1.5))),
    ("muted", "-"),
)
BINS = 10
SHOWN = 5


def heads(found: PredictionTable) -> list[tuple[str, str]]:
    """Return the columns as (glossary key, name shown).

    They are the distance to the truth, the metrics, and one column per OOD set.
    """
    outside = list(dict.fromkeys(name for row in found.rows for name in row.outside))
    distance = (
        [("total_variation", "")] if any(row.distance is not None for row in found.rows) else []
    )
    return (
        distance
        + [(name, "") for name in COLUMNS]
        + [("auroc", f"AUROC, {name}") for name in outside]
    )


def cells(found: PredictionTable, row: PredictionRow) -> list[str]:
    """Return one row of the table as text, in the order of `heads`."""
    values = [
        _interval(row.metrics[name], percent=name in ("accuracy", "ece", "adaptive_ece"))
        for name in COLUMNS
    ]
    values += [
        plain(row.outside.get(name), 2)
        for key, head in heads(found)
        if key == "auroc"
        for name in [head.removeprefix("AUROC, ")]
    ]
    if any(r.distance is not None for r in found.rows):
        truth = row.distance is None
        value = (
            f"floor {plain(found.floor, 2)}"
            if truth and found.floor is not None
            else DASH
            if truth
            else plain(row.distance, 2)
        )
        values.insert(0, value)
    return values


def _interval(v: Interval, *, percent: bool) -> str:
    if percent:
        return f"{100 * v.value:.1f} % ({100 * v.low:.0f} to {100 * v.high:.0f})"
    return f"{v.value:.3f} ({v.low:.2f} to {v.high:.2f})"


def caption(found: PredictionTable) -> str:
    """Return a paragraph on what the table compares."""
    rows = len(found.labels)
    text = (
        f"{rows} test rows; in parentheses 90 % bootstrap intervals over them. The first rows are"
        " point estimates and ensembles, "
    )
    text += (
        "which are no posteriors and have no cell of their own; below, the predictive mean of each"
        " posterior."
    )
    if found.truth:
        text += f" Distances are to the predictive of {found.truth}"
        text += (
            f"; two halves of its chains are {plain(found.floor, 2)} apart."
            if found.floor is not None
            else "."
        )
    return text


def diagram(found: PredictionTable, marks: dict[str, Mark], *, posteriors: bool) -> Any | None:
    """Draw accuracy against confidence in bins of equal counts; the diagonal is calibrated."""
    names = [row.method for row in found.rows if row.posterior == posteriors]
    if not names:
        return None
    figure, axis = canvas(320, 300)
    axis.plot([0, 1], [0, 1], color=light("ref-line"), linewidth=1, zorder=1)
    lowest = 1.0
    for i, name in enumerate(names):
        bins = reliability(found.probabilities[name], found.labels, bins=BINS, equal_mass=True)
        role, dash = BASELINE_MARKS[i % len(BASELINE_MARKS)]
        mark = marks.get(name) or Mark(role, light(role), ("o", "s", "^", "D")[i % 4], dash)
        axis.plot(
            bins.confidence,
            bins.accuracy,
            color=mark.color,
            linestyle=mark.dash,
            marker=mark.marker,
            markersize=4.5,
            label=name,
        )
        lowest = min(lowest, float(bins.confidence.min()), float(bins.accuracy.min()))
    low = max(0.0, np.floor(lowest * 10) / 10 - 0.02)
    axis.set(
        xlim=(low, 1.02), ylim=(low, 1.02), xlabel="confidence", ylabel="share that was right"
    )
    axis.legend(frameon=False, fontsize=10, loc="upper left", handlelength=2.6)
    return figure


def examples(found: PredictionTable, marks: dict[str, Mark]) -> Any | None:
    """Draw the test images on which methods differ most from the truth.

    The class probabilities of each method are drawn beside them.
    """
    exact = found.probabilities.get(found.truth, found.probabilities.get("reference"))
    if found.images is None or exact is None:
        return None
    others = {n: p for n, p in found.probabilities.items() if n not in (found.truth, "reference")}
    worst = np.mean(
        [
            [total_variation(p[i : i + 1], exact[i : i + 1]) for i in range(len(exact))]
            for p in others.values()
        ],
        axis=0,
    )
    rows = np.argsort(-worst)[:SHOWN]
    figure, axes = canvas(
        640, 128 * len(rows), len(rows), 2, gridspec_kw={"width_ratios": (1, 5)}, squeeze=False
    )
    width = 0.8 / (len(others) + 1)
    baselines = [r.method for r in found.rows if not r.posterior]
    for (left, right), i in zip(axes, rows, strict=True):
        left.imshow(found.images[i], cmap="gray_r", vmin=0, vmax=1)
        left.set(xticks=[], yticks=[])
        left.set_title(f"row {i}, a {found.classes[found.labels[i]]}", fontsize=10)
        place = np.arange(len(found.classes))
        right.bar(place, exact[i], 0.9, label=found.truth or "reference", **OUTLINED)
        for k, (name, p) in enumerate(others.items()):
            role = (
                BASELINE_MARKS[baselines.index(name) % len(BASELINE_MARKS)][0]
                if name in baselines
                else ""
            )
            mark = marks.get(name) or Mark(role, light(role), ("o", "s", "^", "D")[k % 4], "-")
            right.plot(
                place - 0.4 + width * (k + 1),
                p[i],
                linestyle="none",
                marker=mark.marker,
                color=mark.color,
                markersize=4.5,
                label=name,
            )
        right.set(xticks=place, xticklabels=found.classes, ylim=(-0.02, 1.02), yticks=[0, 0.5, 1])
    figure.legend(
        *axes[0][1].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=10,
    )
    return figure
