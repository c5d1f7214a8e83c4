"""Sets of draws `[draw, component]`: evenly thinned, and with standardized margins."""

from __future__ import annotations

import numpy as np

from benchmarks.metrics.components import Array

__all__ = ["standardized", "thinned"]


def thinned(draws: Array, size: int) -> Array:
    """Take `size` evenly spaced rows of `[draw, component]`."""
    if size >= len(draws):
        return draws
    return draws[np.linspace(0, len(draws) - 1, size).astype(int)]


def standardized(draws: Array) -> Array:
    """Return draws `[draw, component]` with mean 0 and sd 1 in every component that varies."""
    sd = draws.std(0)
    out: Array = (draws - draws.mean(0)) / np.where(sd > 0, sd, 1.0)
    return out
