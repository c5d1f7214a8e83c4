"""About how long each row of a run takes, from timings of its program before anything is run.

An eager step of a fit was measured to take 1.2 times the gradient of its points, and some
milliseconds of its own; a compiled one a tenth of that, after its compilation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from benchmarks.mcmc.nuts import LEAPFROGS, TUNE
from benchmarks.run.estimates import ESTIMATES, GRADIENTS
from benchmarks.run.reweighted import PER_DRAW
from guides.optimize.loop import expected_steps
from guides.optimize.natural import DRAWS, LARGEST, STEPS, expected_calls
from guides.optimize.settings import configure
from guides.registry import family_of
from guides.types import FitConfig
from zoo.compiler.policy import (
    EAGER_SECONDS_PER_NUMBER,
    EAGER_SECONDS_PER_OPERATION,
    backend,
    compiler_missing,
    pays,
)
from zoo.density.log_density import LogDensity
from zoo.types import Data, ModelEntry

__all__ = ["forecast"]

CHAINS = 4
STEP, PER_GRADIENT = 0.003, 1.2  # of an eager step: seconds, and gradients of its points
FASTER, CHAINS_FASTER = 10.0, 15.0  # a compiled step, and a compiled gradient
COMPILING, COMPILING_PER_OPERATION = 2.0, 0.03  # seconds
FINDING = 2.0  # seconds of a start, and of the bound at the end
COMPARED, ASSESSED = 2.0, 8.0  # seconds of a comparison, and of an assessment without a truth
POINTS, NUMBERS = 512, 20_000_000  # points of one look at what SMC does, entries of its results
LOOKS, LOOKING = 3, 1.0  # timings of one function, and seconds after which there is no other


def forecast(
    entry: ModelEntry,
    methods: Iterable[str],
    density: LogDensity,
    training: Data | None,
    fits: Mapping[str, Any],
    chains: Mapping[str, Any],
    reweighted: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Return rough seconds per method.

    Args:
        entry: what is run.
        methods: its rows; of an entry that learns, the first one trains the weights.
        density: the log density of a fresh program, uncompiled.
        training: all data, if they are not those of the density.
        fits: settings of fits that the run determines, `compile` and `restarts` among them.
        chains: settings of NUTS that the run determines.
        reweighted: draws of every row that reweights another one.
    """
    rows = tuple(methods)
    work, again = _Timed(density), reweighted or {}
    told = COMPARED + (ASSESSED if any(m in ESTIMATES for m in rows) else 0.0)
    found: dict[str, float] = {}
    for method in rows:
        if method == "nuts":
            found[method] = COMPARED + work.chains(chains)
        elif method in GRADIENTS:
            found[method] = COMPARED + work.many(GRADIENTS[method])
        elif method in again:  # a density takes less than a gradient
            found[method] = COMPARED + work.many(PER_DRAW * again[method])
        else:
            trains = entry.learns and not found
            found[method] = told + work.fit(entry, method, training, fits, trains=trains)
    return found


class _Timed:
    """A log density, and what its evaluations take on this machine; each is timed once."""

    def __init__(self, density: LogDensity) -> None:
        self.density, self.work = density, density.work()
        self.known: dict[int, float] = {}

    def gradient(self, points: int = 0) -> float:
        """Return the seconds of an eager gradient at some points at once, at one by default."""
        if points not in self.known:
            shape = (points, self.density.dim) if points else (self.density.dim,)
            u = torch.zeros(shape, dtype=self.density.dtype)
            evaluate = self.density.batch_gradient if points else self.density.gradient
            self.known[points] = _clock(lambda: evaluate(u))
        return self.known[points]

    def compiles(self, mode: str, calls: int) -> bool:
        """Whether a function of this size runs compiled, unless it cannot be."""
        if mode == "off" or compiler_missing() or backend() == "eager":
            return False
        return mode == "on" or pays(self.work, calls)

    def of_rows(self, points: int, share: float) -> float:
        """Return the seconds of a gradient at some points that reads more or fewer rows.

        What dispatching takes depends on neither; `share` is that of the rows of the density.
        """
        whole, here = self.gradient(points), self.gradient() / self.work.seconds
        if share > 1:
            numbers = EAGER_SECONDS_PER_NUMBER * self.work.numbers * points
            return whole + (share - 1) * here * numbers
        fixed = min(whole, here * EAGER_SECONDS_PER_OPERATION * self.work.operations)
        return fixed + share * (whole - fixed)

    @property
    def compiling(self) -> float:
        """Seconds for which a graph of this size is compiled."""
        return COMPILING + COMPILING_PER_OPERATION * self.work.operations

    def chains(self, config: Mapping[str, Any]) -> float:
        """Return the seconds of chains that run one after another."""
        draws = CHAINS * (config["draws"] + config.get("tune", TUNE[config["engine"]]))
        gradients = draws * LEAPFROGS
        if self.compiles(config["compile"], int(gradients)):
            return gradients * self.gradient() / CHAINS_FASTER + self.compiling
        return gradients * self.gradient()

    def many(self, gradients: float) -> float:
        """Return the seconds of gradients at hundreds of points at once, compiled or not."""
        points = max(16, min(POINTS, NUMBERS // max(1, self.work.numbers)))
        return gradients * self.gradient(points) / points + FINDING

    def fit(
        self,
        entry: ModelEntry,
        family: str,
        training: Data | None,
        given: Mapping[str, Any],
        *,
        trains: bool,
    ) -> float:
        """Return the seconds of a fit with its restarts."""
        record = family_of(family, entry)
        if record.solve is not None:  # without stochastic steps
            return (200 + self.density.dim) * self.gradient() + 1.0
        here = {k: v for k, v in given.items() if k != "device"}  # which may be of another machine
        config, _ = configure(entry, family, None, here, given=entry.learns and not trains)
        if record.normal and not trains and self.density.dim <= LARGEST and _natural(config):
            steps = min(STEPS, config.steps) * (STEP + self.gradient(DRAWS))
            if not self.compiles(config.compile, expected_calls(self.density)):
                return config.restarts * (FINDING + steps)
            return config.restarts * (FINDING + steps / FASTER) + self.compiling
        # a search that trains weights often uses all of its steps
        steps = config.restarts * (config.steps if trains else expected_steps(config))
        data = training if training is not None and (trains or record.amortized) else None
        seen = self.density.data.size or 1
        rows = (data or self.density.data).size or seen
        rows = min(config.batch_size or rows, rows)  # of a step
        each = STEP + PER_GRADIENT * self.of_rows(config.num_particles, rows / seen)
        if not self.compiles(config.compile, steps):
            return FINDING * config.restarts + steps * each
        return FINDING * config.restarts + steps * each / FASTER + self.compiling


def _natural(config: FitConfig) -> bool:
    """Whether the settings leave a normal guide to natural gradients."""
    return (
        config.optimizer_for == "natural"
        and config.objective == "elbo"
        and config.batch_size is None
        and config.device == "cpu"
    )


def _clock(function: Callable[[], Any]) -> float:
    """Return the median seconds of a few calls after the first one; of that if it is slow."""
    times: list[float] = []
    for _ in range(LOOKS + 1):
        before = time.perf_counter()
        function()
        times.append(time.perf_counter() - before)
        if times[-1] > LOOKING:
            break
    return sorted(times[1:] or times)[len(times[1:]) // 2]
