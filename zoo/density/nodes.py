"""Sample nodes of Pyro traces: innermost distributions and plates' own sites."""

from __future__ import annotations

from typing import Any

from pyro.poutine.subsample_messenger import _Subsample

__all__ = ["base_of", "is_subsample", "share_of"]


def base_of(fn: Any) -> Any:
    """Return the distribution inside reshapes, expansions, masks, transforms and events."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def is_subsample(fn: Any) -> bool:
    """Return whether a node's distribution is that by which a plate chooses its units."""
    return isinstance(fn, _Subsample)


def share_of(frame: Any) -> float:
    """Return how many units of a plate one unit of its minibatch stands for."""
    return float(frame.full_size / frame.size) if frame.full_size and frame.size else 1.0
