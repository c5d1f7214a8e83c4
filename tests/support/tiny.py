"""Tiny programs with known posteriors, fitted by the tests of the guides."""

import math

import pyro
import pyro.distributions as dist
import torch

from zoo.types import Data, ModelEntry, Quantity

FAST = {"steps": 450, "patience": 50, "anneal": 200, "num_particles": 32}


def entry(name, make, program, **fields):
    """Make a card whose quantities are the raw sites."""
    return ModelEntry(
        name=name,
        title=name,
        make_data=lambda seed: make(),
        build=lambda data: program,
        quantities={"first": Quantity(fn=lambda draws, data: next(iter(draws.values())))},
        reference="none",
        **fields,
    )


def gaussian(rho=0.9, d=2):
    """Return u ~ Normal(1, equicorrelated): the evidence is 1, its log 0."""
    cov = (1 - rho) * torch.eye(d, dtype=torch.float64) + rho
    factor = torch.linalg.cholesky(cov)

    def program(loc, index=None):
        pyro.sample("x", dist.MultivariateNormal(loc, scale_tril=factor))

    return (
        entry(
            "gaussian", lambda: Data(train={"loc": torch.ones(d, dtype=torch.float64)}), program
        ),
        cov,
    )


def skewed():
    """Gamma prior, Poisson data, two sites and a simplex; evidence in closed form.

    The log scale is skewed.
    """
    y = torch.tensor([3.0, 1.0, 4.0], dtype=torch.float64)

    def program(y, index=None):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("share", dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])))
        with pyro.plate("row", 3):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    total, n = float(y.sum()), len(y)
    evidence = (
        math.lgamma(2 + total)
        - (2 + total) * math.log(1 + n)
        - sum(math.lgamma(v + 1) for v in y.tolist())
    )
    return entry("skewed", lambda: Data(train={"y": y}), program), evidence


def mixture():
    """Two known components, unknown location of one; the class is enumerated."""
    y = torch.tensor([-2.1, -1.9, 1.5, 2.2, 2.4], dtype=torch.float64)

    def program(y, index=None):
        loc = pyro.sample("loc", dist.Normal(2.0, 1.0))
        with pyro.plate("row", 5):
            z = pyro.sample(
                "z", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"}
            )
            pyro.sample("y", dist.Normal(torch.where(z == 0, torch.tensor(-2.0), loc), 0.5), obs=y)

    def log_joint(loc):
        a = math.log(0.4) + torch.distributions.Normal(-2.0, 0.5).log_prob(y)
        b = math.log(0.6) + torch.distributions.Normal(loc[:, None], 0.5).log_prob(y)
        return torch.distributions.Normal(2.0, 1.0).log_prob(loc) + torch.logaddexp(
            a.expand_as(b), b
        ).sum(-1)

    return entry("mixture", lambda: Data(train={"y": y}), program), log_joint


def improper():
    """Flat prior on a location: the posterior is Normal(mean, 1/sqrt n)."""
    y = torch.tensor([1.0, 2.0, 4.0, 5.0], dtype=torch.float64)

    def program(y, index=None):
        loc = pyro.sample("loc", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("row", 4):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    return entry("improper", lambda: Data(train={"y": y}), program)


def intercepts(groups=12, rows=4):
    """Conjugate random intercepts with known scales: (mu, effect) has a normal posterior."""
    generator = torch.Generator().manual_seed(5)
    effect = 1.0 + torch.randn(groups, 1, generator=generator, dtype=torch.float64)
    y = effect + 0.5 * torch.randn(groups, rows, generator=generator, dtype=torch.float64)

    def program(y, index=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("group", groups, subsample=index):
            effect = pyro.sample("effect", dist.Normal(mu, 1.0))
            pyro.sample(
                "y",
                dist.Normal(effect.unsqueeze(-1), 0.5).expand([*effect.shape, rows]).to_event(1),
                obs=y,
            )

    precision = torch.zeros(groups + 1, groups + 1, dtype=torch.float64)
    precision[0, 0] = 1 / 9 + groups
    precision[0, 1:] = precision[1:, 0] = -1.0
    precision[1:, 1:] += torch.diag(torch.full((groups,), 1 + rows / 0.25, dtype=torch.float64))
    right = torch.cat([torch.zeros(1, dtype=torch.float64), y.sum(-1) / 0.25])
    mean = torch.linalg.solve(precision, right)
    card = entry(
        "intercepts",
        lambda: Data(train={"y": y}, batched=("y",), size=groups),
        program,
        amortize=lambda tensors: tensors["y"].mean(-1, keepdim=True),
    )
    return card, mean, precision
