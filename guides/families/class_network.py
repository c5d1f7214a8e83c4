"""A guide for mixtures with class probabilities from a network.

    q(u, c) = Normal(u; m, L L^T) prod_i Categorical(c_i; softmax(network(x_i)))

over the unconstrained parameters u and the class c_i of each row, trained on Pyro's
`TraceEnum_ELBO`. The network sees the row but not the parameters, so its bound is lower than that
of the same q(u) with classes summed out by exactly

    sum_i E_q(u) KL( q(c_i | x_i) || p(c_i | x_i, u) )      [nats],

the cost of amortizing the class, which `class_kl` returns per row. x_i is the row's encoder input
(the entry's `amortize` hook).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from guides.base.family import Family
from zoo.density.log_density import LogDensity, default_dtype
from zoo.errors import ProgramError
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILY", "ClassNetwork", "build", "class_kl"]

HIDDEN = 16
STARTS, STEPS = 8, 60  # of the search for an initial mode


def build(
    program: Program, data: Data, entry: ModelEntry, *, density: LogDensity | None = None
) -> nn.Module:
    """Build the guide of a program with one discrete site.

    Raises:
        ProgramError: the program has no discrete site or several, or the entry has no `amortize`
            hook.
    """
    density = density or LogDensity(program, data, dtype=entry.dtype)
    if len(density.discrete) != 1 or entry.amortize is None:
        raise ProgramError(
            f"{entry.name} has {len(density.discrete)} discrete sites and"
            f" {'no' if entry.amortize is None else 'an'} amortize hook; a class network needs one"
            " discrete site and amortize=lambda tensors: ... [row, feature]."
        )
    return ClassNetwork(density, entry.amortize)


class ClassNetwork(PyroModule):
    """The guide above, whitened around a mode of the density: u = m0 + L0 (a + T e)."""

    origin: Tensor
    tril: Tensor

    def __init__(
        self, density: LogDensity, features: Callable[[Mapping[str, Any]], Tensor]
    ) -> None:
        super().__init__()
        with default_dtype(density.dtype), poutine.block():
            nodes = poutine.trace(density.program).get_trace(**density.data.train).nodes
        (self.label,) = density.discrete
        self.__dict__["sites"] = density.sites
        self.__dict__["frames"] = {
            n: [f for f in nodes[n]["cond_indep_stack"] if f.vectorized]
            for n in (self.label, *_names(density))
        }
        self.__dict__["features"] = features
        x = torch.as_tensor(features(density.data.train), dtype=density.dtype)
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("sd", x.std(0).clamp(min=1e-12))
        loc, tril = _mode(density)
        self.register_buffer("origin", loc)
        self.register_buffer("tril", tril)
        self.shift = nn.Parameter(torch.zeros_like(loc))
        self.log_scale = nn.Parameter(torch.zeros_like(loc))
        self.lower = nn.Parameter(torch.zeros_like(tril))
        classes = len(nodes[self.label]["fn"].enumerate_support(expand=False))
        self.network = nn.Sequential(
            nn.Linear(x.shape[-1], HIDDEN, dtype=x.dtype),
            nn.Tanh(),
            nn.Linear(HIDDEN, HIDDEN, dtype=x.dtype),
            nn.Tanh(),
            nn.Linear(HIDDEN, classes, dtype=x.dtype),
        )

    def logits(self, tensors: Mapping[str, Any]) -> Tensor:
        """Return the network's class logits for the rows of these tensors, `[row, class]`."""
        x = torch.as_tensor(self.features(tensors), dtype=self.origin.dtype)
        scores: Tensor = self.network((x - self.mean) / self.sd)
        return scores

    def normal(self) -> dist.MultivariateNormal:
        """Return q(u)."""
        factor = self.tril @ (self.lower.tril(-1) + torch.diag(self.log_scale.exp()))
        return dist.MultivariateNormal(
            self.origin + self.tril @ self.shift, scale_tril=factor, validate_args=False
        )

    def draw_flat(self, n: int) -> tuple[Tensor, Tensor]:
        """Return n points `[n, dim]` and log q(u) `[n]` without classes, without a program run."""
        q = self.normal()
        u: Tensor = q.sample((n,))
        return u, q.log_prob(u)

    def forward(self, **tensors: Any) -> None:
        """Draw the parameters, then the class of each row."""
        u = pyro.sample("_u", self.normal(), infer={"is_auxiliary": True})
        frames = {frame.name: frame for stack in self.frames.values() for frame in stack}
        plates = {
            name: pyro.plate(name, frame.size, dim=frame.dim) for name, frame in frames.items()
        }
        for site in self.sites:
            raw = u[..., site.start : site.stop].reshape(u.shape[:-1] + site.unconstrained_shape)
            value = site.transform(raw)
            term = -site.transform.log_abs_det_jacobian(raw, value)
            if term.ndim > value.ndim - site.event_dim:
                term = term.flatten(value.ndim - site.event_dim).sum(-1)
            with ExitStack() as stack:
                for frame in self.frames[site.name]:
                    stack.enter_context(plates[frame.name])
                pyro.sample(site.name, dist.Delta(value, term, event_dim=site.event_dim))
        with ExitStack() as stack:
            for frame in self.frames[self.label]:
                stack.enter_context(plates[frame.name])
            pyro.sample(
                self.label,
                dist.Categorical(logits=self.logits(tensors)),
                infer={"enumerate": "parallel"},
            )


def _names(density: LogDensity) -> list[str]:
    return [s.name for s in density.sites]


def _mode(density: LogDensity) -> tuple[Tensor, Tensor]:
    """Return the mode of largest mass over random starts, with a Cholesky factor.

    The factor is that of the inverse negative Hessian, and the mass is Laplace's, log p + 1/2 log
    det of the covariance. The guide stays near its start, and the first mode that a search finds
    may be 69 nats below another one (`latent_class`).
    """
    found = [_search(density) for _ in range(STARTS)]
    best = max(found, key=lambda f: f[0])
    return best[1], best[2]


def _search(density: LogDensity) -> tuple[float, Tensor, Tensor]:
    """Search one mode; return Laplace's log evidence, the mode and a Cholesky factor.

    Eigenvalues are floored.
    """
    u = (0.5 * torch.randn(density.dim, dtype=density.dtype)).requires_grad_(True)
    search = torch.optim.LBFGS([u], lr=0.5, max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        value, gradient = density.eager_gradient(u)
        u.grad = -torch.nan_to_num(gradient)
        return -value

    search.step(loss)
    loc = torch.nan_to_num(u.detach())
    values, vectors = torch.linalg.eigh(-density.hessian(loc))
    covariance = (vectors / values.clamp(min=1.0)) @ vectors.T
    factor, failed = torch.linalg.cholesky_ex(covariance)
    factor = (
        factor
        if int(failed) == 0
        else torch.eye(density.dim, dtype=density.dtype) / math.sqrt(density.dim)
    )
    mass = float(density.eager_gradient(loc)[0]) + float(factor.diagonal().log().sum())
    return (mass if math.isfinite(mass) else -math.inf), loc, factor


def class_kl(guide: nn.Module, responsibilities: Tensor, data: Data) -> Tensor:
    """Return KL(q(c_i | x_i) || p(c_i | x_i, u)) per draw and row, `[*sample, row]`, in nats.

    Args:
        guide: a fitted `ClassNetwork`.
        responsibilities: exact class probabilities given each draw u of that guide, `[*sample,
            row, class]`, with its labels.
        data: the rows.
    """
    assert isinstance(guide, ClassNetwork)
    with torch.no_grad():
        log_q = guide.logits(data.train).log_softmax(-1)
    return (log_q.exp() * (log_q - responsibilities.clamp(min=1e-300).log())).sum(-1)


FAMILY = Family(
    name="class_network",
    q=(
        "one normal over the parameters, and class probabilities of each row from a network of the"
        " row alone"
    ),
    blind_spot="classes that depend on the parameters, skewness, a second mode",
    build=build,
    defaults={"num_particles": 4, "lr": 0.02},
    encoder=True,
)
