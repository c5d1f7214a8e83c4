"""PyMC with nutpie: the same models in PyMC, compiled by numba.

The sampler is the same Rust NUTS with the same mass matrix as on this project's side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import nutpie
import pymc as pm
from numpy.typing import NDArray

from benchmarks.speed.sides import NutsRun, Settings, Side, Timing
from zoo.errors import UsageError

__all__ = ["FORMS", "PyMC", "build"]

Array = NDArray[np.float64]
# As in benchmarks.mcmc.nuts; importing that would load torch into this process.
TUNE = 800


def mixture(y: Any) -> None:
    """Two normals, class summed out."""
    weight = pm.Beta("weight", 2.0, 2.0)
    location = pm.Normal("location", 0.0, 5.0, shape=2)
    scale = pm.LogNormal("scale", 0.0, 0.5, shape=2)
    pm.NormalMixture(
        "y", w=pm.math.stack([weight, 1 - weight]), mu=location, sigma=scale, observed=y
    )


def eight_schools(se: Any, y: Any) -> None:
    """Non-centered eight schools."""
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    theta_raw = pm.Normal("theta_raw", 0.0, 1.0, shape=len(y))
    pm.Normal("y", mu + tau * theta_raw, se, observed=y)


def linear(x: Any, y: Any) -> None:
    """Conjugate regression."""
    variance = pm.InverseGamma("noise_variance", 2.0, 1.0)
    scale = pm.math.sqrt(variance)
    weight = pm.Normal("weight", 0.0, scale, shape=x.shape[1])
    pm.Normal("y", pm.math.dot(x, weight), scale, observed=y)


def logistic(x: Any, malignant: Any) -> None:
    """Logistic regression."""
    intercept = pm.Normal("intercept", 0.0, 2.5)
    weight = pm.Normal("weight", 0.0, 2.5, shape=x.shape[1])
    pm.Bernoulli(
        "malignant", logit_p=intercept + pm.math.dot(x, weight), observed=malignant.astype(int)
    )


def radon(county: Any, floor: Any, y: Any) -> None:
    """Varying intercepts."""
    center = pm.Normal("center", 0.0, 10.0)
    slope = pm.Normal("slope", 0.0, 10.0)
    spread = pm.HalfNormal("spread", 1.0)
    noise = pm.HalfNormal("noise", 1.0)
    intercept = pm.Normal("intercept", center, spread, shape=85)
    pm.Normal("y", intercept[county] + slope * floor, noise, observed=y)


def hierarchy(x: Any, y: Any) -> None:
    """Random intercepts."""
    intercept = pm.Normal("intercept", 0.0, 5.0)
    slope = pm.Normal("slope", 0.0, 2.5)
    group_scale = pm.HalfNormal("group_scale", 2.0)
    noise_scale = pm.HalfNormal("noise_scale", 2.0)
    effect = pm.Normal("effect", intercept, group_scale, shape=len(y))
    pm.Normal("y", effect[:, None] + slope * x, noise_scale, observed=y)


def enumerated(petal: Any) -> None:
    """Two classes of iris, summed out."""
    weight = pm.Dirichlet("weight", np.full(2, 5.0))
    location = pm.Normal("location", 4.0, 2.0, shape=2)
    scale = pm.LogNormal("scale", np.log(0.5), 0.5, shape=2)
    pm.NormalMixture("petal", w=weight, mu=location, sigma=scale, observed=petal)


FORMS: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (mixture, eight_schools, linear, logistic, radon, hierarchy, enumerated)
}


def build(form: str, data: dict[str, NDArray[Any]], settings: Settings) -> Side:
    """Return PyMC's side of a form."""
    return PyMC(form, data, settings)


class PyMC:
    """NUTS by nutpie on PyMC's compiled density."""

    measures: tuple[str, ...] = ("nuts",)

    def __init__(self, form: str, data: dict[str, NDArray[Any]], settings: Settings) -> None:
        self.settings = settings
        with pm.Model() as self.model:
            FORMS[form](**data)
        self._compiled: Any = None

    def log_joint(self, points: Mapping[str, Array]) -> Array:
        """Return PyMC's log density without the Jacobian."""
        function = self.model.compile_logp(jacobian=False, mode="FAST_COMPILE")
        out = []
        for i in range(len(next(iter(points.values())))):
            values = {}
            for rv in self.model.free_RVs:
                transform, value = self.model.rvs_to_transforms[rv], points[rv.name][i]
                moved = (
                    value
                    if transform is None
                    else transform.forward(np.asarray(value), *rv.owner.inputs).eval()
                )
                values[self.model.rvs_to_values[rv].name] = np.asarray(moved)
            out.append(float(function(values)))
        return np.array(out)

    def prepare(self, measure: str) -> dict[str, Any]:
        """Compile and run once."""
        self._compiled = nutpie.compile_pymc_model(self.model, backend="numba")
        self.nuts(10_007)
        return {"used": True, "reason": "numba"}

    def time(self, measure: str) -> Timing:
        """Refuse: only NUTS is timed on this side."""
        raise UsageError(
            f"Only nuts is timed on this side, not {measure!r}; ask for it with nuts(seed)."
        )

    def nuts(self, seed: int) -> NutsRun:
        """Run one chain."""
        begun, cpu = time.perf_counter(), time.process_time()
        trace = nutpie.sample(
            self._compiled,
            draws=self.settings.draws,
            tune=TUNE,
            chains=1,
            cores=1,
            seed=seed,
            progress_bar=False,
            low_rank_modified_mass_matrix=True,
        )
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        draws = {
            rv.name: np.asarray(trace.posterior[rv.name].values[0]) for rv in self.model.free_RVs
        }
        steps = int(
            trace.sample_stats["n_steps"].values.sum()
            + trace.warmup_sample_stats["n_steps"].values.sum()
        )
        return NutsRun(
            draws=draws,
            wall=wall,
            cpu=cpu,
            warmup=TUNE,
            gradients=steps,
            divergences=int(trace.sample_stats["diverging"].values.sum()),
        )
