"""Checks of a fit that need no reference, and a sentence on what they cannot see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.metrics.numbers import rounded
from benchmarks.thresholds import IMPORTANCE_ESS, RESTART_NATS, RESTART_SDS
from benchmarks.types import Mcmc, ParetoK, Trust
from guides.draws import point_sentence

if TYPE_CHECKING:
    from guides.types import Fit, Restart

__all__ = ["BLIND_SPOT", "point_words", "trust_checks"]

BLIND_SPOT = (
    "These checks look only where the method went: a mode or a tail it never visits is invisible"
    " to all of them."
)


def trust_checks(
    fit: Fit | None,
    pareto_k: ParetoK | None,
    mcmc: Mcmc | None,
    points: Sequence[str] = (),
    bad_weights: str = "",
) -> tuple[Trust, ...]:
    """Return the checks available for this method.

    They are convergence, restarts, k-hat, importance ESS and chains. A guide that is a point mass
    somewhere (`points`) has failed, and no other check of it can pass. `bad_weights` says why the
    weights gave no k-hat.
    """
    if points:
        return _of_a_point(fit, points)
    out: list[Trust] = []
    if fit is not None:
        out.append(
            Trust(name="convergence", passed=fit.stop.status == "ok", sentence=fit.stop.sentence)
        )
        out.append(_restarts(fit))
    if pareto_k is not None:
        word = "within" if pareto_k.trusted else "above"
        k = (
            f"k-hat {pareto_k.value:.2f} is {word} its threshold {pareto_k.threshold:.2f} for"
            f" {pareto_k.draws:,} draws"
        )
        out.append(
            Trust(
                name="pareto_k",
                passed=pareto_k.trusted,
                sentence=f"{k} (it grades the reweighted answer, not the raw draws).",
            )
        )
        enough = pareto_k.importance_ess >= IMPORTANCE_ESS
        ess = (
            f"Reweighting leaves {pareto_k.importance_ess:,.0f} of {pareto_k.draws:,} draws (at"
            f" least {IMPORTANCE_ESS} are wanted)."
        )
        out.append(Trust(name="importance_ess", passed=enough, sentence=ess))
    elif bad_weights:
        out.append(Trust(name="pareto_k", passed=False, sentence=bad_weights))
    if mcmc is not None:
        failed = [name for name, ok in mcmc.gates.items() if not ok]
        text = (
            f"Failed gates of the chains: {', '.join(failed)} ({mcmc.worst})."
            if failed
            else "Every gate of the chains passed."
        )
        out.append(Trust(name="chains", passed=not failed, sentence=text))
    return tuple(out)


def _of_a_point(fit: Fit | None, points: Sequence[str]) -> tuple[Trust, ...]:
    spread = Trust(name="spread", passed=False, sentence=point_sentence(points))
    if fit is None:
        return (spread,)
    settled = Trust(
        name="convergence",
        passed=None if fit.stop.status == "ok" else False,
        sentence=fit.stop.sentence,
    )
    return (
        spread,
        settled,
        Trust(
            name="restarts",
            passed=None,
            sentence="Starts that end in points have no ELBO to be compared by.",
        ),
    )


def point_words(trust: Sequence[Trust]) -> str:
    """Return `a point, no spread, in m` if the checks found a point mass, else an empty string."""
    found = next((t.sentence for t in trust if t.name == "spread" and t.passed is False), "")
    return found.partition(":")[0].replace("A point", "a point")


def _restarts(fit: Fit) -> Trust:
    values = [r.elbo for r in fit.restarts if r.elbo is not None]
    if len(values) < 2:
        return Trust(
            name="restarts",
            passed=None,
            sentence="One start only; run it with restarts=4 to see whether starts agree.",
        )
    best, worst = max(values, key=lambda e: e.value_nats), min(values, key=lambda e: e.value_nats)
    gap, se = best.value_nats - worst.value_nats, (best.se**2 + worst.se**2) ** 0.5
    near = f"{len(values)} starts end within {rounded(gap, se)} nats of ELBO"
    label, apart, low, high = _farthest([r for r in fit.restarts if r.elbo is not None])
    if gap <= max(RESTART_NATS, 3 * se) and apart > RESTART_SDS:
        text = (
            f"{near} but with different answers: {label} has means from {low:.3g} to {high:.3g},"
            f" {apart:.2g} sds apart."
        )
        return Trust(name="restarts", passed=False, sentence=text)
    text = f"{near} (at most {RESTART_NATS:g} is wanted)."
    return Trust(name="restarts", passed=gap <= max(RESTART_NATS, 3 * se), sentence=text)


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
