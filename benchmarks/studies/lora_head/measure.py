"""Parts of the study of `lora_head`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.studies.lora_head import cost, lab, peer, scale, truth
from benchmarks.studies.record import Work

__all__ = ["PARTS"]

PARTS: dict[str, Callable[[Work], list[dict[str, Any]]]] = {
    "lab": lab.measure,
    "truth": truth.measure,
    "scale": scale.measure,
    "cost": cost.measure,
    "peer": peer.measure,
}
