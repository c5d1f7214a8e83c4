"""Eight schools, non-centered: partial pooling of eight noisy experiments.

Eight schools coached pupils for the SAT and each reports an estimated effect in points with its
standard error. How much do true effects differ, and what is each one? This form samples
standardized effects, which are independent of the spread `tau` in the prior.

    mu           ~ Normal(0, 5)                    # mean effect, points
    tau          ~ HalfCauchy(5)                   # spread of the true effects, points
    theta_raw_j  ~ Normal(0, 1),                   j = A..H
    theta_j      = mu + tau theta_raw_j
    y_j          ~ Normal(theta_j, se_j)           # se_j is known

The data say little about `tau`: its posterior reaches from almost 0 to 20 points, log tau has a
long left tail, and theta_raw_j and tau are dependent through the likelihood. Normal guides get the
tail of log tau wrong. `eight_schools_centered` is the same posterior in the coordinates in which
it is a funnel.

References:
    Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational Statistics
    6(4), 377-401. Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 5.5; priors as in
    posteriordb. Betancourt and Girolami (2015), Hamiltonian Monte Carlo for hierarchical models.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

SCHOOLS = ("A", "B", "C", "D", "E", "F", "G", "H")
EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)  # points
ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)  # points
MU_SCALE, TAU_SCALE = 5.0, 5.0


def make_data(seed: int) -> Data:
    """Return Rubin's table; real data do not depend on the seed."""
    return Data(
        train={
            "se": torch.tensor(ERRORS, dtype=torch.float64),
            "y": torch.tensor(EFFECTS, dtype=torch.float64),
        },
        observed=("y",),
        coords={"school": SCHOOLS},
        dims={"se": ("school",), "y": ("school",), "theta": ("school",), "theta_raw": ("school",)},
        source=(
            "Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational"
            " Statistics 6(4), table 1"
        ),
        licence="facts, not subject to copyright",
    )


def build(data: Data) -> Program:
    """Return the non-centered program."""

    def program(se: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, MU_SCALE))
        tau = pyro.sample("tau", dist.HalfCauchy(TAU_SCALE))
        with pyro.plate("school", len(se)):
            theta_raw = pyro.sample("theta_raw", dist.Normal(0.0, 1.0))  # [school]
            pyro.sample("y", dist.Normal(mu + tau * theta_raw, se), obs=y)

    return program


def theta(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the true effects in points, `[*sample, school]`."""
    return draws["mu"].unsqueeze(-1) + draws["tau"].unsqueeze(-1) * draws["theta_raw"]


ENTRY = ModelEntry(
    name="eight_schools",
    title="Eight schools, non-centered",
    make_data=make_data,
    build=build,
    quantities={
        "mu": Quantity(fn=site("mu"), description="mean effect over schools, points"),
        "log_tau": Quantity(
            fn=log_site("tau"), description="log spread of the true effects, log points"
        ),
        "theta": Quantity(
            fn=theta, dims=("school",), description="true effect of each school, points"
        ),
    },
    reference="stored",
    tags=frozenset({"hierarchical", "classic"}),
    cites=(
        (
            "Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational"
            " Statistics 6(4), 377-401"
        ),
    ),
)
