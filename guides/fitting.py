"""`fit`: from an entry and a family to an optimized guide, over one or several starts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pyro
import torch
from torch import nn

from guides.base.flat import FlatGuide, NormalGuide
from guides.base.initialize import find_start
from guides.base.local import LocalGuide
from guides.base.own_guides import as_given, check_scales, check_sites, is_given
from guides.draws import estimate_elbo, point_sites, weighted_draws
from guides.objectives.flat import FlatObjective, Minibatches
from guides.objectives.per_unit import LocalObjective
from guides.objectives.program import ProgramObjective
from guides.objectives.records import objective_of
from guides.optimize.loop import Outcome, optimize
from guides.optimize.natural import LARGEST, expected_calls, natural
from guides.optimize.progress import PROGRESS, StepProgress, steps_of
from guides.optimize.settings import configure
from guides.optimize.step import summary
from guides.registry import build, family_of
from guides.session import (
    as_module,
    compile_recursion,
    name_of,
    program_for,
    refuse_untrained,
    session,
    trainable,
    whole_batches,
)
from guides.types import CONFIG, FAMILY, FIT, Elbo, Fit, FitConfig, Restart, Stop
from zoo.compiler.compile import Mode, Record
from zoo.density.faults import program_faults
from zoo.density.log_density import LogDensity
from zoo.density.unit_terms import is_local
from zoo.errors import FitError, UsageError
from zoo.fields import SEED, accepted
from zoo.seeds import derive_seed, seeded
from zoo.types import DATA, ENTRY, Cost, Data, ModelEntry, Program

__all__ = ["fit", "program_objective"]

ANSWER_DRAWS = 500  # by which the answers of several starts are compared
# draws of the final ELBO, fewer if a draw has many coordinates
ELBO_DRAWS, ELBO_NUMBERS = (4000, 200_000)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all starts of one fit share."""

    entry: ModelEntry
    data: Data
    family: str
    config: FitConfig
    options: Mapping[str, Any]
    given: Fit | None
    progress: StepProgress | None


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One start: its final guide, or none."""

    program: Program
    guide: nn.Module
    outcome: Outcome
    gradients: int
    elbo: Elbo | None
    seed: int
    record: Record
    points: tuple[str, ...]
    density: LogDensity | None = None
    answer: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def rank(self) -> float:
        """The final objective; starts without a usable guide rank last."""
        return self.elbo.value_nats if self.elbo is not None else -float("inf")

    @property
    def bound(self) -> Elbo | None:
        """The final objective if it bounds the evidence (that of a point guide does not)."""
        return None if self.points else self.elbo


@program_faults("fitted")
def fit(
    entry: ModelEntry,
    family: str,
    *,
    seed: int = 0,
    data: Data | None = None,
    config: FitConfig | None = None,
    given: Fit | None = None,
    progress: StepProgress | bool | None = None,
    **config_overrides: Any,
) -> Fit:
    """Fit one family to an entry by maximizing the evidence lower bound.

    Args:
        entry: the card of the model.
        family: a name of `guides.FAMILIES` or of `entry.own_guides`.
        seed: seed of starts, noise and minibatches; the same seed gives the same losses.
        data: what to condition on, by default `entry.load_data()`.
        config: settings of the loop; single fields may be given as keywords instead, as may the
            family's own options.
        given: an earlier fit whose trained program is used unchanged, for entries that learn.
        progress: lines on stderr, by default where it is a terminal or a notebook, elsewhere few
            after half a minute; or a function, called as `progress(step, steps, loss)`.
        **config_overrides: fields of `FitConfig`, or options of the family.

    Returns:
        A fit. A failed start, a non-finite loss and a spent budget are states of the fit (`stop`),
        not exceptions.

    Raises:
        UnknownNameError: unknown family, objective or option, with the nearest guess.
        ProgramError: the program cannot be handled, or has weights that would not be trained.
        FitError: the guide does not match the program: it misses a site or draws one the program
            lacks.
        UsageError: no entry, or a seed that is no integer of at least 0.
    """
    accepted("guides.fit", entry=(entry, ENTRY), family=(family, FAMILY), data=(data, DATA | None))
    accepted("guides.fit", config=(config, CONFIG | None), given=(given, FIT | None))
    accepted("guides.fit", seed=(seed, SEED), progress=(progress, PROGRESS))
    config, options = configure(entry, family, config, config_overrides, given=given is not None)
    told = steps_of(f"{entry.key} {family}", config.restarts, progress)
    job = _Job(
        entry=entry,
        data=entry.load_data() if data is None else data,
        family=family,
        config=config,
        options=options,
        given=given,
        progress=told if told is not None else progress if callable(progress) else None,
    )
    if told is not None:
        told.begin(whole_batches(config, job.data) if "batch_size" in config_overrides else "")
    began = time.perf_counter()
    key = (entry.key, family)
    with session(entry.dtype):
        attempts = [
            _attempt(job, derive_seed(seed, *key, "start", r), derive_seed(seed, *key, "final"), r)
            for r in range(config.restarts)
        ]
    best = max(attempts, key=lambda a: a.rank)
    if told is not None:
        told.end(best.outcome.stop.status + ", no step was taken" * (not best.outcome.steps))
    steps, gradients = sum(a.outcome.steps for a in attempts), sum(a.gradients for a in attempts)
    compiling = sum(a.record["compile_seconds"] for a in attempts)
    return Fit(
        entry=entry,
        data=job.data,
        family=family,
        program=best.program,
        guide=best.guide,
        config=config,
        seed=seed,
        losses=best.outcome.losses,
        stop=best.outcome.stop,
        elbo=best.bound,
        options=options,
        points=best.points,
        density=best.density,
        cost=Cost(
            seconds=time.perf_counter() - began - compiling,
            compile_seconds=compiling,
            steps=steps,
            gradient_evaluations=gradients,
            sequential_depth=steps,
        ),
        restarts=tuple(
            Restart(seed=a.seed, elbo=a.bound, stop=a.outcome.stop, answer=a.answer)
            for a in attempts
        ),
        compiled=summary([a.record for a in attempts]),
        history=best.outcome.history,
    )


def _attempt(job: _Job, seed: int, final_seed: int, number: int) -> _Attempt:
    """Run one start; the final ELBO uses draws common to all starts."""
    generator = torch.Generator().manual_seed(seed)
    program: Program = (
        _carried(job.given, job) if job.given is not None else job.entry.program(job.data)
    )
    with seeded(seed):
        weights = (
            {}
            if job.given is not None
            else trainable(program, learns=job.entry.learns, name=job.entry.name)
        )
        if not isinstance(program, nn.Module) and job.entry.learns and job.given is None:
            program = as_module(program, job.data.train, job.entry.dtype)
            weights = trainable(program, learns=True, name=job.entry.name)
        density = LogDensity(program, job.data, dtype=job.entry.dtype)
        if not job.entry.learns:
            refuse_untrained(program, density.parameters, job.entry.name)
        if not weights:
            compile_recursion(density, job.config)
        guide = build(job.family, program, job.data, job.entry, **job.options, density=density)
    family = family_of(job.family, job.entry)
    trained = bool(getattr(job.entry.own_guides.get(job.family), "digest", ""))
    if family.solve is not None and weights:
        raise UsageError(
            f"{job.family} solves for the latent values and trains no weights, but"
            f" {job.entry.name} learns {name_of(program, next(iter(weights)))}; fit another family"
            " first and pass given=fit."
        )
    if family.solve is not None:
        stop, spent = family.solve(guide, density, generator)
        outcome = Outcome(losses=np.zeros(0), stop=stop)
    elif family.own and (trained or is_given(guide, job.config.steps)):
        guide.eval()  # before it runs: it is scored as it was given
        check_sites(guide, density, job.family, trains=False)
        stop, spent = as_given(program, guide, trained=trained), 0
        outcome = Outcome(losses=np.zeros(0), stop=stop)
    else:
        outcome, spent = _optimize(job, density, program, guide, weights, generator, number)
    for part in (guide, program):  # dropout and batch statistics belong to the training
        if isinstance(part, nn.Module):
            part.eval()
    for parameter in guide.parameters():
        parameter.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(False)
    usable = outcome.stop.status in ("ok", "not_converged")
    draws = min(ELBO_DRAWS, max(50, ELBO_NUMBERS // density.dim))
    value = estimate_elbo(guide, density, draws, final_seed) if usable else None
    if value is not None and not np.isfinite(value.value_nats):
        sentence = (
            f"The final ELBO is {value.value_nats}: some draws of the guide have no finite log"
            f" density. {outcome.stop.sentence}"
        )
        outcome, value = (
            replace(outcome, stop=Stop(status="nan", step=outcome.steps, sentence=sentence)),
            None,
        )
    record = outcome.record or Record(
        used=False, reason="no optimization step was taken", compile_seconds=0.0, cached=False
    )
    points = point_sites(guide, density, final_seed) if value is not None else ()
    several = value is not None and job.config.restarts > 1
    answer = _answer(job, density, guide, final_seed) if several else {}
    return _Attempt(
        program=program,
        guide=guide,
        outcome=outcome,
        gradients=spent,
        elbo=value,
        seed=seed,
        record=record,
        points=points,
        density=density,
        answer=answer,
    )


def _answer(
    job: _Job, density: LogDensity, guide: nn.Module, seed: int
) -> dict[str, tuple[float, float]]:
    """Return mean and sd of every component of the judged quantities."""
    u, _, _ = weighted_draws(guide, density, ANSWER_DRAWS, seed)
    found = {}
    with torch.no_grad():
        sites = density.constrain(u)
        for name, q in job.entry.quantities.items():
            if not q.judged:
                continue
            value = q.fn(sites, job.data).double()
            places = itertools.product(*map(range, value.shape[1:]))
            for index, x in zip(places, value.reshape(len(u), -1).unbind(-1), strict=True):
                label = name + (f"[{', '.join(map(str, index))}]" if index else "")
                found[label] = float(x.mean()), float(x.std())
    return found


def _carried(given: Fit, job: _Job) -> Program:
    """Return the trained program of an earlier fit, for the data of this job."""
    return (
        given.program
        if given.data is job.data
        else program_for(given.program, job.entry, job.data)
    )


def _optimize(
    job: _Job,
    density: LogDensity,
    program: Program,
    guide: nn.Module,
    weights: Mapping[str, nn.Parameter],
    generator: torch.Generator,
    number: int,
) -> tuple[Outcome, int]:
    """Run the loop on the flat objective if the family has one, else on Pyro's own."""
    config = job.config
    family = family_of(job.family, job.entry)
    if family.flat is not None or isinstance(guide, FlatGuide):
        by_nature = _natural(job, density, guide, weights)
        if by_nature and not density.by_points:
            density.compile(cast(Mode, config.compile), expected_calls=expected_calls(density))
        try:
            start = (family.start or find_start)(
                density, generator, radius=0.1 if number == 0 else 2.0
            )
        except FitError as error:
            return (
                Outcome(
                    losses=np.zeros(0),
                    stop=Stop(status="init_failed", step=0, sentence=str(error)),
                ),
                0,
            )
        flat: Any = guide if family.flat is None else family.flat(guide, start)
        spent = start.gradients
        if by_nature:
            found = natural(density, flat, config, generator, job.progress)
            spent += found.gradients
            if found.finished or config.optimizer == "natural":
                flat.finish()
                return replace(found.outcome, record=density.compiled), spent
        objective = _flat_objective(density, flat, weights, config)
        outcome = optimize(
            objective, config, generator, job.progress, starts=config.restarts - number
        )
        flat.finish()
        return outcome, spent + outcome.steps * objective.gradients_per_step
    if objective_of(config.objective).per_unit:
        raise FitError(
            f"The objective {config.objective} needs log q of each row, which families such as"
            f" amortized (amortize=) have; {job.family} is a Pyro program, fitted by 'elbo'."
        )
    numbers: dict[str, Any] = {
        "num_particles": config.num_particles,
        "batch_size": config.batch_size,
    }
    objective = program_objective(
        job.entry, job.data, density, program, guide, weights, family=job.family, **numbers
    )
    with pyro.validation_enabled(False):
        outcome = optimize(
            objective, config, generator, job.progress, starts=config.restarts - number
        )
    return outcome, outcome.steps * objective.gradients_per_step


def _natural(job: _Job, density: LogDensity, guide: nn.Module, weights: Mapping[str, Any]) -> bool:
    """Whether the guide is optimized by natural gradients.

    Raises:
        UsageError: they are asked for and cannot be had; the message says why.
    """
    config = job.config
    size, units = config.batch_size, job.data.size or 0
    reasons = {
        f"{job.family} is no normal": not (
            family_of(job.family, job.entry).normal or isinstance(guide, NormalGuide)
        ),
        "the program's weights are trained with it": bool(weights),
        f"its steps take minibatches of {size}": size is not None and size < units,
        f"the objective is {config.objective}": config.objective != "elbo",
        f"the steps run on {config.device}": config.device != "cpu",
        f"it has {density.dim} dimensions, more than {LARGEST}": density.dim > LARGEST,
    }
    why = [reason for reason, holds in reasons.items() if holds]
    if config.optimizer == "natural" and why:
        raise UsageError(
            f"optimizer='natural' does not apply to this fit: {why[0]}; accepted: adam, auto."
        )
    return not why and config.optimizer_for == "natural"


def _flat_objective(
    density: LogDensity, flat: Any, weights: Mapping[str, nn.Parameter], config: FitConfig
) -> Any:
    """Return the per-unit objective if it is requested, or if a program that learns allows it."""
    goal = objective_of(config.objective)
    if goal.per_unit or (weights and isinstance(flat, LocalGuide) and is_local(density)):
        return LocalObjective(density, flat, weights, config)
    return FlatObjective(
        density,
        flat,
        weights,
        num_particles=config.num_particles,
        batch_size=config.batch_size,
        stl=goal.stl,
    )


def program_objective(
    entry: ModelEntry,
    data: Data,
    density: LogDensity,
    program: Program,
    guide: nn.Module,
    weights: Mapping[str, nn.Parameter],
    *,
    num_particles: int,
    batch_size: int | None,
    family: str = "guide",
) -> ProgramObjective:
    """Return the objective of a guide that is a Pyro program, after checking its sites.

    Must be called inside a session.

    Raises:
        FitError: a missing or a superfluous site, by name.
    """
    check_sites(guide, density, family)
    model = as_module(program, data.train, entry.dtype)
    batches = Minibatches(density, batch_size)
    if batches.batch_size is not None and data.size is not None:
        few = batches.tensors(torch.arange(batches.batch_size))
        check_scales(model, guide, few, data.size, family)
    return ProgramObjective(
        density, model, guide, weights, num_particles=num_particles, batch_size=batch_size
    )
