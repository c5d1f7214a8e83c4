"""What a side of the benchmark can do, and how a repeated call is timed."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UnknownNameError

__all__ = [
    "FAMILIES",
    "HOMES",
    "MEASURES",
    "PEERS",
    "NutsRun",
    "Settings",
    "Side",
    "Timing",
    "make",
    "missing",
    "repeat",
]

Array = NDArray[np.float64]
FAMILIES = ("mean_field", "full_rank")
MEASURES = ("gradient", "batch", "svi_mean_field", "svi_full_rank", "nuts")
HOMES = {
    "ours": "side_ours",
    "pyro": "side_pyro",
    "numpyro": "side_numpyro",
    "stan": "side_stan",
    "pymc": "side_pymc",
}
PEERS = {
    "numpyro": ("numpyro",),
    "stan": ("stan",),
    "pymc": ("pymc", "nutpie"),
}  # what must be importable
BATCH = 256  # points of one batched call


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every side of one run shares.

    Attributes:
        slice_seconds: length of a timed slice.
        particles: particles per SVI step.
        draws: draws of one NUTS run, after the engine's own warm-up.
        slow_draws, slow_seconds, slow_runs: most draws (and warm-up iterations) of stock Pyro, the
            seconds it should take, and in how many pairs it runs.
        compile: what our side asks for.
    """

    slice_seconds: float = 0.5
    particles: int = 1
    draws: int = 1000
    slow_draws: int = 300
    slow_seconds: float = 30.0
    slow_runs: int = 100
    compile: str = "on"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Wall and processor seconds of `count` equal pieces of work."""

    count: int
    wall: float
    cpu: float

    @property
    def per(self) -> float:
        """Wall seconds of one piece."""
        return self.wall / self.count


@dataclass(frozen=True, kw_only=True)
class NutsRun:
    """One chain: draws of every site `[draw, *site]`, seconds with warm-up, gradients where the engine tells, and a remark."""

    draws: Mapping[str, Array]
    wall: float
    cpu: float
    warmup: int
    gradients: int | None = None
    divergences: int | None = None
    note: str = ""


class Side(Protocol):
    """One implementation of one target in one process."""

    measures: tuple[str, ...]

    def log_joint(self, points: Mapping[str, Array]) -> Array:
        """Return the log density of constrained points, no Jacobian, `[point]`, up to a constant."""

    def prepare(self, measure: str) -> dict[str, Any]:
        """Compile whatever a measure needs, run it once, and say what was used."""

    def time(self, measure: str) -> Timing:
        """Time one slice of a measure other than `nuts`."""

    def nuts(self, seed: int) -> NutsRun:
        """Run one chain from a seed."""


def repeat(call: Callable[[], Any], seconds: float, *, pieces: int = 1) -> Timing:
    """Call for about `seconds` and return the time; `pieces` of work are done by one call."""
    begun, cpu, done, block = time.perf_counter(), time.process_time(), 0, 1
    while True:
        for _ in range(block):
            call()
        done += block
        wall = time.perf_counter() - begun
        if wall >= seconds:
            return Timing(count=done * pieces, wall=wall, cpu=time.process_time() - cpu)
        block = max(1, min(block * 2, int(done * (seconds - wall) / max(wall, 1e-9))))


def missing(side: str) -> str:
    """Return why a side cannot run here, an empty string where it can.

    Raises:
        UnknownNameError: no such side.
    """
    if side not in HOMES:
        raise UnknownNameError("peer", side, [name for name in HOMES if name != "ours"])
    absent = [name for name in PEERS.get(side, ()) if importlib.util.find_spec(name) is None]
    return (
        f"{' and '.join(absent)} not installed; pip install 'posterior-zoo[peers]'"
        if absent
        else ""
    )


def make(
    side: str, target: str, form: str, data: Mapping[str, NDArray[Any]] | None, settings: Settings
) -> Side:
    """Build one side of a target; peers get the form and the arrays, ours and stock Pyro load the entry by name."""
    module = importlib.import_module(f"benchmarks.speed.{HOMES[side]}")
    made: Side = (
        module.build(target, settings)
        if side in ("ours", "pyro")
        else module.build(form, dict(data or {}), settings)
    )
    return made
