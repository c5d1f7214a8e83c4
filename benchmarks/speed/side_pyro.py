"""Stock Pyro: its own SVI step, potential and NUTS on the same program.

Argument validation is off, which favors it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad

from benchmarks.speed.sides import NutsRun, Settings, Side, Timing, repeat
from benchmarks.speed.targets import Target, find
from zoo.density.log_density import LogDensity

__all__ = ["StockPyro", "build"]

Array = NDArray[np.float64]
LEAPFROGS = 12.0  # assumed gradients per iteration when choosing the length of a run


def build(target: str, settings: Settings) -> Side:
    """Return stock Pyro's side of a target."""
    return StockPyro(find(target), settings)


class _OutOfTime(Exception):
    """Raised in a hook to end a chain."""


class StockPyro:
    """Stock Pyro's SVI and NUTS.

    `Trace_ELBO` / `TraceEnum_ELBO` with `AutoNormal` / `AutoMultivariateNormal` and Adam; `NUTS`
    with its defaults.
    """

    measures: tuple[str, ...] = ("gradient", "svi_mean_field", "svi_full_rank", "nuts")

    def __init__(self, target: Target, settings: Settings) -> None:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        pyro.enable_validation(False)
        self.target, self.settings = target, settings
        self.data = target.entry.load_data()
        self.kwargs = dict(self.data.train)
        self.program = target.entry.program(self.data)
        # used for names and shapes of the sites only
        self.density = LogDensity(self.program, self.data, dtype=target.entry.dtype)
        self.steps: dict[str, SVI] = {}
        pyro.set_rng_seed(0)
        self.initial, self.potential, self.transforms, _ = initialize_model(
            self.program, model_kwargs=self.kwargs
        )

    def log_joint(self, points: Mapping[str, Array]) -> Array:
        """Return minus Pyro's own potential without the Jacobian."""
        out = []
        for i in range(len(next(iter(points.values())))):
            z, jacobian = {}, 0.0
            for s in self.density.sites:
                value = torch.as_tensor(points[s.name][i])
                z[s.name] = self.transforms[s.name](value)
                jacobian += float(
                    self.transforms[s.name].inv.log_abs_det_jacobian(z[s.name], value).sum()
                )
            out.append(-float(self.potential(z)) - jacobian)
        return np.array(out)

    def prepare(self, measure: str) -> dict[str, Any]:
        """Build what a measure needs and run it once."""
        if measure == "gradient":
            self._gradient()
        elif measure.startswith("svi"):
            self.steps[measure] = self._svi(measure.removeprefix("svi_"))
            self.steps[measure].step(**self.kwargs)
        else:
            self._gradient()
        return {"used": False, "reason": "stock Pyro runs eagerly"}

    def _svi(self, family: str) -> SVI:
        hidden = (
            poutine.block(self.program, hide=list(self.density.discrete))
            if self.density.discrete
            else self.program
        )
        guide = {"mean_field": AutoNormal, "full_rank": AutoMultivariateNormal}[family](hidden)
        number = self.settings.particles
        kind = TraceEnum_ELBO if self.density.discrete else Trace_ELBO
        elbo = kind(
            num_particles=number,
            vectorize_particles=number > 1,
            max_plate_nesting=self.density.max_plate_nesting,
        )
        return SVI(self.program, guide, pyro.optim.Adam({"lr": 0.01}), elbo)

    def _gradient(self) -> None:
        potential_grad(self.potential, self.initial)

    def time(self, measure: str) -> Timing:
        """Time one slice."""
        if measure == "gradient":
            return repeat(self._gradient, self.settings.slice_seconds)
        svi = self.steps[measure]
        return repeat(lambda: svi.step(**self.kwargs), self.settings.slice_seconds)

    def nuts(self, seed: int) -> NutsRun:
        """Run a chain short enough for the time limit, with as many warm-up steps as draws.

        Only the steps that were run count.
        """
        settings = self.settings
        once = repeat(self._gradient, 0.1).per
        number = int(
            np.clip(
                settings.slow_seconds / (2 * LEAPFROGS * once),
                min(50, settings.slow_draws),
                settings.slow_draws,
            )
        )
        kept: list[dict[str, torch.Tensor]] = []
        begun, cpu = time.perf_counter(), time.process_time()

        def hook(kernel: Any, params: dict[str, torch.Tensor], stage: str, index: int) -> None:
            if stage == "Sample":
                kept.append({name: value.detach().clone() for name, value in params.items()})
            spent = time.perf_counter() - begun
            if spent > (3 if len(kept) < 20 else 1) * settings.slow_seconds:
                raise _OutOfTime

        pyro.set_rng_seed(seed)
        note = f"{number} + {number} iterations"
        try:
            mcmc = MCMC(
                NUTS(self.program),
                num_samples=number,
                warmup_steps=number,
                hook_fn=hook,
                disable_progbar=True,
            )
            mcmc.run(**self.kwargs)
        except _OutOfTime:
            note = f"{number} warm-up iterations, stopped after {len(kept)} of {number} draws"
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        draws = {
            s.name: (
                np.stack([self.transforms[s.name].inv(row[s.name]).numpy() for row in kept])
                if kept
                else np.zeros((0, *s.shape))
            )
            for s in self.density.sites
        }
        return NutsRun(draws=draws, wall=wall, cpu=cpu, warmup=number, note=note)
