"""Funnel, centered: Neal's funnel with the log variance and the values themselves as sites.

The same distribution as `funnel`, in the coordinates in which hierarchical models are usually
written.

    v            ~ Normal(0, 3)
    x_i          ~ Normal(0, exp(v / 2)),      i = 1..9

The width of the density in x changes by a factor of 360 over the central 95 % of v, for all nine
values at once. The best normal with independent coordinates is known in closed form. For q =
Normal(m, s^2) x Normal(0, t^2)^d the evidence lower bound is

    -(m^2 + s^2) / 18 + log(s / 3) + 1/2 + d [1/2 + log t - m/2 - t^2 exp(-m + s^2/2) / 2],

largest at t^2 = exp(m - s^2/2), m = 0 and s^2 = 1 / (1/9 + d/2): mean-field makes v 0.155 times as
wide as it is and leaves a gap of 1.86 nats. The density is symmetric in x, so the same normal is a
stationary point of full-rank too. The density is unbounded as v -> -infinity at x = 0, so there is
no mode. NUTS is slow and biased in the neck.

References:
    Neal (2003), Slice sampling, Annals of Statistics 31(3), 705-767, section 8.
    Betancourt and Girolami (2015), Hamiltonian Monte Carlo for hierarchical models.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist

from zoo.models.classics.funnel import LOG_VARIANCE_SCALE, QUANTITIES, WIDTH, make_data, sampler
from zoo.types import Analytic, Data, ModelEntry, Program


def build(data: Data) -> Program:
    """Return the centered program."""

    def program() -> None:
        v = pyro.sample("v", dist.Normal(0.0, LOG_VARIANCE_SCALE))
        scale = (v / 2).exp().unsqueeze(-1)
        pyro.sample(
            "x", dist.Normal(0.0, scale.expand(*v.shape, WIDTH)).to_event(1)
        )  # [coordinate]

    return program


def analytic(data: Data) -> Analytic:
    """Return exact draws, exact moments, and the evidence 1."""
    return sampler("x")


ENTRY = ModelEntry(
    name="funnel_centered",
    title="Neal's funnel, centered",
    make_data=make_data,
    build=build,
    quantities=QUANTITIES,
    reference="analytic",
    analytic=analytic,
    reference_of="funnel",
    tags=frozenset({"no_data", "hierarchical", "classic", "funnel"}),
    cites=(
        "Neal (2003), Slice sampling, Annals of Statistics 31(3), 705-767",
        "Betancourt and Girolami (2015), Hamiltonian Monte Carlo for hierarchical models",
    ),
)
