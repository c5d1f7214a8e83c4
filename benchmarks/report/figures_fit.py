"""Figures of the fits: losses with stopping points and restarts, and importance weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.report.components import Array, View
from benchmarks.report.figures_cost import log_axis
from benchmarks.report.figures_posterior import shortened
from benchmarks.report.inputs import FitSummary
from benchmarks.report.theme import canvas, light
from benchmarks.thresholds import MEAN

__all__ = ["losses", "pareto", "reweighting"]

NARROW = 8.0  # nats; a smaller range is clearer on a linear axis
LOWEST = 0.1  # nats; smaller gaps are noise of the loss


def smooth(values: Array, points: int = 120) -> tuple[Array, Array]:
    """Return steps and medians of the finite losses in windows.

    Windows grow with the step, so that points are evenly spaced on a log axis.
    """
    edges = np.unique(np.geomspace(1, len(values) + 1, points + 1).astype(int)) - 1
    steps, medians = [], []
    for a, b in pairwise(edges):
        reach = max(12, a // 6) if a > 12 else a // 2
        wide = values[a - reach : b + reach]
        good = wide[np.isfinite(wide)]
        if good.size:
            steps.append((a + b + 1) / 2)
            medians.append(float(np.median(good)))
    return np.array(steps), np.array(medians)


def losses(view: View, fits: dict[str, FitSummary]) -> Any | None:
    """Draw the smoothed loss of each fit above the best final loss.

    Also draws the stopping point of each fit and its restarts at the end. If some guides are
    fitted to all units and others only to the evaluation subset, each is drawn above its own best.
    """
    curves = {
        n: smooth(np.asarray(f.losses, dtype=float))
        for n, f in fits.items()
        if np.size(f.losses) > 1 and n in view.marks
    }
    curves = {n: c for n, c in curves.items() if c[0].size}
    if not curves:
        return None
    figure, axis = canvas(380, 260)
    final = {n: float(np.median(c[1][-max(3, len(c[1]) // 10) :])) for n, c in curves.items()}
    lowest_of_all = min(final.values())
    best = {
        n: v if view.report.entry.judged is not None else lowest_of_all for n, v in final.items()
    }
    last = max(c[0].max() for c in curves.values())
    highest = max(float(np.quantile(c[1] - best[n], 0.97)) for n, c in curves.items())
    wide = highest > NARROW
    if not wide:
        highest = max(
            0.02, min(NARROW, max(float((c[1] - best[n]).max()) for n, c in curves.items()))
        )
    lowest = (
        LOWEST
        if wide
        else min(-0.005, *(float(np.quantile(c[1] - best[n], 0.03)) for n, c in curves.items()))
    )
    for name, (steps, values) in curves.items():
        mark, gap = view.marks[name], np.maximum(values - best[name], lowest)
        axis.plot(steps, gap, color=mark.color, linestyle=mark.dash)
        axis.plot(
            steps[-1:],
            gap[-1:],
            marker=mark.marker,
            color=mark.color,
            markersize=6.5,
            markeredgecolor=light("paper"),
        )
        for restart in fits[name].restarts:
            if restart.elbo is not None and np.isfinite(restart.elbo.value_nats):
                height = max(-restart.elbo.value_nats - best[name], lowest)
                axis.plot(
                    [last * 1.18],
                    [height],
                    marker="_",
                    markersize=11,
                    markeredgewidth=1.6,
                    color=mark.color,
                    clip_on=False,
                )
    y_range = (
        (LOWEST * 0.8, highest * 1.5)
        if wide
        else (lowest - 0.06 * (highest - lowest), highest + 0.06 * (highest - lowest))
    )
    axis.set(xscale="log", yscale="log" if wide else "linear", xlim=(1, last * 1.4), ylim=y_range)
    log_axis(axis, (1, last * 1.4), y_range if wide else None)
    axis.set(xlabel="optimizer step", ylabel="nats above the best loss")
    axis.grid(axis="y")
    return figure


def pareto(view: View) -> Any | None:
    """Draw k-hat per method against its threshold."""
    found = {
        n: c.pareto_k
        for n, c in view.by_name.items()
        if c.pareto_k is not None and np.isfinite(c.pareto_k.value)
    }
    if not found:
        return None
    figure, axis = canvas(380, 70 + 25 * len(found))
    limit = min(k.threshold for k in found.values())
    values = [k.value for k in found.values()]
    left, right = min([0.0, *values]) - 0.08, max([1.0, *(min(v, 2.0) for v in values)]) + 0.12
    axis.axvspan(limit, right, color=light("ref-soft"), linewidth=0)
    axis.axvline(limit, color=light("ref-line"), linewidth=1, linestyle=(0, (3, 3)))
    for i, (name, k) in enumerate(found.items()):
        mark = view.marks[name]
        x = min(k.value, 2.0)
        axis.plot([left, x], [i, i], color=light("line"), linewidth=1)
        axis.plot(
            [x], [i], marker=mark.marker if k.value <= 2 else ">", color=mark.color, markersize=7.5
        )
        text = f"{k.value:.2f}".replace("-", "−")
        toward_left = x > right - 0.22 * (right - left)
        axis.annotate(
            text,
            (x, i),
            xytext=(-8 if toward_left else 8, 0),
            textcoords="offset points",
            va="center",
            ha="right" if toward_left else "left",
            fontsize=10,
        )
    axis.set_yticks(range(len(found)), list(found))
    axis.tick_params(axis="y", length=0, labelcolor=light("ink"))
    axis.annotate(
        f"unreliable above {limit:.2f}",
        (right, -0.75),
        ha="right",
        va="center",
        fontsize=9.5,
        color=light("muted"),
        xytext=(-3, 0),
        textcoords="offset points",
    )
    axis.set(xlim=(left, right), ylim=(len(found) - 0.4, -1.1), xlabel="Pareto k-hat (no unit)")
    axis.spines["left"].set_visible(False)
    return figure


def reweighting(view: View, most: int = 12) -> Any | None:
    """Draw the worst mean errors before (hollow) and after (filled) importance reweighting.

    Each method has as many of them, up to three, as `most` allows, and at least one.
    """
    weighed = {n: c.pareto_k.reweighted for n, c in view.by_name.items() if c.pareto_k is not None}
    each = min(3, max(1, most // max(1, len(weighed))))
    rows: list[tuple[str, str, float, float]] = []
    for name, moved in weighed.items():
        pairs = sorted(moved.items(), key=lambda item: -abs(item[1][0]))[:each]
        rows += [(name, label, *p) for label, p in pairs if np.isfinite(p).all()]
    if not rows:
        return None
    figure, axis = canvas(380, 62 + 30 * len(rows))
    reach = min(max(0.5, 1.1 * max(max(abs(r[2]), abs(r[3])) for r in rows)), 6.0)
    axis.axvspan(-MEAN, MEAN, color=light("ref-soft"), linewidth=0)
    axis.axvline(0, color=light("ref-line"), linewidth=0.8)
    for i, (name, _, raw, new) in enumerate(rows):
        mark = view.marks[name]
        raw, new = float(np.clip(raw, -reach, reach)), float(np.clip(new, -reach, reach))
        axis.plot([raw, new], [i, i], color=mark.color, linewidth=1.2)
        axis.plot(
            [raw],
            [i],
            marker=mark.marker,
            markersize=6.5,
            color=mark.color,
            markerfacecolor=light("paper"),
        )
        axis.plot([new], [i], marker=mark.marker, markersize=6.5, color=mark.color)
    texts = shortened(r[1] for r in rows)
    axis.set_yticks(range(len(rows)), [f"{r[0]}\n{texts[r[1]]}" for r in rows])
    for tick, row in zip(axis.get_yticklabels(), rows, strict=True):
        tick.set(color=view.marks[row[0]].color, multialignment="right")
    axis.tick_params(axis="y", length=0)
    axis.set(
        xlim=(-reach * 1.04, reach * 1.04),
        ylim=(len(rows) - 0.4, -0.6),
        xlabel="mean error (reference sds)",
    )
    axis.spines["left"].set_visible(False)
    return figure
