"""One compartment with first-order absorption and Michaelis-Menten elimination.

A dose D is absorbed into a compartment of volume V and eliminated by a saturable enzyme; the
concentration C is measured twenty times with multiplicative errors.

    dC/dt = exp(-k_a t) D k_a / V - (V_m / V) C / (K_m + C),    C(0) = 0
    k_a, K_m, V_m, sigma ~ HalfCauchy(1)
    C^_n ~ LogNormal(log C(t_n), sigma),                        n = 1..20

Above saturation only V_m matters, below it only V_m / K_m: the data hardly separate them. 99.8 %
of K_m lies between 0.002 and 84 mg/L, and the dependence of K_m on V_m changes over this range.
Small K_m makes the initial phase stiff, so the Runge-Kutta grid starts with short steps (32
cubically spaced to the first measurement, then 4 between two). At the posterior it is within 2e-5
nats of half the step; a test checks it.

References:
    Margossian and Gillespie (2017), Differential equations based models in Stan, StanCon.
    Magnusson et al. (2024), posteriordb: testing, benchmarking and developing Bayesian inference
    algorithms.
"""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, make_card_data, published
from zoo.models.posteriordb._ode import refined, rk4
from zoo.quantities import log_site
from zoo.types import Data, ModelEntry, Program, Quantity

NAME = "one_comp_mm_elim_abs-one_comp_mm_elim_abs"
STEPS, FIRST, POWER = 4, 32, 3.0
# mg/L; reached only if the equations are far too stiff for the grid, which the data exclude
FLOOR = 1e-10


def make_data(seed: int) -> Data:
    """Return concentrations, dose and volume; the simulated data do not depend on the seed."""
    table = posteriordb.data(NAME)
    times = (float(table["t0"]), *table["times"].tolist())
    return make_card_data(
        NAME,
        {"dose": float(table["D"]), "volume": float(table["V"]), "y": table["C_hat"]},
        ("y",),
        coords={"time": times[1:], "start": times[:1]},
        dims={"y": ("time",)},
    )


def concentrations(
    k_a: Tensor,
    K_m: Tensor,
    V_m: Tensor,
    dose: float,
    volume: float,
    times: tuple[float, ...],
    finer: int = 1,
) -> Tensor:
    """Return C at the times after the first, mg/L, `[time]`."""
    grid, keep = refined(times, STEPS * finer, first=FIRST * finer, power=POWER)
    halves = [t for a, b in itertools.pairwise(grid) for t in (a, 0.5 * (a + b))] + grid[-1:]
    uptake = torch.exp(-k_a * torch.tensor(halves, dtype=k_a.dtype)) * (
        k_a * (dose / volume)
    )  # [half-step]
    inputs, rate = uptake.unbind(0), V_m / volume

    def slope(i: int, c: Tensor) -> Tensor:
        positive = c.clamp(min=0.0)
        return inputs[i] - rate * positive / (K_m + positive)

    return rk4(slope, torch.zeros_like(k_a), grid, keep[1:]).clamp(min=FLOOR)


def build(data: Data) -> Program:
    """Return the program."""
    times = (float(data.coords["start"][0]), *(float(t) for t in data.coords["time"]))

    def program(dose: float, volume: float, y: Tensor | None = None) -> None:
        k_a = pyro.sample("k_a", dist.HalfCauchy(1.0))
        k_m = pyro.sample("K_m", dist.HalfCauchy(1.0))
        v_m = pyro.sample("V_m", dist.HalfCauchy(1.0))
        sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
        c = concentrations(k_a, k_m, v_m, dose, volume, times)
        with pyro.plate("time", len(times) - 1):
            pyro.sample("y", dist.LogNormal(c.log(), sigma), obs=y)

    return program


ENTRY = ModelEntry(
    name="posteriordb/one_comp_mm_elim_abs-one_comp_mm_elim_abs",
    title="One compartment with saturable elimination",
    make_data=make_data,
    build=build,
    quantities={
        "log_k_a": Quantity(fn=log_site("k_a"), description="log absorption rate, log 1/day"),
        "log_K_m": Quantity(
            fn=log_site("K_m"), description="log Michaelis-Menten constant, log mg/L"
        ),
        "log_V_m": Quantity(
            fn=log_site("V_m"), description="log maximum elimination rate, log 1/day"
        ),
        "log_sigma": Quantity(fn=log_site("sigma"), description="log of the relative error"),
    },
    reference="stored",
    published=published(NAME),
    tags=frozenset({"posteriordb", "ode"}),
    cites=(
        CITE,
        "Margossian and Gillespie (2017), Differential equations based models in Stan, StanCon",
    ),
)
