"""Coin: girls among births with placenta previa, with every answer in closed form.

Of 980 births with the condition placenta previa recorded in Germany, 437 were girls. Is the
probability of a girl below the 0.485 of the general population?

    chance       ~ Beta(1, 1)
    girls        ~ Binomial(980, chance)

The posterior is Beta(438, 544) and the evidence is exactly 1/981: under a uniform chance every
count from 0 to 980 is equally probable. This is the smallest posterior of the zoo. It is not hard:
it is here so that every method has one answer it cannot miss, and so that the log density can be
integrated by quadrature and compared with the evidence.

References:
    Gelman, Carlin, Stern, Dunson, Vehtari and Rubin (2013), Bayesian Data Analysis, 3rd ed.,
    section 2.4.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from scipy.special import betaln, gammaln
from torch import Tensor

from zoo.quantities import site
from zoo.seeds import seeded
from zoo.types import Analytic, Data, ModelEntry, Moments, Program, Quantity

GIRLS, BIRTHS = 437, 980
PRIOR_A, PRIOR_B = 1.0, 1.0


def make_data(seed: int) -> Data:
    """Return the counts; real data do not depend on the seed."""
    return Data(
        train={
            "births": torch.tensor(float(BIRTHS), dtype=torch.float64),
            "girls": torch.tensor(float(GIRLS), dtype=torch.float64),
        },
        observed=("girls",),
        dims={"births": (), "girls": ()},
        source=(
            "Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 2.4: 437 girls among"
            " 980 placenta previa births"
        ),
        licence="facts, not subject to copyright",
    )


def build(data: Data) -> Program:
    """Return the Beta-Binomial program."""

    def program(births: Tensor, girls: Tensor | None = None) -> None:
        chance = pyro.sample("chance", dist.Beta(PRIOR_A, PRIOR_B))
        pyro.sample("girls", dist.Binomial(births, probs=chance), obs=girls)

    return program


def log_odds(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log odds of a girl, `[*sample]`."""
    return torch.logit(draws["chance"])


def analytic(data: Data) -> Analytic:
    """Return Beta(a + girls, b + births - girls) with its moments and the log evidence in nats."""
    births, girls = float(data.train["births"]), float(data.train["girls"])
    posterior = torch.distributions.Beta(
        *torch.tensor([PRIOR_A + girls, PRIOR_B + births - girls], dtype=torch.float64)
    )
    a, b = posterior.concentration1, posterior.concentration0
    zero = torch.zeros((), dtype=torch.float64)

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        with seeded(seed):
            return {"chance": posterior.sample((n,))}

    log_binomial = gammaln(births + 1) - gammaln(girls + 1) - gammaln(births - girls + 1)
    return Analytic(
        sample=sample,
        moments={
            "chance": Moments(posterior.mean, zero, posterior.stddev, zero),
            "log_odds": Moments(
                a.digamma() - b.digamma(), zero, (a.polygamma(1) + b.polygamma(1)).sqrt(), zero
            ),
        },
        log_evidence=float(log_binomial + betaln(float(a), float(b)) - betaln(PRIOR_A, PRIOR_B)),
    )


ENTRY = ModelEntry(
    name="coin",
    title="Share of girls among placenta previa births (Beta-Binomial)",
    make_data=make_data,
    build=build,
    quantities={
        "chance": Quantity(fn=site("chance"), description="chance that a birth is a girl"),
        "log_odds": Quantity(fn=log_odds, description="log odds of a girl"),
    },
    reference="analytic",
    analytic=analytic,
    tags=frozenset({"conjugate", "tiny"}),
    cites=("Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 2.4",),
)
