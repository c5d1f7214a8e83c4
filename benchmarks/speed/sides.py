"""Interface of a side of the benchmark, and timing of a repeated call."""

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
# packages that must be importable
PEERS = {"numpyro": ("numpyro",), "stan": ("stan",), "pymc": ("pymc", "nutpie")}
BATCH = 256  # points of one batched call


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings shared by all sides of a run.

    Attributes:
        slice_seconds: length of a timed slice.
        particles: particles per SVI step.
        draws: draws of one NUTS run, after the engine's own warm-up.
        slow_draws, slow_seconds, slow_runs: for stock Pyro, the maximum number of draws (and of
            warm-up iterations), the target time in seconds, and the number of pairs in which it
            runs.
        compile: the compile mode of this project's side.
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
    """Wall and CPU seconds of `count` equal pieces of work."""

    count: int
    wall: float
    cpu: float

    @property
    def per(self) -> float:
        """Wall seconds of one piece."""
        return self.wall / self.count


@dataclass(frozen=True, kw_only=True)
class NutsRun:
    """One chain, with its time.

    Draws of every site `[draw, *site]`, seconds with warm-up, gradients if the engine counts them,
    and a remark.
    """

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
        """Return the log density of constrained points, without Jacobian, `[point]`.

        It is up to a constant.
        """

    def prepare(self, measure: str) -> dict[str, Any]:
        """Compile what a measure needs, run it once, and return what was used."""

    def time(self, measure: str) -> Timing:
        """Time one slice of a measure other than `nuts`."""

    def nuts(self, seed: int) -> NutsRun:
        """Run one chain from a seed."""


def repeat(call: Callable[[], Any], seconds: float, *, pieces: int = 1) -> Timing:
    """Call for about `seconds` and return the time; one call does `pieces` of work."""
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
    """Return why a side cannot run here, an empty string if it can.

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
    """Build one side of a target.

    Peers get the form and the arrays; this project and stock Pyro load the entry by name.
    """
    module = importlib.import_module(f"benchmarks.speed.{HOMES[side]}")
    made: Side = (
        module.build(target, settings)
        if side in ("ours", "pyro")
        else module.build(form, dict(data or {}), settings)
    )
    return made
