"""Change point: the year in which the flow of the Nile fell, with an exact posterior.

The annual flow at Aswan was measured from 1871 to 1970. It fell near 1898; the year is summed out.
Flows are in units of 10^10 cubic meters.

    change       ~ uniform on 1..99              # last year of the first regime, summed out
    noise_variance ~ InverseGamma(3, 4)          # prior mean 2
    level_k      ~ Normal(9, 2 sqrt(noise_variance)),   k = before, after
    flow_t       ~ Normal(level_{t <= change ? before : after}, sqrt(noise_variance)),
                                                 t = 1..100

Given the change the model is normal-inverse-gamma: with n_k flows of sum s_k in regime k the
precision of a level is 1/4 + n_k, and the joint posterior is a mixture of 99 closed forms with the
weights

    P(change | flow) ~ prod_k (1 + 4 n_k)^(-1/2) b^(-a),   a = 3 + 50,
    b = 4 + 1/2 [sum flow^2 + 2 * 81/4 - sum_k (s_k + 9/4)^2 / (1/4 + n_k)].

A guide sees three continuous coordinates in which the posterior is nearly normal, although the
density is a mixture of 99: every family should agree. All 99 terms come from one cumulative sum.

References:
    Cobb (1978), The problem of the Nile: conditional solution to a changepoint problem, Biometrika
    65(2), 243-251. Carlin, Gelfand and Smith (1992), Hierarchical Bayesian analysis of changepoint
    problems, Applied Statistics 41(2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.datasets import read
from zoo.distributions.multivariate import LevelShift
from zoo.quantities import site
from zoo.seeds import seeded
from zoo.types import Analytic, Data, ModelEntry, Moments, Program, Quantity

UNIT = 100.0  # 10^10 cubic meters, in the 10^8 of the table
PRIOR_SHAPE, PRIOR_RATE = 3.0, 4.0  # of the noise variance
# prior mean of a level; its variance in units of the noise variance
LEVEL, LEVEL_VARIANCE = (9.0, 4.0)
YEARS = (1896, 1897, 1898, 1899)  # last years of the first regime whose log odds are compared


def make_data(seed: int) -> Data:
    """Return the flows; real data do not depend on the seed."""
    table = read("nile")
    return Data(
        train={"flow": table.column("volume") / UNIT},
        observed=("flow",),
        coords={"regime": ("before", "after"), "year": YEARS},
        dims={"flow": ("time",), "level": ("regime",)},
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def build(data: Data) -> Program:
    """Return the program; the change point is summed out by the distribution of the series."""
    years = len(data.train["flow"])

    def program(flow: Tensor | None = None) -> None:
        noise_variance = pyro.sample("noise_variance", dist.InverseGamma(PRIOR_SHAPE, PRIOR_RATE))
        noise_scale = noise_variance.sqrt()
        spread = (
            (math.sqrt(LEVEL_VARIANCE) * noise_scale).unsqueeze(-1).expand(*noise_scale.shape, 2)
        )
        level = pyro.sample("level", dist.Normal(LEVEL, spread).to_event(1))  # [regime]
        pyro.sample("flow", LevelShift(level, noise_scale, years), obs=flow)

    return program


class _Posterior(NamedTuple):
    """The closed-form posterior given each change point, `[change]`."""

    log_joint: Tensor  # log p(change, flow), nats
    mean: Tensor  # [change, regime]
    precision: Tensor  # [change, regime], in units of one over the noise variance
    shape: float
    rate: Tensor


def _posterior(flow: Tensor) -> _Posterior:
    n = len(flow)
    first = torch.arange(1, n, dtype=flow.dtype)
    counts = torch.stack([first, n - first], -1)
    sums = torch.stack([flow.cumsum(0)[:-1], flow.sum() - flow.cumsum(0)[:-1]], -1)
    precision = 1 / LEVEL_VARIANCE + counts
    mean = (LEVEL / LEVEL_VARIANCE + sums) / precision
    shape = PRIOR_SHAPE + n / 2
    rate = PRIOR_RATE + 0.5 * (
        flow.square().sum() + 2 * LEVEL**2 / LEVEL_VARIANCE - (precision * mean.square()).sum(-1)
    )
    constant = (
        PRIOR_SHAPE * math.log(PRIOR_RATE)
        - math.lgamma(PRIOR_SHAPE)
        + math.lgamma(shape)
        - n / 2 * math.log(2 * math.pi)
    )
    log_joint = (
        constant
        - math.log(n - 1)
        - 0.5 * (LEVEL_VARIANCE * precision).log().sum(-1)
        - shape * rate.log()
    )
    return _Posterior(log_joint, mean, precision, shape, rate)


def log_odds(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log odds that the change was in a year, given a draw, `[*sample, year]`, nats."""
    flow = data.train["flow"]
    joint = LevelShift(draws["level"], draws["noise_variance"].sqrt(), len(flow)).joint(
        flow
    )  # [*sample, change]
    log_p = joint.log_softmax(-1)[..., [year - 1871 for year in YEARS]]
    return log_p - torch.log1p(-log_p.exp())


def log_noise_scale(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log standard deviation around the level, `[*sample]`."""
    return 0.5 * draws["noise_variance"].log()


def analytic(data: Data) -> Analytic:
    """Return the mixture of closed forms: exact draws, moments, and log evidence in nats."""
    p = _posterior(data.train["flow"])
    weight = p.log_joint.softmax(0)

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        with seeded(seed):
            change = torch.multinomial(weight, n, replacement=True)
            variance = p.rate[change] / torch.distributions.Gamma(
                torch.tensor(p.shape, dtype=weight.dtype), 1.0
            ).sample((n,))
            noise = torch.randn(n, 2, dtype=weight.dtype)
        return {
            "noise_variance": variance,
            "level": (
                p.mean[change] + noise * (variance.unsqueeze(-1) / p.precision[change]).sqrt()
            ),
        }

    zero = torch.zeros((), dtype=weight.dtype)
    shape = torch.tensor(p.shape, dtype=weight.dtype)
    mean = weight @ p.mean
    within = (p.rate / (p.shape - 1)).unsqueeze(-1) / p.precision
    level_sd = (weight @ (within + (p.mean - mean).square())).sqrt()
    log_sd = 0.5 * (p.rate.log() - shape.digamma())  # mean of the log scale given the change
    log_mean = weight @ log_sd
    log_variance = weight @ (log_sd - log_mean).square() + 0.25 * shape.polygamma(1)
    return Analytic(
        sample=sample,
        moments={
            "level": Moments(mean, zero.expand(2), level_sd, zero.expand(2)),
            "log_noise_scale": Moments(log_mean, zero, log_variance.sqrt(), zero),
        },
        log_evidence=float(p.log_joint.logsumexp(0)),
    )


ENTRY = ModelEntry(
    name="change_point",
    title="Change point in the flow of the Nile, the year summed out",
    make_data=make_data,
    build=build,
    quantities={
        "level": Quantity(
            fn=site("level"),
            dims=("regime",),
            description="mean flow before and after the change, 10^10 cubic meters",
        ),
        "log_noise_scale": Quantity(
            fn=log_noise_scale, description="log standard deviation of a flow around its level"
        ),
        "log_odds": Quantity(
            fn=log_odds,
            dims=("year",),
            description="log odds that the first regime ended with this year, nats",
        ),
    },
    reference="analytic",
    analytic=analytic,
    tags=frozenset({"time_series", "conjugate", "classic"}),
    cites=(
        (
            "Cobb (1978), The problem of the Nile: conditional solution to a changepoint problem,"
            " Biometrika 65(2), 243-251"
        ),
    ),
)
