"""Seeds of independent random streams, which depend neither on run order nor on cores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive_seed", "seeded"]


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2**31) from the SHA-256 of the parts, joined by a unit separator.

    The same parts give the same seed in every process, on every machine and under every
    `PYTHONHASHSEED`.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 2**31


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
