"""Eight schools, centered: the same posterior as `eight_schools`, as a funnel.

This is the usual form of the model; the data and the posterior of every quantity are those of
`eight_schools`.

    mu       ~ Normal(0, 5)                    # mean effect, points
    tau      ~ HalfCauchy(5)                   # spread of the true effects, points
    theta_j  ~ Normal(mu, tau),                j = A..H
    y_j      ~ Normal(theta_j, se_j)           # se_j is known

When tau is small all theta_j are close to mu: the width of the posterior in theta changes with tau
by orders of magnitude, and its density is unbounded in the neck, so that there is no mode to
expand around. Mean-field cannot follow the funnel and is materially wrong on log tau; NUTS
diverges near the neck.

References:
    Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational Statistics
    6(4), 377-401. Betancourt and Girolami (2015), Hamiltonian Monte Carlo for hierarchical models.
    Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work?: Evaluating variational
    inference, ICML.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.models.hierarchical.eight_schools import MU_SCALE, TAU_SCALE, make_data
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity


def build(data: Data) -> Program:
    """Return the centered program."""

    def program(se: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, MU_SCALE))
        tau = pyro.sample("tau", dist.HalfCauchy(TAU_SCALE))
        with pyro.plate("school", len(se)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))  # [school]
            pyro.sample("y", dist.Normal(theta, se), obs=y)

    return program


ENTRY = ModelEntry(
    name="eight_schools_centered",
    title="Eight schools, centered",
    make_data=make_data,
    build=build,
    quantities={
        "mu": Quantity(fn=site("mu"), description="mean effect over schools, points"),
        "log_tau": Quantity(
            fn=log_site("tau"), description="log spread of the true effects, log points"
        ),
        "theta": Quantity(
            fn=site("theta"), dims=("school",), description="true effect of each school, points"
        ),
    },
    reference="stored",
    reference_of="eight_schools",
    tags=frozenset({"hierarchical", "classic", "funnel"}),
    cites=(
        (
            "Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational"
            " Statistics 6(4), 377-401"
        ),
        (
            "Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work?: Evaluating"
            " variational inference, ICML"
        ),
    ),
)
