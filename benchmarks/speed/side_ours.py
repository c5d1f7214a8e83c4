"""This project's side: compiled log density, `guides.fit` and `benchmarks.run_nuts`.

They are called as a user would call them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

import guides
from benchmarks.mcmc.nuts import TUNE, run_nuts
from benchmarks.speed.sides import (
    BATCH,
    FAMILIES,
    MEASURES,
    NutsRun,
    Settings,
    Side,
    Timing,
    repeat,
)
from benchmarks.speed.targets import Target, find
from zoo.compiler.compile import Mode
from zoo.density.log_density import LogDensity
from zoo.types import Data

__all__ = ["Ours", "PausedFit", "build", "log_joint"]

Array = NDArray[np.float64]
FOREVER = 10**8


def build(target: str, settings: Settings) -> Side:
    """Return this project's side of a target."""
    return Ours(find(target), settings)


def log_joint(density: LogDensity, points: Mapping[str, Array]) -> Array:
    """Return the log joint density of constrained points without the Jacobian, `[point]`, nats."""
    u = density.unconstrain({name: torch.as_tensor(value) for name, value in points.items()})
    out = []
    for row in u:
        jacobian = 0.0
        for s in density.sites:
            raw = row[s.start : s.stop].reshape(s.unconstrained_shape)
            jacobian += float(s.transform.log_abs_det_jacobian(raw, s.transform(raw)).sum())
        out.append(float(density.evaluate(row)) - jacobian)
    return np.array(out)


class _Left(BaseException):
    """Raised in a progress callback to end a fit."""


class PausedFit:
    """`guides.fit` in its own thread, paused between slices.

    Slices of several sides can therefore alternate. The time of a slice is that between two calls
    of the fit's progress callback, so it includes everything a step does.
    """

    def __init__(
        self, target: Target, data: Data, family: str, settings: Settings, **more: Any
    ) -> None:
        self._go: queue.Queue[float] = queue.Queue()
        self._out: queue.Queue[Timing | BaseException] = queue.Queue()
        self._seconds, self._since = 0.0, (0, 0.0, 0.0)
        options: dict[str, Any] = {
            "steps": FOREVER,
            "patience": FOREVER // 4,
            "num_particles": settings.particles,
            "optimizer": "adam",  # a step of the peers is one of Adam
            "compile": settings.compile,
            **more,
        }
        self._thread = threading.Thread(
            target=self._run, args=(target, data, family, options), daemon=True
        )

    def _run(self, target: Target, data: Data, family: str, options: dict[str, Any]) -> None:
        try:
            self._wait(0)
            guides.fit(target.entry, family, seed=0, data=data, progress=self._progress, **options)
            raise RuntimeError("the fit ended early")
        except _Left:
            return
        except BaseException as error:
            self._out.put(error)

    def _wait(self, step: int) -> None:
        self._seconds = self._go.get()
        if self._seconds < 0:
            raise _Left
        self._since = (step, time.perf_counter(), time.thread_time())

    def _progress(self, step: int, steps: int, loss: float) -> None:
        first, begun, cpu = self._since
        now = time.perf_counter()
        if now - begun >= self._seconds and step > first:
            self._out.put(
                Timing(count=step - first, wall=now - begun, cpu=time.thread_time() - cpu)
            )
            self._wait(step)

    def slice(self, seconds: float) -> Timing:
        """Let the fit run for about this many seconds."""
        if not self._thread.is_alive():
            self._thread.start()
        self._go.put(seconds)
        result = self._out.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """End the fit."""
        if self._thread.is_alive():
            self._go.put(-1.0)
            self._thread.join(60)


class Ours:
    """Everything compiled if possible (`compile="on"`); `prepare` reports whether it was."""

    measures: tuple[str, ...] = MEASURES

    def __init__(self, target: Target, settings: Settings) -> None:
        torch.set_num_threads(1)
        self.target, self.settings = target, settings
        self.data = target.entry.load_data()
        self.density = LogDensity(
            target.entry.program(self.data), self.data, dtype=target.entry.dtype
        )
        self.point = (0.1 * np.random.default_rng(0).standard_normal(self.density.dim)).astype(
            np.float64
        )
        self.batch_points = 0.1 * torch.randn(
            BATCH,
            self.density.dim,
            dtype=self.density.dtype,
            generator=torch.Generator().manual_seed(0),
        )
        self.fits: dict[str, PausedFit] = {}
        self._asked = False

    def log_joint(self, points: Mapping[str, Array]) -> Array:
        """Return the log density of constrained points."""
        return log_joint(self.density, points)

    def _compile(self) -> dict[str, Any]:
        if not self._asked:
            self.density.compile(cast(Mode, self.settings.compile))
            self._asked = True
            self.call = self.density.numpy_gradient()
        return dict(self.density.compiled)

    def prepare(self, measure: str) -> dict[str, Any]:
        """Compile, run once and report `{used, reason, compile_seconds, cached}`."""
        record = self._compile() if not measure.startswith("svi") else {}
        if measure == "gradient":
            self.call(self.point)
        elif measure == "batch":
            self._batch()
        elif measure == "nuts":
            self.nuts(10_007)
        else:
            family = measure.removeprefix("svi_")
            assert family in FAMILIES
            # a whole fit ends with an ELBO on all rows, too slow for a million of them
            if self.target.form != "growth":
                record = self._whole_fit(family)
            self.fits[measure] = PausedFit(self.target, self.data, family, self.settings)
            self.fits[measure].slice(0.05)
        return record

    def _whole_fit(self, family: str) -> dict[str, Any]:
        """Run a short fit to its end and return its record of the compiled step."""
        short = guides.fit(
            self.target.entry,
            family,
            data=self.data,
            steps=60,
            patience=10,
            anneal=20,
            num_particles=self.settings.particles,
            compile=self.settings.compile,
        )
        return {**short.compiled, "compile_seconds": short.cost.compile_seconds}

    def _batch(self) -> None:
        u = self.batch_points.detach().requires_grad_(True)
        value = self.density.batch_function()(u)
        torch.autograd.grad(value.sum(), u)

    def time(self, measure: str) -> Timing:
        """Time one slice."""
        seconds = self.settings.slice_seconds
        if measure == "gradient":
            return repeat(lambda: self.call(self.point), seconds)
        if measure == "batch":
            return repeat(self._batch, seconds, pieces=BATCH)
        return self.fits[measure].slice(seconds)

    def nuts(self, seed: int) -> NutsRun:
        """Run one chain of nutpie on the compiled density with the warm-up of `run_nuts`."""
        begun, cpu = time.perf_counter(), time.process_time()
        posterior = run_nuts(
            self.target.entry,
            seed=seed,
            data=self.data,
            chains=1,
            draws=self.settings.draws,
            jobs=1,
            min_ess=0,
            log_density=self.density,
            in_process=True,
        )
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        draws = {name: value[0].double().numpy() for name, value in posterior.draws.items()}
        return NutsRun(
            draws=draws,
            wall=wall,
            cpu=cpu,
            warmup=TUNE["nutpie"],
            gradients=posterior.cost.gradient_evaluations,
            divergences=int(posterior.stats["diverging"].sum()),
        )
