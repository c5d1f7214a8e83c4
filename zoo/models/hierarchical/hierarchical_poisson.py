"""Hierarchical Poisson, non-centered: how often ten pumps of a nuclear power plant fail.

Ten pump systems were observed for 1,000 to 126,000 hours and failed 1 to 22 times. Their failure
rates differ by more than chance: four systems run continuously, six only intermittently.

    mean         ~ Normal(-1, 2)                  # of the log failure rate, per 1000 hours
    spread       ~ HalfNormal(2)                  # sd of the log failure rates
    z_j          ~ Normal(0, 1),                  j = 1..10
    log_rate_j   = mean + spread z_j
    failures_j   ~ Poisson(hours_j exp(log_rate_j))

Nineteen or twenty-two failures determine the log rate of a pump to 0.2, one failure only to 1: `z`
and the hyperparameters are dependent for pumps with many failures and nearly independent for those
with few. `hierarchical_poisson_centered` is the same posterior in the other coordinates, which
suit these data better and in which the reference is drawn. Given the hyperparameters the pumps are
independent, so every moment of the posterior and its evidence is a nested three-dimensional
integral; a test computes it by quadrature.

References:
    Gaver and O'Muircheartaigh (1987), Robust empirical Bayes analyses of event rates,
    Technometrics 29(1), 1-15. George, Makov and Smith (1993), Conjugate likelihood distributions,
    Scandinavian Journal of Statistics 20(2), 147-156.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

HOURS = (94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5)  # thousands
FAILURES = (5.0, 1.0, 5.0, 14.0, 3.0, 19.0, 1.0, 1.0, 4.0, 22.0)
MEAN_LOC, MEAN_SCALE, SPREAD_SCALE = -1.0, 2.0, 2.0


def make_data(seed: int) -> Data:
    """Return the table of the pumps; real data do not depend on the seed."""
    pumps = [str(j) for j in range(1, len(HOURS) + 1)]
    return Data(
        train={
            "hours": torch.tensor(HOURS, dtype=torch.float64),
            "failures": torch.tensor(FAILURES, dtype=torch.float64),
        },
        observed=("failures",),
        coords={"pump": pumps},
        dims={"hours": ("pump",), "failures": ("pump",), "z": ("pump",), "log_rate": ("pump",)},
        source=(
            "Gaver and O'Muircheartaigh (1987), Robust empirical Bayes analyses of event rates,"
            " Technometrics 29(1), 1-15, table 1"
        ),
        licence="facts, not subject to copyright",
    )


def build(data: Data) -> Program:
    """Return the non-centered program."""

    def program(hours: Tensor, failures: Tensor | None = None) -> None:
        mean = pyro.sample("mean", dist.Normal(MEAN_LOC, MEAN_SCALE))
        spread = pyro.sample("spread", dist.HalfNormal(SPREAD_SCALE))
        with pyro.plate("pump", len(hours)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))  # [pump]
            pyro.sample("failures", dist.Poisson(hours * (mean + spread * z).exp()), obs=failures)

    return program


def log_rate(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log failure rates per 1000 hours, `[*sample, pump]`."""
    return draws["mean"].unsqueeze(-1) + draws["spread"].unsqueeze(-1) * draws["z"]


ENTRY = ModelEntry(
    name="hierarchical_poisson",
    title="Failures of ten pumps, non-centered",
    make_data=make_data,
    build=build,
    quantities={
        "mean": Quantity(fn=site("mean"), description="mean log failure rate, per 1000 hours"),
        "log_spread": Quantity(
            fn=log_site("spread"), description="log sd of the log failure rates"
        ),
        "log_rate": Quantity(
            fn=log_rate,
            dims=("pump",),
            description="log failure rate of each pump, per 1000 hours",
        ),
    },
    reference="stored",
    reference_of="hierarchical_poisson_centered",
    tags=frozenset({"hierarchical", "counts", "classic"}),
    cites=(
        (
            "Gaver and O'Muircheartaigh (1987), Robust empirical Bayes analyses of event rates,"
            " Technometrics 29(1), 1-15"
        ),
    ),
)
