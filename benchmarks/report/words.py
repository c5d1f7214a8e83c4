"""Glossary of a report: meaning, unit and good values of each verdict, column and figure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.comparison.fit_checks import point_words
from benchmarks.metrics.metric import METRICS, Metric, component_metrics, joint_distances_known
from benchmarks.report.numbers import plain, with_error
from benchmarks.report.theme import family_in
from benchmarks.thresholds import LOG_SD, MEAN
from benchmarks.types import Comparison, Reason, Score
from benchmarks.verdicts import VERDICTS, verdict_of

__all__ = [
    "COLUMNS",
    "Definition",
    "columns_of",
    "definition",
    "distance_key",
    "glossary",
    "headline",
    "row_word",
    "severity",
    "verdict_word",
]


class Definition(NamedTuple):
    """A term with its definition, unit and good values."""

    term: str
    meaning: str
    unit: str
    good: str


def verdict_word(verdict: str) -> str:
    """Return the display form of a verdict."""
    return VERDICTS[verdict].shown if verdict in VERDICTS else verdict.replace("_", " ")


def row_word(
    method: str, verdict: str, status: str, *, drawn: bool, chains: bool, reference: bool
) -> str:
    """Return the word of a row in every table.

    Args:
        method: of the row.
        verdict: of the row.
        status: of its cell.
        drawn: whether it has draws.
        chains: whether it has figures of chains.
        reference: whether the rows of its entry have a reference.
    """
    if status == "refused":  # the weights do not allow it: nothing has failed
        return "refused"
    if status == "error" and drawn:  # it is the comparison of its draws that failed
        return "error"
    if chains and verdict == "fit_failed":
        return "not converged"
    if method in ("nuts", "smc", "short_chains") and verdict == "no_reference" and reference:
        return "is the reference"
    return verdict_word(verdict)


COLUMNS: dict[str, Definition] = {
    "reference": Definition(
        "reference",
        "what counts as the truth here, and whether it passed its own gates",
        "a word",
        "usable",
    ),
    "elbo": Definition(
        "ELBO",
        "lower bound of the evidence, E_q[log p − log q]; higher is closer in KL(q‖p)",
        "nats",
        "higher",
    ),
    "lost": Definition(
        "nats lost",
        "log evidence, exact or estimated by SMC, − ELBO: KL(q‖p), whatever is judged",
        "nats",
        "below 0.1",
    ),
    "log_evidence": Definition(
        "importance bound gap",
        "exact log evidence − log of the mean importance weight, a bound that more draws tighten",
        "nats",
        "near 0",
    ),
    "khat": Definition(
        "k-hat",
        "tail index of the importance weights;"
        " grades the reweighted answer only and never decides a verdict",
        "no unit",
        "below its threshold (at most 0.7)",
    ),
    "importance_ess": Definition(
        "importance ESS",
        "effective number of draws left after reweighting",
        "draws",
        "many hundreds",
    ),
    "distance": Definition(
        "distance",
        "between all judged components jointly; C2ST is how often a classifier tells a draw of the"
        " method from the reference's",
        "see its name; C2ST: accuracy",
        "near its noise floor (C2ST: 0.5)",
    ),
    "floor": Definition(
        "noise floor",
        "the same distance between different chains of the reference",
        "as the distance",
        "a yardstick",
    ),
    "heldout": Definition(
        "held-out", "mean log predictive density of held-out rows", "nats per row", "higher"
    ),
    "rhat": Definition(
        "R-hat",
        "between-chain over within-chain spread, worst component",
        "a ratio",
        "at most 1.01",
    ),
    "ess": Definition(
        "ESS bulk / tail",
        "effective number of independent draws, worst component",
        "draws",
        "at least 1,000",
    ),
    "ebfmi": Definition(
        "E-BFMI",
        "how freely NUTS moves between energy levels, worst chain",
        "no unit",
        "at least 0.3",
    ),
    "divergences": Definition(
        "divergences",
        "trajectories that broke down; they hide where the posterior is sharply curved",
        "draws",
        "0",
    ),
    "seconds": Definition(
        "time",
        "wall-clock time without compilation; compilation after the plus sign",
        "seconds",
        "lower",
    ),
    "gradients": Definition(
        "gradients",
        "evaluations of the gradient of the log density, all of them",
        "a count",
        "lower",
    ),
    "stop": Definition(
        "stopped because", "why the optimizer or the sampler ended", "a sentence", "converged"
    ),
    "accuracy": Definition(
        "accuracy",
        "share of test rows whose most probable class is the true one",
        "percent",
        "higher",
    ),
    "log_loss": Definition(
        "log loss",
        "mean of -log of the probability given to the true class",
        "nats per row",
        "lower",
    ),
    "ece": Definition(
        "ECE",
        "expected calibration error:"
        " mean gap between confidence and accuracy over 15 bins of equal width",
        "percent",
        "near 0",
    ),
    "adaptive_ece": Definition(
        "adaptive ECE",
        "the same over 15 bins that hold equal numbers of rows",
        "percent",
        "near 0",
    ),
    "brier": Definition(
        "Brier", "mean squared distance of the probabilities to the true class", "0 to 2", "lower"
    ),
    "auroc": Definition(
        "AUROC",
        "chance that a test row is more confident than a row from outside the task",
        "a share",
        "near 1; 0.5 is blind",
    ),
    "total_variation": Definition(
        "total variation",
        "mean over test rows of half the summed absolute differences"
        " to the class probabilities of the truth",
        "a share",
        "near its floor, the distance between two halves of the truth's chains",
    ),
    "compiled": Definition(
        "compiled",
        "whether the hot function ran compiled, and if not, why",
        "yes or no",
        "either: results agree",
    ),
}

FIRST: dict[str, Definition] = {
    "reference_sd": Definition(
        "reference sd",
        "the standard deviation of that component under the reference",
        "of the quantity",
        "a unit",
    ),
    "error": Definition(
        "±",
        "one Monte Carlo standard error, of both sides together",
        "as the number",
        "small beside 0.15",
    ),
}


def definition(name: str) -> Definition:
    """Return the definition of a column, or say that its metric is not installed here."""
    if name in COLUMNS:
        return COLUMNS[name]
    found = {m.name: m for m in [*component_metrics()[0], *joint_distances_known()[0]]}.get(name)
    if found is not None:
        return Definition(found.term, found.definition, found.unit, found.good)
    return Definition(
        name.replace("_", " "),
        "a column of a metric that is not installed here",
        "not known here",
        "not known here",
    )


def columns_of(scores: Iterable[Score]) -> list[Metric]:
    """Return the metrics a table shows: built-in ones, then others in the scores, known or not."""
    extra = dict.fromkeys(name for score in scores for name in score.extra)
    found = [
        m
        for m in component_metrics()[0]
        if m.name not in METRICS.plugins or set(m.columns) <= set(extra)
    ]
    left = [c for c in extra if not any(c in m.columns for m in found)]
    for name in (c for c in left if not c.endswith("_se") or c.removesuffix("_se") not in left):
        said = definition(name)
        columns = (name, f"{name}_se") if f"{name}_se" in left else (name,)
        found.append(
            Metric(
                name=name,
                term=said.term,
                definition=said.meaning,
                unit=said.unit,
                good=said.good,
                blind=said.meaning,
                columns=columns,
                compute=lambda method, reference: {},
            )
        )
    return found


def distance_key(name: str) -> str:
    """Return the glossary key of a joint distance; built-in ones share one."""
    return "distance" if name in METRICS and name not in METRICS.plugins else name


# of runs that have such rows
REWEIGHTED = Definition(
    "reweighted",
    "draws of the family chosen by their Pareto-smoothed importance weights, each at most once;"
    " refused where k-hat or the effective number of draws does not allow it",
    "a row",
    "agrees",
)


def glossary(comparisons: Iterable[Comparison] = ()) -> list[tuple[str, Definition]]:
    """Return every term with its definition, with plug-ins if a comparison has them."""
    rows = list(comparisons)
    metrics = [m.name for m in columns_of(s for c in rows for s in c.scores)]
    joint = [
        key for c in rows for d in c.distances if (key := distance_key(d.name)) not in COLUMNS
    ]
    terms = {
        **FIRST,
        **{name: definition(name) for name in dict.fromkeys([*metrics, *joint])},
        **COLUMNS,
        **({"reweighted": REWEIGHTED} if any(is_reweighted(c.method) for c in rows) else {}),
    }
    return list(terms.items())


def is_reweighted(method: str) -> bool:
    """Return whether the draws of a method are those of a family, reweighted."""
    return family_in(method) != method


def severity(score: Score) -> float:
    """Return a component's worst error in multiples of its material threshold."""
    mean = abs(score.mean_error) if score.mean_error == score.mean_error else 0.0
    width = abs(score.log_sd_ratio) if score.sd_ratio == score.sd_ratio else 0.0
    return max(mean / MEAN, width / LOG_SD)


def headline(comparison: Comparison) -> tuple[str, str]:
    """Return what decided a comparison, e.g. `("log_tau", "sd ×0.21 ± 0.01")`."""
    if comparison.status == "refused":
        return "", _refusal(comparison.reasons[0].sentence if comparison.reasons else "")
    if comparison.verdict == "fit_failed":
        if comparison.mcmc is not None and comparison.mcmc.rhat_max is not None:
            return comparison.mcmc.worst, f"R-hat {plain(comparison.mcmc.rhat_max, 4)}"
        return ("", comparison.status.replace("_", " ")) if comparison.status != "ok" else ("", "")
    if verdict_of(comparison.verdict).blind:
        k = comparison.pareto_k
        if point_words(comparison.trust):
            return "", point_words(comparison.trust)
        return ("", f"k-hat {k.value:.2f}".replace("-0", "−0")) if k is not None else ("", "")
    reason = comparison.reasons[0] if comparison.reasons else None
    judged = [s for s in comparison.scores if s.judged]
    score = next((s for s in judged if reason is not None and s.label == reason.label), None)
    if comparison.verdict == "wrong_shape" and reason is not None:
        return _shape(comparison, reason, score)
    score = score or comparison.worst()
    if score is None:
        return "", ""
    by_mean = abs(score.mean_error) / MEAN >= abs(score.log_sd_ratio) / LOG_SD
    if comparison.verdict == "shifted" or (
        comparison.verdict not in ("too_narrow", "too_wide") and by_mean
    ):
        return (
            score.label,
            f"{score.center} {with_error(score.mean_error, score.mean_error_se, sign=True)} sd",
        )
    return score.label, (
        "a point, sd ×0"
        if score.sd_ratio == 0
        else f"{'IQR' if score.by_quantiles else 'sd'}"
        f" {with_error(score.sd_ratio, score.sd_ratio_se, times=True)}"
    )


REFUSALS = {
    "no usable fit": "no usable fit",
    "A point": "a point",
    "products over": "too many rows",
    "too many for joint weights": "too many coordinates",
    "not finite": "weights not finite",
}


def _refusal(reason: str) -> str:
    """Return in a few words why weights are not used: `k-hat 0.79, at most 0.50`."""
    k = re.search(r"k-hat (-?[\d.]+) \(at most ([\d.]+)\)", reason)
    if k is not None and float(k[1]) > float(k[2]):
        return f"k-hat {k[1]}, at most {k[2]}"
    left = re.search(r" ([\d,]+) are left \(at least ([\d,]+)\)", reason)
    if left is not None:
        return f"{left[1]} draws left, at least {left[2]}"
    return next((said for part, said in REFUSALS.items() if part in reason), "")


def _cover(reason: Reason, score: Score) -> str:
    """Return the coverage a reason is about, with its sentence's number: `50 % cover 78 %`."""
    levels = ((0.9, score.coverage90, score.aligned90), (0.5, score.coverage50, score.aligned50))
    for level, share, aligned in levels:
        if f"central {level:.0%} interval" in reason.sentence:
            after = "are aligned" in reason.sentence
            value = 100 * (aligned if after else share)
            return f"{100 * level:.0f} % cover {value:.0f} %{' aligned' * after}"
    return f"90 % cover {100 * score.coverage90:.0f} %"


def _shape(comparison: Comparison, reason: Reason, score: Score | None) -> tuple[str, str]:
    """Return what is wrong with a shape.

    It is a coverage, a correlation, mixed widths, or the distance over its threshold.
    """
    label = reason.label
    if score is not None:
        return label, _cover(reason, score)
    pair = comparison.correlations
    if pair and label == ", ".join(pair["labels"]):
        return (
            label,
            (
                f"correlation {with_error(pair['method'], pair['se'])}, not"
                f" {plain(pair['reference'], 2)}"
            ),
        )
    distance = next((d for d in comparison.distances if d.name == label), None)
    if distance is not None:
        return "", f"{label} {with_error(distance.value, distance.se)}"
    return label, "too narrow and too wide"
