"""Seeds of independent random streams, which depend neither on run order nor on cores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive_seed", "seed_torch", "seeded"]

# Other devices than the processor are known to this torch, whether or not one is here.
_DEVICES = bool(
    torch.version.cuda
    or torch.version.hip
    or getattr(torch.version, "xpu", None)
    or torch.backends.mps.is_built()
)


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2**31) from the SHA-256 of the parts, joined by a unit separator.

    The same parts give the same seed in every process, on every machine and under every
    `PYTHONHASHSEED`.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 2**31


def seed_torch(seed: int) -> None:
    """Seed torch's own stream, as `torch.manual_seed` does.

    That takes a millisecond, a thousand times as long as seeding: for each kind of device that is
    not in use yet it notes the names and lines of all its callers.
    """
    if _DEVICES:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        yield
