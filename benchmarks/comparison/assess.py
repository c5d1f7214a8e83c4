"""What can be said of a fit where no truth is known: `assess`.

From cheap to dear, each step with its number and with what it cannot see:

1. checks of the fit itself: convergence, restarts, k-hat, importance ESS, reweighting self-check;
2. wide climbs: modes where the guide has never been;
3. drift: where short chains go that start from the guide's draws;
4. tempered SMC: draws of the posterior and log Z, so that KL(q, posterior) = log Z - ELBO.

The draws of SMC, or the moved chains where SMC was not run or did not hold, stand in for the
reference: scores, lines and words are those of `compare`, marked *estimated*. A finding comes from
these scores, or from a mode that is missed; a step that fails or stays open forbids `agrees`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import norm, t
from torch import Tensor

import guides
from benchmarks.comparison.assessment import Assessment, Nats
from benchmarks.comparison.score import compare
from benchmarks.mcmc.tempered_smc import ISLANDS, MASS, PARTICLES, Smc, tempered
from benchmarks.metrics.numbers import value_with_error
from benchmarks.trust.base import smc_base
from benchmarks.trust.climbs import Climbs, wide_climbs
from benchmarks.trust.drift import PILOT, Drift, drift_of
from benchmarks.trust.judged import Judged
from benchmarks.types import Comparison, Reason, Trust
from benchmarks.verdicts import VerdictWord, is_finding, verdict_of
from guides.draws import point_sentence
from guides.session import session
from zoo.density.faults import program_faults
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites
from zoo.errors import FitError, UsageError, one_line
from zoo.seeds import derive_seed
from zoo.types import Cost, Moments, Posterior, Reference

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["assess"]

DRAWS = 2048
CLIMB_GRADIENTS = 30_000  # most, for wide climbs
SMC_DIMENSIONS = 150  # beyond, tempered SMC is not run
# Gradients per point of each step, to forecast its time.
DRIFT_GRADIENTS, PILOT_GRADIENTS, SMC_GRADIENTS = 97, 145, 250
CLIMBING = 0.3  # of the budget, at most, for climbs
TIMED = 256  # points of one timed batch
# Of the checks of the fit alone; k-hat and importance ESS grade another answer, the reweighted.
NEEDED = ("convergence", "spread", "self_check")
NATS_ALARM = 3.0  # standard errors by which an ELBO may exceed the log evidence


@dataclass
class _Work:
    """One call of `assess`: what is known so far."""

    fit: Fit
    seed: int
    budget: float
    progress: Callable[[str], None]
    density: LogDensity
    posterior: Posterior
    begin: float = field(default_factory=time.perf_counter)
    depth: int = 0
    doubt: str = "Tempered SMC was not run: a missed mode would not be seen."  # empty if it holds
    checks: list[Trust] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # why agreement cannot be claimed

    @property
    def left(self) -> float:
        return self.budget - (time.perf_counter() - self.begin)

    def say(self, name: str, passed: bool | None, sentence: str, *, needed: bool = True) -> None:
        """Record a step; `agrees` needs all that are marked as needed."""
        self.checks.append(Trust(name=name, passed=passed, sentence=sentence))
        self.progress(f"{name}: {sentence}")
        if needed and passed is not True:
            self.missing.append(sentence)


@program_faults("assessed")
def assess(
    fit: Fit,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    budget: float | None = None,
    smc: bool = True,
    islands: int = ISLANDS,
    particles: int = PARTICLES,
    progress: Callable[[str], None] | None = None,
) -> Assessment:
    """Say how far a fit can be trusted where no truth is known.

    Args:
        fit: a usable fit of any family.
        seed: of the checks' own noise.
        draws: of the guide; each starts one short chain.
        budget: seconds; a step is not begun if it is forecast to exceed what is left of them.
            None for no limit.
        smc: run tempered SMC, where the vector has at most 150 coordinates.
        islands: counting islands of SMC.
        particles: points of an island.
        progress: receives one line per step.

    Returns:
        The verdict with every check, the nats lost, and the repaired draws.

    Raises:
        UsageError: fewer than 100 draws, or no judged quantity.
        FitError: the fit has no usable guide.
    """
    if draws < 100:
        raise UsageError(f"assess got draws={draws}; accepted: at least 100, 2,048 are usual.")
    if not any(q.judged for q in fit.entry.quantities.values()):
        raise UsageError(f"{fit.entry.name} has no judged quantity; mark one with judged=True.")
    posterior = guides.draw(fit, draws, seed=derive_seed(seed, "trust", "draws"))
    with session(fit.entry.dtype):
        # one of its own: compiling that of the fit would change later draws in the last digits
        density = LogDensity(fit.program, fit.data, dtype=fit.entry.dtype)
        density.compile("auto", expected_calls=draws * 100)
        work = _Work(
            fit=fit,
            seed=seed,
            budget=math.inf if budget is None else budget,
            progress=progress or (lambda line: None),
            density=density,
            posterior=posterior,
        )
        return _protocol(work, smc, islands, particles)


def _protocol(work: _Work, smc: bool, islands: int, particles: int) -> Assessment:
    fit, posterior = work.fit, work.posterior
    assert posterior.unconstrained is not None
    alone = compare(posterior, None, fit=fit, heldout=False)
    for check in alone.trust:
        work.say(check.name, check.passed, check.sentence, needed=check.name in NEEDED)
    one, many = _seconds(work)
    affordable = math.inf if one == 0 else CLIMBING * work.left / one
    climbs = wide_climbs(
        work.density, posterior, seed=work.seed, budget=min(CLIMB_GRADIENTS, affordable)
    )
    work.depth += climbs.gradients
    work.say("climbs", climbs.gate, _sentence(climbs.sentence))
    judged = Judged(work.density, fit.entry, fit.data)
    drift = None if fit.points else _drift(work, judged, many)
    k_hat = math.inf if alone.pareto_k is None else alone.pareto_k.value
    found = None
    if not fit.points:
        found = _smc(work, judged, climbs, k_hat, islands, particles, many) if smc else None
        if work.doubt:
            work.say("smc", None, work.doubt)
    kl = _kl(work, found)
    repaired = _repaired(work, drift, found)
    comparison = None if repaired is None else _compared(work, repaired, found)
    return _verdict(work, climbs, drift, found, kl, repaired, comparison)


# -- steps ---------------------------------------------------------------------------------


def _seconds(work: _Work) -> tuple[float, float]:
    """Return the seconds of one gradient, alone and in a batch; zeros without a budget."""
    u = work.posterior.unconstrained
    assert u is not None
    if math.isinf(work.budget):
        return 0.0, 0.0
    batch = u[torch.arange(TIMED) % len(u)].contiguous()
    work.density.gradient(u[0])  # what is made at the first call is not timed
    work.density.batch_gradient(batch)
    begin = time.perf_counter()
    work.density.gradient(u[0])
    middle = time.perf_counter()
    work.density.batch_gradient(batch)
    return middle - begin, (time.perf_counter() - middle) / TIMED


def _too_long(work: _Work, what: str, seconds: float) -> str:
    """Return why a step is not begun, empty if it is."""
    if seconds <= work.left:
        return ""
    return (
        f"{what} not run: about {seconds:.0f} s are forecast and {max(work.left, 0):.0f} s of the"
        " budget are left."
    )


def _drift(work: _Work, judged: Judged, seconds: float) -> Drift | None:
    u = work.posterior.unconstrained
    assert u is not None
    forecast = seconds * (len(u) * DRIFT_GRADIENTS + PILOT * PILOT_GRADIENTS)
    if late := _too_long(work, "Short chains were", forecast):
        work.say("drift", None, late)
        return None
    pilot = guides.draw(work.fit, PILOT, seed=derive_seed(work.seed, "trust", "pilot"))
    assert pilot.unconstrained is not None
    drift = drift_of(work.density, u, judged, pilot=pilot.unconstrained, seed=work.seed)
    work.depth += drift.depth
    i = int(np.argmax(drift.excess))
    label = judged.components[i].label
    least = "at least " if drift.moving[i] else ""
    e = value_with_error(float(drift.mean_error[i]), float(drift.mean_error_se[i]), sign=True)
    ratio = math.exp(float(drift.log_sd_ratio[i]))
    r = value_with_error(ratio, ratio * float(drift.log_sd_ratio_se[i]))
    where = f"{label}: mean {least}{e} sd, sd {r} times that of the chains"
    if drift.found:
        work.say("drift", False, f"Chains from the guide's draws leave them ({where}).")
    elif why := drift.doubt:
        work.say("drift", None, f"Chains from the guide's draws have not arrived: {why}.")
    else:
        work.say("drift", True, f"Chains from the guide's draws stay where they are ({where}).")
    return drift


def _smc(
    work: _Work,
    judged: Judged,
    climbs: Climbs,
    k_hat: float,
    islands: int,
    particles: int,
    seconds: float,
) -> Smc | None:
    """Run SMC, and leave in `work.doubt` why it does not hold, or nothing."""
    density, u = work.density, work.posterior.unconstrained
    assert u is not None
    if density.dim > SMC_DIMENSIONS:
        work.doubt = (
            f"Tempered SMC was not run on {density.dim} coordinates (at most {SMC_DIMENSIONS})."
        )
        return None
    forecast = seconds * (islands + 1) * particles * SMC_GRADIENTS
    if late := _too_long(work, "Tempered SMC was", forecast):
        work.doubt = late
        return None
    modes = [] if climbs.better is None else [o.point for o in climbs.others]
    try:
        base = smc_base(density, work.fit.data, u, particles=particles, modes=modes, k_hat=k_hat)
        found = tempered(density, base, islands=islands, seed=work.seed)
    except (FitError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        work.doubt = one_line(error)
        return None
    work.depth += found.depth
    evidence, proper = found.evidence, not flat_sites(density)
    what = "log evidence" if proper else "log normalizer (the prior is improper)"
    value = f"{what} {value_with_error(evidence.value, evidence.se)} nats"
    settled = _settled(work, judged, found)
    work.doubt = found.doubt or settled
    if work.doubt:
        work.doubt = f"{work.doubt[:-1]}; {value} at best."
    else:
        work.say("smc", True, f"{value[0].upper()}{value[1:]} by {islands} islands of SMC.")
    return found


def _settled(work: _Work, judged: Judged, smc: Smc) -> str:
    """Return whether chains from the points of SMC still move or know their starts.

    All islands can share a bias that their differences do not show: a narrow place that no
    trajectory enters. Chains that start there forget slowly.
    """
    draws = len(work.posterior.log_weights) if work.posterior.log_weights is not None else DRAWS
    x = smc.draws(draws + PILOT, derive_seed(work.seed, "trust", "settled"))
    again = drift_of(work.density, x[:draws], judged, pilot=x[draws:], seed=work.seed + 1)
    work.depth += again.depth
    if again.found:
        return "Chains from the points of SMC leave them."
    return f"Chains from the points of SMC have not settled: {again.doubt}." if again.doubt else ""


def _kl(work: _Work, smc: Smc | None) -> Nats | None:
    elbo = work.fit.elbo
    if smc is None or work.fit.points or elbo is None or not math.isfinite(elbo.se):
        return None
    evidence, sound = smc.evidence, not work.doubt
    kl = Nats(
        value=evidence.value - elbo.value_nats,
        se=math.hypot(evidence.se, elbo.se),
        bound=not sound,
    )
    # as rare by Student's t, whose degrees of freedom are few, as it would be by a normal
    wide = float(t.isf(norm.sf(NATS_ALARM), len(evidence.islands) - 1))
    if kl.value < -math.hypot(wide * evidence.se, NATS_ALARM * elbo.se) - 0.01:
        work.say(
            "bound",
            False if sound else None,
            f"The ELBO lies {value_with_error(-kl.value, kl.se)} nats above the log evidence:"
            " no bound can; a mask, plate or scale differs between model and guide, or SMC misses"
            " mass that the guide has.",
        )
    return kl


# -- the answer ----------------------------------------------------------------------------


def _repaired(work: _Work, drift: Drift | None, smc: Smc | None) -> Posterior | None:
    """Return the draws of SMC if it holds, else the moved chains, else None."""
    if smc is not None and not work.doubt:
        islands, each, _ = smc.points.shape
        points = smc.draws(islands * each, derive_seed(work.seed, "trust", "repaired"))
        return _posterior(work, points, "smc")
    return None if drift is None else _posterior(work, drift.points, "short_chains")


def _posterior(work: _Work, points: Tensor, method: str) -> Posterior:
    with torch.no_grad():
        sites = work.density.constrain(points)
    return Posterior(
        entry=work.fit.entry,
        data=work.fit.data,
        method=method,
        draws=sites,
        sample_dims=("sample",) if points.ndim == 2 else ("chain", "draw"),
        unconstrained=points,
        seed=work.seed,
        cost=Cost(
            seconds=time.perf_counter() - work.begin,
            gradient_evaluations=work.density.gradient_evaluations,
        ),
    )


def _compared(work: _Work, repaired: Posterior, smc: Smc | None) -> Comparison:
    """Compare the guide with the repaired draws; those of SMC by islands, with their errors."""
    moments: Mapping[str, Moments] = {}
    if repaired.method == "smc":
        assert smc is not None
        repaired = _posterior(work, smc.points, "smc")
        moments = _island_moments(repaired, smc)
    reference = Reference(kind="estimated", posterior=repaired, moments=moments)
    return compare(work.posterior, reference, fit=work.fit, distances="if_needed", heldout=False)


def _island_moments(repaired: Posterior, smc: Smc) -> dict[str, Moments]:
    """Return moments of every quantity with errors from the differences between islands.

    The errors are widened so that 1.645 of them hold 90 %: with k islands they have k - 1 degrees
    of freedom, and what follows takes errors as those of a normal.
    """
    wide = float(t.isf(0.05, len(smc.points) - 1) / norm.isf(0.05))
    out = {}
    for name, quantity in repaired.entry.quantities.items():
        values = quantity.fn(repaired.draws, repaired.data).detach().double()
        constant = values.flatten(0, 1).amax(0) == values.flatten(0, 1).amin(0)
        mean, mean_se = smc.mean(values)
        mean = torch.where(constant, values[0, 0], mean)  # weighted means round
        variance, variance_se = smc.mean((values - mean).square())
        sd = variance.sqrt()
        safe = torch.where(sd > 0, sd, 1.0)
        out[name] = Moments(
            mean=mean,
            mean_se=wide * torch.where(constant, 0.0, mean_se),
            sd=sd,
            sd_se=wide * 0.5 * variance_se / safe,
        )
    return out


def _verdict(
    work: _Work,
    climbs: Climbs,
    drift: Drift | None,
    smc: Smc | None,
    kl: Nats | None,
    repaired: Posterior | None,
    comparison: Comparison | None,
) -> Assessment:
    reasons: tuple[Reason, ...] = () if comparison is None else comparison.reasons
    verdict: VerdictWord = "inconclusive" if comparison is None else comparison.verdict
    if climbs.absent:
        verdict, reasons = "fit_failed", _because("fit_failed", climbs.absent)
    elif work.fit.points:
        verdict, reasons = "too_narrow", _because("too_narrow", point_sentence(work.fit.points))
    elif not is_finding(verdict) and climbs.better is not None and not _refuted(work, smc):
        verdict, reasons = "wrong_shape", _because("wrong_shape", climbs.sentence)
    elif verdict == "agrees" and work.missing:
        verdict, reasons = "inconclusive", _because("inconclusive", work.missing[0])
    elif comparison is None:
        first = work.missing[0] if work.missing else "no step could be made"
        verdict, reasons = "inconclusive", _because("inconclusive", first)
    step = _next(work, verdict, climbs, repaired)
    clause = verdict_of(verdict).clause
    first = reasons[0].sentence.rstrip(".") if reasons else "every step of the protocol passes"
    lost = "" if kl is None else f"; {kl.sentence}"
    sentence = f"{work.fit.family} {clause} (estimated): {first}{lost}. {step}"
    return Assessment(
        fit=work.fit,
        verdict=verdict,
        sentence=sentence,
        reasons=reasons,
        comparison=comparison,
        checks=tuple(work.checks),
        climbs=climbs,
        drift=drift,
        smc=smc,
        kl=kl,
        repaired=repaired,
        next=step,
        gradients=work.density.gradient_evaluations,
        depth=work.depth,
        seconds=time.perf_counter() - work.begin,
    )


def _because(verdict: VerdictWord, sentence: str) -> tuple[Reason, ...]:
    return (Reason(verdict=verdict, label="", excess=1.0, sentence=sentence),)


def _refuted(work: _Work, smc: Smc | None) -> bool:
    """Whether SMC, begun in the modes of the climbs too, gives them next to no mass."""
    masses = [] if smc is None else [m for name, m, _ in smc.modes if name.startswith("mode")]
    return not work.doubt and bool(masses) and max(masses) < MASS


def _next(work: _Work, verdict: VerdictWord, climbs: Climbs, repaired: Posterior | None) -> str:
    """Return the one step that helps most."""
    if verdict == "agrees":
        return "Use it; a mode that no climb and no particle reached cannot be seen."
    if climbs.absent:
        return "Give every direction a proper prior, then fit again."
    if verdict == "fit_failed":
        return "Fit with more steps, or from another start."
    if is_finding(verdict):
        if repaired is not None and repaired.method == "smc":
            return "Use the repaired draws (benchmarks.assess(fit).repaired), or a richer family."
        return "Try a richer family, or NUTS."
    if not work.missing:
        return "More draws settle it: benchmarks.assess(fit, draws=..., islands=...)."
    return "Run NUTS to settle it: zoo compare MODEL."


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
