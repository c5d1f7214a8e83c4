"""Small programs that together use every kind of site the tracer must handle."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from zoo.types import Data


def _rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hierarchy(y, s):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, s), obs=y)


def mixture(y):
    w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
    mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 3.0).to_event(1))
    sd = pyro.sample("sd", dist.LogNormal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("y", dist.Normal(mu[z], sd[z]), obs=y)


def correlation(x):
    sd = pyro.sample("sd", dist.LogNormal(torch.zeros(3), 1.0).to_event(1))
    root = pyro.sample("root", dist.LKJCholesky(3, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample(
            "x", dist.MultivariateNormal(torch.zeros(3), scale_tril=sd[:, None] * root), obs=x
        )


def counts(k):
    p = pyro.sample("p", dist.Dirichlet(2.0 * torch.ones(4)))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    with pyro.plate("row", len(k)):
        pyro.sample("k", dist.Multinomial(10, p, validate_args=False), obs=k)
        pyro.sample("total", dist.Poisson(rate * share), obs=k[:, 0].double())


def process(x, y):
    length = pyro.sample("length", dist.InverseGamma(3.0, 1.0))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    kernel = torch.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + (noise**2 + 1e-6) * torch.eye(
        len(x)
    )
    pyro.sample(
        "y",
        dist.MultivariateNormal(torch.zeros(len(x)), scale_tril=torch.linalg.cholesky(kernel)),
        obs=y,
    )


def minibatch(x, y, index=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 60, subsample=index):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a * x + b, 0.5), obs=y)


class Network(PyroModule):
    """A program with weights of its own, held fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        with torch.no_grad():
            for i, p in enumerate(self.net.parameters()):
                p.copy_(_rows(p.numel(), i).reshape(p.shape))

    def forward(self, y):
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(self.net(z), 0.5).to_event(1), obs=y)


def flat_scale(y):
    level = pyro.sample("level", dist.ImproperUniform(dist.constraints.real, (), ()))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.StudentT(4.0, level, scale), obs=y)


def baked(y):
    """Wrong on purpose: the latent leaves torch, so a trace keeps its value at that point."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    frozen = torch.from_numpy(shift.detach().numpy().copy())
    pyro.sample("y", dist.Normal(mu + frozen, 1.0).expand(y.shape).to_event(1), obs=y)


def branching(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    scale = 1.0 if mu > 0 else 2.0
    pyro.sample("y", dist.Normal(mu, scale).expand(y.shape).to_event(1), obs=y)


def _multinomial() -> torch.Tensor:
    return torch.tensor(
        [[1, 2, 3, 4], [4, 3, 2, 1], [0, 0, 5, 5], [2, 2, 3, 3]], dtype=torch.float64
    )


def cases() -> dict[str, tuple[object, Data]]:
    """Return name -> (program, data)."""
    schools = {
        "y": torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]).double(),
        "s": torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18]).double(),
    }
    pairs = {"x": _rows(60), "y": _rows(60, 1)}
    with pyro.settings.context(module_local_params=True):
        network = Network()
    return {
        "hierarchy": (hierarchy, Data(train=schools)),
        "mixture": (mixture, Data(train={"y": _rows(40)})),
        "correlation": (correlation, Data(train={"x": _rows(36).reshape(12, 3)})),
        "counts": (counts, Data(train={"k": _multinomial()})),
        "process": (process, Data(train={"x": torch.linspace(0, 2, 8).double(), "y": _rows(8)})),
        "minibatch": (minibatch, Data(train=pairs, batched=("x", "y"), size=60)),
        "network": (network, Data(train={"y": _rows(15).reshape(5, 3)})),
        "flat_scale": (flat_scale, Data(train={"y": _rows(9)})),
    }
