"""Subjects of the audit: an entry with its evidence, and a guide with independent draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, TypeVar

import numpy as np
import torch
from pyro import poutine
from pyro.infer.autoguide.guides import AutoContinuous
from scipy.stats import t
from torch import Tensor

from benchmarks.arviz_bridge import pareto_k
from benchmarks.audit.estimators import Reported
from benchmarks.audit.quadrature import (
    LARGEST_DIM,
    Grid,
    QuadratureError,
    moments_of,
    whitened_grid,
)
from benchmarks.thresholds import pareto_threshold
from guides.base.flat import FlatGuide, Start
from guides.base.initialize import find_start
from guides.draws import point_sentence
from guides.session import session
from guides.types import Fit
from zoo.contract.draws import free_classes
from zoo.contract.subject import Failed, Skipped, Subject
from zoo.density.log_density import LogDensity
from zoo.errors import ZooError
from zoo.seeds import seeded
from zoo.types import ModelEntry, Posterior

__all__ = ["Audited", "Evidence", "GuideSubject", "Weights", "limit"]

T = TypeVar("T")
FALSE_ALARM = 1e-5  # per check, two-sided, shared by its comparisons
PROPOSALS = 40_000
DOUBTFUL, HEAVY = 0.1, 0.6  # fractions of the variance that 0.1 % of the draws may hold


def limit(degrees: int, comparisons: int = 1) -> float:
    """Return the threshold in standard errors for all comparisons of a check.

    A true equality exceeds it with probability 1e-5 in total.
    """
    return float(t.isf(FALSE_ALARM / (2 * comparisons), max(degrees, 5)))


def once(method: Callable[[Any], T]) -> cached_property[T]:
    """Cache a property, including a `Skipped` it raises."""

    @wraps(method)
    def made(self: Any) -> T:
        skipped = self.__dict__.setdefault("_skipped", {})
        if method.__name__ in skipped:
            raise Skipped(skipped[method.__name__])
        try:
            return method(self)
        except Skipped as reason:
            skipped[method.__name__] = str(reason)
            raise

    return cached_property(made)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A log evidence in nats with its error and source.

    `independent` says whether it does not use the program's own density.
    """

    value: float
    error: float
    route: str
    independent: bool


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Points `[n, dim]` drawn from q by the audit, with log p and log q `[n]` in nats."""

    u: Tensor
    log_p: Tensor
    log_q: Tensor

    @property
    def log_w(self) -> Tensor:
        """Log p - log q."""
        return self.log_p - self.log_q

    @property
    def elbo(self) -> float:
        """Mean log weight."""
        return float(self.log_w.mean())

    @property
    def sd(self) -> float:
        """Standard deviation of a log weight."""
        return float(self.log_w.std())

    @property
    def se(self) -> float:
        """Standard error of the ELBO."""
        return self.sd / math.sqrt(len(self.u))


class Audited(Subject):
    """An entry under audit, with the reported numbers about it."""

    def __init__(
        self, entry: ModelEntry, *, log_evidence: float | None, route: str, reported: Reported
    ) -> None:
        super().__init__(entry)
        self.given, self.route, self.reported = log_evidence, route, reported

    @once
    def start(self) -> Start:
        """A deterministic Gaussian approximation that centers grids and proposals."""
        if self.entry.learns:
            raise Skipped("The program's weights are trained first; there is no evidence before.")
        with session(self.entry.dtype):
            return find_start(self.density, torch.Generator().manual_seed(3))

    @once
    def proposals(self) -> tuple[Tensor, Tensor]:
        """Points from t distributions (4 degrees of freedom) around the start, with log weights.

        Some come from a wide normal.
        """
        density, start = self.density, self.start
        generator = torch.Generator().manual_seed(11)
        half, dim = (PROPOSALS if density.batch_function().vectorized else 4000) // 2, density.dim

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=density.dtype, generator=generator)

        spread = (normal(half, 4).square().mean(-1, keepdim=True)).rsqrt()
        near = start.loc + 1.2 * (spread * normal(half, dim)) @ start.tril.T
        wide_sd = 4.0
        u = torch.cat([near, wide_sd * normal(half, dim)]) if dim <= LARGEST_DIM else near
        z = torch.linalg.solve_triangular(start.tril, (u - start.loc).T, upper=False).T / 1.2
        log_det = float(start.tril.diagonal().log().sum()) + dim * math.log(1.2)
        log_q = _multivariate_t(z, 4.0) - log_det
        if dim <= LARGEST_DIM:
            wide = -0.5 * (u / wide_sd).square().sum(-1) - dim * (
                math.log(wide_sd) + 0.5 * math.log(2 * math.pi)
            )
            log_q = torch.logaddexp(log_q, wide) - math.log(2)
        with torch.no_grad():
            return u, torch.nan_to_num(density.batch(u), nan=-math.inf) - log_q

    @once
    def grid(self) -> Grid:
        """The posterior density on a grid, dim <= 3."""
        if self.density.dim > LARGEST_DIM:
            raise Skipped(
                f"Quadrature is for at most {LARGEST_DIM} dimensions, the program has"
                f" {self.density.dim}."
            )
        if self.density.dim > 1 and not self.density.batch_function().vectorized:
            raise Skipped(
                "The program evaluates its points one by one,"
                " too slow for a grid in more than one dimension."
            )
        u, log_w = self.proposals
        try:
            return whitened_grid(self.density.batch, *moments_of(u, (log_w - log_w.max()).exp()))
        except QuadratureError as error:
            raise Skipped(f"No quadrature: {error}.") from error

    @once
    def known(self) -> Evidence | None:
        """The log evidence independent of the program's density, None if unknown."""
        if self.given is not None:
            return Evidence(value=self.given, error=1e-6, route=self.route, independent=True)
        exact = self.entry.exact(self.data)
        if exact is None or exact.log_evidence is None:
            return None
        return Evidence(
            value=exact.log_evidence, error=1e-9, route="closed form", independent=True
        )

    @once
    def integrated(self) -> Evidence:
        """The integral of the program's density, by quadrature or importance sampling.

        Importance sampling must be certified by k-hat.
        """
        if self.density.dim <= LARGEST_DIM:
            return Evidence(
                value=self.grid.log_integral,
                error=self.grid.error,
                route="quadrature of the density",
                independent=False,
            )
        if self.free_classes > 1:
            raise Skipped(
                "Points around one numbering of free classes say nothing of the others; no k-hat"
                " shows what they miss."
            )
        return self.sampled

    @once
    def sampled(self) -> Evidence:
        """The integral by importance sampling around the start.

        With free classes it covers the numberings that the points reach.
        """
        log_w = self.proposals[1].double().numpy()
        k = pareto_k(log_w)[0]
        top = float(np.max(log_w))
        ratio = np.exp(log_w - top)
        se = float(ratio.std(ddof=1) / ratio.mean() / math.sqrt(len(ratio)))
        if not k <= min(0.5, pareto_threshold(len(log_w))) or se > 0.05:
            raise Skipped(
                f"Importance sampling is not certified in {self.density.dim} dimensions (k-hat"
                f" {k:.2f}, error {se:.2g} nats)."
            )
        route = f"importance sampling (k-hat {k:.2f})"
        return Evidence(
            value=top + math.log(float(ratio.mean())),
            error=limit(1000) * se,
            route=route,
            independent=False,
        )

    @once
    def evidence(self) -> Evidence:
        """The known evidence, else the integrated one."""
        return self.known or self.integrated

    @once
    def free_classes(self) -> int:
        """Number of classes that can be permuted without changing the density, at least 1."""
        return free_classes(self)

    @once
    def size(self) -> int:
        """Units of the minibatch plate."""
        if not self.data.batched or self.data.size is None or self.data.size < 2:
            raise Skipped("The entry has no minibatches.")
        return self.data.size

    def minibatch(self, index: Tensor) -> dict[str, Any]:
        """Return the program's keyword arguments for these units."""
        return {
            **self.data.train,
            **{k: self.data.train[k][index] for k in self.data.batched},
            "index": index,
        }


def _multivariate_t(z: Tensor, df: float) -> Tensor:
    dim = z.shape[-1]
    constant = (
        math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - 0.5 * dim * math.log(df * math.pi)
    )
    return constant - 0.5 * (df + dim) * torch.log1p(z.square().sum(-1) / df)


class GuideSubject:
    """One family on an audited entry; everything is computed once."""

    def __init__(self, audited: Audited, family: str) -> None:
        self.audited, self.family, self.reported = audited, family, audited.reported

    @once
    def fit(self) -> Fit:
        """A brief fit; checks of a family without a usable one are skipped with its reason."""
        try:
            fit = self.reported.fit(self.audited.entry, self.family)
        except ZooError as error:
            raise Skipped(f"There is no fit: {error}") from error
        if not fit.ok:
            raise Skipped(f"There is no usable guide ({fit.stop.status}): {fit.stop.sentence}")
        if fit.points:
            raise Skipped(f"There is no bound to audit. {point_sentence(fit.points)}")
        return fit

    @once
    def density(self) -> LogDensity:
        """The density of the fit's program, which may have been trained."""
        if not self.audited.entry.learns:
            return self.audited.density
        return LogDensity(self.fit.program, self.fit.data, dtype=self.fit.entry.dtype)

    @property
    def flat(self) -> bool:
        """Whether log q can be evaluated at any point of the flat vector."""
        return isinstance(self.fit.guide, FlatGuide | AutoContinuous)

    @once
    def draws_classes(self) -> bool:
        """Whether the guide draws discrete sites of the program."""
        if self.flat or not self.density.discrete:
            return False
        with torch.random.fork_rng(devices=[]), torch.no_grad(), poutine.block():
            nodes = poutine.trace(self.fit.guide).get_trace(**self.fit.data.train).nodes
        return any(name in nodes for name in self.density.discrete)

    def log_q(self, u: Tensor) -> Tensor:
        """Return log q at points `[n, dim]` from the guide's own density."""
        guide = self.fit.guide
        with torch.no_grad():
            if isinstance(guide, FlatGuide):
                return guide.log_prob_flat(u)
            assert isinstance(guide, AutoContinuous)
            return guide.get_posterior().log_prob(u)

    @once
    def own(self) -> Weights:
        """Draws of the audit itself.

        10,000 of a flat guide (1,000 for a slow program), 400 runs of a guide that is a Pyro
        program.
        """
        guide, density = self.fit.guide, self.density
        number = 10_000 if self.vectorized else 1000
        with session(self.fit.entry.dtype), torch.no_grad(), seeded(90210):
            if isinstance(guide, FlatGuide):
                u = guide.sample(torch.randn(number, guide.noise_dim, dtype=density.dtype))[0]
            elif isinstance(guide, AutoContinuous):
                u = guide.get_posterior().sample((number,))
            else:
                return self._runs(400)
            return Weights(u=u, log_p=density.batch(u), log_q=self.log_q(u))

    def _runs(self, n: int) -> Weights:
        """Run the guide, then the program at its values; log q is unconstrained."""
        points, ps, qs = [], [], []
        for _ in range(n):
            trace = poutine.trace(self.fit.guide).get_trace(**self.fit.data.train)
            u = self.density.unconstrain(
                {s.name: trace.nodes[s.name]["value"] for s in self.density.sites}
            )
            trace.compute_log_prob()
            log_q = sum(
                node["log_prob_sum"]
                for n, node in trace.nodes.items()
                if node["type"] == "sample" and n not in self.density.discrete
            )
            points.append(u)
            qs.append(log_q + self.audited.jacobian(u))
            ps.append(self.density.evaluate(u))
        return Weights(
            u=torch.stack(points),
            log_p=torch.stack(ps),
            log_q=torch.stack([torch.as_tensor(q) for q in qs]),
        )

    @once
    def inflation(self) -> float:
        """Factor on Monte Carlo errors of the ELBO, from the concentration of its variance.

        It depends on the fraction of the variance in the most extreme 0.1 % of the draws, which is
        1 to 3 % for a normal variable. A mean whose variance comes from a few draws has no
        reliable error.
        """
        squares = (self.own.log_w - self.own.log_w.mean()).square().sort().values
        share = float(
            squares[-max(1, len(squares) // 1000) :].sum() / squares.sum().clamp(min=1e-300)
        )
        if share > HEAVY and self.own.sd > 1e-6:
            raise Skipped(
                "The variance of this guide's log weights comes from 0.1 % of its draws"
                f" ({share:.0%}): no mean has an error."
            )
        return 1.0 if share < DOUBTFUL else 4.0

    @once
    def number(self) -> int:
        """Number of draws to request from the implementation."""
        return (4000 if self.vectorized else 1000) if self.flat else 200

    @property
    def vectorized(self) -> bool:
        """Whether the density evaluates many points at once; if not, fewer are used."""
        return self.density.batch_function().vectorized

    @once
    def posterior(self) -> Posterior:
        """Draws of the implementation under audit, with its log weights."""
        posterior = self.reported.draw(self.fit, self.number, 5)
        if posterior.unconstrained is None or posterior.log_weights is None:
            raise Failed(
                "The draws come without unconstrained points or log weights;"
                " both are needed to audit a bound."
            )
        return posterior
