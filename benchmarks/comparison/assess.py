"""What can be said of a fit where no truth is known: `assess`.

From cheap to dear, each step with its number and with what it cannot see:

1. checks of the fit itself: convergence, restarts, k-hat, importance ESS, reweighting self-check;
2. wide climbs: modes where the guide has never been;
3. drift: where short chains go that start from the guide's draws;
4. tempered SMC: draws of the posterior and log Z, so that KL(q, posterior) = log Z - ELBO.

The draws of SMC, or the moved chains where SMC was not run or did not hold, stand in for the
reference: scores, lines and words are those of `compare`, marked *estimated*. `agrees` needs every
step; a finding needs one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

import guides
from benchmarks.comparison.assessment import Assessment, Nats
from benchmarks.comparison.score import compare
from benchmarks.mcmc.tempered_smc import ISLANDS, PARTICLES, Smc, tempered
from benchmarks.metrics.numbers import value_with_error
from benchmarks.trust.base import smc_base
from benchmarks.trust.climbs import Climbs, wide_climbs
from benchmarks.trust.drift import PILOT, Drift, drift_of
from benchmarks.trust.judged import Judged
from benchmarks.types import Comparison, Reason, Trust
from benchmarks.verdicts import VerdictWord, is_finding, verdict_of
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UsageError
from zoo.seeds import derive_seed
from zoo.types import Cost, Moments, Posterior, Reference

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["assess"]

DRAWS = 2048
CLIMB_GRADIENTS = 30_000  # most, for wide climbs
SMC_DIMENSIONS = 150  # beyond, tempered SMC is not run
MEMORY = 0.1  # correlation over chains of start and end beyond which a start is remembered
LOWEST_ACCEPTANCE = 0.3  # of the last transition, below which SMC has not moved its points
# Of the checks of the fit alone; k-hat and importance ESS grade another answer, the reweighted.
NEEDED = ("convergence", "spread")
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
        budget: seconds; SMC is not begun if it is forecast to exceed them. None for no limit.
        smc: run tempered SMC, where the vector has at most 150 coordinates.
        islands: counting islands of SMC.
        particles: points of an island.
        progress: receives one line per step.

    Returns:
        The verdict with every check, the nats lost, and the repaired draws.

    Raises:
        UsageError: fewer than 100 draws.
        FitError: the fit has no usable guide.
    """
    if draws < 100:
        raise UsageError(f"assess got draws={draws}; accepted: at least 100, 2,048 are usual.")
    posterior = guides.draw(fit, draws, seed=derive_seed(seed, "trust", "draws"))
    with session(fit.entry.dtype):
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
    alone = compare(posterior, None, fit=fit)
    for check in alone.trust:
        work.say(check.name, check.passed, check.sentence, needed=check.name in NEEDED)
    climbs = wide_climbs(
        work.density, posterior, seed=work.seed, budget=min(CLIMB_GRADIENTS, 10**9)
    )
    work.say("climbs", climbs.gate, _sentence(climbs.sentence))
    judged = Judged(work.density, fit.entry, fit.data)
    drift = None if fit.points else _drift(work, judged)
    k_hat = math.inf if alone.pareto_k is None else alone.pareto_k.value
    found = _smc(work, climbs, k_hat, islands, particles) if smc and not fit.points else None
    if found is None and not fit.points and not any(c.name == "smc" for c in work.checks):
        work.say("smc", None, "Tempered SMC was not run: a missed mode would not be seen.")
    kl = _kl(work, found, climbs)
    repaired = _repaired(work, drift, found)
    comparison = None if repaired is None else _compared(work, repaired, drift, found)
    return _verdict(work, climbs, drift, found, kl, repaired, comparison)


# -- steps ---------------------------------------------------------------------------------


def _drift(work: _Work, judged: Judged) -> Drift:
    u = work.posterior.unconstrained
    assert u is not None
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
        return drift
    still = int(drift.moving.sum())
    memory = float(np.abs(drift.memory).max())
    if still or memory > MEMORY:
        why = (
            f"{still} judged components still move"
            if still
            else f"their ends still know their starts (correlation {memory:.2f})"
        )
        work.say("drift", None, f"Chains from the guide's draws have not arrived: {why}.")
        return drift
    work.say("drift", True, f"Chains from the guide's draws stay where they are ({where}).")
    return drift


def _smc(work: _Work, climbs: Climbs, k_hat: float, islands: int, particles: int) -> Smc | None:
    density, u = work.density, work.posterior.unconstrained
    assert u is not None
    if density.dim > SMC_DIMENSIONS:
        work.say(
            "smc",
            None,
            f"Tempered SMC was not run on {density.dim} coordinates (at most {SMC_DIMENSIONS}).",
        )
        return None
    spent = time.perf_counter() - work.begin
    forecast = spent * 2.0 * (islands + 1) * particles / max(len(u), 1)
    if forecast > work.left:
        work.say(
            "smc",
            None,
            f"Tempered SMC was not run: about {forecast:.0f} s are forecast and"
            f" {max(work.left, 0):.0f} s of the budget are left.",
        )
        return None
    modes = [] if climbs.better is None else [o.point for o in climbs.others]
    try:
        base = smc_base(density, work.fit.data, u, particles=particles, modes=modes, k_hat=k_hat)
        found = tempered(density, base, islands=islands, seed=work.seed)
    except FitError as error:
        work.say("smc", None, str(error))
        return None
    work.depth += found.depth
    evidence = found.evidence
    value = f"log evidence {value_with_error(evidence.value, evidence.se)} nats"
    if not evidence.known:
        spread = max(evidence.islands) - min(evidence.islands)
        work.say("smc", None, f"The islands of SMC lie {spread:.1f} nats apart: {value} at best.")
    elif found.starved:
        name, mass, count = next(m for m in found.modes if m[0] in found.starved)
        work.say(
            "smc",
            None,
            f"The mass {mass:.2f} of {name} rests on {count} ancestors (20 are wanted).",
        )
    elif found.acceptance < LOWEST_ACCEPTANCE:
        work.say(
            "smc", None, f"The last transition of SMC accepts {found.acceptance:.0%} of moves."
        )
    else:
        work.say("smc", True, f"{value[0].upper()}{value[1:]} by {islands} islands of SMC.")
    return found


def _kl(work: _Work, smc: Smc | None, climbs: Climbs) -> Nats | None:
    elbo = work.fit.elbo
    if smc is None or work.fit.points or elbo is None or not math.isfinite(elbo.se):
        return None
    sound = any(c.name == "smc" and c.passed for c in work.checks)
    kl = Nats(
        value=smc.evidence.value - elbo.value_nats,
        se=math.hypot(smc.evidence.se, elbo.se),
        bound=not sound,
    )
    if kl.value < -NATS_ALARM * kl.se - 0.01:
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
    """Return the draws of SMC by islands if they can be used, else the moved chains, else None."""
    usable = smc is not None and smc.evidence.known and not smc.starved
    if smc is not None and usable:
        points, method = smc.points, "smc"
    elif drift is not None:
        points, method = drift.points, "short_chains"
    else:
        return None
    with torch.no_grad():
        sites = work.density.constrain(points)
    return Posterior(
        entry=work.fit.entry,
        data=work.fit.data,
        method=method,
        draws=sites,
        sample_dims=("chain", "draw") if method == "smc" else ("sample",),
        unconstrained=points,
        seed=work.seed,
        cost=Cost(
            seconds=time.perf_counter() - work.begin,
            gradient_evaluations=work.density.gradient_evaluations,
        ),
    )


def _compared(
    work: _Work, repaired: Posterior, drift: Drift | None, smc: Smc | None
) -> Comparison:
    moments: Mapping[str, Moments] = {}
    if repaired.method == "smc":
        assert smc is not None
        moments = _island_moments(repaired, smc)
    reference = Reference(kind="estimated", posterior=repaired, moments=moments)
    return compare(work.posterior, reference, fit=work.fit, distances="if_needed")


def _island_moments(repaired: Posterior, smc: Smc) -> dict[str, Moments]:
    """Return moments of every quantity with errors from the differences between islands."""
    out = {}
    for name, quantity in repaired.entry.quantities.items():
        values = quantity.fn(repaired.draws, repaired.data).detach().double()
        mean, mean_se = smc.mean(values)
        variance, variance_se = smc.mean((values - mean).square())
        sd = variance.sqrt()
        safe = torch.where(sd > 0, sd, 1.0)
        out[name] = Moments(mean=mean, mean_se=mean_se, sd=sd, sd_se=0.5 * variance_se / safe)
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
    elif not is_finding(verdict) and climbs.better is not None:
        verdict, reasons = "wrong_shape", _because("wrong_shape", climbs.sentence)
    elif verdict == "agrees" and work.missing:
        verdict, reasons = "inconclusive", _because("inconclusive", work.missing[0])
    elif comparison is None:
        first = work.missing[0] if work.missing else "no step could be made"
        verdict, reasons = "inconclusive", _because("inconclusive", first)
    step = _next(work, verdict, smc, repaired)
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


def _next(work: _Work, verdict: VerdictWord, smc: Smc | None, repaired: Posterior | None) -> str:
    """Return the one step that helps most."""
    if verdict == "agrees":
        return "Use it; a mode that no climb and no particle reached cannot be seen."
    if verdict == "fit_failed":
        return "Give every direction a proper prior, then fit again."
    if is_finding(verdict):
        if repaired is not None and repaired.method == "smc":
            return "Use the repaired draws (benchmarks.assess(fit).repaired), or a richer family."
        return "Try a richer family, or NUTS."
    if not work.missing:
        return "More draws settle it: benchmarks.assess(fit, draws=..., islands=...)."
    return "Run NUTS to settle it: zoo compare MODEL."


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
