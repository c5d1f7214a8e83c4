"""Accuracy against cost: the worst mean error of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import scipy.optimize

from benchmarks.report.components import View, is_nuts
from benchmarks.report.numbers import short_count
from benchmarks.report.theme import canvas, light
from benchmarks.thresholds import MEAN

__all__ = ["cost", "cost_points", "log_axis", "noise_floor", "uncompiled"]

LOWEST = 1e-3  # reference sds; smaller errors are drawn at the edge
CROWD = 8  # points whose labels find room beside them; those of more stand in a column
LINE = 13.0  # pixels from label to label


def cost_points(
    view: View, by: Literal["gradients", "seconds"]
) -> dict[str, tuple[float, float, float]]:
    """Return (cost, worst error, its standard error) per method.

    The error of a component is the larger of |mean error| and |log sd ratio|, whose thresholds
    are about the same: a method that is only too narrow lies as high as one that is as much
    shifted. Only judged components count.
    """
    points: dict[str, tuple[float, float, float]] = {}
    for name, comparison in view.by_name.items():
        spent = comparison.posterior.cost
        x = float(spent.gradient_evaluations if by == "gradients" else spent.seconds)
        judged = [s for s in comparison.scores if s.judged and np.isfinite(s.mean_error)]
        if judged and x > 0 and comparison.verdict != "fit_failed":
            errors = [
                (abs(value), se)
                for s in judged
                for value, se in (
                    (s.mean_error, s.mean_error_se),
                    (s.log_sd_ratio, s.log_sd_ratio_se),
                )
                if np.isfinite(value)
            ]
            points[name] = (x, *max(errors, key=lambda e: e[0]))
    return points


def uncompiled(view: View) -> set[str]:
    """Return the fits that ran eagerly while others were compiled: their times do not compare."""
    stepped = {
        n: bool(f.compiled.get("used"))
        for n, f in view.report.summaries().items()
        if f.cost.steps > 0 and f.compiled
    }
    return {n for n, used in stepped.items() if not used} if any(stepped.values()) else set()


def noise_floor(view: View) -> float | None:
    """Return three standard errors of the most precise method's mean errors and log sd ratios.

    It is the largest over components, for the method for which that is smallest.
    """
    found = []
    for comparison in view.by_name.values():
        errors = [
            se
            for s in comparison.scores
            if s.judged
            for se in (s.mean_error_se, s.log_sd_ratio_se)
            if np.isfinite(se)
        ]
        if errors and comparison.verdict != "fit_failed":
            found.append(3 * max(errors))
    return min(found) if found and min(found) > 0 else None


def cost(view: View, by: Literal["gradients", "seconds"]) -> Any | None:
    """Draw the worst error of a mean or an sd against cost on log axes.

    Includes direct labels, the noise floor and the threshold of 0.15.
    """
    points = cost_points(view, by)
    if not points:
        return None
    crowd = len(points) > CROWD
    figure, axis = canvas(400 if crowd else 280, max(220.0, 74.0 + LINE * len(points) * crowd))
    floor = noise_floor(view)
    xs = [p[0] for p in points.values()]
    ys = [max(p[1], LOWEST) for p in points.values()]
    low = max(LOWEST, min([*ys, MEAN, floor or 1.0]) / 2)
    high = max([*ys, MEAN]) * 2.2
    width = max(np.log10(max(xs) / min(xs)), 1.0)
    right = 0.7 if crowd else 0.42
    x_range = (10 ** (np.log10(min(xs)) - 0.12 * width), 10 ** (np.log10(max(xs)) + right * width))
    axis.set(xscale="log", yscale="log", xlim=x_range, ylim=(low, high))
    if floor is not None:
        axis.axhspan(low, floor, color=light("ref-soft"), linewidth=0)
        axis.annotate(
            "noise",
            (0.015 if crowd else 0.985, 0.015),
            xycoords="axes fraction",
            ha="left" if crowd else "right",
            va="bottom",
            fontsize=9.5,
            color=light("muted"),
        )
    axis.axhline(MEAN, color=light("ref-line"), linewidth=1, linestyle=(0, (3, 3)))
    axis.annotate(
        f"{MEAN:g}",
        (1, MEAN),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        color=light("muted"),
    )
    for name, (x, y, se) in points.items():
        mark, y = view.marks[name], max(y, LOWEST)
        axis.plot([x, x], [max(y - se, low), y + se], color=mark.color, linewidth=1, alpha=0.5)
        size = 8 if is_nuts(name) else 6.5
        axis.plot(
            [x],
            [y],
            marker=mark.marker,
            color=mark.color,
            markersize=size,
            markeredgecolor=light("paper"),
            markeredgewidth=0.7,
        )
    eager = uncompiled(view) if by == "seconds" else set()
    words = {n: _word(view, n, eager) for n in points}
    if crowd:
        _labels_in_a_column(axis, view, points, (low, high), words)
    else:
        _direct_labels(axis, view, points, x_range, (low, high), words)
    log_axis(axis, x_range, (low, high))
    axis.set(
        xlabel="gradient evaluations" if by == "gradients" else "seconds",
        ylabel="worst |mean error| or |log sd ratio|",
    )
    axis.grid(True)
    return figure


def _word(view: View, name: str, eager: set[str]) -> str:
    """Return the label of a point; the height shows neither correlations nor shape."""
    parts = [name, *(["eager"] if name in eager else [])]
    return ", ".join([*parts, *(["shape"] if view.by_name[name].verdict == "wrong_shape" else [])])


def _direct_labels(
    axis: Any,
    view: View,
    points: Any,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    words: Mapping[str, str],
) -> None:
    """Label each method's point, shifting labels vertically so that they do not overlap."""
    wide, tall = 205.0, 170.0  # approximate size of the axes in pixels, for spacing
    px = {
        n: np.log(p[0] / x_range[0]) / np.log(x_range[1] / x_range[0]) * wide
        for n, p in points.items()
    }
    py = {
        n: np.log(max(p[1], LOWEST) / y_range[0]) / np.log(y_range[1] / y_range[0]) * tall
        for n, p in points.items()
    }
    heights = spread(sorted(py.items(), key=lambda item: item[1]), LINE, 6.0, tall - 6.0)
    for name in points:
        shift = heights[name] - py[name]
        left = px[name] > 0.72 * wide
        line = (
            {
                "arrowstyle": "-",
                "color": view.marks[name].color,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 3,
            }
            if abs(shift) > 7
            else None
        )
        axis.annotate(
            words[name],
            (points[name][0], max(points[name][1], LOWEST)),
            xytext=(-8 if left else 8, shift),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=10,
            color=view.marks[name].color,
            arrowprops=line,
        )


def _labels_in_a_column(
    axis: Any, view: View, points: Any, y_range: tuple[float, float], words: Mapping[str, str]
) -> None:
    """Label each point at the right edge, by height, with a line from the point to its label."""
    tall = LINE * len(points) + 12.0
    reach = np.log(y_range[1] / y_range[0])
    heights = spread(
        sorted(
            (
                (n, np.log(max(p[1], LOWEST) / y_range[0]) / reach * tall)
                for n, p in points.items()
            ),
            key=lambda item: item[1],
        ),
        LINE,
        6.0,
        tall - 6.0,
    )
    for name, (x, y, _) in points.items():
        color = view.marks[name].color
        axis.annotate(
            words[name],
            (x, max(y, LOWEST)),
            xytext=(0.99, heights[name] / tall),
            textcoords="axes fraction",
            ha="right",
            va="center",
            fontsize=10,
            color=color,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.5,
                "alpha": 0.6,
                "shrinkA": 0,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def spread(
    items: Sequence[tuple[str, float]], gap: float, low: float, high: float
) -> dict[str, float]:
    """Shift sorted heights by the least squares that leave `gap` between them in [low, high].

    h_i - i * gap has to rise with i, which is an isotonic regression. Where there is no room the
    gaps are smaller and equal.
    """
    if not items:
        return {}
    most = (high - low) / max(len(items) - 1, 1)
    steps = np.arange(len(items)) * min(gap, most)
    moved = scipy.optimize.isotonic_regression([h for _, h in items] - steps).x
    heights = moved.clip(low, high - steps[-1]) + steps
    return {name: float(h) for (name, _), h in zip(items, heights, strict=True)}


def log_axis(
    axis: Any, x_range: tuple[float, float] | None, y_range: tuple[float, float] | None
) -> None:
    """Set plain-number ticks on log axes: decades, with 2 and 5 in between for short ranges."""
    for limits, set_ticks in ((x_range, axis.set_xticks), (y_range, axis.set_yticks)):
        if limits is None:
            continue
        decades = np.arange(np.floor(np.log10(limits[0])), np.ceil(np.log10(limits[1])) + 1)
        for steps in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
            ticks = [
                m * 10.0**d
                for d in decades
                for m in steps
                if limits[0] <= m * 10.0**d <= limits[1]
            ]
            if len(ticks) <= 4:
                break
        ticks = ticks[:: 1 + (len(ticks) - 1) // 6]
        set_ticks(ticks, [short_count(round(t, 10)) for t in ticks])
        set_ticks([], minor=True)
