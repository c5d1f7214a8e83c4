"""NUTS on the log density of an entry: chains as independent tasks, two engines, draws until the precision asked for.

The default engine is nutpie (NUTS in Rust, low-rank mass matrix); `benchmarks.nuts_pyro` is the second, independent
one. Both see the same flat float64 density, start from the same over-dispersed points and return the same per-draw
statistics. Every chain is a task with a seed of its own, so that results do not depend on how many cores ran it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.workers import Task, TaskResult, one_thread, run_tasks
from zoo.errors import ProgramError, UnknownNameError, UsageError
from zoo.log_density import LogDensity
from zoo.seeds import derive_seed
from zoo.types import Cost, Data, ModelEntry, Posterior

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["ENGINES", "Chain", "Density", "estimate_seconds", "run_nuts", "starting_point"]

Array = NDArray[np.float64]
ENGINES = ("nutpie", "pyro")
TUNE = {"nutpie": 800, "pyro": 1000}
STATS = ("diverging", "energy", "lp", "n_steps", "tree_depth", "acceptance_rate", "step_size")
MIN_ESS = 2000.0
MOST_DRAWS = 10  # extension stops at this multiple of the draws asked for
LEAPFROGS = 12.0  # gradients per draw assumed by the estimate of time, typical of well-conditioned entries
RADII = (2.0, 1.0, 0.5, 0.1)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One chain on its way home: `unconstrained [draw, dim]`, statistics `[draw]`, gradients including warm-up."""

    unconstrained: Array
    stats: Mapping[str, Array]
    gradients: int


class Density:
    """The value and gradient an engine calls, on numpy vectors, counting its calls and never raising.

    A value that cannot be computed (an overflow, a matrix that is not positive definite) is NaN, which an engine
    rejects. Any other exception is a fault of the program: it is kept, every later call returns NaN at once, and
    `raise_failure` raises it after the engine has let go (an exception inside nutpie's worker would panic it).
    """

    def __init__(self, log_density: LogDensity) -> None:
        self.log_density = log_density
        self.calls = 0
        self.failure: BaseException | None = None

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Return log density [nats] and its gradient `[dim]` at the unconstrained point `[dim]`."""
        if self.failure is not None:
            return math.nan, np.zeros_like(x)
        self.calls += 1
        try:
            value, gradient = self.log_density.gradient(torch.tensor(x, dtype=self.log_density.dtype))
        except (torch.linalg.LinAlgError, ArithmeticError):
            return math.nan, np.zeros_like(x)
        except BaseException as error:
            self.failure = error
            return math.nan, np.zeros_like(x)
        return float(value), np.ascontiguousarray(gradient.detach().numpy(), dtype=np.float64)

    def raise_failure(self) -> None:
        """Raise what the program raised, if anything."""
        if isinstance(self.failure, Exception):
            text = (str(self.failure).splitlines() or [""])[0]
            raise ProgramError(
                f"The program failed inside NUTS ({type(self.failure).__name__}: {text}); run it at that point by hand."
            ) from self.failure
        if self.failure is not None:
            raise self.failure


def starting_point(density: Density, seed: int) -> Array:
    """Return an over-dispersed start: uniform(-2, 2) per coordinate, first of 100 with finite value and gradient.

    Narrower boxes follow where the density is finite nowhere in the wide one.

    Raises:
        ProgramError: no finite point was found.
    """
    generator = np.random.default_rng(derive_seed(seed, "start"))
    for radius in RADII:
        for _ in range(100):
            x = generator.uniform(-radius, radius, density.log_density.dim)
            value, gradient = density(x)
            density.raise_failure()
            if math.isfinite(value) and np.isfinite(gradient).all():
                return x
    raise ProgramError("The log density is not finite at any of 400 points within 2 of the unconstrained origin; check priors and data.")


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
    progress: Callable[[str], None] | None = None,
    min_ess: float = MIN_ESS,
    target_accept: float = 0.8,
    log_density: LogDensity | None = None,
    in_process: bool = False,
) -> Posterior:
    """Sample the posterior of an entry and return draws with dims `("chain", "draw")`.

    When the smallest bulk or tail ESS over judged quantities and lp is below `min_ess`, every chain runs again with
    the same seed and more draws (number from the measured ESS): its first draws are the same bit for bit, so the
    result depends on neither the number of cores nor the path of extension. The cost includes the earlier rounds.

    Args:
        entry: what to sample.
        seed: inference seed; every chain derives its own from it.
        data: what to condition on, default the entry's.
        engine: `nutpie` or `pyro`.
        chains: number of chains, at least 2 for diagnostics.
        tune: warm-up iterations per chain, default 800 (nutpie) and 1,000 (pyro).
        draws: draws per chain of the first round.
        jobs: chains at once.
        given: a fit whose trained program is used (entries that learn weights).
        budget: wall seconds after which no extension starts; without one, ten times `draws` is the limit.
        progress: receives one line per finished chain.
        min_ess: extend until this ESS; 0 never extends.
        target_accept: acceptance rate the step size aims at.
        log_density: reuse a log density of the same program and data.
        in_process: one chain after the other in this process, same draws.

    Raises:
        UnknownNameError: an unknown engine.
        ProgramError: the density is finite nowhere, or the program fails at a point.
        InfrastructureError: a worker was killed twice.
    """
    if engine not in ENGINES:
        raise UnknownNameError("NUTS engine", engine, ENGINES)
    if chains < 1 or draws < 4:
        raise UsageError(f"NUTS got chains={chains}, draws={draws}; accepted: at least 1 chain and 4 draws.")
    begin = time.monotonic()
    data = entry.load_data() if data is None else data
    if log_density is None:
        program = entry.program(data) if given is None else given.program
        log_density = LogDensity(program, data, dtype=entry.dtype)
    warm = TUNE[engine] if tune is None else tune
    rounds: list[list[TaskResult]] = []
    number, notes = draws, []
    while True:
        results = _run_round(entry, log_density, engine, seed, chains, warm, number, target_accept, jobs, progress, in_process)
        rounds.append(results)
        posterior = _assemble(entry, data, log_density, engine, seed, rounds, warm, time.monotonic() - begin)
        wanted, ess = _wanted(posterior, number, draws, min_ess)
        if wanted <= number:
            break
        spent, last = time.monotonic() - begin, max(r.seconds for r in results)
        if budget is not None and spent + last * math.ceil(chains / jobs) * (warm + wanted) / (warm + number) > budget:
            notes.append(
                f"Smallest ESS {ess:.0f} is below {min_ess:.0f}: {wanted} draws per chain would pass the budget of {budget:.0f} s."
            )
            break
        if progress is not None:
            progress(f"{entry.key} nuts: smallest ESS {ess:.0f}, extending to {wanted} draws per chain")
        number = wanted
    return _with_notes(posterior, notes)


def _with_notes(posterior: Posterior, notes: list[str]) -> Posterior:
    from dataclasses import replace

    return replace(posterior, notes=(*posterior.notes, *notes))


def _run_round(
    entry: ModelEntry, log_density: LogDensity, engine: str, seed: int, chains: int, tune: int, draws: int,
    target_accept: float, jobs: int, progress: Callable[[str], None] | None, in_process: bool,
) -> list[TaskResult]:  # fmt: skip
    if engine == "pyro":
        from benchmarks.nuts_pyro import pyro_chain as sample
    else:
        sample = nutpie_chain

    def task(chain: int) -> Task:
        chain_seed = derive_seed(seed, entry.key, "nuts", engine, chain)
        return Task(f"{entry.key} nuts chain {chain}", lambda: sample(Density(log_density), chain_seed, tune, draws, target_accept))

    def report(result: TaskResult) -> None:
        if progress is not None:
            progress(f"{result.name}: {result.status}, {result.seconds:.1f} s")

    results = run_tasks([task(c) for c in range(chains)], jobs, on_done=report, retries=1, in_process=in_process)
    for result in results:
        result.unwrap()
    return results


def _wanted(posterior: Posterior, draws: int, first: int, min_ess: float) -> tuple[int, float]:
    """Draws per chain that should reach `min_ess` with 15 % to spare, in steps of 250, and the smallest ESS now."""
    if min_ess <= 0:
        return draws, math.nan
    from benchmarks.mcmc import smallest_ess

    ess = smallest_ess(posterior)
    if not ess < min_ess:  # NaN means constant or non-finite draws: more of them would not help
        return draws, ess
    wanted = math.ceil(draws * min(1.15 * min_ess / ess, 4.0) / 250) * 250
    return min(max(wanted, draws), MOST_DRAWS * first), ess


def _assemble(
    entry: ModelEntry,
    data: Data,
    log_density: LogDensity,
    engine: str,
    seed: int,
    rounds: list[list[TaskResult]],
    tune: int,
    seconds: float,
) -> Posterior:
    chains: list[Chain] = [r.value for r in rounds[-1]]
    u = torch.from_numpy(np.stack([c.unconstrained for c in chains]))  # [chain, draw, dim]
    stats = {}
    for name in STATS:
        values = torch.from_numpy(np.stack([c.stats[name] for c in chains]))
        stats[name] = values.bool() if name == "diverging" else values.long() if name in ("n_steps", "tree_depth") else values
    with torch.no_grad():
        sites = {k: v.detach() for k, v in log_density.constrain(u.to(log_density.dtype)).items()}
    peaks = [r.peak_memory_mb for results in rounds for r in results if r.peak_memory_mb is not None]
    gradients = [sum(r.value.gradients for r in results) for results in rounds]
    depth = [max(r.value.gradients for r in results) for results in rounds]
    cost = Cost(
        seconds=seconds, steps=len(chains) * (tune + u.shape[1]), gradient_evaluations=sum(gradients),
        sequential_depth=sum(depth), peak_memory_mb=max(peaks, default=None),
    )  # fmt: skip
    return Posterior(
        entry=entry, data=data, method="nuts", draws=sites, sample_dims=("chain", "draw"), unconstrained=u,
        stats=stats, cost=cost, seed=seed, engine=engine,
    )  # fmt: skip


# -- nutpie -------------------------------------------------------------------------------------------------------------


def nutpie_chain(density: Density, seed: int, tune: int, draws: int, target_accept: float) -> Chain:
    """Run one chain of nutpie with its low-rank modified mass matrix; interruptible, and safe against exceptions."""
    import nutpie

    start = starting_point(density, seed)
    dim = density.log_density.dim
    model = nutpie.compiled_pyfunc.from_pyfunc(
        dim,
        lambda: density,
        lambda seed1, seed2, chain: lambda x: {"u": np.array(x, dtype=np.float64)},
        [np.dtype("float64")],
        [(dim,)],
        ["u"],
        make_initial_point_fn=lambda _: start,
    )
    sampler = nutpie.sample(
        model, draws=draws, tune=tune, chains=1, cores=1, seed=seed, progress_bar=False, blocking=False,
        return_raw_trace=True, low_rank_modified_mass_matrix=True, target_accept=target_accept,
    )  # fmt: skip
    trace = _wait(sampler, density)
    return _decode(trace, density, draws)


def _wait(sampler: Any, density: Density) -> Any:
    """Wait in short steps, so that Ctrl-C and a failed program end the sampler instead of a partial trace."""
    try:
        while True:
            try:
                trace = sampler.wait(timeout=0.05)
                break
            except TimeoutError:
                if density.failure is not None:
                    break
    except BaseException:
        density.failure = density.failure or RuntimeError("interrupted")  # makes the worker's calls return at once
        sampler.cancel()
        raise
    if density.failure is not None:
        sampler.cancel()
        density.raise_failure()
    return trace


def _decode(trace: Any, density: Density, draws: int) -> Chain:
    import pyarrow

    points, statistics = (pyarrow.record_batch(part[0]) for part in trace.get_arrow_trace())
    u = np.asarray(points.column("u").flatten(), dtype=np.float64).reshape(-1, density.log_density.dim)[-draws:]
    names = {
        "diverging": "diverging", "energy": "energy", "lp": "logp", "n_steps": "n_steps", "tree_depth": "depth",
        "acceptance_rate": "mean_tree_accept", "step_size": "step_size",
    }  # fmt: skip
    stats = {ours: statistics.column(theirs).to_numpy(zero_copy_only=False).astype(np.float64)[-draws:] for ours, theirs in names.items()}
    return Chain(unconstrained=u, stats=stats, gradients=density.calls)


# -- estimate -----------------------------------------------------------------------------------------------------------


def estimate_seconds(
    entry: ModelEntry,
    *,
    data: Data | None = None,
    engine: str = "nutpie",
    chains: int = 4,
    tune: int | None = None,
    draws: int = 1000,
    jobs: int = 2,
    log_density: LogDensity | None = None,
) -> float:
    """Return a rough estimate of the wall seconds of `run_nuts`, from the time of a few gradients.

    Twelve gradients per iteration are assumed; entries with curved or badly scaled posteriors take several times more.
    """
    if log_density is None:
        data = entry.load_data() if data is None else data
        log_density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    density = Density(log_density)
    with one_thread():
        x = starting_point(density, 0)
        times = []
        for _ in range(7):
            before = time.perf_counter()
            density(x)
            times.append(time.perf_counter() - before)
    iterations = math.ceil(chains / max(1, jobs)) * ((TUNE[engine] if tune is None else tune) + draws)
    return float(np.median(times)) * LEAPFROGS * iterations
