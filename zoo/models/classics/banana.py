"""Banana: a normal bent along a parabola, the smallest posterior with a curved ridge.

There are no data; the target is Haario's twisted normal.

    x            ~ Normal(0, 10)
    y            ~ Normal(b (x^2 - 100), 1),   b = 0.03 (option `bend`)

Exactly E y = 0 and Var y = 1 + 20,000 b^2 = 19: x and y are uncorrelated, yet y is almost a
function of x. The best normal with independent coordinates is known in closed form. With Var x =
s^2 its evidence lower bound is

    log(s / 10) - s^2 / 200 + 1/2 - b^2 s^4

at sd(y) = 1 and E y = b (s^2 - 100), largest at s^2 = (sqrt(1/10000 + 16 b^2) - 1/100) / (8 b^2) =
15.3: mean-field makes x 0.39 and y 0.23 times as wide as they are, shifts y by 0.58 of its sd, and
leaves a gap of 0.73 nats. The target is symmetric in x, so the same normal is a stationary point
of full-rank too: a correlation gains nothing there.

References:
    Haario, Saksman and Tamminen (1999), Adaptive proposal distribution for random walk Metropolis
    algorithm. Rezende and Mohamed (2015), Variational inference with normalizing flows, ICML.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.quantities import site
from zoo.types import Analytic, Data, ModelEntry, Moments, Program, Quantity

SPREAD = 10.0


def make_data(seed: int, bend: float) -> Data:
    """Return data without observations: the target is the prior itself."""
    return Data(
        train={},
        source=f"no data: a normal twisted along a parabola, bend {bend}",
        licence="CC0-1.0",
    )


def build(data: Data, bend: float) -> Program:
    """Return the program: x, then y around the parabola."""

    def program() -> None:
        x = pyro.sample("x", dist.Normal(0.0, SPREAD))
        pyro.sample("y", dist.Normal(bend * (x.square() - SPREAD**2), 1.0))

    return program


def analytic(data: Data, bend: float) -> Analytic:
    """Return exact draws, exact moments, and the evidence 1."""
    zero = torch.zeros((), dtype=torch.float64)

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        x = SPREAD * noise[:, 0]
        return {"x": x, "y": bend * (x.square() - SPREAD**2) + noise[:, 1]}

    moments = {
        "x": Moments(zero, zero, zero + SPREAD, zero),
        "y": Moments(zero, zero, zero + (1 + 2 * bend**2 * SPREAD**4) ** 0.5, zero),
    }
    return Analytic(sample=sample, moments=moments, log_evidence=0.0)


ENTRY = ModelEntry(
    name="banana",
    title="Banana: a normal bent along a parabola",
    make_data=make_data,
    build=build,
    quantities={
        "x": Quantity(fn=site("x"), description="position along the banana"),
        "y": Quantity(
            fn=site("y"), description="position across and along: the parabola plus unit noise"
        ),
    },
    reference="analytic",
    analytic=analytic,
    options={"bend": 0.03},
    tags=frozenset({"no_data", "tiny", "classic"}),
    cites=(
        (
            "Haario, Saksman and Tamminen (1999), Adaptive proposal distribution for random walk"
            " Metropolis algorithm"
        ),
    ),
)
