"""Mixture of regressions: two lines through 150 irises of unrecorded species.

Over all flowers a longer sepal goes with a narrower one. Within a species it goes with a wider
one: the slope changes sign when the species is known (Simpson's paradox). Here it is unknown; each
flower belongs to one of two lines, and its label is summed out. Setosa is one of them, versicolor
and virginica share the other.

    weight       ~ Dirichlet(5, 5)
    center_k     ~ Normal(3, 0.5),                   k = 1, 2     # width at the mean length, cm
    slope_k      ~ Normal(0, 1)                                   # cm per cm
    scale_k      ~ LogNormal(log 0.3, 0.4)                        # cm
    label_i      ~ Categorical(weight),              i = 1..150   # summed out by enumeration
    width_i      ~ Normal(center_{label_i} + slope_{label_i} (length_i - 5.84), scale_{label_i})

Lengths and widths are recorded to the millimeter and tie, so the scale needs a prior that falls
faster than any power at 0. Labels are free: the quantities sort the lines by their center. Lines
that cross among the data have no such order by slope. The posterior has two identical modes; an
approximation of one has a bound that is low by log 2.

References:
    Quandt and Ramsey (1978), Estimating mixtures of normal distributions and switching
    regressions, JASA 73(364). De Veaux (1989), Mixtures of linear regressions, Computational
    Statistics and Data Analysis 8(3). Fisher (1936), The use of multiple measurements in taxonomic
    problems, Annals of Eugenics 7(2), 179-188 (data).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from zoo.datasets import read
from zoo.quantities import sorted_by
from zoo.types import Data, ModelEntry, Program, Quantity

LINES = 2
CONCENTRATION = 5.0
CENTER_MEAN, CENTER_SCALE = 3.0, 0.5  # cm
SCALE_MEDIAN, SCALE_LOG_SD = 0.3, 0.4  # cm, nats
# Flowers (length from the mean, width) in cm that share the line of a typical setosa surely or
# doubtfully.
TYPICAL = (-0.84, 3.4)
OTHERS = ((-0.14, 3.4), (-0.34, 3.0), (0.96, 3.8))


def make_data(seed: int) -> Data:
    """Return sepal lengths, from their mean, and widths; real data do not depend on the seed."""
    table = read("iris")
    length = table.column("sepal_length")
    return Data(
        train={"length": length - length.mean(), "width": table.column("sepal_width")},
        observed=("width",),
        coords={
            "line": [str(k) for k in range(1, LINES + 1)],
            "flower": [f"{x + 5.84:.1f} x {y} cm" for x, y in OTHERS],
        },
        dims={"length": ("row",), "width": ("row",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def build(data: Data) -> Program:
    """Return the program with an enumerated line per flower."""

    def program(length: Tensor, width: Tensor | None = None) -> None:
        weight = pyro.sample(
            "weight", dist.Dirichlet(torch.full((LINES,), CONCENTRATION))
        )  # [line]
        with pyro.plate("line", LINES):
            center = pyro.sample("center", dist.Normal(CENTER_MEAN, CENTER_SCALE))  # [line], cm
            slope = pyro.sample("slope", dist.Normal(0.0, 1.0))  # [line]
            scale = pyro.sample(
                "scale", dist.LogNormal(math.log(SCALE_MEDIAN), SCALE_LOG_SD)
            )  # [line], cm
        with pyro.plate("row", len(length)):
            label = pyro.sample("label", dist.Categorical(weight), infer={"enumerate": "parallel"})
            mean = Vindex(center)[..., label] + Vindex(slope)[..., label] * length
            pyro.sample("width", dist.Normal(mean, Vindex(scale)[..., label]), obs=width)

    return program


def shared_line(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log odds of sharing the line of a typical setosa, `[*sample, flower]`, nats."""
    points = torch.tensor((TYPICAL, *OTHERS), dtype=torch.float64)  # [flower, 2]
    mean = (
        draws["center"].unsqueeze(-2) + draws["slope"].unsqueeze(-2) * points[:, :1]
    )  # [*sample, flower, line]
    normal = torch.distributions.Normal(mean, draws["scale"].unsqueeze(-2))
    log_p = (draws["weight"].log().unsqueeze(-2) + normal.log_prob(points[:, 1:])).log_softmax(-1)
    both = log_p[..., :1, :, None] + log_p[..., 1:, None, :]  # [*sample, flower, line, line]
    same = torch.eye(LINES, dtype=torch.bool)
    return both[..., same].logsumexp(-1) - both[..., ~same].logsumexp(-1)


ENTRY = ModelEntry(
    name="mixture_of_regressions",
    title="Mixture of two linear regressions on iris sepals, component marginalized",
    make_data=make_data,
    build=build,
    quantities={
        "center": Quantity(
            fn=sorted_by("center", "center"),
            dims=("line",),
            description="width at the mean length, in increasing order, cm",
        ),
        "slope": Quantity(
            fn=sorted_by("slope", "center"),
            dims=("line",),
            description="slope of the lines in the same order",
        ),
        "log_scale": Quantity(
            fn=sorted_by("scale", "center", log=True),
            dims=("line",),
            description="log sd around the lines, same order",
        ),
        "weight": Quantity(
            fn=sorted_by("weight", "center"),
            dims=("line",),
            description="shares of the lines in the same order",
        ),
        "shared_line": Quantity(
            fn=shared_line,
            dims=("flower",),
            description="log odds of sharing the line of a typical setosa, nats",
        ),
    },
    reference="stored",
    tags=frozenset({"mixture", "regression", "enumerated"}),
    cites=(
        (
            "Quandt and Ramsey (1978), Estimating mixtures of normal distributions and switching"
            " regressions, JASA 73(364)"
        ),
        (
            "Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of"
            " Eugenics 7(2), 179-188"
        ),
    ),
)
