"""Data types of benchmarks: scores, distances, comparisons, and inputs of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot, inf, isfinite, log, sqrt
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.thresholds import LOG_SD, MEAN
from benchmarks.verdicts import VerdictWord
from zoo.fields import Kind
from zoo.types import Posterior, Reference

if TYPE_CHECKING:
    import numpy as np

    from guides.types import Fit

__all__ = [
    "POSTERIOR",
    "CellStatus",
    "Comparison",
    "Correlations",
    "Distance",
    "Mcmc",
    "ParetoK",
    "PredictiveCheck",
    "Reason",
    "Score",
    "Trust",
    "base_of",
    "has_draws",
    "method_names",
    "reweighted_name",
]

REWEIGHTED = "_reweighted"
POSTERIOR = Kind(
    accepted="draws, from guides.draw(fit) or benchmarks.run_nuts(entry)",
    holds=lambda value: isinstance(value, Posterior),
)
CellStatus = Literal[
    "ok",
    "not_converged",
    "nan",
    "init_failed",
    "unusable",
    "timeout",
    "killed",
    "error",
    "refused",
]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Errors of one component of one quantity, in reference sds, with standard errors.

    `mean_error` = (mean - reference mean) / reference sd; `sd_ratio` = sd / reference sd (its
    standard error is that of log sd_ratio times sd_ratio; 0 for a point mass); `q05_error` etc.
    likewise in reference sds; `coverage90` is the fraction of reference draws inside the method's
    central 90 % interval; `wasserstein` is the 1-Wasserstein distance in reference sds.

    `aligned50` and `aligned90` are the coverages after the method's draws were given the mean and
    sd of the reference: errors of the shape alone. `tail_se` is the part of the standard error of
    log sd_ratio due to heavier-than-normal tails. `reference_mean` and `reference_sd` are in the
    quantity's own unit. `draws_needed` and `reference_draws_needed` are the (effective) draws each
    side needs before agreement can be claimed. `tail_index` is the larger one of both sides; with
    `by_quantiles` there is no variance to judge, and `mean_error` and `sd_ratio` are those of the
    median and of the interquartile range over 1.35, which is also the unit. `extra` holds the
    columns of metrics that are no fields here; files omit it if it is empty.
    """

    quantity: str
    index: tuple[int, ...]
    label: str
    mean_error: float
    mean_error_se: float
    sd_ratio: float
    sd_ratio_se: float
    wasserstein: float
    q05_error: float
    q50_error: float
    q95_error: float
    coverage50: float
    coverage90: float
    judged: bool = True
    coverage50_se: float = 0.0
    coverage90_se: float = 0.0
    aligned50: float = 0.5
    aligned90: float = 0.9
    tail_se: float = 0.0
    reference_mean: float = 0.0
    reference_sd: float = 1.0
    draws_needed: int = 0
    reference_draws_needed: int = 0
    tail_index: float = -inf
    by_quantiles: bool = False
    extra: Mapping[str, float] = field(default_factory=dict, metadata={"open": True})

    @property
    def center(self) -> str:
        """What `mean_error` is the error of."""
        return "median" if self.by_quantiles else "mean"

    @property
    def spread(self) -> str:
        """What `sd_ratio` is the ratio of."""
        return "interquartile range" if self.by_quantiles else "sd"

    @property
    def log_sd_ratio(self) -> float:
        """Log of `sd_ratio`; a large negative number, not minus infinity, for a point mass."""
        return log(max(self.sd_ratio, 1e-12))

    @property
    def log_sd_ratio_se(self) -> float:
        """Standard error of `log_sd_ratio`."""
        return self.sd_ratio_se / max(self.sd_ratio, 1e-12)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A joint distance over all judged components; `floor` is the one between reference chains."""

    name: str
    value: float
    se: float | None
    floor: float | None
    line: float | None = None


@dataclass(frozen=True, kw_only=True)
class ParetoK:
    """Pareto k-hat, its sample-size threshold, and the effect of reweighting.

    `reweighted` maps a component's label to (raw mean error, reweighted mean error) in reference
    sds, `reweighted_sd` to (raw sd ratio, reweighted sd ratio). Without a reference both are
    relative to the raw draws: (0, shift), (1, ratio).
    """

    value: float
    threshold: float
    draws: int
    importance_ess: float
    reweighted: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reweighted_sd: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def trusted(self) -> bool:
        """Whether the reweighted answer is usable: k-hat within its threshold.

        It says nothing about the raw draws.
        """
        return self.value <= self.threshold

    @property
    def se(self) -> float:
        """Standard error of k-hat over other draws of the same guide.

        (1 + k) / sqrt(M), that of the shape of a generalized Pareto distribution fitted to the M =
        min(S / 5, 3 sqrt(S)) largest of S weights, times M / (M + 10) for the prior of the
        estimate (Vehtari et al. 2024, appendix). It is NaN where k-hat is, and 0 for flat weights.
        """
        if self.value == 0.0:
            return 0.0
        tail = min(self.draws / 5, 3 * sqrt(self.draws))
        return max(1 + self.value, 0.0) / sqrt(tail) * tail / (tail + 10)

    @property
    def near(self) -> bool:
        """Whether other draws of the same guide may well fall on the other side of the line."""
        return abs(self.value - self.threshold) < self.se


@dataclass(frozen=True, kw_only=True)
class Mcmc:
    """Convergence of a set of chains over every judged component and the log density."""

    rhat_max: float | None
    ess_bulk_min: float | None
    ess_tail_min: float | None
    ebfmi_min: float | None
    divergences: int
    gates: Mapping[str, bool] = field(default_factory=dict)
    worst: str = ""

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return bool(self.gates) and all(self.gates.values())


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One finding behind a verdict: kind, component, excess over its threshold, sentence."""

    verdict: VerdictWord
    label: str
    excess: float
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """The pair of judged components whose correlation differs most from the reference's.

    `difference` is method minus reference; the threshold `line` = max(0.2, z se), where z grows
    with the number of `pairs`.
    """

    difference: float
    se: float
    line: float
    labels: tuple[str, str]
    method: float
    reference: float
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Trust:
    """One check without a reference: its name, whether it passed, and a sentence.

    `passed` is None if it could not be made.
    """

    name: str
    passed: bool | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All scores of one (entry, method, seed) against a reference, with a verdict.

    `elbo` has `value_nats`, `se`; `log_evidence` has `exact`, `bound_nats`, `bound_se`, `error`,
    and `estimate`, `estimate_se` where SMC estimated it; `heldout_lpd` has `nats_per_row`, `se`;
    `correlations` has the fields of `Correlations` or is empty. `trust` holds the checks that need
    no reference. `notes` say what could not be computed and why. `compared_with` names what the
    scores are errors from where that is not `reference`, because it does not hold.
    """

    posterior: Posterior
    reference: Reference
    scores: tuple[Score, ...]
    distances: tuple[Distance, ...]
    verdict: VerdictWord
    reasons: tuple[Reason, ...]
    sentence: str
    fit: Fit | None = None
    status: CellStatus = "ok"
    elbo: Mapping[str, float] | None = None
    log_evidence: Mapping[str, float | None] | None = None
    pareto_k: ParetoK | None = None
    heldout_lpd: Mapping[str, float] | None = None
    mcmc: Mcmc | None = None
    correlations: Mapping[str, Any] = field(default_factory=dict)
    trust: tuple[Trust, ...] = ()
    notes: tuple[str, ...] = ()
    compared_with: str = ""
    seconds: float = 0.0

    @property
    def method(self) -> str:
        """Name of the family, or `nuts`."""
        return self.posterior.method

    def __repr__(self) -> str:
        """Return the verdict and its sentence, without draws and scores."""
        return f"Comparison({self.posterior.entry.key}, {self.method}: {self.sentence})"

    @property
    def lost(self) -> tuple[float, float] | None:
        """KL(q, posterior) = log evidence - ELBO in nats, and its standard error.

        None where either is not known.
        """
        evidence, elbo = self.log_evidence or {}, self.elbo or {}
        value, error = evidence.get("exact"), 0.0
        if value is None:
            value, error = evidence.get("estimate"), evidence.get("estimate_se") or 0.0
        bound, se = elbo.get("value_nats"), elbo.get("se")
        if value is None or bound is None or se is None:
            return None
        if not (isfinite(bound) and isfinite(se)):
            return None
        return value - bound, hypot(se, error)

    def worst(self) -> Score | None:
        """The judged component with the largest error relative to its threshold.

        None without scores.
        """
        judged = [s for s in self.scores if s.judged]
        size = lambda s: max(abs(s.mean_error) / MEAN, abs(s.log_sd_ratio) / LOG_SD)  # noqa: E731
        return max(judged, key=size, default=None)


@dataclass(frozen=True, kw_only=True)
class PredictiveCheck:
    """Observed values `[n]` and replications per method, `[draw, n]`.

    They are drawn from each method's posterior predictive.
    """

    label: str
    observed: np.ndarray[Any, Any]
    replicated: Mapping[str, np.ndarray[Any, Any]]

    def __repr__(self) -> str:
        """Return the site and the methods that replicate it."""
        methods = ", ".join(self.replicated)
        return f"PredictiveCheck({self.label}: {self.observed.size} observed; {methods})"


def has_draws(posterior: Posterior) -> bool:
    """Return whether a method has draws; one that failed has none, or arrays of length 0."""
    return bool(posterior.draws) and min(posterior.sample_shape) > 0


def reweighted_name(family: str) -> str:
    """Return the method whose draws are those of a family, reweighted."""
    return f"{family}{REWEIGHTED}"


def base_of(method: str) -> str:
    """Return the family whose draws a method reweights; of another method its own name."""
    return method.removesuffix(REWEIGHTED)


def method_names(comparisons: Sequence[Comparison]) -> list[str]:
    """Name each comparison by its method, plus the seed if a method has several."""
    methods = [c.posterior.method for c in comparisons]
    return [
        m if methods.count(m) == 1 else f"{m} s{c.posterior.seed}"
        for m, c in zip(methods, comparisons, strict=True)
    ]
