"""Verdicts from scores, by rules a person can check by hand.

The thresholds are in `benchmarks.thresholds`.

1. No judgement is possible: `reference_unusable`, `no_reference`, `fit_failed`.
2. There is a material error: `shifted`, `too_narrow`, `too_wide`, `wrong_shape`. The finding with
   the largest excess over its threshold names the verdict; all are kept as reasons.
3. There is none: `agrees` if the draws would have shown one, else `inconclusive` with the number
   of draws needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.metrics.numbers import rounded, value_with_error
from benchmarks.thresholds import AGREE, COVERAGE50, COVERAGE90, LOG_SD, MEAN, SIGMAS, multiplier
from benchmarks.types import Correlations, Distance, Reason, Score
from benchmarks.verdicts import VerdictWord, verdict_of

__all__ = ["decide", "findings"]

# Change of coverage per unit of log sd for a normal margin, 2 q phi(q). It turns the extra error
# of an sd under heavy tails into that of an aligned coverage.
SLOPE50, SLOPE90 = 0.43, 0.34


def decide(
    scores: Sequence[Score],
    correlations: Correlations | None = None,
    distances: Sequence[Distance] = (),
    *,
    unusable: str | None = None,
    missing: str | None = None,
    failure: str | None = None,
    unconverged: str | None = None,
) -> tuple[VerdictWord, tuple[Reason, ...]]:
    """Return the verdict and its reasons, the one that names it first.

    Args:
        scores: every component; only judged ones decide.
        correlations: the worst pair, None with a single component.
        distances: those with a threshold (C2ST) can decide.
        unusable: why the reference fails its gates.
        missing: why there is no reference.
        failure: why the method has no usable draws.
        unconverged: why the fit had not converged; its draws can show an error but never earn
            `agrees`.
    """
    early: tuple[tuple[str | None, VerdictWord], ...] = (
        (failure, "fit_failed"),
        (unusable, "reference_unusable"),
        (missing, "no_reference"),
    )
    for sentence, verdict in early:
        if sentence is not None:
            return verdict, (Reason(verdict=verdict, label="", excess=0.0, sentence=sentence),)
    found = findings(scores, correlations, distances)
    note = (
        ()
        if unconverged is None
        else (Reason(verdict="fit_failed", label="", excess=0.0, sentence=unconverged),)
    )
    if found:
        return found[0].verdict, found + note
    if note:
        return "fit_failed", note
    short = _too_few(scores)
    return ("inconclusive", (short,)) if short is not None else ("agrees", ())


def findings(
    scores: Sequence[Score], correlations: Correlations | None, distances: Sequence[Distance]
) -> tuple[Reason, ...]:
    """Return every material finding, largest excess over its threshold first.

    The first one names the verdict. A classifier (C2ST) catches what the named findings cannot
    see. It names a verdict only if it is the only finding, because an accuracy, which saturates at
    1, has no common scale with the others.
    """
    judged = [s for s in scores if s.judged]
    z = multiplier(len(judged))
    named = [r for s in judged for r in (_location(s, z), _scale(s, z)) if r is not None]
    off = {r.label for r in named}
    named += _mixed_widths(named)
    # the intervals of a point mass are empty, and no scaling gives it a shape
    moving = [s for s in judged if s.sd_ratio != 0]
    named += [r for s in moving for r in _coverage(s, multiplier(2 * len(judged)), s.label in off)]
    if correlations is not None:
        named += _correlation(correlations)
    net = [r for d in distances for r in _classifier(d)]
    # The more severe wins ties: mixed widths carry the excess of the larger of the two.
    return tuple(sorted(named, key=lambda r: (-r.excess, -verdict_of(r.verdict).severity)) + net)


def _location(s: Score, z: float) -> Reason | None:
    line = max(MEAN, z * s.mean_error_se)
    if not abs(s.mean_error) > line:
        return None
    text = (
        f"{s.label}: {s.center} off by"
        f" {value_with_error(s.mean_error, s.mean_error_se, sign=True)} {_unit(s)}"
        f" (line {line:.2f}){_without_variance(s)}"
    )
    return Reason(verdict="shifted", label=s.label, excess=abs(s.mean_error) / line, sentence=text)


def _scale(s: Score, z: float) -> Reason | None:
    line = max(LOG_SD, z * s.log_sd_ratio_se)
    if not abs(s.log_sd_ratio) > line:
        return None
    verdict: VerdictWord = "too_narrow" if s.log_sd_ratio < 0 else "too_wide"
    if s.by_quantiles and abs(s.aligned90 - 0.9) > max(COVERAGE90 / 2, z * s.coverage90_se):
        verdict = "wrong_shape"  # the middle and the 90 % interval ask for different scales
    text = (
        f"{s.label}: {s.spread} is {value_with_error(s.sd_ratio, s.sd_ratio_se)} times the"
        f" reference's{_without_variance(s)}"
    )
    if s.sd_ratio == 0:
        text = f"{s.label}: a point, no spread (sd 0 times the reference's)"
    return Reason(verdict=verdict, label=s.label, excess=abs(s.log_sd_ratio) / line, sentence=text)


def _unit(s: Score) -> str:
    return "IQR / 1.35" if s.by_quantiles else "sd"


def _without_variance(s: Score) -> str:
    """Return why quantiles are judged, in brackets, where they are."""
    return (
        f" (quantiles, since its tail index {s.tail_index:.2f} leaves no variance)"
        * s.by_quantiles
    )


def _mixed_widths(named: Sequence[Reason]) -> list[Reason]:
    """Return a finding if some components are too narrow and others too wide.

    No single scale repairs that.
    """
    by_width = {w: [r for r in named if r.verdict == w] for w in ("too_narrow", "too_wide")}
    if not all(by_width.values()):
        return []
    narrow, wide = (max(group, key=lambda r: r.excess) for group in by_width.values())
    label = f"{narrow.label}, {wide.label}"
    text = f"too narrow and too wide at once: {narrow.label} is too narrow, {wide.label} too wide"
    return [
        Reason(
            verdict="wrong_shape",
            label=label,
            excess=max(narrow.excess, wide.excess),
            sentence=text,
        )
    ]


def _coverage(s: Score, z: float, explained: bool) -> list[Reason]:
    """Judge the central 90 % and 50 % intervals.

    A wrong mean or sd changes coverage too. If one was found (`explained`), only the gap that
    remains after aligning mean and sd counts as shape, with an error widened by that of the sd. If
    none was found but aligning removes more than half of the gap, mean and sd explain it together,
    each below its threshold, and the larger of them names it.
    """
    out = []
    for level, share, se, aligned, threshold, slope in (
        (0.9, s.coverage90, s.coverage90_se, s.aligned90, COVERAGE90, SLOPE90),
        (0.5, s.coverage50, s.coverage50_se, s.aligned50, COVERAGE50, SLOPE50),
    ):
        gap = (aligned if explained else share) - level
        line = max(threshold, z * ((se**2 + (slope * s.tail_se) ** 2) ** 0.5 if explained else se))
        if not abs(gap) > line:
            continue
        shape = explained or abs(aligned - level) >= 0.5 * abs(gap)
        holds = value_with_error(100 * (level + gap), 100 * se)
        after = " once mean and sd are aligned" if explained else ""
        text = (
            f"{s.label}: its central {level:.0%} interval holds {holds} % of the reference{after}"
        )
        out.append(
            Reason(
                verdict="wrong_shape" if shape else _nearer(s),
                label=s.label,
                excess=abs(gap) / line,
                sentence=text,
            )
        )
    return out


def _nearer(s: Score) -> VerdictWord:
    if abs(s.mean_error) / MEAN > abs(s.log_sd_ratio) / LOG_SD:
        return "shifted"
    return "too_narrow" if s.log_sd_ratio < 0 else "too_wide"


def _correlation(c: Correlations) -> list[Reason]:
    if not abs(c.difference) > c.line:
        return []
    first, second = c.labels
    text = (
        f"correlation of {first} and {second} is {rounded(c.method, c.se)} instead of"
        f" {rounded(c.reference, c.se)}"
    )
    return [
        Reason(
            verdict="wrong_shape",
            label=f"{first}, {second}",
            excess=abs(c.difference) / c.line,
            sentence=text,
        )
    ]


def _classifier(d: Distance) -> list[Reason]:
    if d.line is None or not d.value > d.line:
        return []
    accuracy = value_with_error(100 * d.value, 100 * (d.se or 0.0))
    text = (
        f"a classifier tells its draws from the reference's in {accuracy} % of cases (line"
        f" {100 * d.line:.0f} %), mean and sd aligned"
    )
    return [
        Reason(
            verdict="wrong_shape",
            label=d.name,
            excess=(d.value - 0.5) / (d.line - 0.5),
            sentence=text,
        )
    ]


def _too_few(scores: Sequence[Score]) -> Reason | None:
    """Return what `agrees` still needs: 3 se <= 0.15 for every mean and every log sd."""
    judged = [s for s in scores if s.judged]
    if not judged:
        return Reason(
            verdict="inconclusive",
            label="",
            excess=0.0,
            sentence="no judged quantity is shared with the reference",
        )
    wide = {s.label: max(s.mean_error_se, s.log_sd_ratio_se) for s in judged}
    label = max(wide, key=lambda name: wide[name])
    if SIGMAS * wide[label] <= AGREE:
        return None
    ours, theirs = (
        max(s.draws_needed for s in judged),
        max(s.reference_draws_needed for s in judged),
    )
    needs = [
        f"about {_count(n)} {what}"
        for n, what in ((ours, "draws of the method"), (theirs, "draws of the reference"))
        if n
    ]
    wanted = " and ".join(needs) or "more draws of both"
    text = (
        f"{label}: 3 standard errors are {SIGMAS * wide[label]:.2f} sd, above {AGREE};"
        f" agreement needs {wanted}"
    )
    return Reason(
        verdict="inconclusive", label=label, excess=SIGMAS * wide[label] / AGREE, sentence=text
    )


def _count(n: int) -> str:
    """Round a number of draws up to two significant digits."""
    step = 10 ** max(len(str(n)) - 2, 0)
    return f"{-(-n // step) * step:,}"
