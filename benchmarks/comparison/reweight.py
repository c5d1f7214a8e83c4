"""A guide's draws, reweighted to the posterior: `reweight`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_t
from torch import Tensor

from benchmarks.arviz_bridge import pareto_k
from benchmarks.metrics.components import Array
from benchmarks.metrics.resample import capped_mass, inclusion, largest, systematic
from benchmarks.metrics.weights import importance_ess
from benchmarks.thresholds import IMPORTANCE_ESS, pareto_threshold
from benchmarks.types import ParetoK, reweighted_name
from guides.base.local import LocalGuide
from guides.draws import BLOCK, density_of, point_sentence, weighted_draws
from guides.session import session
from guides.types import FIT, Fit
from zoo.density.faults import program_faults
from zoo.errors import FitError
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
# k-hat from which weights have no variance. Rows with 0.59 to 0.69 had sds of 0.69 to 0.87 times
# those of the reference (one_comp_mm_elim_abs), and means in a wrong mode (lotka_volterra).
SAFE = 0.5
FREEDOM = 4.0  # degrees of the t distribution that is tried where q's weights have no variance
PER_DIMENSION = 20  # draws of a guide per coordinate, for their covariance
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

    Where the weights have no variance (k-hat above 1/2), as those of a normal guide whose tails
    are too light, a t distribution of 4 degrees of freedom with the mean and covariance of the
    guide's draws is tried in the same way, and used where its k-hat is smaller; `notes` say so.

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
            or rows for joint weights; k-hat is above its threshold (at most 0.5); or n is below
            200.
        UsageError: `draws` is not positive, or the seed no integer of at least 0.

    Sources: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling,
    JMLR 25(72); Madow (1949), On the theory of systematic sampling, II, Annals of Mathematical
    Statistics 20(3).
    """
    accepted("reweight", fit=(fit, FIT), draws=(draws, POSITIVE), seed=(seed, SEED))
    try:
        refuse_without_weights(fit)
        with session(fit.entry.dtype):
            return reweighted(fit, density_of(fit), draws=draws, seed=seed)
    except _Refused as error:
        raise FitError(f"{str(error)[:-1]}; {error.instead}.") from None


INSTEAD = "fit a richer family, or call benchmarks.repair(fit)"


class _Refused(FitError):
    """No weights, and what to do by one who has no other rows: those of a run know better."""

    def __init__(self, message: str, instead: str = INSTEAD) -> None:
        super().__init__(message)
        self.instead = instead


def refuse_without_weights(fit: Fit) -> None:
    """Refuse a fit that has no weights.

    Raises:
        FitError: with the reason.
    """
    named = f"{fit.family} on {fit.entry.key} cannot be reweighted"
    if not fit.ok:
        raise FitError(f"{named}: {fit.stop.sentence[:1].lower()}{fit.stop.sentence[1:]}")
    if fit.points:
        raise _Refused(
            f"{named}: {point_sentence(fit.points)}", "fit a family with a spread, such as laplace"
        )


def _refuse_many(fit: Fit, density: LogDensity, named: str) -> None:
    """Refuse a posterior with too many rows or coordinates for joint weights."""
    by_rows = isinstance(fit.guide, LocalGuide) or all(
        s.plate_axis is not None for s in density.sites
    )
    rows = fit.data.size or 0
    if by_rows and rows > ROWS:
        raise _Refused(
            f"{named}: its weights are products over {rows:,} rows (at most {ROWS}), so that a few"
            " draws have them all.",
            "benchmarks.repair(fit) and benchmarks.gap_report(fit) take rows one by one",
        )
    if density.dim > NUMBERS // FEWEST:
        raise _Refused(
            f"{named}: {density.dim:,} coordinates are too many for joint weights (at most"
            f" {NUMBERS // FEWEST:,})."
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
    stream, least = derive_seed(seed, fit.entry.key, fit.family, "reweight"), min(LEAST, draws)

    def own(n: int, block: int) -> tuple[Tensor, Tensor]:
        u, log_p, log_q = weighted_draws(fit.guide, density, n, block)
        return u, (log_p - log_q).double()

    u, found = _collect(own, draws, most, least, stream)
    whence, spent, tails = fit.family, found.drawn, ""
    wider = None if found.k is not None and found.k.trusted else _Wider.of(u, density)
    if wider is not None:
        other, better = _collect(wider.draw, draws, most, least, derive_seed(stream, "wider"))
        spent += better.drawn
        if better.beats(found, least):
            u, found = other, better
            whence = f"a t distribution with mean and covariance of {fit.family}"
        else:
            tails = f"; with the tails of a t distribution {better.words}"
    if why := found.refused(least):
        raise _Refused(f"{named}: {why}{tails}.")
    taken = torch.from_numpy(
        systematic(inclusion(found.weights, found.n), derive_seed(stream, "taken"))
    )
    posterior = _posterior(fit, density, u[taken], found, began, seed)
    return dataclasses.replace(posterior, notes=_notes(fit, found, len(taken), whence, spent))


Proposal = Callable[[int, int], tuple[Tensor, Tensor]]


def _collect(
    propose: Proposal, draws: int, most: int, least: int, stream: int
) -> tuple[Tensor, _Weights]:
    """Return draws of a proposal with their weights, as many as `draws` equal ones need."""
    blocks: list[tuple[Tensor, Tensor]] = []
    found = _Weights.of(np.empty(0), draws)
    while found.drawn < most and not found.enough(draws) and not found.hopeless(most, least):
        size = min(max(GROWTH * found.drawn, START * draws), most)
        block = derive_seed(stream, "block", found.drawn)
        blocks.append(propose(size - found.drawn, block))
        found = _Weights.of(torch.cat([w for _, w in blocks]).numpy(), draws)
    return torch.cat([u for u, _ in blocks]), found


@dataclass(frozen=True, kw_only=True)
class _Wider:
    """A t distribution with the mean and covariance of a guide's draws: tails that a normal lacks.

    log w = log p(u, data) - log t(u) is that of any importance sampling: mean and covariance need
    not be those of q exactly, and the draws that gave them are not used again.
    """

    density: LogDensity
    loc: Array
    shape: Array

    @classmethod
    def of(cls, u: Tensor, density: LogDensity) -> _Wider | None:
        """Return it, None where the draws are too few for their covariance or not finite."""
        if len(u) < PER_DIMENSION * density.dim or not bool(torch.isfinite(u).all()):
            return None
        shape = np.atleast_2d(np.cov(u.double().numpy(), rowvar=False))
        if not np.all(np.linalg.eigvalsh(shape) > 0):
            return None
        return cls(density=density, loc=u.double().mean(0).numpy(), shape=shape)

    def draw(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return n points `[n, dim]` and their log weights `[n]` in nats."""
        law = multivariate_t(self.loc, self.shape, df=FREEDOM)
        u = law.rvs(n, random_state=np.random.default_rng(seed)).reshape(n, -1)
        points = torch.as_tensor(u, dtype=self.density.dtype)
        with torch.no_grad():
            rows = max(1, BLOCK // self.density.dim)
            log_p = torch.cat([self.density.batch(part) for part in points.split(rows)])
        log_q = torch.as_tensor(law.logpdf(points.double().numpy())).reshape(-1)
        return points, log_p.double() - log_q


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
        line = min(pareto_threshold(size), SAFE)
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

    @property
    def words(self) -> str:
        """k-hat, or that there is none."""
        assert self.k is not None
        return "weights are not finite" if np.isnan(self.k.value) else _k(self.k)

    def beats(self, other: _Weights, least: int) -> bool:
        """Whether these weights are used and have lighter tails, or the other ones are refused."""
        if self.refused(least):
            return False
        assert self.k is not None
        assert other.k is not None
        return bool(other.refused(least)) or self.k.value < other.k.value

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
    )


def _notes(fit: Fit, found: _Weights, number: int, whence: str, spent: int) -> tuple[str, ...]:
    k, capped = found.k, capped_mass(found.weights, found.n)
    assert k is not None
    return (
        f"{number:,} of {found.drawn:,} draws of {whence}, each at most once, by Pareto-smoothed"
        f" weights: {_k(k)}, importance ESS {k.importance_ess:,.0f}, {capped:.2%} of the mass"
        " capped.",
        f"The cost is that of the fit, and in its seconds {spent:,} evaluations of the density"
        " without gradients.",
        f"The weights know only where {fit.family} has been; a mode that it misses is missing"
        " here too.",
    )


def _k(k: ParetoK | None) -> str:
    assert k is not None
    return f"k-hat {k.value:.2f}"
