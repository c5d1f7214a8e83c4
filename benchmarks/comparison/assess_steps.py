"""The steps of `assess`: each records what it found, with its number and a sentence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import norm, t

import guides
from benchmarks.comparison.assessment import Nats
from benchmarks.mcmc.short_chains import MOST_GRADIENTS
from benchmarks.metrics.numbers import value_with_error
from benchmarks.trust.chains import CHAINS, GRADIENTS, STARTS, chained, chains_reference
from benchmarks.trust.climbs import Climbs
from benchmarks.trust.drift import PILOT, Drift, drift_of
from benchmarks.trust.estimate import (
    BY_PRIOR,
    SMC_DIMENSIONS,
    Estimate,
    estimate,
    evidence_holds,
    evidence_of,
)
from benchmarks.trust.judged import Judged
from benchmarks.types import Trust
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites
from zoo.errors import FitError, one_line
from zoo.seeds import derive_seed
from zoo.types import Posterior, Reference

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = [
    "LEAST_SMC",
    "Work",
    "by_chains",
    "chains_step",
    "compiled",
    "drift_step",
    "nats_step",
    "said",
    "seconds_each",
    "sentence_of_drift",
    "smc_step",
]

# Gradients per point of each step, to forecast its time; and at least, to decide on compiling.
DRIFT_GRADIENTS, PILOT_GRADIENTS, SMC_GRADIENTS = 97, 145, 250
LEAST_DRIFT, LEAST_SMC = 24, 30
TIMED = 256  # points of one timed batch
DRIFTING = 0.7  # of what is left of the budget, at most, for short chains
FEWEST = 200  # short chains that say something
NATS_ALARM = 3.0  # standard errors by which an ELBO may exceed the log evidence


@dataclass
class Work:
    """One call of `assess`: what is known so far.

    Attributes:
        fit: what is assessed.
        seed: of the checks' own noise.
        budget: seconds.
        progress: receives one line per step.
        density: the log density of the posterior.
        posterior: draws of the guide.
        chains: how many of them start a short chain.
        whole: compare as a row of a report is compared, with all distances and held-out rows.
        begin: when the call began.
        depth: gradients one after another.
        gradients: evaluations of the density of rows; those of the whole are counted by `density`.
        doubt: why tempered SMC says nothing; empty if it holds.
        checks: the steps so far.
        missing: why agreement cannot be claimed.
        given: what SMC or short chains found from another guide, if that was given.
    """

    fit: Fit
    seed: int
    budget: float
    progress: Callable[[str], None]
    density: LogDensity
    posterior: Posterior
    chains: int
    whole: bool
    begin: float = field(default_factory=time.perf_counter)
    depth: int = 0
    gradients: int = 0
    doubt: str = "Tempered SMC was not run: a missed mode would not be seen."
    checks: list[Trust] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    given: Reference | None = None

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - (time.perf_counter() - self.begin)

    def say(self, name: str, passed: bool | None, sentence: str, *, needed: bool = True) -> None:
        """Record a step; `agrees` needs all that are marked as needed."""
        self.checks.append(Trust(name=name, passed=passed, sentence=sentence))
        self.progress(f"{name}: {sentence}")
        if needed and passed is not True:
            self.missing.append(sentence)

    def too_long(self, what: str, seconds: float) -> str:
        """Return why a step of this forecast is not begun, empty if it is."""
        if seconds <= self.left:
            return ""
        return (
            f"{what} not run: about {seconds:.0f} s are forecast and {max(self.left, 0):.0f} s of"
            " the budget are left."
        )


def compiled(density: LogDensity, chains: int, points: int) -> None:
    """Compile a density where the least that the steps will ask for pays it.

    Args:
        density: the log density of the posterior.
        chains: short chains of the drift.
        points: of all counting islands of SMC; 0 without it.
    """
    expected = chains * LEAST_DRIFT + points * LEAST_SMC
    density.compile("auto", expected_calls=chains * 100, expected_points=expected)


def seconds_each(work: Work) -> tuple[float, float]:
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


def drift_step(work: Work, judged: Judged, seconds: float) -> Drift | None:
    """Move the guide's draws by short chains, unless that is forecast to take too long."""
    assert work.posterior.unconstrained is not None
    u = work.posterior.unconstrained[: work.chains]
    number = _affordable(work, len(u), seconds)
    if number < len(u):
        # as evenly spread over the draws as all of them would be
        u = u[torch.linspace(0, len(u) - 1, max(number, 1)).long()]
    few = min(PILOT, 2 * len(u))
    forecast = seconds * (len(u) * DRIFT_GRADIENTS + few * PILOT_GRADIENTS)
    if number < FEWEST:
        whole = seconds * (FEWEST * DRIFT_GRADIENTS + PILOT * PILOT_GRADIENTS)
        late = work.too_long("Short chains were", max(whole, forecast))
        work.say("drift", None, late)
        return None
    pilot = guides.draw(work.fit, few, seed=derive_seed(work.seed, "trust", "pilot"))
    assert pilot.unconstrained is not None
    drift = drift_of(work.density, u, judged, pilot=pilot.unconstrained, seed=work.seed)
    work.depth += drift.depth
    labels = [c.label for c in judged.components]
    work.say("drift", *sentence_of_drift(drift, labels))
    return drift


def _affordable(work: Work, wanted: int, seconds: float) -> int:
    """Return how many short chains fit into a share of the budget, at most those wanted.

    n chains take 97 n gradients, and their pilot 145 min(512, 2 n).
    """
    if seconds == 0:
        return wanted
    gradients = work.left * DRIFTING / seconds
    many = (gradients - PILOT * PILOT_GRADIENTS) / DRIFT_GRADIENTS
    few = gradients / (DRIFT_GRADIENTS + 2 * PILOT_GRADIENTS)
    return int(min(wanted, max(many, few, 0)))


def sentence_of_drift(drift: Drift, labels: Sequence[str]) -> tuple[bool | None, str]:
    """Return whether the chains stayed, None if they have not arrived, and a sentence.

    Args:
        drift: what the chains found.
        labels: names of its components.
    """
    i = int(np.argmax(drift.excess))
    least = "at least " if drift.moving[i] else ""
    e = value_with_error(float(drift.mean_error[i]), float(drift.mean_error_se[i]), sign=True)
    ratio = math.exp(float(drift.log_sd_ratio[i]))
    r = value_with_error(ratio, ratio * float(drift.log_sd_ratio_se[i]))
    where = f"{labels[i]}: mean {least}{e} sd, sd {r} times that of the chains"
    if drift.found:
        return False, f"Chains from the guide's draws leave them ({where})."
    if why := drift.doubt:
        return None, f"Chains from the guide's draws have not arrived: {why}."
    return True, f"Chains from the guide's draws stay where they are ({where})."


def smc_step(
    work: Work, climbs: Climbs, k_hat: float, islands: int, particles: int, seconds: float
) -> Estimate | None:
    """Run SMC, and leave in `work.doubt` why it does not hold, or nothing."""
    density, u = work.density, work.posterior.unconstrained
    assert u is not None
    if density.dim > SMC_DIMENSIONS:
        work.doubt = (
            f"Tempered SMC was not run on {density.dim} coordinates (at most {SMC_DIMENSIONS})."
        )
        return None
    forecast = seconds * (islands + 1) * particles * SMC_GRADIENTS
    if late := work.too_long("Tempered SMC was", forecast):
        work.doubt = late
        return None
    try:
        found = estimate(
            density,
            work.fit.entry,
            work.fit.data,
            u,
            modes=climbs.points,
            k_hat=k_hat,
            islands=islands,
            particles=particles,
            seed=work.seed,
        )
    except (FitError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        work.doubt = one_line(error)
        return None
    work.depth += found.depth
    said(work, found.reference)
    return found


def by_chains(truth: Reference) -> bool:
    """Whether draws are the ends of short chains."""
    return truth.posterior is not None and truth.posterior.method == CHAINS


def chains_step(work: Work, seconds: float) -> Reference | None:
    """Move many short chains until they have forgotten the guide, where SMC does not hold."""
    if late := work.too_long("Chains until they forget were", seconds * GRADIENTS):
        work.say("short_chains", None, late)
        return None
    u = guides.draw(work.fit, STARTS, seed=derive_seed(work.seed, "trust", "chains")).unconstrained
    assert u is not None
    found = chained(
        work.density,
        work.fit.entry,
        work.fit.data,
        u,
        gradients=MOST_GRADIENTS if seconds == 0 else min(MOST_GRADIENTS, work.left / seconds),
        seed=work.seed,
    )
    work.depth += found.cost.sequential_depth
    truth = chains_reference(found)
    said(work, truth)
    return truth


def said(work: Work, truth: Reference) -> None:
    """Record what SMC or chains found, in this call or before; `work.doubt` says why not."""
    assert truth.posterior is not None
    if by_chains(truth):
        note = truth.posterior.notes[0] if truth.posterior.notes else "They have settled."
        work.say("short_chains", True if truth.usable else None, truth.reason or note)
        return
    evidence, proper = evidence_of(truth.posterior), not flat_sites(work.density)
    what = "log evidence" if proper else "log normalizer (the prior is improper)"
    value = f"{what} {value_with_error(evidence.value, evidence.se)} nats"
    work.doubt = "" if truth.usable else f"{truth.reason[:-1]}; {value} at best."
    if not truth.usable:
        return
    if evidence_holds(truth.posterior):
        also = ", begun from the prior as well" if BY_PRIOR in truth.posterior.notes else ""
        by = f"by {len(evidence.islands)} islands of SMC{also}"
        work.say("smc", True, f"{value[0].upper()}{value[1:]} {by}.")
    else:
        after = "Chains from the points of SMC moved them, and have settled"
        work.say("smc", True, f"{after}; the {what} is not known ({value} before that).")


def nats_step(work: Work, truth: Reference | None) -> Nats | None:
    """Return the nats that the guide loses; an ELBO above the log evidence is an alarm."""
    elbo = work.fit.elbo
    if truth is None or elbo is None or not math.isfinite(elbo.se):
        return None
    if by_chains(truth):
        return None
    assert truth.posterior is not None
    evidence, sound = evidence_of(truth.posterior), not work.doubt
    if sound and not evidence_holds(truth.posterior):
        return None
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
