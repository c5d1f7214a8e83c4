"""A guide's draws, reweighted to the posterior: `reweight`."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from benchmarks.arviz_bridge import pareto_k
from benchmarks.metrics.components import Array
from benchmarks.metrics.resample import capped_mass, inclusion, largest, systematic
from benchmarks.metrics.weights import importance_ess
from benchmarks.thresholds import IMPORTANCE_ESS, pareto_threshold
from benchmarks.types import ParetoK, reweighted_name
from guides.base.local import LocalGuide
from guides.draws import density_of, point_sentence, weighted_draws
from guides.session import session
from guides.types import FIT, Fit
from zoo.density.faults import program_faults
from zoo.errors import FitError, spelled
from zoo.fields import POSITIVE, SEED, accepted
from zoo.seeds import derive_seed
from zoo.types import Posterior

if TYPE_CHECKING:
    from zoo.density.log_density import LogDensity

__all__ = ["DRAWS", "LEAST", "START", "refuse_without_weights", "reweight", "reweighted"]

DRAWS = 4000
START, GROWTH, MOST = 4, 4, 64  # draws of the guide per draw wanted: first, from then on, at most
LEAST = IMPORTANCE_ESS // 2  # draws; with 200 a mean has an error of 0.07 sds, a sd one of 5 %
CAPPED = 0.01  # mass; 3 sds away it moves a mean by 0.03 sds
NUMBERS = 20_000_000  # coordinates of all draws of a guide, 160 MB
FEWEST = 4000  # draws of a guide that must fit, one in ten of which is effective
# rows of a posterior that is their product; if each loses 0.2 nats, one draw in 600 is effective
ROWS = 16
NOISE = 2.0  # standard errors of k-hat beyond which more draws do not bring it below its line


@program_faults("run with draws of a guide")
def reweight(fit: Fit, *, draws: int = DRAWS, seed: int = 0) -> Posterior:
    """Return equal draws of the posterior, chosen among a guide's by their importance weights.

    S draws u of the guide have the weights log w = log p(u, data) - log q(u) in nats, both over
    the unconstrained vector. These are Pareto-smoothed, and n draws are taken without replacement,
    draw i with probability min(1, c w_i) (`benchmarks.metrics.resample`). n is the largest number
    up to `draws` for which the mass of draws that this bound caps is at most 1 %, and which is at
    most half of the importance effective sample size 1 / sum w^2. S is 4 `draws` at first, and
    grows fourfold, up to 64 `draws`, until n is `draws`.

    The weights know only where the guide has been: a mode that it misses is missing after
    reweighting too, and k-hat does not show it.

    Args:
        fit: a usable fit with a spread, converged or not; weights that a program has learned are
            held fixed.
        draws: n wanted.
        seed: of all noise.

    Returns:
        Draws of the method `<family>_reweighted`, without weights. `stats` has `k_hat`,
        `importance_ess` (draws), `guide_draws` (S) and `capped_mass`, the same for every draw.
        `cost` begins with that of the fit; `notes` say what was evaluated beyond it.

    Raises:
        FitError: the fit has no usable guide or is a point; the posterior has too many coordinates
            or rows for joint weights; k-hat is above its threshold (at most 0.7); or n is below
            200.
        UsageError: `draws` is not positive, or the seed no integer of at least 0.

    Sources: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling,
    JMLR 25(72); Madow (1949), On the theory of systematic sampling, II, Annals of Mathematical
    Statistics 20(3).
    """
    accepted("reweight", fit=(fit, FIT), draws=(draws, POSITIVE), seed=(seed, SEED))
    refuse_without_weights(fit)
    with session(fit.entry.dtype):
        return reweighted(fit, density_of(fit), draws=draws, seed=seed)


def refuse_without_weights(fit: Fit) -> None:
    """Refuse a fit that has no weights.

    Raises:
        FitError: with the reason.
    """
    named = f"{fit.family} on {fit.entry.key} cannot be reweighted"
    if not fit.ok:
        raise FitError(f"{named}: {fit.stop.sentence[:1].lower()}{fit.stop.sentence[1:]}")
    if fit.points:
        raise FitError(
            f"{named}: {point_sentence(fit.points)[:-1]}; fit a family with a spread, such as"
            " laplace."
        )


def _refuse_many(fit: Fit, density: LogDensity, named: str) -> None:
    """Refuse a posterior with too many rows or coordinates for joint weights."""
    by_rows = isinstance(fit.guide, LocalGuide) or all(
        s.plate_axis is not None for s in density.sites
    )
    rows = fit.data.size or 0
    if by_rows and rows > ROWS:
        raise FitError(
            f"{named}: its weights are products over {rows:,} rows (at most {ROWS}), so that a few"
            " draws have them all; benchmarks.repair(fit) and benchmarks.gap_report(fit) take rows"
            " one by one."
        )
    if density.dim > NUMBERS // FEWEST:
        raise FitError(
            f"{named}: {density.dim:,} coordinates are too many for joint weights (at most"
            f" {NUMBERS // FEWEST:,}); {_instead()}."
        )


def reweighted(fit: Fit, density: LogDensity, *, draws: int, seed: int) -> Posterior:
    """Return `reweight` of a fit that has weights; must be called inside a session.

    Args:
        fit: a usable fit with a spread.
        density: the log density of its posterior, compiled or not.
        draws: n wanted.
        seed: of all noise.

    Raises:
        FitError: too many coordinates, or weights that a few draws have.
    """
    began, named = time.perf_counter(), f"{fit.family} on {fit.entry.key} cannot be reweighted"
    most = min(MOST * draws, NUMBERS // density.dim)
    _refuse_many(fit, density, named)
    stream = derive_seed(seed, fit.entry.key, fit.family, "reweight")
    u, log_weights = torch.empty(0, density.dim, dtype=density.dtype), torch.empty(0)
    found, least = _Weights.of(np.empty(0), draws), min(LEAST, draws)
    while found.drawn < most and not found.enough(draws) and not found.hopeless(most, least):
        size = min(max(GROWTH * found.drawn, START * draws), most)
        block = derive_seed(stream, "block", found.drawn)
        more, log_p, log_q = weighted_draws(fit.guide, density, size - found.drawn, block)
        u, log_weights = torch.cat([u, more]), torch.cat([log_weights, (log_p - log_q).double()])
        found = _Weights.of(log_weights.numpy(), draws)
    if why := found.refused(least):
        raise FitError(f"{named}: {why}; {_instead()}.")
    taken = torch.from_numpy(
        systematic(inclusion(found.weights, found.n), derive_seed(stream, "taken"))
    )
    return _posterior(fit, density, u[taken], found, began, seed)


def _instead() -> str:
    tool = spelled("call benchmarks.repair(fit)", "add a row of tempered SMC by --repair")
    return f"fit a richer family, or {tool}"


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Smoothed weights of draws, and how many equal draws they allow.

    Attributes:
        weights: normalized, `[draw]`.
        k: k-hat with its threshold and the importance ESS; None before the first draw.
        n: draws without replacement.
    """

    weights: Array
    k: ParetoK | None
    n: int

    @classmethod
    def of(cls, log_weights: Array, wanted: int) -> _Weights:
        """Smooth weights and choose n."""
        size = len(log_weights)
        if not size:
            return cls(weights=log_weights, k=None, n=0)
        value, smoothed = pareto_k(log_weights)
        line = pareto_threshold(size)
        if np.isnan(value):
            none = ParetoK(value=value, threshold=line, draws=size, importance_ess=0.0)
            return cls(weights=np.zeros(size), k=none, n=0)
        ess = importance_ess(smoothed)
        weights = np.exp(smoothed - logsumexp(smoothed))
        k = ParetoK(value=value, threshold=line, draws=size, importance_ess=ess)
        return cls(weights=weights, k=k, n=largest(weights, min(wanted, int(ess / 2)), CAPPED))

    @property
    def drawn(self) -> int:
        """Draws of the guide."""
        return len(self.weights)

    def enough(self, wanted: int) -> bool:
        """Whether no further draws of the guide are needed."""
        return self.k is not None and self.k.trusted and self.n >= wanted

    def hopeless(self, most: int, least: int) -> bool:
        """Whether even the most draws of the guide would be refused.

        Of S weights with tail index k above 1/2 the largest is about S^k, and 1 / sum w^2 of the
        order S^(2 - 2k); below 1/2 it is proportional to S. A factor of 2 is allowed for noise.
        """
        if self.k is None:
            return False
        k, se = self.k.value, self.k.se
        if not k <= self.k.threshold + NOISE * se:
            return True
        power = min(1.0, 2.0 * (1.0 - k + se))
        return 2.0 * self.n * (most / self.drawn) ** power < least

    def refused(self, least: int) -> str:
        """Return why these weights are not used, empty if they are."""
        assert self.k is not None
        if np.isnan(self.k.value):
            return f"weights of its {self.drawn:,} draws are not finite"
        if self.k.trusted and self.n >= least:
            return ""
        k, line = self.k.value, self.k.threshold
        digits = 2 if abs(k - line) > 0.005 else 4  # else both look equal
        return (
            f"k-hat {k:.{digits}f} (at most {line:.2f}), and of {self.drawn:,} draws, worth"
            f" {self.k.importance_ess:,.0f}, {self.n:,} are left (at least {least:,})"
        )


def _posterior(
    fit: Fit, density: LogDensity, u: Tensor, found: _Weights, began: float, seed: int
) -> Posterior:
    k, capped = found.k, capped_mass(found.weights, found.n)
    assert k is not None
    with torch.no_grad():
        sites = density.constrain(u)
    figures = {
        "k_hat": k.value,
        "importance_ess": k.importance_ess,
        "guide_draws": found.drawn,
        "capped_mass": capped,
    }
    stats = {
        name: torch.full((len(u),), float(x), dtype=torch.float64) for name, x in figures.items()
    }
    return Posterior(
        entry=fit.entry,
        data=fit.data,
        method=reweighted_name(fit.family),
        draws=sites,
        sample_dims=("sample",),
        unconstrained=u,
        stats=stats,
        cost=dataclasses.replace(fit.cost, seconds=fit.cost.seconds + time.perf_counter() - began),
        seed=seed,
        notes=(
            f"{len(u):,} of {found.drawn:,} draws of {fit.family}, each at most once, by"
            f" Pareto-smoothed weights: k-hat {k.value:.2f}, importance ESS"
            f" {k.importance_ess:,.0f}, {capped:.2%} of the mass capped.",
            f"The cost is that of the fit, and in its seconds {found.drawn:,} evaluations of the"
            " density without gradients.",
            f"The weights know only where {fit.family} has been; a mode that it misses is missing"
            " here too.",
        ),
    )
