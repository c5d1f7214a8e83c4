"""Sample nodes of Pyro traces: innermost distributions and plates' own sites."""

from __future__ import annotations

from typing import Any

from pyro.poutine.subsample_messenger import _Subsample

__all__ = ["base_of", "is_subsample"]


def base_of(fn: Any) -> Any:
    """Return the distribution inside reshapes, expansions, masks, transforms and events."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def is_subsample(fn: Any) -> bool:
    """Return whether a node's distribution is that by which a plate chooses its units."""
    return isinstance(fn, _Subsample)
