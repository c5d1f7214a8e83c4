"""Figures of mixtures: classes with their uncertainty in two directions, and co-clustering."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.comparison.relabel import apply, modes, pivot
from benchmarks.report.components import is_nuts
from benchmarks.report.inputs import EntryReport, method_names
from benchmarks.report.panels import panel
from benchmarks.report.section import ReportSection
from benchmarks.report.theme import canvas, light
from zoo.models.mixtures._classes import Classes
from zoo.quantities import shared_classes
from zoo.types import Posterior

__all__ = ["SECTION", "chain_modes", "clusters", "figures", "heat_map"]

ROWS = 240  # most rows of a heat map; a reader would not see more
DRAWS = 200
CHAIN_DRAWS = 250  # per chain, for its co-clustering matrix
SHOWN = 24  # draws whose ellipses are drawn
COLORS = ("m1", "m2", "m3", "m4", "m5", "m6")


def figures(report: EntryReport) -> list[tuple[Any, str]]:
    """Return the figures of a mixture: clusters (with several features) and co-clustering."""
    classes = getattr(sys.modules.get(report.entry.build.__module__), "CLASSES", None)
    found: list[tuple[Any, str]] = []
    best = _best(report)
    if best is None or not isinstance(classes, Classes):
        return found
    name, posterior = best
    if classes.normals is not None and "basis" in report.data.train:
        words = (
            f"Classes of {name} in the two directions that set them apart most (linear"
            " discriminants of its own classes): each thin ellipse is the 90 % region of a class"
            f" in one of {SHOWN} draws, so that their spread is the posterior's; a point's color"
            " is its most probable class, pale where that is in doubt."
        )
        found.append((clusters(posterior, classes), words))
    truth = _truth(report, classes)
    figure, rows = heat_map(report, classes, name, posterior, truth)
    order = "rows in the order of the first principal axis" if rows > 12 else "rows in order"
    other = f", and their difference from {truth[0]}" if truth is not None else ""
    words = (
        f"Chance that two rows share a class by {name}{other}; averaged over draws of class"
        f" probabilities, {order}, {rows} shown."
    )
    words += "".join(f" {text}" for text in chain_modes(report, classes))
    found.append((figure, words))
    return found


def chain_modes(report: EntryReport, classes: Classes) -> list[str]:
    """Return one sentence per set of chains on which of them group the rows alike.

    A chain in another mode is named.
    """
    # a NUTS reference is a row of its own
    stored = None if report.reference.kind == "nuts" else report.reference.posterior
    named = zip(
        method_names(report.comparisons), (c.posterior for c in report.comparisons), strict=True
    )
    chains = [("", stored), *named]
    found = []
    for name, posterior in chains:
        if (
            posterior is None
            or posterior.sample_dims != ("chain", "draw")
            or not posterior.draws
            or (name and not is_nuts(name))
        ):
            continue
        step = max(1, posterior.sample_shape[1] // CHAIN_DRAWS)
        thin = {k: v[:, ::step] for k, v in posterior.draws.items()}
        sentence = modes(posterior, classes.responsibilities(thin, report.data).numpy()).sentence
        found.append(f"{name or 'The reference'}: {sentence.split(': ', 1)[1]}")
    return found


def _best(report: EntryReport) -> tuple[str, Posterior] | None:
    """Return the guide with the smallest worst mean error, else any method with draws."""
    named = dict(zip(method_names(report.comparisons), report.comparisons, strict=True))
    guides = {n: c for n, c in named.items() if not is_nuts(n) and c.posterior.draws}
    if not guides:
        return next(((n, c.posterior) for n, c in named.items()), None)

    def worst(name: str) -> float:
        errors = [abs(s.mean_error) for s in guides[name].scores if np.isfinite(s.mean_error)]
        return max(errors, default=float("inf"))

    name = min(guides, key=worst)
    return name, guides[name].posterior


def _draws(posterior: Posterior, number: int) -> dict[str, Tensor]:
    """Return evenly spaced draws, `[draw, *site]`."""
    flat = {k: v.flatten(0, len(posterior.sample_dims) - 1) for k, v in posterior.draws.items()}
    total = len(next(iter(flat.values())))
    keep = torch.linspace(0, total - 1, min(number, total)).long()
    return {k: v[keep] for k, v in flat.items()}


def _truth(report: EntryReport, classes: Classes) -> tuple[str, Tensor] | None:
    """Return the co-clustering to compare with: exact, or from draws of the reference."""
    if classes.co_clustering is not None:
        return "the exact sum over labelings", classes.co_clustering(
            report.data, **report.entry.settings
        )
    posterior = report.reference.posterior
    if posterior is None:
        return None
    return "the reference", shared_classes(
        classes.responsibilities(_draws(posterior, 4 * DRAWS), report.data)
    )


def _order(report: EntryReport) -> Tensor:
    """Return the rows in order of the first principal axis, thinned for display."""
    rows = next(report.data.train[k] for k in report.data.observed)
    rows = rows if rows.ndim > 1 else rows.unsqueeze(-1)
    centered = rows - rows.mean(0)
    order = (centered @ torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -1]).argsort()
    return order[torch.linspace(0, len(order) - 1, min(ROWS, len(order))).round().long()]


def heat_map(
    report: EntryReport,
    classes: Classes,
    name: str,
    posterior: Posterior,
    truth: tuple[str, Tensor] | None,
) -> tuple[Any, int]:
    """Draw a method's co-clustering matrix and its difference from the truth.

    Also returns the number of rows shown.
    """
    order = _order(report)
    matrix = shared_classes(classes.responsibilities(_draws(posterior, DRAWS), report.data))[
        order
    ][:, order]
    figure, axes = canvas(
        620 if truth is not None else 330, 300, 1, 2 if truth is not None else 1, squeeze=False
    )
    found: list[tuple[Any, Tensor, tuple[float, float], tuple[str, ...], str]] = [
        (axes[0, 0], matrix, (0.0, 1.0), ("paper", "m1"), f"{name}: chance of a shared class")
    ]
    if truth is not None:
        difference = matrix - truth[1][order][:, order]
        reach = max(0.02, float(difference.abs().max()))
        found.append(
            (
                axes[0, 1],
                difference,
                (-reach, reach),
                ("m2", "paper", "m1"),
                f"difference, at most {difference.abs().max():.3f}",
            )
        )
    for axis, values, (low, high), roles, title in found:
        # Filled bands in colors of the theme: an image would keep its colors in the dark scheme.
        levels = np.linspace(low, high, 9)
        band = np.clip(np.digitize(values.numpy(), levels[1:-1]), 0, 7)
        _blocks(axis, band, [_mix(roles, i / 7) for i in range(8)])
        axis.set_title(title)
        axis.set(xticks=[], yticks=[], xlim=(0, len(order)), ylim=(len(order), 0), aspect="equal")
    return figure, len(order)


def _mix(roles: tuple[str, ...], share: float) -> tuple[str, float]:
    """Return a role's color and opacity: full at the ends of a scale, none for `paper`."""
    if len(roles) == 2:
        return light(roles[1]), share
    side = 2 * share - 1
    return light(roles[2] if side > 0 else roles[0]), abs(side) if abs(side) > 0.2 else 0.0


def _blocks(axis: Any, band: np.ndarray[Any, Any], colors: list[tuple[str, float]]) -> None:
    """Draw runs of equal bands, row by row, as rectangles.

    This needs few paths, and the colors follow the page's scheme.
    """
    for value, (color, alpha) in enumerate(colors):
        if alpha == 0.0:
            continue
        for i, row in enumerate(band):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], (row == value).astype(int), [0]])))
            runs = [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
            if runs:
                axis.broken_barh(runs, (i, 1), color=color, alpha=alpha, linewidth=0)


def clusters(posterior: Posterior, classes: Classes) -> Any:
    """Draw the rows in the two discriminant directions of the method's classes.

    Ellipses of several draws show the uncertainty of the classes.
    """
    data = posterior.data
    x = data.train["x"]
    many = _draws(posterior, DRAWS)
    r = classes.responsibilities(_one_labeling(many, classes, data), data)  # [draw, row, class]
    mean = r.mean(0)
    plane = _plane(x, mean)
    flat = (x @ plane).numpy()
    figure, axis = canvas(460, 380)
    sure, top = mean.max(-1)
    for k in range(mean.shape[-1]):
        rows = (top == k).numpy()
        for sharp, marker_alpha in ((True, 0.85), (False, 0.3)):
            pick = rows & ((sure > 0.9).numpy() == sharp)
            axis.plot(
                *flat[pick].T,
                linestyle="none",
                marker="os^DvP"[k % 6],
                markersize=3.6,
                color=light(COLORS[k % 6]),
                alpha=marker_alpha,
                markeredgewidth=0,
            )
    few = {
        k: v[:: max(1, len(v) // SHOWN)][:SHOWN]
        for k, v in _one_labeling(many, classes, data).items()
    }
    assert classes.normals is not None
    loc, root, _ = classes.normals(few, data.train["basis"])
    inverse = torch.linalg.inv(root)
    covariance = plane.T @ (inverse.mT @ inverse) @ plane  # [draw, class, 2, 2]
    center = loc @ plane
    angle = np.linspace(0, 2 * np.pi, 60)
    # radius that holds 90 % of a bivariate normal
    circle = np.sqrt(4.605) * np.stack([np.cos(angle), np.sin(angle)])
    for s in range(len(center)):
        for k in range(center.shape[1]):
            points = (
                center[s, k].numpy()[:, None]
                + torch.linalg.cholesky(covariance[s, k]).numpy() @ circle
            )
            axis.plot(*points, color=light(COLORS[k % 6]), linewidth=0.6, alpha=0.5)
    axis.set(xlabel="first discriminant of the classes", ylabel="second direction")
    return figure


def _plane(x: Tensor, mean: Tensor) -> Tensor:
    """Return two directions `[feature, 2]`, discriminants of the classes.

    With two classes the second is the main axis within them.
    """
    weight = mean.sum(0)
    center = (mean.T @ x) / weight[:, None]
    within = sum(
        (mean[:, k, None] * (x - center[k])).T @ (x - center[k]) for k in range(len(weight))
    ) / len(x)
    between = (weight[:, None] * center).T @ center / len(x)
    root = torch.linalg.inv(torch.linalg.cholesky(torch.as_tensor(within)))
    vectors = torch.linalg.eigh(root @ between @ root.T).eigenvectors
    first = root.T @ vectors[:, -1]
    if len(weight) > 2:
        return torch.stack([first, root.T @ vectors[:, -2]], -1)
    # Two classes have one discriminant: add the main axis of the rows, uncorrelated with it within
    # classes.
    main = torch.linalg.eigh(torch.as_tensor(within)).eigenvectors[:, -1]
    second = main - first * (first @ within @ main) / (first @ within @ first)
    return torch.stack([first, second / (second @ within @ second).sqrt()], -1)


def _one_labeling(draws: dict[str, Tensor], classes: Classes, data: Any) -> dict[str, Tensor]:
    """Return the draws with one numbering of the classes, relabeled by `pivot`."""
    found = pivot(classes.responsibilities(draws, data).unsqueeze(0).numpy())
    return {k: torch.as_tensor(apply(v.unsqueeze(0).numpy(), found)[0]) for k, v in draws.items()}


SECTION = ReportSection(
    name="mixture",
    about="classes and co-clustering of a mixture",
    order=85,
    tags=frozenset({"mixture", "discrete", "enumeration"}),
    html=panel(figures),
)
