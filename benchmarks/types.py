"""The nouns of the benchmarks room: scores, distances, a comparison with its verdict, and the cell on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from zoo.types import Posterior, Reference

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["CellStatus", "Comparison", "Distance", "Mcmc", "ParetoK", "Reason", "Score", "Verdict"]

Verdict = Literal[
    "agrees", "shifted", "too_narrow", "too_wide", "wrong_shape", "inconclusive",
    "reference_unusable", "no_reference", "fit_failed",
]  # fmt: skip
CellStatus = Literal["ok", "not_converged", "nan", "init_failed", "unusable", "timeout", "killed", "error"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One component of one quantity: errors in reference standard deviations, each with its standard error.

    `mean_error` = (mean - reference mean) / reference sd; `sd_ratio` = sd / reference sd (its standard error is that
    of log sd_ratio times sd_ratio); `q05_error` etc. likewise in reference sds; `coverage90` is the share of reference
    draws inside the method's central 90 % interval; `wasserstein` is the 1-Wasserstein distance in reference sds.
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


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A distance between all judged components jointly; `floor` is the same distance between reference chains."""

    name: str
    value: float
    se: float | None
    floor: float | None
    line: float | None = None


@dataclass(frozen=True, kw_only=True)
class ParetoK:
    """Pareto k-hat of the importance weights, its sample-size threshold, and what reweighting would change.

    `reweighted` maps a component's label to (raw mean error, reweighted mean error) in reference sds.
    """

    value: float
    threshold: float
    draws: int
    importance_ess: float
    reweighted: Mapping[str, tuple[float, float]] = field(default_factory=dict)


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
    """One finding behind a verdict: which, where, by how much over its threshold (excess), and a sentence."""

    verdict: Verdict
    label: str
    excess: float
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All scores of one (entry, method, seed) against a reference, with the verdict and its reasons."""

    posterior: Posterior
    reference: Reference
    scores: tuple[Score, ...]
    distances: tuple[Distance, ...]
    verdict: Verdict
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

    def worst(self) -> Score | None:
        """The judged component with the largest error relative to its threshold, None without scores."""
        from math import log

        judged = [s for s in self.scores if s.judged]
        size = lambda s: max(abs(s.mean_error) / 0.15, abs(log(max(s.sd_ratio, 1e-12))) / log(1.15))  # noqa: E731
        return max(judged, key=size, default=None)
