"""NumPyro's side: the same models in NumPyro, float64, one thread, loops inside XLA."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "true")

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpy.typing import NDArray
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from numpyro.infer.util import initialize_model, log_density

from benchmarks.speed.sides import BATCH, MEASURES, NutsRun, Settings, Side, Timing, repeat

__all__ = ["FORMS", "NumPyro", "build"]

Array = NDArray[np.float64]
Model = Callable[..., None]


def mixture(y: Any) -> None:
    """Two normals, class summed out."""
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    with numpyro.plate("class", 2):
        location = numpyro.sample("location", dist.Normal(0.0, 5.0))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    parts = dist.Categorical(probs=jnp.stack([weight, 1 - weight], -1))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.MixtureSameFamily(parts, dist.Normal(location, scale)), obs=y)


def eight_schools(se: Any, y: Any) -> None:
    """Non-centered eight schools."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", se.shape[0]):
        theta_raw = numpyro.sample("theta_raw", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * theta_raw, se), obs=y)


def linear(x: Any, y: Any) -> None:
    """Conjugate regression."""
    variance = numpyro.sample("noise_variance", dist.InverseGamma(2.0, 1.0))
    scale = jnp.sqrt(variance)
    weight = numpyro.sample("weight", dist.Normal(0.0, scale).expand([x.shape[-1]]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ weight, scale), obs=y)


def logistic(x: Any, malignant: Any) -> None:
    """Logistic regression."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.5))
    weight = numpyro.sample("weight", dist.Normal(0.0, 2.5).expand([x.shape[-1]]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("malignant", dist.Bernoulli(logits=intercept + x @ weight), obs=malignant)


def radon(county: Any, floor: Any, y: Any) -> None:
    """Varying intercepts."""
    center = numpyro.sample("center", dist.Normal(0.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("counties", 85):
        intercept = numpyro.sample("intercept", dist.Normal(center, spread))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.Normal(intercept[county] + slope * floor, noise), obs=y)


def hierarchy(x: Any, y: Any) -> None:
    """Random intercepts."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.5))
    group_scale = numpyro.sample("group_scale", dist.HalfNormal(2.0))
    noise_scale = numpyro.sample("noise_scale", dist.HalfNormal(2.0))
    with numpyro.plate("group", x.shape[0]):
        effect = numpyro.sample("effect", dist.Normal(intercept, group_scale))
        numpyro.sample(
            "y", dist.Normal(effect[:, None] + slope * x, noise_scale).to_event(1), obs=y
        )


def enumerated(petal: Any) -> None:
    """Two classes of iris, summed out by hand: NumPyro's fastest form of the program."""
    weight = numpyro.sample("weight", dist.Dirichlet(jnp.full((2,), 5.0)))
    with numpyro.plate("class", 2):
        location = numpyro.sample("location", dist.Normal(4.0, 2.0))
        scale = numpyro.sample("scale", dist.LogNormal(np.log(0.5), 0.5))
    with numpyro.plate("flower", petal.shape[0]):
        numpyro.sample(
            "petal",
            dist.MixtureSameFamily(dist.Categorical(weight), dist.Normal(location, scale)),
            obs=petal,
        )


FORMS: dict[str, Model] = {
    f.__name__: f for f in (mixture, eight_schools, linear, logistic, radon, hierarchy, enumerated)
}


def build(form: str, data: dict[str, NDArray[Any]], settings: Settings) -> Side:
    """Return NumPyro's side of a form."""
    return NumPyro(FORMS[form], data, settings)


class NumPyro:
    """Potential, SVI and NUTS of NumPyro; a timed slice is one call of a compiled loop."""

    measures: tuple[str, ...] = MEASURES

    def __init__(self, model: Model, data: dict[str, NDArray[Any]], settings: Settings) -> None:
        jax.config.update("jax_enable_x64", True)
        self.model, self.settings = model, settings
        self.data = {name: jnp.asarray(value) for name, value in data.items()}
        self.calls: dict[str, tuple[Callable[[], Any], int]] = {}
        self._mcmc: MCMC | None = None

    def log_joint(self, points: Mapping[str, Array]) -> Array:
        """Return NumPyro's log joint density."""
        rows = range(len(next(iter(points.values()))))
        return np.array(
            [
                float(
                    log_density(
                        self.model,
                        (),
                        self.data,
                        {k: jnp.asarray(v[i]) for k, v in points.items()},
                    )[0]
                )
                for i in rows
            ]
        )

    def prepare(self, measure: str) -> dict[str, Any]:
        """Compile a measure and run it once."""
        if measure == "nuts":
            self.nuts(10_007)
        elif measure == "gradient":
            self.calls[measure] = self._loop(self._gradient_loop())
        elif measure == "batch":
            self.calls[measure] = (self._batch_call(), BATCH)
            self.calls[measure][0]()
        else:
            self.calls[measure] = self._loop(self._svi_loop(measure.removeprefix("svi_")))
        return {"used": True, "reason": "XLA"}

    def _flat(self) -> tuple[Callable[[Any], Any], Any]:
        info = initialize_model(jax.random.PRNGKey(0), self.model, model_kwargs=self.data)
        flat, back = jax.flatten_util.ravel_pytree(info.param_info.z)
        potential = info.potential_fn
        return jax.value_and_grad(lambda u: potential(back(u))), flat

    def _gradient_loop(self) -> Callable[[int], Any]:
        both, flat = self._flat()

        def loop(number: Any, u: Any) -> Any:
            # Each point depends on the last value and gradient, so that XLA cannot hoist or drop
            # anything.
            def body(_: Any, v: Any) -> Any:
                value, gradient = both(v)
                return v - 1e-12 * (gradient + value)

            return lax.fori_loop(0, number, body, u)

        compiled = jax.jit(loop)
        return lambda number: compiled(number, flat).block_until_ready()

    def _batch_call(self) -> Callable[[], Any]:
        both, flat = self._flat()
        u = flat + 0.1 * jax.random.normal(jax.random.PRNGKey(1), (BATCH, flat.shape[0]))
        call = jax.jit(jax.vmap(both))
        return lambda: jax.block_until_ready(call(u))

    def _svi_loop(self, family: str) -> Callable[[int], Any]:
        guide = {"mean_field": AutoNormal, "full_rank": AutoMultivariateNormal}[family](self.model)
        svi = SVI(
            self.model,
            guide,
            numpyro.optim.Adam(0.01),
            Trace_ELBO(num_particles=self.settings.particles),
        )
        state = svi.init(jax.random.PRNGKey(0), **self.data)

        def loop(number: Any, state: Any) -> Any:
            return lax.fori_loop(0, number, lambda _, s: svi.update(s, **self.data)[0], state)

        compiled = jax.jit(loop)

        def run(number: int) -> None:
            nonlocal state
            state = jax.block_until_ready(compiled(number, state))

        return run

    def _loop(self, run: Callable[[int], Any]) -> tuple[Callable[[], Any], int]:
        run(2)
        number, spent = 1, 0.0
        while spent < 0.25 * self.settings.slice_seconds:
            number *= 2
            begun = time.perf_counter()
            run(number)
            spent = time.perf_counter() - begun
        return lambda: run(number), number

    def time(self, measure: str) -> Timing:
        """Time one slice."""
        call, pieces = self.calls[measure]
        return repeat(call, self.settings.slice_seconds, pieces=pieces)

    def nuts(self, seed: int) -> NutsRun:
        """Run one chain of NumPyro's NUTS with its defaults, 1,000 iterations of warm-up."""
        if self._mcmc is None:
            self._mcmc = MCMC(
                NUTS(self.model),
                num_warmup=1000,
                num_samples=self.settings.draws,
                num_chains=1,
                progress_bar=False,
            )
        begun, cpu = time.perf_counter(), time.process_time()
        self._mcmc.run(jax.random.PRNGKey(seed), extra_fields=("diverging",), **self.data)
        samples = jax.block_until_ready(self._mcmc.get_samples())
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        return NutsRun(
            draws={k: np.asarray(v) for k, v in samples.items()},
            wall=wall,
            cpu=cpu,
            warmup=1000,
            divergences=int(self._mcmc.get_extra_fields()["diverging"].sum()),
        )
