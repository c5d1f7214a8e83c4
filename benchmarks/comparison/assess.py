"""What can be said of a fit where no truth is known: `assess`.

From cheap to dear, each step with its number and with what it cannot see:

1. checks of the fit itself: convergence, restarts, k-hat, importance ESS, reweighting self-check;
2. wide climbs: modes where the guide has never been;
3. drift: where short chains go that start from the guide's draws;
4. tempered SMC: draws of the posterior and log Z, so that KL(q, posterior) = log Z - ELBO;
5. where SMC is not run or does not hold: many short chains, until they have forgotten the guide.

The draws of SMC, else the short chains, else those of the drift stand in for the reference:
scores, lines and words are those of `compare`, marked *estimated*. A finding comes from these
scores, or from a mode that is missed; a step that fails or stays open forbids `agrees`.
"""

from __future__ import annotations

import dataclasses
import math
import time

import torch

import guides
from benchmarks.comparison.assess_next import next_step
from benchmarks.comparison.assess_rows import (
    Rows,
    compared_rows,
    has_rows,
    row_posterior,
    row_steps,
)
from benchmarks.comparison.assess_steps import (
    Work,
    by_chains,
    chains_step,
    compiled,
    drift_step,
    nats_step,
    said,
    seconds_each,
    smc_step,
)
from benchmarks.comparison.assessment import Assessment, Nats
from benchmarks.comparison.estimate_from import CLIMB_GRADIENTS, DRAWS
from benchmarks.comparison.fit_checks import trust_checks
from benchmarks.comparison.score import compare
from benchmarks.comparison.sentences import estimated_words
from benchmarks.mcmc.tempered_smc import ISLANDS, MASS, PARTICLES
from benchmarks.trust.chains import CHAINS
from benchmarks.trust.climbs import Climbs, wide_climbs
from benchmarks.trust.drift import Drift
from benchmarks.trust.estimate import LOG_Z, METHOD, SMC_DIMENSIONS, Estimate
from benchmarks.trust.judged import Judged
from benchmarks.types import Comparison, Reason
from benchmarks.verdicts import VerdictWord, is_finding, verdict_of
from guides.draws import point_sentence
from guides.optimize.progress import PROGRESS, Say, speaker
from guides.session import session
from guides.types import FIT, Fit
from zoo.density.faults import program_faults
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError, described, one_line
from zoo.fields import COUNT, NUMBER, SEED, Kind, accepted
from zoo.seeds import derive_seed
from zoo.types import Cost, Posterior, Reference
from zoo.user_models.units import Rows as Chosen

__all__ = ["assess", "assess_row"]

DRAWN = Kind(
    accepted="a number of draws, or a posterior from guides.draw",
    holds=lambda value: isinstance(value, Posterior) or COUNT.holds(value),
)
ROW_SECONDS = 120.0  # budget of one row of a run
CLIMBING = 0.3  # of the budget, at most, for climbs
OWN_CHAINS = "short chains begun at its own draws"
LATER_CHAINS = "chains from the points of SMC, which have not settled"
# Of the checks of the fit alone; k-hat and importance ESS grade another answer, the reweighted.
NEEDED = ("convergence", "spread", "self_check")
BY_ROWS = ("convergence", "restarts", "spread")  # k-hat and weights are of all rows at once


@program_faults("assessed")
def assess(
    fit: Fit,
    *,
    seed: int = 0,
    draws: int | Posterior = DRAWS,
    budget: float | None = None,
    smc: bool | Reference = True,
    islands: int = ISLANDS,
    particles: int = PARTICLES,
    rows: Chosen | None = None,
    progress: Say | bool | None = None,
) -> Assessment:
    """Say how far a fit can be trusted where no truth is known.

    Args:
        fit: a usable fit of any family.
        seed: of the checks' own noise.
        draws: of the guide: their number, each of which starts a short chain, or they themselves,
            of which 2,048 do.
        budget: seconds; a step is not begun if it is forecast to exceed what is left of them.
            None for no limit.
        smc: run tempered SMC, where the vector has at most 150 coordinates; or what it, or short
            chains, found from another guide of the same posterior (`Estimate.reference`).
        islands: counting islands of SMC.
        particles: points of an island. Where 64 rows stand for all (all latent values belong to
            rows, and are more than 150 or the program learns), draws, islands and particles are
            2,048, 8 and 512 for each.
        rows: of the training data, if all latent values belong to rows: a number of them, drawn by
            the seed, or row numbers; each is then assessed by itself. By default 64 where they
            stand for all. Rows that are held out are assessed by `guides.transfer` to them first.
        progress: lines on stderr, by default where it is a terminal or a notebook, elsewhere few
            after half a minute; or a function that receives a line per step.

    Returns:
        The verdict with every check, the nats lost, and the repaired draws.

    Raises:
        UsageError: fewer than 100 draws, no judged quantity, a reference that SMC did not make, or
            rows that do not exist.
        FitError: the fit has no usable guide.
    """
    accepted("assess", fit=(fit, FIT), seed=(seed, SEED), progress=(progress, PROGRESS))
    accepted("assess", draws=(draws, DRAWN), budget=(budget, NUMBER | None))
    number = draws if isinstance(draws, int) else draws.sample_shape[0]
    if number < 100:
        raise UsageError(f"assess got draws={number}; accepted: at least 100, 2,048 are usual.")
    if not any(q.judged for q in fit.entry.quantities.values()):
        raise UsageError(f"{fit.entry.name} has no judged quantity; mark one with judged=True.")
    if isinstance(smc, Reference) and (
        smc.posterior is None
        or (smc.posterior.method != CHAINS and LOG_Z not in smc.posterior.stats)
    ):
        raise UsageError(
            f"assess got smc={described(smc)}; accepted: True, False, or a reference made by"
            " tempered SMC or by short chains, of all rows at once."
        )
    with session(fit.entry.dtype):
        # one of its own: compiling that of the fit would change later draws in the last digits
        density = LogDensity(fit.program, fit.data, dtype=fit.entry.dtype)
        taken, why = None, ""
        many = density.dim > SMC_DIMENSIONS or fit.entry.learns
        if rows is not None:
            taken = _asked_rows(fit, seed, rows, density, draws)
        elif isinstance(draws, int) and many and has_rows(density):
            try:
                taken = compared_rows(fit, seed)
            except UsageError as error:
                why = f"Rows are not assessed one by one: {one_line(error)}"
        if taken is not None:
            posterior = row_posterior(fit, taken)
        elif isinstance(draws, int):
            posterior = guides.draw(fit, draws, seed=derive_seed(seed, "trust", "draws"))
        else:
            posterior = draws
        work = Work(
            fit=fit,
            seed=seed,
            budget=math.inf if budget is None else budget,
            progress=speaker(progress, f"assess {fit.entry.key} {fit.family}"),
            density=density,
            posterior=posterior,
            chains=number if isinstance(draws, int) else min(number, DRAWS),
            whole=not isinstance(draws, int),
        )
        if taken is not None:
            return _by_rows(work, taken)
        if why:
            work.say("rows", None, why, needed=False)
        whole = islands * particles if smc is True and density.dim <= SMC_DIMENSIONS else 0
        compiled(density, min(number, DRAWS), whole)
        return _protocol(work, smc, islands, particles)


def _asked_rows(
    fit: Fit, seed: int, rows: Chosen, density: LogDensity, draws: int | Posterior
) -> Rows:
    """Return the rows that the caller asks for.

    Raises:
        UsageError: latent values do not belong to rows, the guide has no q of a row, there are
            draws of all rows, or rows that do not exist.
    """
    if not fit.data.batched and "from_program" in fit.entry.tags:
        raise UsageError(
            f"rows asks for some of the rows, but the entry {fit.entry.key} knows none; pass"
            f" {_batched(fit)} to zoo.from_program, or leave rows out."
        )
    if not has_rows(density):
        raise UsageError(
            f"rows asks for some of the rows, but not every latent value of {fit.entry.key} is a"
            " continuous value of one of several rows; leave rows out."
        )
    if not isinstance(draws, int):
        raise UsageError(
            "rows asks for some of the rows, but draws are those of all of them; give a number of"
            " draws, or leave rows out."
        )
    return compared_rows(fit, seed, rows)


def _batched(fit: Fit) -> str:
    """Return `batched=['x']` with the data that are observed, as the entry would take it."""
    names = [k for k in fit.data.observed if getattr(fit.data.train.get(k), "ndim", 0)]
    return f"batched={names or '[...]'}"


def _by_rows(work: Work, rows: Rows) -> Assessment:
    for check in trust_checks(work.fit, None, None):
        if check.name in BY_ROWS:
            work.say(check.name, check.passed, check.sentence, needed=check.name in NEEDED)
    if work.fit.points:
        return _verdict(work)
    found = row_steps(work, rows)
    work.posterior = row_posterior(work.fit, found.rows)
    where = f" on {found.rows.words}"
    return _verdict(work, None, found.drift, None, found.kl, found.truth, where)


def _protocol(work: Work, smc: bool | Reference, islands: int, particles: int) -> Assessment:
    fit, posterior = work.fit, work.posterior
    alone = compare(posterior, None, fit=fit, heldout=False)
    for check in alone.trust:
        work.say(check.name, check.passed, check.sentence, needed=check.name in NEEDED)
    one, many = seconds_each(work)
    affordable = math.inf if one == 0 else CLIMBING * work.left / one
    climbs = wide_climbs(
        work.density,
        posterior,
        seed=work.seed,
        budget=min(CLIMB_GRADIENTS, affordable),
        seconds=CLIMBING * work.left,
    )
    work.depth += climbs.gradients
    work.say("climbs", climbs.gate, _sentence(climbs.sentence))
    if fit.points:
        return _verdict(work, climbs)
    drift = drift_step(work, Judged(work.density, fit.entry, fit.data), many)
    found, truth = None, None
    if isinstance(smc, Reference):
        truth = work.given = smc
        said(work, truth)
    elif smc:
        k_hat = math.inf if alone.pareto_k is None else alone.pareto_k.value
        found = smc_step(work, climbs, k_hat, islands, particles, many)
        truth = None if found is None else found.reference
    if work.doubt:
        work.say("smc", None, work.doubt)
    kl = nats_step(work, truth)
    if work.doubt:
        truth = _in_its_place(work, climbs, drift, found, truth, many)
    return _verdict(work, climbs, drift, found, kl, truth)


def assess_row(
    posterior: Posterior, fit: Fit, reference: Reference, *, seed: int = 0
) -> Comparison:
    """Return the comparison of a run's row for which no truth is known.

    Args:
        posterior: draws of the fit.
        fit: what they were drawn from.
        reference: of the kind `estimated`, from the row of SMC or of short chains, or of the kind
            `none`.
        seed: of the checks' own noise.
    """
    smc = reference if reference.kind == "estimated" else False
    found = assess(fit, seed=seed, draws=posterior, smc=smc, budget=ROW_SECONDS, progress=False)
    alone = found.comparison
    if alone is None:
        alone = compare(posterior, None, fit=fit)
    return dataclasses.replace(
        alone,
        reference=reference,
        compared_with=_instead(found.reference, reference),
        verdict=found.verdict,
        reasons=found.reasons,
        sentence=found.sentence,
        trust=found.checks,
    )


# -- the answer ----------------------------------------------------------------------------


def _in_its_place(
    work: Work,
    climbs: Climbs,
    drift: Drift | None,
    found: Estimate | None,
    truth: Reference | None,
    seconds: float,
) -> Reference | None:
    """Return what a fit is compared with where SMC was not run or does not hold."""
    if truth is not None and by_chains(truth) and truth.usable:
        return truth
    if found is not None and found.moved_on:
        return Reference(kind="estimated", posterior=found.posterior)
    # chains from the guide's draws cannot know the mass of a mode elsewhere
    known = truth is not None and by_chains(truth)
    chains = None if known or climbs.points else chains_step(work, seconds)
    # chains that have not forgotten stand for their 32 starts; those of the drift have more
    return chains if chains is not None and chains.usable else _moved(work, drift, climbs)


def _moved(work: Work, drift: Drift | None, climbs: Climbs) -> Reference | None:
    """Return the chains that began at the guide's draws, where they are now, as a reference."""
    if drift is None:
        return None
    doubt = drift.doubt and f"The chains have not arrived: {drift.doubt}."
    if climbs.points:
        doubt = "No chain began in a mode that climbs found elsewhere."
    with torch.no_grad():
        sites = work.density.constrain(drift.points)
    chains = Posterior(
        entry=work.fit.entry,
        data=work.fit.data,
        method=CHAINS,
        draws=sites,
        sample_dims=("sample",),
        unconstrained=drift.points,
        seed=work.seed,
        notes=("The ends of short chains; modes that no chain reached are missing.",),
        doubt=doubt,
        cost=Cost(
            seconds=time.perf_counter() - work.begin,
            gradient_evaluations=work.density.gradient_evaluations,
            sequential_depth=work.depth,
        ),
    )
    return Reference(kind="estimated", posterior=chains)


def _repaired(work: Work, found: Estimate | None, truth: Reference | None) -> Posterior | None:
    """Return draws to use in the guide's place: equally weighted ones of SMC, or the chains."""
    if found is not None and not work.doubt:
        islands, each, _ = found.smc.points.shape
        seed = derive_seed(work.seed, "trust", "repaired")
        return found.draws(work.density, islands * each, seed)
    return None if truth is None else truth.posterior


def _verdict(
    work: Work,
    climbs: Climbs | None = None,
    drift: Drift | None = None,
    found: Estimate | None = None,
    kl: Nats | None = None,
    truth: Reference | None = None,
    where: str = "",
) -> Assessment:
    comparison = None
    if truth is not None:
        comparison = compare(
            work.posterior,
            truth,
            fit=None if where else work.fit,
            distances="none" if where else "all" if work.whole else "if_needed",
            heldout=work.whole,
        )
    repaired = _repaired(work, found, truth)
    reasons: tuple[Reason, ...] = () if comparison is None else comparison.reasons
    verdict: VerdictWord = "inconclusive" if comparison is None else comparison.verdict
    absent = "" if climbs is None else climbs.absent
    if absent:
        verdict, reasons = "fit_failed", _because("fit_failed", absent)
    elif work.fit.points:
        verdict, reasons = "too_narrow", _because("too_narrow", point_sentence(work.fit.points))
    elif not is_finding(verdict) and _missed(work, climbs, found):
        assert climbs is not None
        verdict, reasons = "wrong_shape", _because("wrong_shape", climbs.sentence)
    elif verdict == "agrees" and work.missing:
        verdict, reasons = "inconclusive", _because("inconclusive", work.missing[0])
    elif comparison is None:
        first = work.missing[0] if work.missing else "no step could be made"
        verdict, reasons = "inconclusive", _because("inconclusive", first)
    by_smc = repaired is not None and repaired.method == METHOD
    step = next_step(work.fit, verdict, absent=absent, repaired=by_smc, missing=work.missing)
    clause = verdict_of(verdict).clause
    first = reasons[0].sentence.rstrip(".") if reasons else "every step of the protocol passes"
    lost = "" if kl is None else f"; {kl.sentence}"
    by = estimated_words(_instead(truth, work.given))
    sentence = f"{work.fit.family} {clause} {by}{where}: {first}{lost}. {step}"
    return Assessment(
        fit=work.fit,
        verdict=verdict,
        sentence=sentence,
        reasons=reasons,
        comparison=comparison,
        checks=tuple(work.checks),
        climbs=climbs,
        drift=drift,
        estimate=found,
        reference=truth,
        kl=kl,
        repaired=repaired,
        next=step,
        gradients=work.density.gradient_evaluations + work.gradients,
        depth=work.depth,
        seconds=time.perf_counter() - work.begin,
    )


def _missed(work: Work, climbs: Climbs | None, found: Estimate | None) -> bool:
    """Whether climbs found a mode that nothing refutes."""
    return climbs is not None and climbs.better is not None and not _refuted(work, found)


def _instead(truth: Reference | None, known: Reference | None) -> str:
    """Name what a fit was compared with in the place of a reference that does not hold."""
    if truth is None or truth is known or truth.posterior is None:
        return ""
    if truth.posterior.method == CHAINS:
        return OWN_CHAINS
    return LATER_CHAINS if truth.posterior.doubt else ""


def _because(verdict: VerdictWord, sentence: str) -> tuple[Reason, ...]:
    return (Reason(verdict=verdict, label="", excess=1.0, sentence=sentence),)


def _refuted(work: Work, found: Estimate | None) -> bool:
    """Whether SMC, begun in the modes of the climbs too, gives them next to no mass."""
    modes = () if found is None else found.smc.modes
    masses = [mass for name, mass, _ in modes if name.startswith("mode")]
    return not work.doubt and bool(masses) and max(masses) < MASS


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
