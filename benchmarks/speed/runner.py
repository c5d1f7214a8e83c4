"""The run: each side of a target in its own process, slices in turn, pair after pair."""

from __future__ import annotations

import contextlib
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import arviz_bridge
from benchmarks.mcmc.diagnostics import components
from benchmarks.run.store import strict_json
from benchmarks.speed import extra
from benchmarks.speed.side_ours import log_joint
from benchmarks.speed.sides import MEASURES, NutsRun, Settings, missing
from benchmarks.speed.targets import Target, arrays, find
from benchmarks.speed.worker import PeerError, Worker
from zoo.density.log_density import LogDensity
from zoo.types import Posterior

__all__ = ["Bench", "density_error", "ess_of", "execute"]

Array = NDArray[np.float64]
Say = Callable[[str], None]
TOLERANCE = 1e-6  # of differences of log densities between points
POINTS = 4
PACKAGES = (
    "posterior-zoo",
    "torch",
    "pyro-ppl",
    "nutpie",
    "numpy",
    "arviz",
    "numpyro",
    "jax",
    "jaxlib",
    "pystan",
    "httpstan",
    "pymc",
    "pytensor",
    "numba",
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Settings of a run: entries, sides, pairs, and which extra measurements to make.

    These are cold starts, growth and whole commands.
    """

    targets: tuple[str, ...]
    sides: tuple[str, ...]
    pairs: int
    settings: Settings
    measures: tuple[str, ...] = MEASURES
    cold: bool = True
    growth: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    commands: tuple[str, ...] = ("chains", "compare", "report")
    quick: bool = False


def execute(bench: Bench, folder: Path, say: Say) -> dict[str, Any]:
    """Run everything and return the document that `results` and `table` read.

    Args:
        bench: what to run.
        folder: folder of the logs of the processes.
        say: receives a line per step.
    """
    begun, load = time.time(), extra.load_average()
    folder.mkdir(parents=True, exist_ok=True)
    refused = {side: why for side in bench.sides if side != "ours" and (why := missing(side))}
    for side, why in refused.items():
        say(f"{side} is left out: {why}")
    sides = [s for s in bench.sides if s not in refused]
    document: dict[str, Any] = {
        "schema": 1,
        "quick": bench.quick,
        "pairs": bench.pairs,
        "settings": asdict(bench.settings),
        "machine": extra.machine(),
        "versions": _versions(),
        "left_out": refused,
        "targets": {},
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        caches = extra.empty_caches(Path(scratch)) if bench.cold else {}
        if not bench.cold:
            _compile_ahead(bench, folder, say)
        for name in bench.targets:
            document["targets"][name] = run_target(find(name), sides, bench, folder, caches, say)
            # so that an interruption after an hour does not lose everything
            (folder / "partial.json").write_text(strict_json(document), encoding="utf8")
    document["growth"] = extra.growth(bench.growth, bench.pairs, bench.settings, folder, say)
    document["commands"] = extra.commands(bench.commands, say)
    document["load_average"] = {"before": load, "after": extra.load_average()}
    document["seconds"] = time.time() - begun
    return document


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _compile_ahead(bench: Bench, folder: Path, say: Say) -> None:
    """Fill the usual cache of compiled graphs, two processes at a time.

    Nothing then compiles between timed slices.
    """

    def one(name: str) -> None:
        with contextlib.suppress(PeerError):  # the run meets the error again and reports it
            worker = Worker("ours", (name, find(name).form, None), bench.settings, folder)
            try:
                for measure in set(bench.measures) - {"nuts"}:
                    worker.prepare(measure)
            finally:
                worker.close()
        say(f"{name}: compiled graphs are in the cache")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, bench.targets))


def run_target(
    target: Target,
    sides: Sequence[str],
    bench: Bench,
    folder: Path,
    caches: dict[str, str],
    say: Say,
) -> dict[str, Any]:
    """Measure all sides of one target."""
    data = target.entry.load_data()
    density = LogDensity(target.entry.program(data), data, dtype=target.entry.dtype)
    points = _points(density)
    out: dict[str, Any] = {"title": target.title, "parameters": density.dim, "sides": {}}
    workers: dict[str, Worker] = {}
    try:
        for side in sides:
            result: dict[str, Any] = {"measures": {}, "records": {}, "nuts": []}
            out["sides"][side] = result
            try:
                if bench.cold:
                    result["cold_seconds"] = _start(
                        side, target, bench, folder, caches, None, {}
                    ).seconds
                workers[side] = _start(
                    side, target, bench, folder, caches, (density, points), result
                )
                result["warm_seconds"] = workers[side].seconds
            except PeerError as error:
                result["error"] = str(error)
                say(f"{target.name}: {error}")
        chains = _pairs(target, workers, out["sides"], bench, say)
    finally:
        for worker in workers.values():
            worker.close()
    for side, runs in chains.items():
        out["sides"][side]["nuts"] = [_nuts_row(target, density, run) for run in runs]
        out["sides"][side]["rhat"] = _rhat(target, density, runs)
    return out


def _start(
    side: str,
    target: Target,
    bench: Bench,
    folder: Path,
    caches: dict[str, str],
    check: tuple[LogDensity, dict[str, Array]] | None,
    result: dict[str, Any],
) -> Worker:
    """Start a side and prepare its measures.

    With `check`, its density must equal ours first; without, the process ends here.
    """
    data = None if side in ("ours", "pyro") else arrays(target)
    worker = Worker(side, (target.name, target.form, data), bench.settings, folder, caches)
    try:
        if check is not None and side != "ours":
            result["density_error"] = density_error(
                log_joint(*check), worker.ask("log_joint", check[1])
            )
            if not result["density_error"] <= TOLERANCE:
                raise PeerError(
                    f"{side}: its log density differs from ours by {result['density_error']:.1e};"
                    " the row is refused."
                )
        records = {
            measure: worker.prepare(measure)
            for measure in bench.measures
            if measure in worker.measures
        }
        result.setdefault("records", {}).update(records)
    except BaseException:
        worker.close()
        raise
    if check is None:
        worker.close()
    return worker


def _points(density: LogDensity) -> dict[str, Array]:
    u = 0.3 * torch.randn(
        POINTS, density.dim, dtype=density.dtype, generator=torch.Generator().manual_seed(3)
    )
    return {name: value.numpy() for name, value in density.constrain(u).items()}


def density_error(ours: Array, theirs: Array) -> float:
    """Return the largest error of a difference between two points.

    It is relative to 1 + max |log density|.
    """
    error = np.abs((theirs - theirs[0]) - (ours - ours[0])).max() / (1 + np.abs(ours).max())
    return float(error)


def _pairs(
    target: Target, workers: dict[str, Worker], results: dict[str, Any], bench: Bench, say: Say
) -> dict[str, list[NutsRun]]:
    chains: dict[str, list[NutsRun]] = {side: [] for side in workers if "nuts" in bench.measures}
    for pair in range(bench.pairs):
        for measure in bench.measures:
            for side in list(workers) if pair % 2 == 0 else list(workers)[::-1]:
                if measure not in workers[side].measures or (
                    side == "pyro" and measure == "nuts" and pair >= bench.settings.slow_runs
                ):
                    continue
                try:
                    if measure == "nuts":
                        chains[side].append(workers[side].ask("nuts", pair + 1))
                    else:
                        timing = workers[side].ask("time", measure)
                        row = {
                            "seconds": timing.per,
                            "count": timing.count,
                            "cpu_share": timing.cpu / timing.wall,
                        }
                        results[side]["measures"].setdefault(measure, []).append(row)
                except PeerError as error:
                    results[side]["error"] = str(error)
                    say(f"{target.name}: {error}")
                    workers.pop(side).close()
        say(f"{target.name}: pair {pair + 1} of {bench.pairs}")
    return chains


def _posterior(target: Target, density: LogDensity, runs: Sequence[NutsRun]) -> Posterior:
    length = min(len(next(iter(run.draws.values()))) for run in runs)
    stacked = {
        s.name: torch.as_tensor(np.stack([run.draws[s.name][:length] for run in runs]))
        for s in density.sites
    }
    return Posterior(
        entry=target.entry,
        data=density.data,
        method="nuts",
        draws=stacked,
        sample_dims=("chain", "draw"),
    )


def ess_of(target: Target, density: LogDensity, run: NutsRun) -> float:
    """Return the smallest bulk ESS of one chain over the judged quantities.

    0 if a component never moves, NaN for too few draws.
    """
    if len(next(iter(run.draws.values()))) < 8:
        return float("nan")
    x, _ = components(_posterior(target, density, [run]), lp=False)
    if not np.isfinite(x).all() or (x.max(1) == x.min(1)).any():
        return 0.0
    return float(arviz_bridge.ess_bulk(x).min())


def _nuts_row(target: Target, density: LogDensity, run: NutsRun) -> dict[str, Any]:
    ess = ess_of(target, density, run)
    return {
        "ess": ess if np.isfinite(ess) else None,
        "ess_per_second": ess / run.wall if np.isfinite(ess) else None,
        "seconds": run.wall,
        "cpu_share": run.cpu / run.wall,
        "warmup": run.warmup,
        "draws": len(next(iter(run.draws.values()))),
        "gradients": run.gradients,
        "seconds_per_gradient": run.wall / run.gradients if run.gradients else None,
        "divergences": run.divergences,
        "note": run.note,
    }


def _rhat(target: Target, density: LogDensity, runs: Sequence[NutsRun]) -> float | None:
    """Return the largest R-hat with the runs of all pairs as chains."""
    usable = [r for r in runs if len(next(iter(r.draws.values()))) >= 8]
    if len(usable) < 2:
        return None
    x, _ = components(_posterior(target, density, usable), lp=False)
    if not np.isfinite(x).all() or (x.max(1) == x.min(1)).any():
        return None
    return float(arviz_bridge.rhat(x).max())
