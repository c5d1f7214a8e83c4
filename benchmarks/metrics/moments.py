"""Errors of means, standard deviations and correlations, each with a standard error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.components import Array, Component, Side
from benchmarks.metrics.tails import tamed
from benchmarks.thresholds import AGREE, CORRELATION, SIGMAS, multiplier
from benchmarks.types import Correlations

__all__ = [
    "POINT",
    "MomentErrors",
    "both_vary",
    "collapsed",
    "compare_correlations",
    "draws_needed",
    "fixed",
    "moment_errors",
    "reference_scale",
]

POINT = 1e-9  # sd ratio below which draws differ only by rounding
MOST_COMPONENTS = 200  # 19,900 pairs; beyond, an evenly spaced subset


class MomentErrors(NamedTuple):
    """Mean error and log sd ratio per component, with standard errors, in reference sds."""

    mean_error: Array
    mean_error_se: Array
    log_sd_ratio: Array
    log_sd_ratio_se: Array


def reference_scale(method: Side, reference: Side) -> Array:
    """Return the unit of errors, `[component]`.

    It is the reference sd; if that is 0, the method's sd or the distance of the means.
    """
    tiny = 1e-12 * (1.0 + np.abs(reference.mean))
    fallback = np.maximum(method.sd, np.abs(method.mean - reference.mean))
    return np.where(reference.sd > tiny, reference.sd, np.where(fallback > 0, fallback, 1.0))


def collapsed(method: Side, reference: Side) -> NDArray[np.bool_]:
    """Return where the method is a point mass and the reference is not, `[component]`."""
    where: NDArray[np.bool_] = (reference.sd > 1e-12 * (1.0 + np.abs(reference.mean))) & (
        method.sd <= POINT * reference.sd
    )
    return where


def fixed(method: Side, reference: Side) -> NDArray[np.bool_]:
    """Return where both sides are the same constant, `[component]`: trivially in agreement."""
    where: NDArray[np.bool_] = (
        (method.sd == 0) & (reference.sd == 0) & (moment_errors(method, reference).mean_error == 0)
    )
    return where


def both_vary(method: Side, reference: Side) -> NDArray[np.bool_]:
    """Return where the draws of both sides vary by more than rounding, `[component]`."""
    a, b = method.flat.std(0), reference.flat.std(0)
    where: NDArray[np.bool_] = (np.minimum(a, b) > 0) & (
        np.minimum(a, b) > POINT * np.maximum(a, b)
    )
    return where


def moment_errors(method: Side, reference: Side) -> MomentErrors:
    """Return e = (m_q - m_p) / s_p and r = log(s_q / s_p) with first-order standard errors.

    se(e)^2 = (se(m_q)^2 + se(m_p)^2) / s_p^2 + e^2 (se(s_p) / s_p)^2,
    se(r)^2 = (se(s_q) / s_q)^2 + (se(s_p) / s_p)^2.
    """
    scale = reference_scale(method, reference)
    e = (method.mean - reference.mean) / scale
    relative_p = reference.sd_se / scale
    e_se = np.sqrt((method.mean_se**2 + reference.mean_se**2) / scale**2 + (e * relative_p) ** 2)
    r = np.log(np.maximum(method.sd, 1e-12 * scale) / scale)
    relative_q = np.where(
        method.sd > 0, method.sd_se / np.where(method.sd > 0, method.sd, 1.0), 0.0
    )
    return MomentErrors(e, e_se, r, np.sqrt(relative_q**2 + relative_p**2))


def draws_needed(one: Side, scale: Array) -> Array:
    """Return the effective draws one side needs for 3 se <= 0.15 of both sides; 0 if met.

    Each side may use half of the allowed variance: n (se / (0.05 / sqrt 2))^2, for the mean and
    for the log sd.
    """
    allowed = AGREE / SIGMAS / np.sqrt(2.0)
    relative = np.where(one.sd > 0, one.sd_se / np.where(one.sd > 0, one.sd, 1.0), 0.0)
    worst = np.maximum(one.mean_se / scale, relative)
    return np.where(worst > allowed, np.ceil(one.flat.shape[0] * (worst / allowed) ** 2), 0.0)


def compare_correlations(
    method: Side, reference: Side, components: list[Component]
) -> Correlations | None:
    """Return the pair of components whose correlation differs most relative to its threshold.

    None with fewer than two varying components. The standard error of a correlation c of
    standardized x, y is sd(x y - c (x^2 + y^2) / 2) / sqrt(ESS): its influence function, without
    assuming normality; ESS is the smaller of the two. The maximum over many pairs needs a stricter
    threshold: max(0.2, z se) with z = `multiplier(pairs)`.
    """
    method, reference = tamed(method, reference)
    varies = both_vary(method, reference)
    keep = [i for i, c in enumerate(components) if c.judged and varies[i]]
    if len(keep) > MOST_COMPONENTS:
        keep = [keep[i] for i in np.linspace(0, len(keep) - 1, MOST_COMPONENTS).astype(int)]
    if len(keep) < 2:
        return None
    pairs = len(keep) * (len(keep) - 1) // 2
    z = multiplier(pairs)
    a, b = (_correlation(s.take(keep)) for s in (method, reference))
    difference, se = a[0] - b[0], np.hypot(a[1], b[1])
    line = np.maximum(CORRELATION, z * se)
    upper = np.triu_indices(len(keep), 1)
    k = int(np.argmax((np.abs(difference) / line)[upper]))
    i, j = int(upper[0][k]), int(upper[1][k])
    return Correlations(
        difference=float(difference[i, j]),
        se=float(se[i, j]),
        line=float(line[i, j]),
        pairs=pairs,
        labels=(components[keep[i]].label, components[keep[j]].label),
        method=float(a[0][i, j]),
        reference=float(b[0][i, j]),
    )


def _correlation(one: Side) -> tuple[Array, Array]:
    """Return correlations and their standard errors, `[component, component]` each."""
    flat = one.flat
    x = (flat - flat.mean(0)) / flat.std(0)
    corr = x.T @ x / len(x)
    se = np.zeros_like(corr)
    squares = x**2
    for i in range(x.shape[1]):  # row by row, so that [draw, component] fits in memory
        influence = x[:, i : i + 1] * x - 0.5 * corr[i] * (squares[:, i : i + 1] + squares)
        se[i] = influence.std(0) / np.sqrt(np.minimum(one.ess[i], one.ess))
    return corr, se
