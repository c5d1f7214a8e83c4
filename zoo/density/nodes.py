"""Sample nodes of Pyro traces: innermost distributions, plates' own sites, seeded runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.subsample_messenger import _Subsample

__all__ = ["base_of", "is_subsample", "seeded"]


def base_of(fn: Any) -> Any:
    """Return the distribution inside reshapes, expansions, masks, transforms and events."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def is_subsample(fn: Any) -> bool:
    """Return whether a node's distribution is that by which a plate chooses its units."""
    return isinstance(fn, _Subsample)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
