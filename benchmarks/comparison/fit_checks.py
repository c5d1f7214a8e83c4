"""Checks of a fit that need no reference, and a sentence on what they cannot see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

from benchmarks.metrics.numbers import rounded
from benchmarks.thresholds import IMPORTANCE_ESS, LOG_SD, MEAN, RESTART_NATS, RESTART_SDS
from benchmarks.types import Mcmc, ParetoK, Trust
from guides.draws import point_sentence
from zoo.contract import Rule, rules
from zoo.contract.subject import Failed, Skipped
from zoo.errors import spelled

if TYPE_CHECKING:
    from guides.types import Fit, Restart

__all__ = ["BLIND_SPOT", "CHECKS", "point_words", "trust_checks"]

BLIND_SPOT = (
    "These checks look only where the method went: a mode or a tail it never visits is invisible"
    " to all of them."
)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a method without a reference.

    Attributes:
        fit: the fit, None for chains.
        pareto_k: k-hat and importance ESS of its weights, None without weights.
        mcmc: gates of its chains, None for a guide.
        points: where a guide is a point mass.
        bad_weights: why the weights gave no k-hat.
        judged: labels of the judged components.
    """

    fit: Fit | None = None
    pareto_k: ParetoK | None = None
    mcmc: Mcmc | None = None
    points: Sequence[str] = ()
    bad_weights: str = ""
    judged: Sequence[str] = ()


def trust_checks(
    fit: Fit | None,
    pareto_k: ParetoK | None,
    mcmc: Mcmc | None,
    points: Sequence[str] = (),
    bad_weights: str = "",
    judged: Sequence[str] = (),
) -> tuple[Trust, ...]:
    """Run the checks of `CHECKS` that apply to a method; see `Evidence` for the arguments."""
    known = Evidence(
        fit=fit,
        pareto_k=pareto_k,
        mcmc=mcmc,
        points=points,
        bad_weights=bad_weights,
        judged=judged,
    )
    passed = {"ok": True, "failed": False, "skipped": None}
    results = [(rule.name, rule.on(known).run()) for rule in CHECKS.values()]
    return tuple(
        Trust(name=name, passed=passed[result.status], sentence=result.sentence)
        for name, result in results
        if result.sentence  # a check that does not apply says nothing
    )


def _applies(there: bool) -> None:
    if not there:
        raise Skipped("")


def spread(known: Evidence) -> str:
    """The guide is no point mass in any judged component."""
    _applies(bool(known.points))
    raise Failed(point_sentence(known.points))


def convergence(known: Evidence) -> str:
    """The optimization settled: the loss falls no more, also not further along its own way."""
    _applies(known.fit is not None)
    assert known.fit is not None
    stop = known.fit.stop
    if stop.status != "ok":
        raise Failed(stop.sentence)
    if known.points:
        raise Skipped(stop.sentence)
    return stop.sentence


def restarts(known: Evidence) -> str:
    """Independent starts end with the same ELBO and the same answers."""
    _applies(known.fit is not None)
    assert known.fit is not None
    if known.points:
        raise Skipped("Starts that end in points have no ELBO to be compared by.")
    ended = [r for r in known.fit.restarts if r.elbo is not None]
    if len(ended) < 2:
        how = spelled("run it with restarts=4", "give zoo fit or zoo compare --restarts 4")
        raise Skipped(f"One start only; {how} to see whether starts agree.")
    values = [r.elbo for r in ended if r.elbo is not None]
    best, worst = max(values, key=lambda e: e.value_nats), min(values, key=lambda e: e.value_nats)
    gap, se = best.value_nats - worst.value_nats, (best.se**2 + worst.se**2) ** 0.5
    near = f"{len(values)} starts end within {rounded(gap, se)} nats of ELBO"
    if gap > max(RESTART_NATS, 3 * se):
        raise Failed(f"{near} (at most {RESTART_NATS:g} is wanted).")
    label, apart, low, high = _farthest(ended)
    if apart > RESTART_SDS:
        raise Failed(
            f"{near} but with different answers: {label} has means from {low:.3g} to {high:.3g},"
            f" {apart:.2g} sds apart."
        )
    return f"{near} (at most {RESTART_NATS:g} is wanted)."


def pareto_k(known: Evidence) -> str:
    """The tail of the importance weights is light enough to reweight the draws."""
    _applies(not known.points and bool(known.pareto_k is not None or known.bad_weights))
    if known.pareto_k is None:
        raise Failed(known.bad_weights)
    k = known.pareto_k
    other = ", and other draws of this guide may fall on the other side of it" if k.near else ""
    side = "within" if k.trusted else "above"
    sentence = (
        f"k-hat {k.value:.2f} +- {k.se:.2f} is {side} its threshold {k.threshold:.2f} for"
        f" {k.draws:,} draws{other} (it grades the reweighted answer, not the raw draws)."
    )
    if not k.trusted:
        raise Failed(sentence)
    return sentence


def importance_ess(known: Evidence) -> str:
    """Enough draws are left after reweighting."""
    _applies(not known.points and known.pareto_k is not None)
    assert known.pareto_k is not None
    left, draws = known.pareto_k.importance_ess, known.pareto_k.draws
    sentence = (
        f"Reweighting leaves {left:,.0f} of {draws:,} draws (at least {IMPORTANCE_ESS} are"
        " wanted)."
    )
    if left < IMPORTANCE_ESS:
        raise Failed(sentence)
    return sentence


def self_check(known: Evidence) -> str:
    """Reweighting moves no judged mean and no judged sd."""
    _applies(not known.points and known.pareto_k is not None and bool(known.judged))
    assert known.pareto_k is not None
    k = known.pareto_k
    moves = []
    for label in known.judged:
        (raw, new), (raw_sd, new_sd) = k.reweighted[label], k.reweighted_sd[label]
        if not raw_sd > 0:
            continue
        shift, ratio = (new - raw) / raw_sd, max(new_sd / raw_sd, 1e-12)  # 0 if one draw is left
        moves.append((max(abs(shift) / MEAN, abs(log(ratio)) / LOG_SD), label, shift, ratio))
    _applies(bool(moves))
    excess, label, shift, ratio = max(moves)
    sentence = (
        f"Reweighting moves the mean of {label} by {shift:+.2f} of its sd and its sd by"
        f" x{ratio:.2f} (at most {MEAN:g} and x{exp(LOG_SD):.2f} are wanted)."
    )
    if excess > 1:
        raise Failed(sentence)
    return sentence


def chains(known: Evidence) -> str:
    """The chains pass every gate."""
    _applies(not known.points and known.mcmc is not None)
    assert known.mcmc is not None
    failed = [name for name, ok in known.mcmc.gates.items() if not ok]
    if failed:
        raise Failed(f"Failed gates of the chains: {', '.join(failed)} ({known.mcmc.worst}).")
    return "Every gate of the chains passed."


def point_words(trust: Sequence[Trust]) -> str:
    """Return `a point, no spread, in m` if the checks found a point mass, else an empty string."""
    found = next((t.sentence for t in trust if t.name == "spread" and t.passed is False), "")
    return found.partition(":")[0].replace("A point", "a point")


def _farthest(restarts: Sequence[Restart]) -> tuple[str, float, float, float]:
    """Return the component whose means differ most, by how many sds, and the two means.

    The sd is the smallest of the restarts': a narrow answer elsewhere is another answer.
    """
    found = [("", 0.0, 0.0, 0.0)]
    for label in restarts[0].answer:
        pairs = [r.answer[label] for r in restarts if label in r.answer]
        low, high = min(m for m, _ in pairs), max(m for m, _ in pairs)
        width = max(min(s for _, s in pairs), 1e-12 * (1 + abs(low) + abs(high)))
        found.append((label, (high - low) / width, low, high))
    return max(found, key=lambda f: f[1])


CHECKS = rules(
    Rule(
        name="spread",
        why="A point has no density, so its k-hat is a perfect 0.00 and its ELBO no bound.",
        body=spread,
        tier="trust",
    ),
    Rule(
        name="convergence",
        why="A guide that has not settled is worse than its family.",
        body=convergence,
        tier="trust",
    ),
    Rule(
        name="restarts",
        why="Starts that end in different places show several modes, or a ridge.",
        body=restarts,
        tier="trust",
    ),
    Rule(
        name="pareto_k",
        why="A heavy tail means that the guide misses mass where it went.",
        body=pareto_k,
        tier="trust",
    ),
    Rule(
        name="importance_ess",
        why="A reweighted answer that rests on few draws is noise.",
        body=importance_ess,
        tier="trust",
    ),
    Rule(
        name="self_check",
        why="Where weights move the answer, the guide's own draws were not the posterior.",
        body=self_check,
        tier="trust",
    ),
    Rule(
        name="chains",
        why="Chains that disagree, diverge or are short are no posterior.",
        body=chains,
        tier="trust",
    ),
)
