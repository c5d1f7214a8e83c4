"""Two hidden Markov models of posteriordb: a simulated one and drives to the basket.

A hidden state z_t in {1, 2} has a transition matrix with rows theta1 and theta2, and each state
has its own emission distribution. The path is summed out by the forward algorithm, as products of
2 x 2 matrices in log space that are combined pairwise, so that 416 steps take 9 rounds.

    hmm_example:   theta1, theta2 ~ uniform on the simplex;
                   mu ordered, mu_1 ~ Normal(3, 1), mu_2 ~ Normal(10, 1)
                   y_t | z_t ~ Normal(mu_{z_t}, 1)
    hmm_drive_0:   theta_k ~ Dirichlet(alpha_k);
                   phi, lambda ordered and positive, each Normal(0, 1), Normal(3, 1)
                   u_t | z_t ~ Exponential(phi_{z_t}),  v_t | z_t ~ Exponential(lambda_{z_t})
    both:          z_1 uniform,  z_t | z_{t-1} ~ theta_{z_{t-1}}

The order of the emission parameters fixes the labels, so that sites can be compared directly.

References:
    Baum et al. (1970), A maximization technique in the statistical analysis of probabilistic
    functions of Markov chains. Sarkka and Garcia-Fernandez (2019), Temporal parallelization of
    Bayesian filters and smoothers. Magnusson et al. (2024), posteriordb: testing, benchmarking and
    developing Bayesian inference algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, make_card_data, published
from zoo.quantities import log_site
from zoo.types import Data, ModelEntry, Program, Quantity

TAGS = frozenset({"posteriordb", "hmm"})
REFERENCE = "stored"
NAMES = {
    "posteriordb/bball_drive_event_0-hmm_drive_0": "Hidden Markov model of drives to the basket",
    "posteriordb/hmm_example-hmm_example": "Hidden Markov model of two simulated levels",
}
DRIVE, EXAMPLE = (key.partition("/")[2] for key in NAMES)
STATES = ("1", "2")


def ordered_positive(name: str, means: tuple[float, float]) -> Tensor:
    """Sample 0 < x_1 < x_2 with density proportional to prod_i Normal(x_i; m_i, 1), `[state]`."""
    x = pyro.sample(name, dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,)))
    pyro.factor(
        f"{name}_prior", dist.Normal(torch.tensor(means, dtype=x.dtype), 1.0).log_prob(x).sum()
    )
    return x


class HiddenMarkov(dist.DiscreteHMM):
    """Pyro's hidden Markov model with a vectorizable log density (Pyro's works in place)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(series) in nats with the path summed out, by pairwise matrix products."""
        emitted = self.observation_dist.log_prob(
            value.unsqueeze(-1 - self.observation_dist.event_dim)
        )  # [step, to]
        steps = self.transition_logits + emitted.unsqueeze(-2)  # [step, from, to]
        while steps.shape[-3] > 1:
            even = steps.shape[-3] // 2 * 2
            left, right = steps[..., 0:even:2, :, :], steps[..., 1:even:2, :, :]
            pairs = (left.unsqueeze(-1) + right.unsqueeze(-3)).logsumexp(-2)
            steps = torch.cat([pairs, steps[..., even:, :, :]], -3)
        total: Tensor = (self.initial_logits + steps[..., 0, :, :].logsumexp(-1)).logsumexp(-1)
        return total


def hidden_markov(
    theta1: Tensor, theta2: Tensor, emission: dist.Distribution, steps: int
) -> HiddenMarkov:
    """Return the distribution of the series, path summed out, with a uniform first state."""
    moves = torch.stack([theta1, theta2]).log()  # [from, to]
    # Pyro makes a transition before the first emission: to a uniform state
    start = torch.zeros(1, 2, 2, dtype=moves.dtype)
    transitions = torch.cat([start, moves.expand(steps - 1, 2, 2)])  # [step, from, to]
    return HiddenMarkov(torch.zeros(2, dtype=moves.dtype), transitions, emission, duration=steps)


def make_example(seed: int) -> Data:
    """Return the simulated series of posteriordb, which does not depend on the seed."""
    y = posteriordb.data(EXAMPLE)["y"]
    return make_card_data(
        EXAMPLE,
        {"y": y, "steps": len(y)},
        ("y",),
        coords={"state": STATES},
        dims={"y": ("step",), "mu": ("state",)},
    )


def build_example(data: Data) -> Program:
    """Return the program of the simulated series."""

    def program(steps: int, y: Tensor | None = None) -> None:
        theta1 = pyro.sample("theta1", dist.Dirichlet(torch.ones(2)))
        theta2 = pyro.sample("theta2", dist.Dirichlet(torch.ones(2)))
        mu = ordered_positive("mu", (3.0, 10.0))
        pyro.sample("y", hidden_markov(theta1, theta2, dist.Normal(mu, 1.0), steps), obs=y)

    return program


def make_drive(seed: int) -> Data:
    """Return inverse speed and distance to the hoop of one player, independent of the seed."""
    table = posteriordb.data(DRIVE)
    y = torch.stack([table["u"], table["v"]], -1)  # [step, channel]
    return make_card_data(
        DRIVE,
        {"alpha": table["alpha"], "y": y, "steps": len(y)},
        ("y",),
        coords={"state": STATES, "channel": ("inverse speed", "distance")},
        dims={
            "y": ("step", "channel"),
            "alpha": ("state", "to"),
            "phi": ("state",),
            "lambda": ("state",),
        },
    )


def build_drive(data: Data) -> Program:
    """Return the program of the drives."""

    def program(alpha: Tensor, steps: int, y: Tensor | None = None) -> None:
        theta1 = pyro.sample("theta1", dist.Dirichlet(alpha[0]))
        theta2 = pyro.sample("theta2", dist.Dirichlet(alpha[1]))
        phi = ordered_positive("phi", (0.0, 3.0))
        rate = ordered_positive("lambda", (0.0, 3.0))
        emission = dist.Exponential(torch.stack([phi, rate], -1)).to_event(
            1
        )  # [state], events [channel]
        pyro.sample("y", hidden_markov(theta1, theta2, emission, steps), obs=y)

    return program


def stay(state: int) -> Callable[..., Tensor]:
    """Return the log odds of staying in a state."""

    def fn(draws: Mapping[str, Tensor], data: Data) -> Tensor:
        return draws[f"theta{state + 1}"][..., state].logit()

    return fn


_chain = {
    f"stay_{k + 1}": Quantity(
        fn=stay(k), description=f"log odds that state {k + 1} is followed by itself"
    )
    for k in range(2)
}


def _entry(key: str, title: str) -> ModelEntry:
    name = key.partition("/")[2]
    emissions = (
        {"mu": "mean of"}
        if name == EXAMPLE
        else {"phi": "rate of inverse speed in", "lambda": "rate of distance in"}
    )
    return ModelEntry(
        name=key,
        title=title,
        make_data=make_example if name == EXAMPLE else make_drive,
        build=build_example if name == EXAMPLE else build_drive,
        quantities=_chain
        | {
            f"log_{s}": Quantity(
                fn=log_site(s), dims=("state",), description=f"log {what} each state"
            )
            for s, what in emissions.items()
        },
        reference="stored",
        published=published(name),
        tags=TAGS,
        cites=(CITE,),
    )


ENTRIES = tuple(_entry(key, title) for key, title in NAMES.items())
