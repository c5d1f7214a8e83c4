"""Sentences that a reader can act on: one per comparison, one per entry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.comparison.arguments import COMPARISONS
from benchmarks.comparison.fit_checks import BLIND_SPOT, point_words
from benchmarks.metrics.numbers import rounded, value_with_error
from benchmarks.thresholds import LOG_SD, MEAN
from benchmarks.types import Comparison, Mcmc, Reason, Trust, base_of, method_names
from benchmarks.verdicts import VerdictWord, is_finding, verdict_of
from guides.registry import FAMILIES
from zoo.errors import spelled
from zoo.fields import accepted

if TYPE_CHECKING:
    from zoo.types import ModelEntry

__all__ = ["advised", "comparison_sentence", "entry_sentence", "estimated_words", "short_finding"]

BAD = 3.0  # a finding this many times its line: do not use
SMALLER = "smaller steps (target_accept 0.95 or 0.99) until no draw diverges"
TIED = 0.02  # nats between bounds that are equally good
FORMER = "; fit a richer family, or "  # advice within reasons that earlier versions stored
EXACT = "use the exact posterior (zoo.truth.grid)"


def comparison_sentence(
    method: str,
    verdict: VerdictWord,
    reasons: Sequence[Reason],
    *,
    kind: str = "",
    mcmc: Mcmc | None = None,
    trust: Sequence[Trust] = (),
    entry: ModelEntry | None = None,
    climbed: bool = True,
    rows: Sequence[Comparison] = (),
    lost: tuple[float, float] | None = None,
    compared_with: str = "",
) -> str:
    """Return what was found and what to do next.

    `lost` are the nats between ELBO and log evidence with their error. `rows` are all comparisons
    of the entry in this run: no method is advised that they reject.

    Example: `mean_field is too narrow: theta[0]: 0.44 +- 0.01x ...`.
    """
    first = reasons[0].sentence if reasons else ""
    tail = _divergences(mcmc)
    if verdict == "agrees":
        text = (
            f"{method} agrees with the {kind} reference: every mean and sd is within its line"
        ).replace("  ", " ")
        unseen = "" if climbed else "; not climbed: modes elsewhere were not looked for"
        unseen += "; a mode that no particle reached cannot be seen" if kind == "estimated" else ""
        return f"{text}{tail}{unseen}."
    if verdict == "no_reference":
        failed = [t.sentence for t in trust if t.passed is False]
        passed = sum(1 for t in trust if t.passed)
        seen = f"{passed} of {sum(1 for t in trust if t.passed is not None)} trust checks pass"
        return " ".join([f"{method}: {_clause(first)}; {seen}.", *failed[:1], BLIND_SPOT])
    clause = verdict_of(verdict).clause
    if kind == "estimated" and is_finding(verdict):
        clause = f"{clause} {estimated_words(compared_with)}"
    if verdict_of(verdict).kind == "failure":
        step = _after_failure(method, entry, rows) if verdict == "fit_failed" else ""
        return f"{method} {clause}: {_clause(first)}{tail}{step}."
    others = len({r.label for r in reasons[1:] if is_finding(r.verdict)} - {reasons[0].label})
    more = (
        f" (and {others} more finding{'s' if others > 1 else ''})"
        if others and is_finding(verdict)
        else ""
    )
    stop = next((f"; {_clause(r.sentence)}" for r in reasons if r.verdict == "fit_failed"), "")
    step = _next_step(method, verdict, entry, mcmc, kind, rows)
    nats = ""
    if lost is not None and kind == "estimated":
        shown = value_with_error(max(lost[0], 0.0), lost[1])
        nats = f"; {shown} nats below the log evidence"
    return f"{method} {clause}: {_clause(first)}{more}{stop}{nats}{tail}{step}."


def estimated_words(compared_with: str = "") -> str:
    """Return what stands behind a word that no truth was needed for, in brackets."""
    return f"(estimated by {compared_with})" if compared_with else "(estimated)"


def entry_sentence(comparisons: Sequence[Comparison]) -> str:
    """Return one sentence on all methods of one entry: the next step, then the worst first.

    Example: `eight_schools_centered: try eight_schools (same posterior, another form); do not use
    mean_field (log_tau sd x0.21, mean off by 0.8 sd); full_rank is shifted (...); nuts
    (12 divergences) agrees with the stored reference.`
    """
    accepted("entry_sentence", comparisons=(comparisons, COMPARISONS))
    if not comparisons:
        return "Nothing was compared."
    entry = comparisons[0].posterior.entry
    # with several seeds of a method each row is named with its own
    names = dict(zip(map(id, comparisons), method_names(comparisons), strict=True))
    ranked = sorted(comparisons, key=lambda c: (-_severity(c), names[id(c)]))
    parts = [advice] if (advice := _advice(entry, ranked)) else []
    avoid: dict[str, list[Comparison]] = {}  # one part per method, with the worst of its seeds
    for c in filter(_to_avoid, ranked):
        avoid.setdefault(c.method, []).append(c)
    if avoid:
        listed = [
            f"{_rows(names[id(c)] for c in those)} ({'worst: ' * (len(those) > 1)}"
            f"{_found(those[0])})"
            for those in avoid.values()
        ]
        parts.append(f"do not use {_and(listed, 'or')}")
    refused = [c for c in ranked if c.status == "refused"]
    alike: dict[tuple[str, str], list[Comparison]] = {}  # rows with one reason are one part
    for c in ranked:
        told = c.verdict == "agrees" or _to_avoid(c) or _is_the_reference(c)
        if not told and (c.status != "refused" or len(refused) == 1):
            verdict = verdict_of(c.verdict)
            shared = verdict.kind == "failure" or verdict.blind
            alike.setdefault((_part(c), "" if shared else names[id(c)]), []).append(c)
    for (text, _), those in alike.items():
        parts.append(f"{_rows(names[id(c)] for c in those)} {_number(text, len(those))}")
    if len(refused) > 1:
        parts.append(f"{len(refused)} reweighted rows are refused")
    agree = [c for c in ranked if c.verdict == "agrees"]
    if agree:
        broken = {names[id(c)]: _divergences(c.mcmc).removeprefix(", with ") for c in agree}
        parts.append(
            f"{_rows(broken, broken)} {_number('agrees', len(agree))} with the"
            f" {agree[0].reference.kind} reference"
        )
    return f"{entry.key}: {'; '.join(parts)}."


def short_finding(comparison: Comparison) -> str:
    """Return the worst component: `log_tau sd x0.21, mean off by 0.8 sd`."""
    if comparison.verdict == "no_reference" and point_words(comparison.trust):
        return point_words(comparison.trust)
    if not is_finding(comparison.verdict) or not comparison.reasons:
        return _clause(comparison.reasons[0].sentence) if comparison.reasons else ""
    first = comparison.reasons[0]
    score = next((s for s in comparison.scores if s.label == first.label), None)
    if score is None or comparison.verdict == "wrong_shape":
        return _clause(first.sentence)
    words = []
    if score.sd_ratio == 0:
        words.append("is a point, no spread")
    elif abs(score.log_sd_ratio) > LOG_SD:
        words.append(f"sd x{rounded(score.sd_ratio, score.sd_ratio_se)}")
    if abs(score.mean_error) > MEAN:
        size = rounded(abs(score.mean_error), score.mean_error_se)
        words.append(
            f"{score.center} off by {size} {'IQR / 1.35' if score.by_quantiles else 'sd'}"
        )
    if comparison.verdict == "shifted":
        words.reverse()
    return f"{score.label} {', '.join(words)}" if words else _clause(first.sentence)


def _to_avoid(c: Comparison) -> bool:
    return is_finding(c.verdict) and _severity(c) >= BAD


def _is_the_reference(c: Comparison) -> bool:
    """Return whether these draws are the reference of the other rows."""
    return c.verdict == "no_reference" and c.reference.posterior is not None


def _found(c: Comparison) -> str:
    if c.verdict == "no_reference" and not point_words(c.trust):
        return short_finding(c)  # why there is none, and what to do about it
    return _brief(short_finding(c)) + _divergences(c.mcmc)


def _part(c: Comparison) -> str:
    found = _found(c)
    if c.status == "refused":  # what was refused stands in front of the colon
        why = c.reasons[0].sentence.split("; ")[0]
        return f"is refused ({_clause(why.partition(': ')[2] or why)})"
    return verdict_of(c.verdict).clause + (f" ({found})" if found else "")


def _brief(sentence: str) -> str:
    """Shorten a long reason to one line, keeping at least its first clause.

    The whole reason is shown with its method.
    """
    clause, *more = sentence.split("; ")[0].split(": ")
    for part in more:
        if len(clause) + len(part) > 98:
            return clause
        clause = f"{clause}: {part}"
    return clause.split(", the limit")[0]


def _severity(c: Comparison) -> float:
    if c.verdict == "fit_failed":
        return 0.0 if c.status == "refused" else 1e6
    return (
        max((r.excess for r in c.reasons if is_finding(r.verdict)), default=0.0)
        if is_finding(c.verdict)
        else 0.0
    )


def _advice(entry: ModelEntry, ranked: Sequence[Comparison]) -> str:
    """Return the next step: another form of the model, a family that agrees, or that of a row."""
    failed = [c for c in ranked if c.verdict == "fit_failed" and c.status != "refused"]
    found = [c for c in ranked if is_finding(c.verdict)]
    diverged = any(c.mcmc is not None and c.mcmc.divergences for c in ranked)
    if not failed and not found and not diverged:
        return ""
    if entry.reference_of is not None:
        return f"try {entry.reference_of} (same posterior, another form)"
    best = _agreeing(ranked)
    if best:
        return f"prefer {_and(best[:2], 'or')}"
    if _state("nuts", ranked) != "agrees":
        if _grid_is_known(entry, ranked[0].reference.kind):
            return EXACT
        if not found:  # a failure names its own next step
            return ""
        steps = [step for c in found if (step := _untried(c.method, entry, ranked))]
        return (*steps, _without_richer(ranked))[0].removeprefix("; ")
    return _without_richer(ranked).removeprefix("; ")


def _next_step(
    method: str,
    verdict: VerdictWord,
    entry: ModelEntry | None,
    mcmc: Mcmc | None,
    kind: str,
    rows: Sequence[Comparison],
) -> str:
    if not is_finding(verdict) or entry is None:
        return ""
    if entry.reference_of is not None:
        return f"; try {entry.reference_of} (same posterior, another form)"
    if mcmc is not None or method == "nuts":
        return "; the chains passed a region by: run more of them, or reparameterize"
    step = _agrees_here(method, rows) or _untried(method, entry, rows)
    if step:
        return step
    if _grid_is_known(entry, kind):
        return f"; {EXACT}"
    return _without_richer(rows)


def _agreeing(rows: Sequence[Comparison]) -> list[str]:
    """Return the families whose rows all agree: the cheapest of the best bound first.

    Bounds that differ by less than their errors, or by less than `TIED` nats, are equally good.
    Reweighted draws have no bound and come last.
    """
    of: dict[str, list[Comparison]] = {}
    for c in rows:
        if c.method != "nuts" and _state(c.method, rows) == "agrees":
            of.setdefault(c.method, []).append(c)
    bounds = {m: max(map(_bound, found)) for m, found in of.items()}
    best, error = max(bounds.values(), default=(-math.inf, 0.0))

    def rank(method: str) -> tuple[bool, float, float]:
        value, se = bounds[method]
        behind = best - value > max(TIED, 3.0 * math.hypot(se, error))
        cost = min(c.posterior.cost.gradient_evaluations for c in of[method])
        return behind, -value if behind else 0.0, cost

    return sorted(of, key=rank)


def _bound(c: Comparison) -> tuple[float, float]:
    elbo = c.elbo or {}
    return elbo.get("value_nats", -math.inf), elbo.get("se") or 0.0


def _agrees_here(method: str, rows: Sequence[Comparison]) -> str:
    """Return the step to the family that the summary of the entry names first, if there is one."""
    other = next((m for m in _agreeing(rows) if m != method), None)
    return "" if other is None else f"; use {other}, which agrees here"


def _untried(method: str, entry: ModelEntry, rows: Sequence[Comparison]) -> str:
    """Return the step to a richer family that no row of this run rejects."""
    family = method if method in FAMILIES else base_of(method)
    richer = [
        f for f in (FAMILIES[family].richer if family in FAMILIES else ()) if f in entry.families
    ]
    states = {f: _state(f, rows) for f in richer}
    for poor, held in list(states.items()):  # what a family cannot reach, none that it holds can
        if held == "open" and any(_state(f, rows) == "rejected" for f in _above(poor)):
            states[poor] = "rejected"
    run = {c.method for c in rows}
    untried = next((f for f in richer if states[f] == "open" and f not in run), None)
    return "" if untried is None else f"; try {untried}"


def _above(family: str) -> set[str]:
    """Return the families that hold a family as a special case, directly or through others."""
    found: set[str] = set()
    left = [family]
    while left:
        held = left.pop()
        for f in FAMILIES[held].richer if held in FAMILIES else ():
            if f not in found:
                found.add(f)
                left.append(f)
    return found


def _after_failure(method: str, entry: ModelEntry | None, rows: Sequence[Comparison]) -> str:
    """Return the next step after a family that could not begin; other failures name their own."""
    begun = any(c.method == method and c.status != "init_failed" for c in rows)
    if entry is None or not rows or begun or method not in FAMILIES:
        return ""
    if entry.reference_of is not None:
        return f"; try {entry.reference_of} (same posterior, another form)"
    return _agrees_here(method, rows) or _untried(method, entry, rows) or _without_richer(rows)


def _after_refusal(c: Comparison, rows: Sequence[Comparison]) -> str:
    """Return the next step after draws whose weights are not used, by the rule of other rows."""
    entry, family = c.posterior.entry, base_of(c.method)
    if _state(family, rows) == "agrees":
        return f"; {family} agrees as it is"
    if entry.reference_of is not None:
        return f"; try {entry.reference_of} (same posterior, another form)"
    step = _agrees_here(c.method, rows) or _untried(family, entry, rows)
    if not step and not any(r.method in ("nuts", "smc", "short_chains") for r in rows):
        return f"; add a row of tempered SMC by {spelled('repair=True', '--repair')}"
    return step or _without_richer(rows)


def _without_richer(rows: Sequence[Comparison]) -> str:
    """Return the next step if no family is left: SMC, NUTS of this run or a later one, or none."""
    if any(c.method == "smc" and _is_the_reference(c) and c.reference.usable for c in rows):
        return "; use the draws of smc"
    if _state("nuts", rows) == "rejected":
        return "; no method of this run agrees: reparameterize, or run more and longer chains"
    chains = [c for c in rows if c.method == "nuts"]
    if not chains:
        return "; try nuts"
    diverged = any(c.mcmc is not None and c.mcmc.divergences for c in chains)
    return f"; use nuts, with {SMALLER}" if diverged else "; use nuts"


def _state(method: str, rows: Sequence[Comparison]) -> str:
    """Return whether the rows of a method reject it, agree, or leave it open (none included)."""
    found = [c for c in rows if c.method == method]
    if any(is_finding(c.verdict) or c.verdict == "fit_failed" for c in found):
        return "rejected"
    return "agrees" if found and all(c.verdict == "agrees" for c in found) else "open"


def advised(rows: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons of one entry with a next step that none of their rows contradicts.

    A comparison by itself knows only its own row.
    """
    known = [
        replace(c, reasons=tuple(map(_without_former_advice, c.reasons)))
        if c.status == "refused"
        else c
        for c in rows
    ]
    return [replace(c, sentence=_with_step(c, known)) for c in known]


def _without_former_advice(reason: Reason) -> Reason:
    return replace(reason, sentence=f"{_clause(reason.sentence.partition(FORMER)[0])}.")


def _with_step(c: Comparison, rows: Sequence[Comparison]) -> str:
    if c.status == "refused":
        return f"{_clause(c.reasons[0].sentence)}{_after_refusal(c, rows)}."
    if not is_finding(c.verdict) and (c.verdict != "fit_failed" or c.status != "init_failed"):
        return c.sentence
    return comparison_sentence(
        c.method,
        c.verdict,
        c.reasons,
        kind=c.reference.kind,
        mcmc=c.mcmc,
        trust=c.trust,
        entry=c.posterior.entry,
        rows=rows,
        lost=c.lost,
        compared_with=c.compared_with,
    )


def _grid_is_known(entry: ModelEntry, kind: str) -> bool:
    """Return whether the truth is exact given the trained program, whatever chains find."""
    return entry.conditional is not None and kind == "exact"


def _divergences(mcmc: Mcmc | None) -> str:
    if mcmc is None or not mcmc.divergences:
        return ""
    return f", with {mcmc.divergences} divergence{'s' if mcmc.divergences > 1 else ''}"


def _clause(sentence: str) -> str:
    return sentence.strip().rstrip(".")


def _and(words: Sequence[str], joiner: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joiner} {words[-1]}"


def _rows(names: Iterable[str], notes: Mapping[str, str] | None = None) -> str:
    """Join names of rows, with their notes; seeds of a method are told together: `a s0 and s1`."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        method, _, seed = name.partition(" ")
        note = (notes or {}).get(name)
        seeds.setdefault(method, []).append(f"{seed} ({note})" if note else seed)
    return _and(
        [
            f"{m} {_and(sorted(s, key=lambda x: (len(x), x)))}".replace("  ", " ").strip()
            for m, s in seeds.items()
        ]
    )


def _number(clause: str, many: int) -> str:
    """Return a predicate for that many rows: `is refused`, `are refused`."""
    if many == 1:
        return clause
    verb, _, rest = clause.partition(" ")
    return f"{ {'is': 'are', 'has': 'have', 'agrees': 'agree'}.get(verb, verb) } {rest}".strip()
