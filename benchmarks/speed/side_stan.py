"""Stan's side, through PyStan: the same models in Stan.

They use its generalized-linear-model functions where it has them.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.sides import NutsRun, Settings, Side, Timing
from zoo.errors import UsageError

__all__ = ["FORMS", "Stan", "build"]

Array = NDArray[np.float64]

FORMS = {
    "mixture": (
        """
data { int N; vector[N] y; }
parameters { real<lower=0, upper=1> weight; vector[2] location; vector<lower=0>[2] scale; }
model {
  weight ~ beta(2, 2); location ~ normal(0, 5); scale ~ lognormal(0, 0.5);
  for (n in 1:N)
    target += log_mix(
      weight,
      normal_lpdf(y[n] | location[1], scale[1]), normal_lpdf(y[n] | location[2], scale[2]));
}"""
    ),
    "eight_schools": (
        """
data { int N; vector[N] y; vector[N] se; }
parameters { real mu; real<lower=0> tau; vector[N] theta_raw; }
model {
  mu ~ normal(0, 5); tau ~ cauchy(0, 5); theta_raw ~ normal(0, 1);
  y ~ normal(mu + tau * theta_raw, se);
}"""
    ),
    "linear": (
        """
data { int N; int K; matrix[N, K] x; vector[N] y; }
parameters { real<lower=0> noise_variance; vector[K] weight; }
model {
  real noise = sqrt(noise_variance);
  noise_variance ~ inv_gamma(2, 1); weight ~ normal(0, noise);
  y ~ normal_id_glm(x, 0, weight, noise);
}"""
    ),
    "logistic": (
        """
data { int N; int K; matrix[N, K] x; array[N] int malignant; }
parameters { real intercept; vector[K] weight; }
model {
  intercept ~ normal(0, 2.5); weight ~ normal(0, 2.5);
  malignant ~ bernoulli_logit_glm(x, intercept, weight);
}"""
    ),
    "radon": (
        """
data { int N; array[N] int county; vector[N] floor; vector[N] y; }
parameters {
  real center; real slope; real<lower=0> spread; real<lower=0> noise; vector[85] intercept;
}
model {
  center ~ normal(0, 10); slope ~ normal(0, 10); spread ~ normal(0, 1); noise ~ normal(0, 1);
  intercept ~ normal(center, spread); y ~ normal(intercept[county] + slope * floor, noise);
}"""
    ),
    "hierarchy": (
        """
data { int N; int K; matrix[N, K] x; matrix[N, K] y; }
parameters {
  real intercept; real slope; real<lower=0> group_scale; real<lower=0> noise_scale;
  vector[N] effect;
}
model {
  intercept ~ normal(0, 5); slope ~ normal(0, 2.5);
  group_scale ~ normal(0, 2); noise_scale ~ normal(0, 2);
  effect ~ normal(intercept, group_scale);
  to_vector(y) ~ normal(to_vector(rep_matrix(effect, K) + slope * x), noise_scale);
}"""
    ),
    "enumerated": (
        """
data { int N; vector[N] petal; }
parameters { simplex[2] weight; vector[2] location; vector<lower=0>[2] scale; }
model {
  weight ~ dirichlet(rep_vector(5, 2)); location ~ normal(4, 2); scale ~ lognormal(log(0.5), 0.5);
  for (n in 1:N)
    target += log_mix(
      weight[1],
      normal_lpdf(petal[n] | location[1], scale[1]),
      normal_lpdf(petal[n] | location[2], scale[2]));
}"""
    ),
}


def build(form: str, data: dict[str, NDArray[Any]], settings: Settings) -> Side:
    """Return Stan's side of a form."""
    return Stan(form, data, settings)


def _module() -> Any:
    """Import PyStan, with a stand-in for a module that setuptools has removed.

    PyStan only lists plug-ins with it.
    """
    if "pkg_resources" not in sys.modules:
        try:
            import pkg_resources  # type: ignore[import-untyped, import-not-found, unused-ignore]  # noqa: F401
        except ImportError:
            stand_in: Any = types.ModuleType("pkg_resources")
            stand_in.EntryPoint = importlib.metadata.EntryPoint
            stand_in.iter_entry_points = lambda group: iter(
                importlib.metadata.entry_points(group=group)
            )
            sys.modules["pkg_resources"] = stand_in
    import stan

    return stan


class Stan:
    """NUTS with Stan's defaults.

    Only NUTS is timed, since the gradient is not accessible without serialization. The wall time
    is that of `sample`, which runs Stan in this process's pool and stores the draws. A build with
    a new seed is not included; the compiled program is cached, and so are draws of a seed seen
    before, hence new seeds.
    """

    measures: tuple[str, ...] = ("nuts",)

    def __init__(self, form: str, data: dict[str, NDArray[Any]], settings: Settings) -> None:
        self.stan, self.code, self.settings = _module(), FORMS[form], settings
        first = next(v for k, v in data.items() if k in ("x", "y", "petal"))
        sizes = {"N": first.shape[0], **({"K": first.shape[1]} if first.ndim == 2 else {})}
        self.data: dict[str, Any] = {
            **sizes,
            **{name: self._plain(name, value) for name, value in data.items()},
        }

    @staticmethod
    def _plain(name: str, value: NDArray[Any]) -> Any:
        if name == "county":
            return (value + 1).tolist()  # Stan counts from 1
        return (value.astype(int) if name == "malignant" else value).tolist()

    def _model(self, seed: int) -> Any:
        return self.stan.build(self.code, data=self.data, random_seed=seed)

    def log_joint(self, points: Mapping[str, Array]) -> Array:
        """Return Stan's log density without the Jacobian and without the constants Stan drops."""
        model = self._model(1)
        out = []
        for i in range(len(next(iter(points.values())))):
            u = model.unconstrain_pars({name: value[i].tolist() for name, value in points.items()})
            out.append(model.log_prob(u, adjust_transform=False))
        return np.array(out)

    def prepare(self, measure: str) -> dict[str, Any]:
        """Translate and compile the program, and run it once."""
        self.nuts(10_007)
        return {"used": True, "reason": "C++"}

    def time(self, measure: str) -> Timing:
        """Refuse: only NUTS is timed on this side."""
        raise UsageError(
            f"Only nuts is timed on this side, not {measure!r}; ask for it with nuts(seed)."
        )

    def nuts(self, seed: int) -> NutsRun:
        """Run one chain with Stan's defaults and 1,000 iterations of warm-up.

        A seed may be used once per process.
        """
        model, number = self._model(seed + 17 * os.getpid() % 1_000_000), self.settings.draws
        begun, cpu = time.perf_counter(), _cpu()
        fit = model.sample(num_chains=1, num_warmup=1000, num_samples=number, save_warmup=True)
        wall, cpu = time.perf_counter() - begun, _cpu() - cpu
        names = [n.split(".")[0] for n in fit.param_names]
        draws = {
            name: np.moveaxis(np.asarray(fit[name]), -1, 0)[-number:]
            for name in dict.fromkeys(names)
        }
        draws = {
            name: value[:, 0] if value.shape[1:] == (1,) and name in fit.param_names else value
            for name, value in draws.items()
        }
        return NutsRun(
            draws=draws,
            wall=wall,
            cpu=cpu,
            warmup=1000,
            gradients=int(np.sum(fit["n_leapfrog__"])),
            divergences=int(np.asarray(fit["divergent__"])[..., -number:].sum()),
        )


def _cpu() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
