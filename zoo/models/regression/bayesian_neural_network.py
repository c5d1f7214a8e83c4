"""Bayesian neural network: a smooth curve through a hundred years of the flow of the Nile.

The yearly flow of the Nile at Aswan, 1871 to 1970. The flow drops around 1898 (`change_point` asks
for the year of a jump); here a network with one hidden layer of twelve units fits a curve, and the
curve is judged, not the weights. Year and flow are standardized (divisor n).

    slope_h    ~ Normal(0, 2),                             h = 1..12
    shift_h    ~ Normal(0, 2)
    out_h      ~ Normal(0, 1 / sqrt(12))
    level      ~ Normal(0, 1)
    sigma      ~ HalfNormal(1)
    f(t)       = level + sum_h out_h tanh(slope_h t + shift_h)
    flow_i     ~ Normal(f(t_i), sigma),                    i = 1..100

Units are exchangeable: 12! permutations and 2^12 sign changes leave the curve unchanged, and the
posterior of a single weight is a mixture over all of them that no chain and no guide explores. The
curve at nine years inside the data and two after them, and the noise, do not depend on the copy.
The prior of out_h shrinks with the number of units, so that the curve keeps its prior sd, about
1.3, as units are added (Neal). A guide of the weights covers one copy: its curve may still be
right, or the units that it switches off make the curve overconfident. 38 parameters.

References:
    Neal (1996), Bayesian Learning for Neural Networks, Springer, chapter 2.
    Izmailov, Vikram, Hoffman and Wilson (2021), What are Bayesian neural network posteriors really
    like?, ICML. Cobb (1978), The problem of the Nile, Biometrika 65(2), 243-251 (data).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.datasets import read, standardize
from zoo.quantities import log_site
from zoo.types import Data, ModelEntry, Program, Quantity

UNITS = 12
WIDTH = 2.0  # prior sd of slopes and shifts
# dense where the flow drops; the last two are after the data
YEARS = (1871, 1883, 1891, 1896, 1899, 1904, 1916, 1940, 1970, 1980, 1990)


def make_data(seed: int) -> Data:
    """Return standardized years and flows; real data do not depend on the seed."""
    table = read("nile")
    year, flow = table.column("year"), table.column("volume")
    shown = (torch.tensor(YEARS, dtype=year.dtype) - year.mean()) / year.std(correction=0)
    return Data(
        train={"t": standardize(year), "flow": standardize(flow)},
        observed=("flow",),
        coords={"shown": [str(y) for y in YEARS], "shown_at": shown.tolist()},
        dims={
            "t": ("year",),
            "flow": ("year",),
            **dict.fromkeys(("slope", "shift", "out"), ("unit",)),
        },
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def curve(draws: Mapping[str, Tensor], t: Tensor) -> Tensor:
    """Return the curve at times t `[point]` as `[*sample, point]`, in sds from the mean flow."""
    hidden = torch.tanh(
        draws["slope"].unsqueeze(-2) * t.unsqueeze(-1) + draws["shift"].unsqueeze(-2)
    )  # [*sample, point, unit]
    return draws["level"].unsqueeze(-1) + (hidden @ draws["out"].unsqueeze(-1)).squeeze(-1)


def build(data: Data) -> Program:
    """Return the program of the network."""

    def program(t: Tensor, flow: Tensor | None = None) -> None:
        draws = {
            "slope": pyro.sample(
                "slope", dist.Normal(0.0, WIDTH).expand([UNITS]).to_event(1)
            ),  # [unit]
            "shift": pyro.sample(
                "shift", dist.Normal(0.0, WIDTH).expand([UNITS]).to_event(1)
            ),  # [unit]
            "out": pyro.sample(
                "out", dist.Normal(0.0, 1 / math.sqrt(UNITS)).expand([UNITS]).to_event(1)
            ),  # [unit]
            "level": pyro.sample("level", dist.Normal(0.0, 1.0)),
        }
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("year", len(t)):
            pyro.sample("flow", dist.Normal(curve(draws, t), sigma), obs=flow)

    return program


def shown_curve(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the curve in the shown years, `[*sample, shown]`."""
    return curve(draws, torch.tensor(data.coords["shown_at"], dtype=torch.float64))


ENTRY = ModelEntry(
    name="bayesian_neural_network",
    title="Twelve hidden units through the flow of the Nile, judged as a curve",
    make_data=make_data,
    build=build,
    quantities={
        "curve": Quantity(
            fn=shown_curve,
            dims=("shown",),
            description="expected flow in a year, sds from the mean flow",
        ),
        "log_sigma": Quantity(
            fn=log_site("sigma"), description="log sd of a year's flow around the curve, sds"
        ),
    },
    reference="stored",
    tags=frozenset({"regression", "neural network", "label_switching"}),
    cites=(
        "Neal (1996), Bayesian Learning for Neural Networks, Springer, chapter 2",
        (
            "Izmailov, Vikram, Hoffman and Wilson (2021), What are Bayesian neural network"
            " posteriors really like?, ICML"
        ),
    ),
)
