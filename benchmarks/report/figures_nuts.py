"""Figures of NUTS diagnostics and of posterior predictive checks."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from benchmarks.report.components import Array, Key, View, component_draws, is_nuts
from benchmarks.report.figures_posterior import density, label_of, two_lines
from benchmarks.report.theme import OUTLINED, canvas, light
from benchmarks.types import PredictiveCheck
from zoo.types import Posterior

__all__ = ["divergences", "energy", "predictive", "ranks"]

MOST_POINTS = 300
CHAIN_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


def ranks(view: View, nuts: Posterior) -> tuple[Any, str] | None:
    """Draw the rank histogram per chain of the component that mixes worst."""
    found = component_draws(nuts)
    key = _worst_mixing(view, found)
    if key is None:
        return None
    values = found[key]
    chains, draws = values.shape
    if chains < 2:
        return None
    bins = 20
    rank = stats.rankdata(values).reshape(values.shape)
    edges = np.linspace(0.5, values.size + 0.5, bins + 1)
    figure, axis = canvas(340, 210)
    expected = draws / bins
    band = 2.58 * np.sqrt(expected * (1 - 1 / bins)) / expected
    axis.axhspan(1 - band, 1 + band, color=light("ref-soft"), linewidth=0)
    axis.axhline(1, color=light("ref-line"), linewidth=0.8)
    tallest = 1 + band
    for chain in range(chains):
        counts = np.histogram(rank[chain], edges)[0] / expected
        tallest = max(tallest, counts.max())
        axis.stairs(
            counts,
            np.linspace(0, 1, bins + 1),
            baseline=None,
            color=light(f"m{chain % 6 + 1}"),
            linewidth=1.3,
            linestyle=CHAIN_DASHES[chain % 4],
        )
    top = max(1 + 2 * band, 1.05 * tallest)
    axis.set(
        xlim=(0, 1),
        ylim=(max(0.0, 2 - top), top),
        xlabel=f"rank of {label_of(view, key, 24)} (all chains)",
    )
    axis.set_ylabel("draws / expected")
    axis.locator_params(axis="y", nbins=5)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
    return figure, view.labels.get(key, key[0])


def _worst_mixing(view: View, found: dict[Key, Array]) -> Key | None:
    """Return the component NUTS reports as worst, else the one whose chain means differ most."""
    named = next(
        (c.mcmc.worst for n, c in view.by_name.items() if is_nuts(n) and c.mcmc is not None), ""
    )
    moving = {k: v for k, v in found.items() if v.std() > 0}
    for key in moving:
        label = view.labels.get(key, "")
        if named and label and (named == label or named.startswith(label + " ")):
            return key
    return max(
        moving, key=lambda k: float(moving[k].mean(1).std() / moving[k].std()), default=None
    )


def energy(nuts: Posterior) -> Any | None:
    """Draw the distributions of energy and of its change per draw; alike means good mixing."""
    if "energy" not in nuts.stats:
        return None
    values = np.asarray(nuts.stats["energy"].detach().cpu().numpy(), dtype=float)
    if values.ndim != 2 or values.shape[1] < 10 or not np.isfinite(values).all():
        return None
    level = (values - values.mean(1, keepdims=True)).ravel()
    change = np.diff(values, axis=1).ravel()
    reach = float(np.quantile(np.abs(np.concatenate([level, change])), 0.998))
    grid = np.linspace(-reach, reach, 100)
    below, line = density(level, grid), density(change, grid)
    if below is None or line is None:
        return None
    figure, axis = canvas(340, 210)
    axis.fill_between(grid, 0, below, **OUTLINED)
    axis.plot(grid, line, color=light("nuts"), linewidth=1.7)
    axis.set(
        xlabel="energy around its mean, change per draw (nats)",
        yticks=[],
        xlim=(-reach, reach),
        ylim=(0, 1.08 * max(below.max(), line.max())),
    )
    axis.spines["left"].set_visible(False)
    return figure


def divergences(view: View, nuts: Posterior) -> tuple[Any, int] | None:
    """Draw two components of NUTS with divergent draws marked.

    The components are those whose mean differs most, in sds, between divergent and other draws.
    """
    found = {k: v.ravel() for k, v in component_draws(nuts).items() if v.std() > 0}
    if len(found) < 2 or "diverging" not in nuts.stats:
        return None
    bad = np.asarray(nuts.stats["diverging"].detach().cpu().numpy(), dtype=bool).ravel()
    shift = {
        k: abs(v[bad].mean() - v.mean()) / v.std() if bad.any() else 0.0 for k, v in found.items()
    }
    ranked = sorted(
        found,
        key=lambda k: (
            -shift[k],
            list(view.order).index(k) if k in view.order else len(view.order),
        ),
    )
    a = ranked[0]
    b = next(
        (k for k in ranked[1:] if abs(np.corrcoef(found[a], found[k])[0, 1]) < 0.98), ranked[1]
    )
    figure, axis = canvas(340, 260)
    good = np.flatnonzero(~bad)
    good = good[:: max(1, len(good) // MOST_POINTS)]
    axis.plot(
        found[b][good],
        found[a][good],
        linestyle="none",
        marker="o",
        markersize=2.6,
        markeredgewidth=0,
        color=light("ref-line"),
        alpha=0.6,
    )
    some = np.flatnonzero(bad)
    some = some[:: max(1, len(some) // MOST_POINTS)]
    axis.plot(
        found[b][some],
        found[a][some],
        linestyle="none",
        marker="x",
        markersize=6,
        markeredgewidth=1.5,
        color=light("warn"),
    )
    axis.set(xlabel=label_of(view, b, 32), ylabel=two_lines(label_of(view, a, 26), 32))
    axis.locator_params(nbins=6)
    return figure, int(bad.sum())


def predictive(view: View, check: PredictiveCheck) -> Any:
    """Draw the empirical CDF of the observed values over those replicated from each method.

    The band holds 90 % of the data sets replicated by NUTS if it was run, else by the first
    method. A CDF needs no bins, so it suits eight observations or a thousand, counts or reals.
    """
    figure, axis = canvas(380, 260)
    observed = np.sort(np.asarray(check.observed, dtype=float).ravel())
    spread = observed[-1] - observed[0] or 1.0
    grid = np.linspace(observed[0] - 0.25 * spread, observed[-1] + 0.25 * spread, 161)
    below = lambda row: np.searchsorted(np.sort(row), grid, side="right") / row.size  # noqa: E731
    base = next((n for n in check.replicated if is_nuts(n)), next(iter(check.replicated), None))
    for name, replicated in check.replicated.items():
        rows = np.stack([below(row) for row in np.asarray(replicated, dtype=float)[:300]])
        if name == base:
            low, high = np.quantile(rows, (0.05, 0.95), axis=0)
            axis.fill_between(grid, low, high, color=light("ref-soft"), linewidth=0)
        mark = view.marks.get(name)
        if mark is not None:
            axis.plot(grid, rows.mean(0), color=mark.color, linestyle=mark.dash, linewidth=1.0)
    axis.step(grid, below(observed), where="post", color=light("ink"), linewidth=1.8)
    axis.set(xlabel=two_lines(check.label, 60), ylabel="share of values below")
    axis.set_ylim(0, 1)
    return figure
