"""Importance-weighted bound with the doubly reparameterized gradient for the guide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from guides.objectives.kinds.iwae import IWAE


@dataclass(frozen=True, kw_only=True)
class DReGIWAE(IWAE):
    """Importance-weighted bound with the doubly reparameterized gradient for the guide."""

    name: ClassVar[str] = "iwae_dreg"
    stl: ClassVar[bool] = True
    doubly: ClassVar[bool] = True


OBJECTIVE = DReGIWAE()
