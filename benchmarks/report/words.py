"""The words of a report: what each verdict, column and figure means, its unit, and what is good."""

from __future__ import annotations

from math import log
from typing import NamedTuple

from benchmarks.report.numbers import plain, with_error
from benchmarks.types import Comparison, Score

__all__ = ["COLUMNS", "GLOSSARY", "MATERIAL_MEAN", "MATERIAL_RATIO", "VERDICTS", "Definition", "headline", "severity", "verdict_word"]

MATERIAL_MEAN = 0.15
MATERIAL_RATIO = 1.15


class Definition(NamedTuple):
    """A term with its definition, unit and what a good value is."""

    term: str
    meaning: str
    unit: str
    good: str


VERDICTS: dict[str, tuple[str, str]] = {
    "agrees": ("agrees", "no material error, and enough draws to have seen one"),
    "shifted": ("shifted", "a mean is off by more than 0.15 reference sd"),
    "too_narrow": ("too narrow", "an sd is too small by more than a factor 1.15: false confidence"),
    "too_wide": ("too wide", "an sd is too large by more than a factor 1.15"),
    "wrong_shape": ("wrong shape", "correlation, coverage or joint shape is off, or some sds are too small and others too large"),
    "inconclusive": ("inconclusive", "nothing material was seen, but the draws are too few to be sure"),
    "no_reference": ("no reference", "there is no truth to compare with; only trust checks are shown"),
    "reference_unusable": ("reference unusable", "the reference fails its own gates, so nothing can be judged"),
    "fit_failed": ("fit failed", "the method produced no usable approximation"),
}


def verdict_word(verdict: str) -> str:
    """Return a verdict as a person writes it."""
    return VERDICTS.get(verdict, (verdict.replace("_", " "), ""))[0]


COLUMNS: dict[str, Definition] = {
    "mean_error": Definition(
        "mean error", "(mean of the method − mean of the reference) / sd of the reference", "reference sds", "within ±0.15"
    ),
    "sd_ratio": Definition(
        "sd ratio", "sd of the method / sd of the reference; below 1 is overconfident", "a ratio", "between 0.87 and 1.15"
    ),
    "wasserstein": Definition(
        "Wasserstein", "average distance the method's draws must be moved to become the reference's", "reference sds", "near 0"
    ),
    "quantiles": Definition("5 / 50 / 95 % error", "error of the 5, 50 and 95 % quantiles", "reference sds", "within ±0.15"),
    "coverage50": Definition("50 % cover", "share of reference draws inside the method's central 50 % interval", "percent", "50"),
    "coverage90": Definition("90 % cover", "share of reference draws inside the method's central 90 % interval", "percent", "85 to 95"),
    "reference": Definition("reference", "what counts as the truth here, and whether it passed its own gates", "a word", "usable"),
    "elbo": Definition("ELBO", "evidence lower bound, E_q[log p − log q]; a method with a higher one is closer in KL(q‖p)", "nats", "higher"),
    "log_evidence": Definition("log evidence gap", "exact log evidence − the method's bound: KL(q‖p)", "nats", "near 0"),
    "khat": Definition(
        "k-hat", "tail index of the importance weights; grades the reweighted answer only and never decides a verdict", "no unit",
        "below its threshold (at most 0.7)",
    ),
    "importance_ess": Definition("importance ESS", "effective number of draws left after reweighting", "draws", "many hundreds"),
    "c2st": Definition(
        "C2ST", "how often a classifier tells a draw of the method from one of the reference", "accuracy", "near the noise floor (0.5)"
    ),
    "distance": Definition("distance", "a distance between all judged components jointly", "see its name", "near its noise floor"),
    "floor": Definition("noise floor", "the same distance between different chains of the reference", "as the distance", "a yardstick"),
    "heldout": Definition("held-out", "mean log predictive density of held-out rows", "nats per row", "higher"),
    "rhat": Definition("R-hat", "between-chain over within-chain spread, worst component", "a ratio", "at most 1.01"),
    "ess": Definition("ESS bulk / tail", "effective number of independent draws, worst component", "draws", "at least 1,000"),
    "ebfmi": Definition("E-BFMI", "how freely NUTS moves between energy levels, worst chain", "no unit", "at least 0.3"),
    "divergences": Definition("divergences", "trajectories that broke down; they hide where the posterior is sharply curved", "draws", "0"),
    "seconds": Definition("time", "wall-clock time without compilation; compilation after the plus sign", "seconds", "lower"),
    "gradients": Definition("gradients", "evaluations of the gradient of the log density, all of them", "a count", "lower"),
    "stop": Definition("stopped because", "why the optimizer or the sampler ended", "a sentence", "converged"),
    "compiled": Definition("compiled", "whether the hot function ran compiled, and if not, why", "yes or no", "either: results agree"),
}  # fmt: skip

GLOSSARY: tuple[Definition, ...] = (
    Definition("reference sd", "the posterior standard deviation of that component under the reference", "of the quantity", "a unit"),
    Definition("±", "one Monte Carlo standard error, of both sides together", "as the number", "small beside 0.15"),
    *COLUMNS.values(),
)


def severity(score: Score) -> float:
    """Return how many times its material threshold a component's worst error is: 1 is exactly on the line."""
    ratio = max(score.sd_ratio, 1e-12) if score.sd_ratio == score.sd_ratio else 1.0
    mean = abs(score.mean_error) if score.mean_error == score.mean_error else 0.0
    return max(mean / MATERIAL_MEAN, abs(log(ratio)) / log(MATERIAL_RATIO))


def headline(comparison: Comparison) -> str:
    """Return the one number that decided a comparison, e.g. `log_tau: sd ×0.21 ± 0.01`."""
    if comparison.verdict == "fit_failed":
        return comparison.status.replace("_", " ") if comparison.status != "ok" else ""
    if comparison.verdict == "no_reference":
        k = comparison.pareto_k
        return f"k-hat {plain(k.value, 2)}" if k is not None else ""
    reason = next((r for r in comparison.reasons if r.verdict == comparison.verdict), None)
    judged = [s for s in comparison.scores if s.judged]
    score = next((s for s in judged if reason is not None and s.label == reason.label), None)
    if comparison.verdict == "wrong_shape" and score is None:
        distance = next((d for d in comparison.distances if d.name.lower().startswith("c2st")), None)
        if reason is not None and "corr" in (reason.label + reason.sentence).lower():
            return f"correlation {reason.label}"
        return f"C2ST {with_error(distance.value, distance.se)}" if distance is not None else ""
    if comparison.verdict == "shifted" and judged:
        score = score or max(judged, key=lambda s: abs(s.mean_error))
    score = score or comparison.worst()
    if score is None:
        return ""
    by_mean = abs(score.mean_error) / MATERIAL_MEAN >= abs(log(max(score.sd_ratio, 1e-12))) / log(MATERIAL_RATIO)
    if comparison.verdict == "shifted" or (comparison.verdict not in ("too_narrow", "too_wide") and by_mean):
        return f"{score.label}: mean {with_error(score.mean_error, score.mean_error_se, sign=True)} sd"
    return f"{score.label}: sd {with_error(score.sd_ratio, score.sd_ratio_se, times=True)}"
