"""NUTS on the log density of an entry, extended until a target effective sample size.

The default engine is nutpie (NUTS in Rust, low-rank mass matrix); `benchmarks.mcmc.engine_pyro` is
a second, independent one. Both use the same flat float64 density, start from the same
over-dispersed points and return the same per-draw statistics. Every chain is a task with its own
derived seed, so results do not depend on how many cores ran it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

import guides
from benchmarks.mcmc.diagnostics import smallest_ess
from benchmarks.mcmc.engine_nutpie import Chain, Density, nutpie_chain
from benchmarks.mcmc.engine_pyro import pyro_chain
from benchmarks.workers import Task, TaskResult, run_tasks
from guides.optimize.progress import PROGRESS, Say, Waiting, silent, speaker
from guides.types import FIT, Fit
from zoo.compiler.compile import Mode
from zoo.density.faults import program_faults
from zoo.density.log_density import LogDensity
from zoo.errors import UnknownNameError, UsageError
from zoo.fields import POSITIVE, SEED, accepted
from zoo.seeds import derive_seed
from zoo.types import DATA, ENTRY, Cost, Data, ModelEntry, Posterior

__all__ = ["ENGINES", "run_nuts"]

ENGINES = ("nutpie", "pyro")
TUNE = {"nutpie": 800, "pyro": 1000}
STATS = {
    "diverging": torch.bool,
    "energy": torch.float64,
    "lp": torch.float64,
    "n_steps": torch.int64,
    "tree_depth": torch.int64,
    "acceptance_rate": torch.float64,
    "step_size": torch.float64,
}
MIN_ESS = 2000.0
MOST_GRADIENTS = 2_000_000  # total, for an extension that cannot reach its target
MOST_DRAWS = 5  # limit of the extension, as a multiple of the requested draws
TRIED = 25  # draws of a fit per chain that begins at one of them
LEAPFROGS = 12.0  # gradients per draw in well-conditioned entries, to predict the work


@program_faults("sampled by NUTS")
def run_nuts(
    entry: ModelEntry,
    *,
    seed: int = 0,
    data: Data | None = None,
    engine: str = "nutpie",
    chains: int = 4,
    tune: int | None = None,
    draws: int = 1000,
    jobs: int = 2,
    given: Fit | None = None,
    budget: float | None = None,
    progress: Say | bool | None = None,
    min_ess: float = MIN_ESS,
    target_accept: float = 0.8,
    log_density: LogDensity | None = None,
    compile: Mode = "auto",
    in_process: bool = False,
    init: Fit | None = None,
) -> Posterior:
    """Sample the posterior of an entry and return draws with dims `("chain", "draw")`.

    If the smallest bulk or tail ESS over judged quantities and `lp` is below `min_ess`, every
    chain runs again with the same seed and more draws, their number estimated from the measured
    ESS. The first draws are bit for bit the same, so the result depends neither on the number of
    cores nor on how the chains were extended. The cost includes the earlier rounds. The limit is
    five times `draws`. If even that would leave the ESS below half of `min_ess`, chains are
    extended only if it takes at most two million gradients in all. A note on the posterior reports
    an ESS that stays too low; a reparameterization usually cures it.

    Args:
        entry: what to sample.
        seed: inference seed, from which every chain derives its own.
        data: what to condition on, by default the entry's data.
        engine: `nutpie` or `pyro`.
        chains: number of chains, at least 2 for diagnostics.
        tune: warm-up iterations per chain, by default 800 (nutpie) or 1,000 (pyro).
        draws: draws per chain of the first round.
        jobs: chains that run at once.
        given: a fit whose trained program is used (entries that learn weights).
        budget: wall-clock seconds; an extension predicted to exceed it is not started.
        progress: lines on stderr, by default where it is a terminal or a notebook, elsewhere few
            after half a minute; or a function that receives a line per finished chain.
        min_ess: target ESS; 0 disables extension.
        target_accept: acceptance rate to which the step size is adapted, in (0, 1); more than 0.8
            takes smaller steps, with fewer divergences.
        log_density: a log density of the same program and data, compiled or not, to use as it is.
        compile: `auto` to compile the density if that saves time, `on`, or `off`.
        in_process: run one chain after another in this process; the draws are the same.
        init: a fit at whose draws the chains begin, one each, such as one of `pathfinder` with
            draws in every mode it found; by default over-dispersed points. Its gradients are not
            part of the cost, and a note names them.

    Raises:
        FitError: `init` has no usable guide.
        UnknownNameError: an unknown engine.
        UsageError: no chain, fewer than 4 draws, no entry, an acceptance rate outside (0, 1), a
            bad seed, or an `init` of another vector or with too few draws of finite density.
        ProgramError: the density is finite nowhere, the program fails at a point, or the sampler
            stops on its own.
        LostWorkerError: a worker was killed twice.
    """
    accepted(
        "run_nuts",
        entry=(entry, ENTRY),
        seed=(seed, SEED),
        jobs=(jobs, POSITIVE),
        progress=(progress, PROGRESS),
        data=(data, DATA | None),
        given=(given, FIT | None),
        init=(init, FIT | None),
    )
    if engine not in ENGINES:
        raise UnknownNameError("NUTS engine", engine, ENGINES)
    if chains < 1 or draws < 4:
        raise UsageError(
            f"NUTS got chains={chains}, draws={draws}; accepted: at least 1 chain and 4 draws."
        )
    if not 0.0 < target_accept < 1.0:
        raise UsageError(
            f"NUTS got target_accept={target_accept}; accepted: an acceptance rate between 0 and"
            " 1, such as 0.8 or 0.95."
        )
    begin = time.monotonic()
    data = entry.load_data() if data is None else data
    warm, compiling = TUNE[engine] if tune is None else tune, 0.0
    say = speaker(progress)
    waiting = silent if callable(progress) else say
    waiting(f"{entry.key} nuts: {chains} chains of {warm:,} + {draws:,} iterations")
    if log_density is None:
        program = entry.program(data) if given is None else given.program
        log_density = LogDensity(program, data, dtype=entry.dtype)
        record = log_density.compile(
            compile, expected_calls=int(chains * (warm + draws) * LEAPFROGS)
        )
        compiling = record["compile_seconds"]
    run = _Run(
        entry=entry,
        data=data,
        log_density=log_density,
        engine=engine,
        seed=seed,
        chains=chains,
        tune=warm,
        target_accept=target_accept,
        begin=begin,
        compiling=compiling,
        starts=None if init is None else _starts(init, log_density, chains, seed),
    )
    number, most, notes = draws, MOST_DRAWS * draws, []
    if init is not None:
        notes.append(
            f"The chains began at draws of a fit of {init.family} (seed {init.seed},"
            f" {init.cost.gradient_evaluations:,} gradients, not part of the cost)."
        )
    while True:
        results = run.round(number, jobs, say, waiting, in_process)
        posterior = run.posterior()
        ess = smallest_ess(posterior) if min_ess > 0 else math.nan
        spent = sum(r.value.gradients for r in results)
        wanted = _wanted(ess, min_ess, number, most, spent)
        seconds = (
            sum(r.seconds for r in results) / min(chains, jobs) * (warm + wanted) / (warm + number)
        )
        late = budget is not None and time.monotonic() - begin + seconds > budget
        if ess < min_ess and (wanted <= number or late):
            limit = (
                f"the budget of {budget:.0f} s"
                if wanted > number
                else f"the limit of {most} draws per chain"
            )
            notes.append(
                f"Smallest ESS {ess:.0f} is below {min_ess:.0f}; reaching it would pass {limit}."
            )
        if wanted <= number or late:
            return replace(posterior, notes=tuple(notes))
        say(f"{entry.key} nuts: smallest ESS {ess:.0f}, extending to {wanted} draws per chain")
        number = wanted


def _starts(init: Fit, density: LogDensity, chains: int, seed: int) -> np.ndarray[Any, Any]:
    """Return distinct draws of a fit with finite density, `[chain, dim]`, in random order.

    Raises:
        FitError: the fit has no usable guide.
        UsageError: it has another vector, or too few such draws.
    """
    drawn = guides.draw(init, TRIED * chains, seed=derive_seed(seed, init.entry.key, "nuts init"))
    u = drawn.unconstrained
    if u is None or u.shape[1] != density.dim:
        raise UsageError(
            f"NUTS got init={init!r} of {0 if u is None else u.shape[1]} unconstrained values for"
            f" {density.dim}; give a fit of the entry that is sampled."
        )
    with torch.no_grad():
        u = u[torch.isfinite(density.batch(u.to(density.dtype)))].unique(dim=0, sorted=False)
    order = torch.randperm(len(u), generator=torch.Generator().manual_seed(derive_seed(seed)))
    if len(u) < chains:
        raise UsageError(
            f"NUTS got init={init!r} with {len(u)} distinct draws of finite density for {chains}"
            " chains; give another fit, or none."
        )
    return u[order[:chains]].double().numpy()


def _wanted(ess: float, min_ess: float, draws: int, most: int, spent: int = 0) -> int:
    """Return the draws per chain expected to reach `min_ess`; `draws` if none should be added.

    The estimate has a margin of 15 % and is rounded up to a multiple of 250. `spent` counts the
    gradients of the last round. Whether a hopeless chain is extended depends on that count and not
    on a clock, so that results do not depend on the machine.
    """
    if not ess < min_ess:  # NaN: constant or non-finite draws, which more draws do not cure
        return draws
    hopeless = ess * most / draws < 0.5 * min_ess
    if hopeless and spent * most / draws > MOST_GRADIENTS:
        return draws
    return max(draws, min(math.ceil(draws * 1.15 * min_ess / ess / 250) * 250, most))


@dataclass(kw_only=True)
class _Run:
    """State of one call of `run_nuts`: its fixed settings and the rounds so far."""

    entry: ModelEntry
    data: Data
    log_density: LogDensity
    engine: str
    seed: int
    chains: int
    tune: int
    target_accept: float
    begin: float
    compiling: float
    starts: np.ndarray[Any, Any] | None = None
    rounds: list[list[TaskResult]] = field(default_factory=list)

    def round(
        self, draws: int, jobs: int, say: Say, waiting: Say, in_process: bool
    ) -> list[TaskResult]:
        """Run every chain from its seed with this many draws.

        `say` receives a line per chain, `waiting` one when they take long.
        """
        sample = pyro_chain if self.engine == "pyro" else nutpie_chain

        def task(chain: int) -> Task:
            seed = derive_seed(self.seed, self.entry.key, "nuts", self.engine, chain)
            name = f"{self.entry.key} nuts chain {chain}"
            start = None if self.starts is None else self.starts[chain]
            return Task(
                name,
                lambda: sample(
                    Density(self.log_density), seed, self.tune, draws, self.target_accept, start
                ),
            )

        def report(result: TaskResult) -> None:
            say(f"{result.name}: {result.status}, {result.seconds:.1f} s")

        results = run_tasks(
            [task(c) for c in range(self.chains)],
            jobs,
            on_done=report,
            retries=1,
            in_process=in_process,
            meanwhile=Waiting(f"{self.entry.key} nuts", waiting),
        )
        for result in results:
            result.unwrap()
        self.rounds.append(results)
        return results

    def posterior(self) -> Posterior:
        """Return the chains of the last round, with the cost of all rounds."""
        chains: list[Chain] = [r.value for r in self.rounds[-1]]
        u = torch.from_numpy(np.stack([c.unconstrained for c in chains]))  # [chain, draw, dim]
        with torch.no_grad():
            sites = {
                k: v.detach()
                for k, v in self.log_density.constrain(u.to(self.log_density.dtype)).items()
            }
        stats = {
            name: torch.from_numpy(np.stack([c.stats[name] for c in chains])).to(kind)
            for name, kind in STATS.items()
        }
        peaks = [
            r.peak_memory_mb
            for results in self.rounds
            for r in results
            if r.peak_memory_mb is not None
        ]
        cost = Cost(
            seconds=time.monotonic() - self.begin - self.compiling,
            compile_seconds=self.compiling,
            steps=sum(
                len(chains) * (self.tune + len(results[0].value.unconstrained))
                for results in self.rounds
            ),
            gradient_evaluations=sum(
                r.value.gradients for results in self.rounds for r in results
            ),
            sequential_depth=sum(
                max(r.value.gradients for r in results) for results in self.rounds
            ),
            peak_memory_mb=max(peaks, default=None),
        )
        return Posterior(
            entry=self.entry,
            data=self.data,
            method="nuts",
            draws=sites,
            sample_dims=("chain", "draw"),
            unconstrained=u,
            stats=stats,
            cost=cost,
            seed=self.seed,
            engine=self.engine,
        )
