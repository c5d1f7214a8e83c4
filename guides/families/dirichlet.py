"""Dirichlet: the classical approximation of topic models by independent Dirichlets.

    q = prod_k Dirichlet(topic_k; lambda_k) prod_d Dirichlet(mixture_d; gamma_d)

It cannot represent any dependence between topics and mixtures, nor the K! labelings: it covers one
of them. It is found by coordinate ascent (`guides.base.cavi_lda`), in closed form and without
gradients; on small corpora (up to 200 dimensions) L-BFGS then raises the evidence lower bound of
the program itself, in which the topic of every token is summed out. That bound is at least the
classical one, since q need not approximate the tokens' topics; it is reported as the ELBO.

Draws are made from standard normal noise by inverting gamma distribution functions. In
stick-breaking coordinates v_i = p_i / sum_{j >= i} p_j a Dirichlet(a) consists of independent
Beta(a_i, sum_{j > i} a_j), which gives log q without any clipping.
Source: Blei, Ng and Jordan (2003), JMLR 3, 993-1022; Figurnov, Mohamed and Mnih (2018), NeurIPS 31
(the gradient of the draws).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.optimize
import torch
from scipy.special import gammaincinv
from torch import Tensor, nn

from guides.base.cavi_lda import Ascent, ascend, log_means
from guides.base.family import Family
from guides.base.flat import FlatGuide
from guides.base.sticks import later, offset
from guides.types import Stop
from zoo.compiler.torch_private import standard_gamma_gradient
from zoo.contract.subject import base
from zoo.density.log_density import LogDensity, Site, default_dtype
from zoo.errors import FitError
from zoo.models.topics._topics import counts_of
from zoo.types import Data, ModelEntry, Program

REFINED_DIM, REFINED_PAIRS, REFINED_EVALUATIONS = 200, 64, 300

__all__ = ["FAMILY", "DirichletGuide", "build", "priors", "solve"]


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    starts: int = 20,
    refine: bool = True,
) -> nn.Module:
    """Build the guide at its prior.

    Args:
        program: a topic program: sites `topic` `[topic, word]` and `mixture` `[document, topic]`
            with Dirichlet priors.
        data: what it is conditioned on.
        entry: its card.
        density: the program's log density, if it exists already.
        starts: random starts of the coordinate ascent.
        refine: raise the program's own bound afterwards if the corpus is small.

    Raises:
        FitError: the program has other sites.
    """
    density = density or LogDensity(program, data, dtype=entry.dtype)
    return DirichletGuide(density, starts=starts, refine=refine)


def priors(density: LogDensity) -> dict[str, Tensor]:
    """Return the prior concentrations of `topic` and `mixture`.

    Raises:
        FitError: the program is no topic program.
    """
    with default_dtype(density.dtype):
        trace = density.trace(
            density.constrain(torch.zeros(density.dim, dtype=density.dtype)), density.data.train
        )
    names = {s.name for s in density.sites}
    found = {
        n: getattr(base(trace.nodes[n]["fn"]), "concentration", None)
        for n in ("topic", "mixture")
        if n in names
    }
    if names != {"topic", "mixture"} or any(c is None for c in found.values()):
        raise FitError(
            "The family 'dirichlet' needs a topic program with the Dirichlet sites 'topic' and"
            f" 'mixture'; this one has {sorted(names)}."
        )
    return {n: c.detach().clone() for n, c in found.items() if c is not None}


def solve(guide: nn.Module, density: LogDensity, generator: torch.Generator) -> tuple[Stop, int]:
    """Run coordinate ascent, then L-BFGS on small corpora; return the stop and the gradients."""
    assert isinstance(guide, DirichletGuide)
    prior = priors(density)
    counts = counts_of(density.data.train, prior["topic"].shape[-1]).to(density.dtype)
    best: Ascent = ascend(counts, prior["topic"], prior["mixture"], generator, starts=guide.starts)
    with torch.no_grad():
        guide.log_topic.copy_(best.topics.log())
        guide.log_mixture.copy_(best.mixtures.log())
    said = (
        f"Coordinate ascent: classical bound {best.bound:.6g} nats (words in order),"
        f" {best.agreeing} of 3 best starts within 0.5 nats"
    )
    spent = 0
    if guide.refine and density.dim <= REFINED_DIM:
        gain, spent = guide.raise_bound(density, generator)
        said += f"; then L-BFGS raised the bound of the program by {gain:.3g} nats"
    stop = Stop(
        status="ok" if best.converged else "not_converged",
        step=best.passes,
        sentence=f"{said}; {best.passes} passes in all.",
    )
    return stop, spent


class DirichletGuide(FlatGuide):
    """The guide above over the flat vector of a topic program's log density."""

    def __init__(self, density: LogDensity, *, starts: int, refine: bool) -> None:
        super().__init__()
        prior = priors(density)
        self.sites: tuple[Site, ...] = tuple(density.sites)
        self.dim, self.starts, self.refine = density.dim, starts, refine
        self.noise_dim = 2 * sum(c.numel() for c in prior.values())
        self.log_topic = nn.Parameter(prior["topic"].log())
        self.log_mixture = nn.Parameter(prior["mixture"].log())

    def concentration(self, name: str) -> Tensor:
        """Return the concentrations of a site, `[row, category]`."""
        return (self.log_topic if name == "topic" else self.log_mixture).exp()

    def sample(
        self, noise: Tensor, *, index: Tensor | None = None, stl: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map noise `[n, noise_dim]` to points and their log q; all documents are always drawn."""
        parts, start = [], 0
        for s in self.sites:
            a = self.concentration(s.name)
            one, two = (
                noise[:, start + i * a.numel() : start + (i + 1) * a.numel()].reshape(-1, *a.shape)
                for i in (0, 1)
            )
            start += 2 * a.numel()
            parts.append(_sticks(log_gamma(a.expand_as(one), one, two)).flatten(1))
        u = torch.cat(parts, -1)
        return u, self._log_q(
            u,
            {
                s.name: self.concentration(s.name).detach() if stl else self.concentration(s.name)
                for s in self.sites
            },
        )

    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` at points `[n, dim]`."""
        return self._log_q(u, {s.name: self.concentration(s.name) for s in self.sites})

    def _log_q(self, u: Tensor, concentrations: dict[str, Tensor]) -> Tensor:
        total = u.new_zeros(len(u))
        for s in self.sites:
            a = concentrations[s.name]
            first, rest = a[:, :-1], later(a)
            t = u[:, s.start : s.stop].reshape(-1, *first.shape) - offset(a)
            normal = (first + rest).lgamma() - first.lgamma() - rest.lgamma()
            log = nn.functional.logsigmoid
            total = total + (first * log(t) + rest * log(-t) + normal).flatten(1).sum(1)
        return total

    def entropy(self) -> Tensor:
        """Return -E log q over the flat vector in nats."""
        total = torch.zeros((), dtype=self.log_topic.dtype)
        for s in self.sites:
            a = self.concentration(s.name)
            first, rest = a[:, :-1], later(a)
            pair = torch.stack([first, rest], -1)
            normal = (first + rest).lgamma() - first.lgamma() - rest.lgamma()
            total = total - (normal + (pair * log_means(pair)).sum(-1)).sum()
        return total

    def raise_bound(self, density: LogDensity, generator: torch.Generator) -> tuple[float, int]:
        """Maximize the ELBO at fixed noise by L-BFGS.

        Returns:
            The gain in nats on independent noise, and the number of gradients.
        """
        function, calls = density.batch_function(), 0
        half = torch.randn(
            2, REFINED_PAIRS, self.noise_dim, dtype=density.dtype, generator=generator
        )
        noise, other = (torch.cat([h, -h]) for h in half)
        parameters = [self.log_topic, self.log_mixture]

        def value(z: Tensor) -> Tensor:
            return function(self.sample(z)[0]).mean() + self.entropy()

        def write(x: np.ndarray[Any, Any]) -> None:
            with torch.no_grad():
                nn.utils.vector_to_parameters(torch.as_tensor(x, dtype=density.dtype), parameters)

        def objective(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
            nonlocal calls
            calls += 1
            write(x)
            with torch.enable_grad():
                loss = -value(noise)
                gradients = torch.autograd.grad(loss, parameters)
            return float(loss.detach()), torch.cat([g.reshape(-1) for g in gradients]).numpy()

        first = nn.utils.parameters_to_vector(parameters).detach().numpy()
        with torch.no_grad():
            before = float(value(other))
        bounds = [(-4.0, 12.0)] * len(first)
        result = scipy.optimize.minimize(
            objective,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxfun": REFINED_EVALUATIONS},
        )
        write(result.x)
        with torch.no_grad():
            gain = float(value(other)) - before
        if not gain > 0:
            write(first)
        return max(gain, 0.0), 2 * REFINED_PAIRS * calls


class _LogGamma(torch.autograd.Function):
    """log g with g ~ Gamma(a) from two standard normals, differentiable in a.

    log g = log Ginv(a + 1, ndtr(z1)) + log(ndtr(z2)) / a
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        """Return log g."""
        uniform = torch.special.ndtr(z1).numpy()
        boosted = torch.as_tensor(gammaincinv((a + 1).numpy(), uniform)).clamp(
            min=torch.finfo(a.dtype).tiny
        )
        log_uniform = torch.special.log_ndtr(z2)
        ctx.save_for_backward(a, boosted, log_uniform)
        return boosted.log() + log_uniform / a

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient in a, by implicit differentiation of the distribution function."""
        a, boosted, log_uniform = ctx.saved_tensors
        slope = standard_gamma_gradient(a + 1, boosted) / boosted - log_uniform / a.square()
        return grad * slope, None, None


def log_gamma(a: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Return the logs of Gamma(a) variables from standard normals of the same shape."""
    return _LogGamma.apply(a, z1, z2)


def _sticks(log_weights: Tensor) -> Tensor:
    """Return the flat stick-breaking coordinates of normalized weights, along the last axis."""
    later = log_weights.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
    return log_weights[..., :-1] - later + offset(log_weights)


FAMILY = Family(
    name="dirichlet",
    q="independent Dirichlet distributions of topics and document mixtures, by coordinate ascent",
    blind_spot="one labeling of the topics, no dependence",
    build=build,
    options=("starts", "refine"),
    solve=solve,
)
