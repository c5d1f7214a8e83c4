"""Records of an assessment: the verdict on a fit without a reference, and the nats it loses."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.mcmc.islands import LogEvidence
from benchmarks.metrics.numbers import value_with_error
from benchmarks.trust.climbs import Climbs
from benchmarks.trust.drift import Drift
from benchmarks.trust.estimate import LOG_Z, Estimate, evidence_of
from benchmarks.types import Comparison, Reason, Trust
from benchmarks.verdicts import VerdictWord, verdict_of
from zoo.types import Posterior, Reference

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["Assessment", "Nats"]


@dataclass(frozen=True, kw_only=True)
class Nats:
    """KL(q, posterior) = log Z - ELBO, in nats.

    Attributes:
        value: the difference, which noise may make negative.
        se: its standard error, from both sides.
        bound: it is a lower bound only: log Z lacks the mass of a mode, or is not known.
    """

    value: float
    se: float
    bound: bool = False

    @property
    def sentence(self) -> str:
        """`0.30 +- 0.05 nats below the log evidence`."""
        shown = value_with_error(max(self.value, 0.0), self.se)
        return f"{'at least ' * self.bound}{shown} nats below the log evidence"


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The verdict on a fit without a reference.

    Attributes:
        fit: what was assessed.
        verdict: the word; findings and agreement are estimated.
        sentence: what was found, and what to do next.
        reasons: findings, largest excess first; why nothing can be said otherwise.
        comparison: scores against the repaired draws, None where neither chains nor SMC ran.
        checks: each step with its sentence.
        climbs: what wide climbs found, None if they were not made.
        drift: what short chains found, None if they were not run.
        estimate: what SMC found, None if it was not run in this call, or failed.
        reference: what stood in for the truth, None where neither chains nor SMC ran.
        kl: nats that the guide loses, None where it has none (a point).
        repaired: draws of SMC, else the moved chains, as a posterior of their own; None if neither
            ran.
        next: one command or step that would settle what is open.
        gradients: evaluations of the density, without the fit.
        depth: of them one after another.
        seconds: wall clock, without the fit.
    """

    fit: Fit
    verdict: VerdictWord
    sentence: str
    reasons: tuple[Reason, ...]
    comparison: Comparison | None
    checks: tuple[Trust, ...]
    climbs: Climbs | None
    drift: Drift | None
    estimate: Estimate | None
    reference: Reference | None
    kl: Nats | None
    repaired: Posterior | None
    next: str
    gradients: int
    depth: int
    seconds: float

    @property
    def gate(self) -> int:
        """Exit code of `zoo trust --gate`: 0 trusted, 1 not trusted, 4 cannot know."""
        if self.verdict == "reference_unusable":
            return 4
        kind = verdict_of(self.verdict).kind
        return {"agreement": 0, "finding": 1, "failure": 1}.get(kind, 4)

    @property
    def evidence(self) -> LogEvidence | None:
        """Log Z by SMC, of this call or given; None without, and of rows one by one."""
        if self.estimate is not None:
            return self.estimate.evidence
        own = None if self.reference is None else self.reference.posterior
        return None if own is None or LOG_Z not in own.stats else evidence_of(own)

    def __repr__(self) -> str:
        """Return the verdict and its sentence."""
        return f"Assessment({self.fit.entry.key}, {self.fit.family}: {self.sentence})"

    def to_json(self) -> dict[str, Any]:
        """Return what `zoo trust --json` prints."""
        scores = () if self.comparison is None else self.comparison.scores
        judged = [s for s in scores if s.judged]
        shifted = max(judged, key=lambda s: abs(s.mean_error), default=None)
        scaled = max(judged, key=lambda s: abs(s.log_sd_ratio), default=None)
        return {
            "schema": 1,
            "entry": self.fit.entry.key,
            "method": self.fit.family,
            "seed": self.fit.seed,
            "verdict": self.verdict,
            "estimated": True,
            "sentence": self.sentence,
            "worst_mean_error": None
            if shifted is None
            else {
                "label": shifted.label,
                "value": shifted.mean_error,
                "se": shifted.mean_error_se,
            },
            "worst_log_sd_ratio": None
            if scaled is None
            else {
                "label": scaled.label,
                "value": scaled.log_sd_ratio,
                "se": scaled.log_sd_ratio_se,
            },
            "log_evidence": self._log_evidence(),
            "kl_nats": None if self.kl is None else dataclasses.asdict(self.kl),
            "checks": [dataclasses.asdict(c) for c in self.checks],
            "next": self.next,
            "cost": {
                "seconds": self.seconds,
                "gradient_evaluations": self.gradients,
                "sequential_depth": self.depth,
            },
        }

    def _log_evidence(self) -> dict[str, Any] | None:
        """Return log Z with its error; null without SMC, and with an improper prior."""
        found = self.evidence
        if found is None or (self.estimate is not None and not self.estimate.proper):
            return None
        return {
            "value": found.value,
            "se": found.se,
            "low": _finite(found.low),
            "high": found.high,
            "known": found.known,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
