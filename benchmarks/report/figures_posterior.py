"""Figures of the draws: forest plot, marginals of the worst components, worst pair."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.report.components import Array, Key, View, is_nuts, moves, worst_pair
from benchmarks.report.theme import OUTLINED, canvas, light

__all__ = ["density", "forest", "label_of", "marginal", "pair", "shortened", "two_lines"]

FARTHEST = 6.0  # reference sds; intervals beyond it end in an arrow
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
# Mahalanobis radius that holds 90 % of a bivariate normal
RADIUS = float(np.sqrt(stats.chi2.ppf(0.9, 2)))


def shortened(labels: Iterable[str], length: int = 22) -> dict[str, str]:
    """Shorten labels in their middle, where those of one quantity agree, and keep their indices.

    Different labels remain different: all become longer until they are.
    """
    known = list(dict.fromkeys(labels))
    for size in range(length, max(map(len, known), default=0) + 1):
        found = {text: _short(text, size) for text in known}
        if len(set(found.values())) == len(known):
            return found
    return {text: text for text in known}


def _short(text: str, length: int) -> str:
    return (
        text
        if len(text) <= length
        else text[: length // 2 - 1] + "…" + text[-(length - length // 2) :]
    )


def label_of(view: View, key: Key, length: int) -> str:
    """Return the label of a component, shortened so that it cannot be taken for another."""
    labels = {**view.labels, key: view.labels.get(key, key[0])}
    return shortened(labels.values(), length)[labels[key]]


def two_lines(text: str, length: int = 26) -> str:
    """Break a long label of an axis once, near its middle and behind a separator."""
    if len(text) <= length:
        return text
    places = [m.end() for m in re.finditer(r"[_ ,\[…]", text)][:-1] or [len(text) // 2]
    at = min(places, key=lambda i: abs(i - len(text) // 2))
    return f"{text[:at].rstrip()}\n{text[at:]}"


def density(x: Array, grid: Array) -> Array | None:
    """Return the kernel density of draws on a grid, None for draws without spread."""
    flat = x.ravel()
    flat = flat[:: max(1, flat.size // 2500)]
    if flat.size < 5 or not moves(flat):
        return None
    # A heavy tail inflates the sd, which would oversmooth the center: use the smaller of sd and
    # scaled IQR.
    spread = min(flat.std(), stats.iqr(flat) / 1.349) or flat.std()
    return np.asarray(
        stats.gaussian_kde(flat, bw_method=0.9 * spread / flat.std() * flat.size**-0.2)(grid)
    )


def forest(view: View, most: int = 20) -> tuple[Any, int]:
    """Draw every method's median, 50 and 90 % interval over the reference's.

    In reference sds, worst component first.

    Returns:
        The figure and the number of components shown.
    """
    methods = view.shown
    pitch, gap = 7.0, 8.0
    rows = max(6, min(most, int(860 / (pitch * len(methods) + gap))))
    keys = [k for k in view.order if k in view.reference and view.reference[k].std() > 0][:rows]
    height = len(keys) * (pitch * len(methods) + gap)
    figure, axis = canvas(430, height + 52)
    bands: dict[str, list[Any]] = {"middle": [], "ticks": []}
    lines: dict[str, list[tuple[Array, float]]] = {name: [] for name in methods}
    top = 0.0
    for key in keys:
        center, sd = view.reference[key].mean(), view.reference[key].std()
        bottom = top + pitch * len(methods) + gap
        span = (top + gap / 2, bottom - top - gap)
        quantiles = (np.quantile(view.reference[key], LEVELS) - center) / sd
        axis.broken_barh(
            [(quantiles[0], quantiles[4] - quantiles[0])],
            span,
            color=light("ref-soft"),
            linewidth=0,
        )
        axis.broken_barh([(quantiles[1], quantiles[3] - quantiles[1])], span, **OUTLINED)
        bands["middle"] += [
            (quantiles[2], span[0]),
            (quantiles[2], span[0] + span[1]),
            (np.nan, np.nan),
        ]
        bands["ticks"].append((top + bottom) / 2)
        for i, name in enumerate(methods):
            if key in view.draws[name]:
                y = top + gap / 2 + pitch * (i + 0.5)
                lines[name].append(((np.quantile(view.draws[name][key], LEVELS) - center) / sd, y))
        top = bottom
    axis.plot(*np.transpose(bands["middle"]), color=light("ref-line"), linewidth=1.2)
    for name in methods:
        _intervals(axis, lines[name], view.marks[name])
    farthest = max(
        [2.0, *(float(np.abs(points).max()) for found in lines.values() for points, _ in found)]
    )
    reach = min(farthest * 1.06, FARTHEST)
    axis.set(
        xlim=(-reach, reach),
        ylim=(top + 1, -1),
        xlabel="distance from the reference mean (reference sds)",
    )
    texts = shortened(view.labels[k] for k in keys)
    axis.set_yticks(bands["ticks"], [two_lines(texts[view.labels[k]]) for k in keys])
    axis.tick_params(axis="y", length=0, labelcolor=light("ink"))
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    return figure, len(keys)


def _intervals(axis: Any, found: list[tuple[Array, float]], mark: Any) -> None:
    """Draw a method's 90 and 50 % intervals and medians as three paths.

    A median beyond the edge becomes an arrow.
    """
    if not found:
        return
    points = np.clip(np.stack([p for p, _ in found]), -FARTHEST, FARTHEST)  # [row, level]
    y = np.array([h for _, h in found])
    gaps = np.full(len(y), np.nan)
    for ends, width in (((0, 4), 1.1), ((1, 3), 2.8)):
        x = np.stack([points[:, ends[0]], points[:, ends[1]], gaps], 1).ravel()
        axis.plot(
            x,
            np.stack([y, y, gaps], 1).ravel(),
            color=mark.color,
            linewidth=width,
            solid_capstyle="butt",
        )
    middle = points[:, 2]
    for marker, rows in (
        (mark.marker, np.abs(middle) < FARTHEST),
        (">", middle >= FARTHEST),
        ("<", middle <= -FARTHEST),
    ):
        if rows.any():
            axis.plot(
                middle[rows] * (1 if marker == mark.marker else 0.985),
                y[rows],
                linestyle="none",
                marker=marker,
                markersize=4.8,
                color=mark.color,
                markeredgecolor=light("paper"),
                markeredgewidth=0.5,
            )


def marginal(view: View, key: Key) -> tuple[Any, bool]:
    """Draw the density of one component: the reference filled, every method as a line.

    Also returns whether a peak was cut off.
    """
    figure, axis = canvas(340, 210)
    truth = view.reference.get(key)
    base = (
        truth
        if truth is not None
        else np.concatenate(
            [view.draws[n][key].ravel() for n in view.shown if key in view.draws[n]]
        )
    )
    low, high = np.quantile(base, (0.005, 0.995))
    for name in view.shown:
        if key in view.draws[name]:
            inner = np.quantile(view.draws[name][key], (0.02, 0.98))
            width = high - low
            low, high = (
                min(low, max(inner[0], low - width / 3)),
                max(high, min(inner[1], high + width / 3)),
            )
    if not high - low > 1e-9 * abs(low):  # point masses only
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(low) or 1.0)
    grid = np.linspace(low, high, 110)
    curves = {n: density(view.draws[n][key], grid) for n in view.shown if key in view.draws[n]}
    fill = density(truth, grid) if truth is not None else None
    if fill is not None:
        axis.fill_between(grid, 0, fill, **OUTLINED)
    # A collapsed guide would flatten everything else: cut the axis at three times the peak of the
    # reference.
    peaks = [c.max() for c in curves.values() if c is not None]
    peak = max([*peaks, fill.max() if fill is not None else 0.0])
    top = (min(peak, 3.0 * fill.max()) if fill is not None else peak) or 1.0
    for name, curve in sorted(curves.items(), key=lambda item: is_nuts(item[0])):
        mark = view.marks[name]
        if curve is not None:
            axis.plot(grid, curve, color=mark.color, linestyle=mark.dash, linewidth=1.7)
        elif not moves(view.draws[name][key]):  # a point mass
            axis.axvline(
                float(view.draws[name][key].mean()),
                color=mark.color,
                linestyle=mark.dash,
                linewidth=1.7,
            )
    axis.set(xlabel=label_of(view, key, 40), ylim=(0, 1.05 * top), xlim=(low, high), yticks=[])
    axis.spines["left"].set_visible(False)
    axis.locator_params(axis="x", nbins=6)
    return figure, peak > top


def pair(view: View) -> tuple[Any, str] | None:
    """Draw the pair with the worst correlation.

    50 and 90 % contours of the reference, and a 90 % ellipse per method.
    """
    found = worst_pair(view)
    if found is None:
        return None
    a, b, method, got, true = found
    # one is a function of the other, and every method shows it
    if abs(true) > 0.995 and abs(got - true) < 0.01:
        return None
    figure, axis = canvas(380, 330)
    truth = view.reference or next((view.draws[n] for n in view.shown if is_nuts(n)), {})
    truth = truth if a in truth and b in truth else {}
    if truth:
        _contours(axis, truth[a].ravel(), truth[b].ravel())
    for name in sorted(
        (n for n in view.shown if a in view.draws[n] and b in view.draws[n]), key=is_nuts
    ):
        x = np.stack([view.draws[name][a].ravel(), view.draws[name][b].ravel()])
        mark = view.marks[name]
        if not is_nuts(name):
            points = _ellipse(x)
            axis.plot(*points, color=mark.color, linestyle=mark.dash, linewidth=1.6)
        axis.plot(
            *x.mean(1, keepdims=True),
            marker=mark.marker,
            color=mark.color,
            markersize=6,
            markeredgecolor=light("paper"),
        )
    if truth:
        for pick, position, limits in ((a, 0, axis.set_xlim), (b, 1, axis.set_ylim)):
            low, high = np.quantile(truth[pick], (0.004, 0.996))
            extents = [line.get_xydata()[:, position] for line in axis.lines]
            width = high - low
            limits(
                max(min([low, *(e.min() for e in extents)]), low - 0.7 * width) - 0.03 * width,
                min(max([high, *(e.max() for e in extents)]), high + 0.7 * width) + 0.03 * width,
            )
    axis.set(xlabel=label_of(view, a, 36), ylabel=two_lines(label_of(view, b, 30), 36))
    axis.locator_params(nbins=6)
    text = f"correlation of {view.labels[a]} and {view.labels[b]}: {signed(got)} by {method}"
    return figure, text + (
        f", {signed(true)} in the {'reference' if view.reference else 'NUTS draws'}"
        if truth
        else ""
    )


def signed(value: float) -> str:
    """Format a correlation with its sign."""
    return f"{value:+.2f}".replace("-", "−")


def _ellipse(x: Array) -> Array:
    """Return the 90 % ellipse `[2, 80]` of a normal with the moments of draws `[2, n]`."""
    angle = np.linspace(0, 2 * np.pi, 80)
    values, vectors = np.linalg.eigh(np.cov(x))
    return x.mean(1, keepdims=True) + RADIUS * (
        vectors * np.sqrt(np.maximum(values, 0))
    ) @ np.stack([np.cos(angle), np.sin(angle)])


def _contours(axis: Any, x: Array, y: Array) -> None:
    """Fill the regions that hold 50 and 90 % of the draws, by a kernel density."""
    step = max(1, x.size // 1000)
    points = np.stack([x[::step], y[::step]])
    try:
        kernel = stats.gaussian_kde(points)
    except np.linalg.LinAlgError:  # perfectly correlated draws have no density in the plane
        axis.plot(
            points[0],
            points[1],
            linestyle="none",
            marker=".",
            markersize=2,
            color=light("ref-line"),
        )
        return
    heights = kernel(points)
    levels = np.quantile(heights, (0.1, 0.5))
    if not levels[0] < levels[1]:
        return
    (x0, x1), (y0, y1) = (np.quantile(v, (0.0, 1.0)) for v in points)
    gx, gy = np.meshgrid(np.linspace(x0, x1, 56), np.linspace(y0, y1, 56))
    z = kernel(np.stack([gx.ravel(), gy.ravel()])).reshape(gx.shape)
    axis.contourf(
        gx,
        gy,
        z,
        levels=[*levels, max(z.max(), heights.max()) * 1.01],
        colors=[light("ref-soft"), light("ref")],
    )
    axis.contour(gx, gy, z, levels=levels, colors=[light("ref-line")], linewidths=0.8)
