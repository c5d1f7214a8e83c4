"""How means and sds of chains changed between two times, with paired errors.

With s the sd of the chains now, per component

    e = (E_before - E_now) / s,      r = log(s_before / s)

Both sides are the same chains, so their errors are paired; that of s is part of the error of e.
What chains still know of their starts is the correlation of start and end, within the modes
between which they do not move: how much mass a mode has is no matter of forgetting.
"""

from __future__ import annotations

import numpy as np

from benchmarks.metrics.components import Array

__all__ = ["HalfTime", "changes", "memory_of"]


def changes(before: Array, after: Array) -> tuple[Array, Array, Array, Array]:
    """Return e, se(e), r, se(r) `[component]` of chains before against where they are now.

    Args:
        before: chains `[chain, component]` at the first time.
        after: the same chains now.
    """
    n = len(before)
    sd0, sd1 = before.std(0, ddof=1), after.std(0, ddof=1)
    unit = np.where(sd1 > 0, sd1, np.where(sd0 > 0, sd0, 1.0))
    e = (before.mean(0) - after.mean(0)) / unit
    ends = ((after - after.mean(0)) / unit) ** 2
    # the second term is the error of the unit
    e_se = ((before - after) / unit - 0.5 * e * ends).std(0, ddof=1) / n**0.5
    r = np.log(np.maximum(sd0, 1e-12 * unit) / unit)
    starts = ((before - before.mean(0)) / np.where(sd0 > 0, sd0, unit)) ** 2
    r_se = 0.5 * (starts - ends).std(0, ddof=1) / n**0.5
    tiny = 1e-12 * (1 + np.abs(after.mean(0)))
    still = (sd0 <= tiny) & (sd1 <= tiny) & (np.abs(before.mean(0) - after.mean(0)) <= tiny)
    e, e_se, r, r_se = (np.where(still, 0.0, v) for v in (e, e_se, r, r_se))
    return e, e_se, r, r_se


def memory_of(before: Array, after: Array, modes: np.ndarray | None = None) -> Array:
    """Return the correlation over chains of start and end, `[component]`.

    Args:
        before: chains `[chain, component]` at their starts.
        after: the same chains now.
        modes: the mode of every start, `[chain]`, within which correlations are taken; or
            `[chain, row]` where the components are those of several rows, one row after another.
            None for one mode.
    """
    if modes is None:
        modes = np.zeros(len(before), dtype=int)
    if modes.ndim == 2:
        rows = modes.shape[1]
        parts = zip(np.split(before, rows, 1), np.split(after, rows, 1), modes.T, strict=True)
        return np.concatenate([memory_of(a, b, own) for a, b, own in parts])
    a, b = before.copy(), after.copy()
    for mode in np.unique(modes):
        inside = modes == mode
        a[inside] -= a[inside].mean(0)
        b[inside] -= b[inside].mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    found: Array = (a * b).sum(0) / np.where(scale > 0, scale, 1.0)
    return found


class HalfTime:
    """Values of chains at about half of their transitions.

    Of the looks at doubling times the last two are kept: one of them is at half or earlier.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Array] = {}

    def add(self, transitions: int, values: Array) -> None:
        """Keep values `[chain, component]` of the first look, or one twice as late as the last."""
        last = max(self._seen, default=0)
        if last == 0 or transitions == 2 * last:
            self._seen = {t: v for t, v in self._seen.items() if t == last}
            self._seen[transitions] = values

    def before(self, transitions: int) -> Array:
        """Return the latest values that were kept at half of these transitions or earlier."""
        return self._seen[max(t for t in self._seen if 2 * t <= transitions)]
