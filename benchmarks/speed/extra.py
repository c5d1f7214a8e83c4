"""Measurements beside the table: growth, parallel chains, whole commands, and the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.mcmc.nuts import run_nuts
from benchmarks.speed.sides import Settings
from benchmarks.speed.targets import find
from benchmarks.speed.worker import SINGLE_THREAD, PeerError, Worker
from zoo.density.log_density import LogDensity

__all__ = ["commands", "empty_caches", "growth", "load_average", "machine"]

Say = Callable[[str], None]
# the entries of `make report`
REPORT = ("eight_schools", "eight_schools_centered", "gaussian_mixture", "linear_regression")


def machine() -> dict[str, Any]:
    """Return what timings depend on: processor, cores, system."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip()
            for line in info.read_text(encoding="utf8").splitlines()
            if line.startswith("model name")
        ]
        model = lines[0] if lines else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def load_average() -> list[float] | None:
    """Return the load averages over 1, 5 and 15 minutes.

    A value above 1 before the run means that other work shared the machine.
    """
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def empty_caches(folder: Path) -> dict[str, str]:
    """Return variables that point every side's cache of compiled code to an empty folder."""
    return {
        "ZOO_CACHE_DIR": str(folder / "zoo"),
        "XDG_CACHE_HOME": str(folder / "xdg"),
        "NUMBA_CACHE_DIR": str(folder / "numba"),
        "PYTENSOR_FLAGS": f"base_compiledir={folder / 'pytensor'}",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }


def growth(
    rows: Sequence[int], pairs: int, settings: Settings, folder: Path, say: Say
) -> list[dict[str, Any]]:
    """Return median seconds of one gradient and of one SVI step per number of rows.

    The gradient is compiled and uses all rows, the SVI step 100 of them.
    """
    out: list[dict[str, Any]] = [{"rows": number} for number in rows]
    for measure in ("gradient", "svi_mean_field"):
        workers: dict[int, Worker] = {}
        times: dict[int, list[float]] = {number: [] for number in rows}
        try:
            for row in out:
                try:
                    name = f"growth_{row['rows']}"
                    workers[row["rows"]] = Worker(
                        "ours", (name, find(name).form, None), settings, folder
                    )
                    workers[row["rows"]].prepare(measure)
                except PeerError as error:
                    row[f"{measure}_error"] = str(error)
            # sizes are interleaved, so that machine load affects all alike
            for _ in range(pairs):
                for row in out:
                    if f"{measure}_error" not in row:
                        times[row["rows"]].append(workers[row["rows"]].ask("time", measure).per)
        finally:
            for worker in workers.values():
                worker.close()
        for row in out:
            if times[row["rows"]]:
                row[measure] = statistics.median(times[row["rows"]])
        say(f"growth: {measure} done")
    return out


def commands(names: Sequence[str], say: Say) -> dict[str, float]:
    """Return wall seconds of whole commands, and the gain of four chains on two cores.

    A command runs cold (empty cache), a second time (compiling what the first run did not wait
    for), and warm.
    """
    out: dict[str, float] = {}
    if "chains" in names:
        out["chains_gain"] = _chains()
        say(f"four chains on two cores: {out['chains_gain']:.2f} times one chain")
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for name, entries in (("compare", ("eight_schools",)), ("report", REPORT)):
            if name not in names:
                continue
            for start in ("cold", "second", "warm"):
                folder = Path(scratch) / name
                out[f"{name}_{start}"] = _timed(entries, folder / start, folder / "cache")
                say(f"zoo compare {' '.join(entries)}, {start}: {out[f'{name}_{start}']:.1f} s")
    return out


def _timed(entries: Sequence[str], out: Path, cache: Path) -> float:
    guides = ["--guides", "all"]
    call = [
        sys.executable,
        "-c",
        "from benchmarks.cli import main; main()",
        "compare",
        *entries,
        *guides,
        "--jobs",
        "2",
        "--out",
        str(out),
    ]
    environment = {**os.environ, **SINGLE_THREAD, **empty_caches(cache)}
    begun = time.perf_counter()
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise PeerError(
            f"zoo compare ended with exit code {done.returncode}:"
            f" {done.stderr.strip().splitlines()[-1:]}"
        )
    return time.perf_counter() - begun


def _chains() -> float:
    """Return the throughput of four chains on two cores over that of one chain.

    The compiled density is the same; the median of three runs.
    """
    target = find("radon")
    data = target.entry.load_data()
    density = LogDensity(target.entry.program(data), data)
    density.compile("on")
    entry, ratios = replace(target.entry), []
    for seed in range(3):
        begun = time.perf_counter()
        run_nuts(
            entry,
            seed=seed,
            data=data,
            chains=1,
            draws=4000,
            jobs=1,
            min_ess=0,
            log_density=density,
        )
        one = time.perf_counter()
        run_nuts(
            entry,
            seed=seed,
            data=data,
            chains=4,
            draws=4000,
            jobs=2,
            min_ess=0,
            log_density=density,
        )
        ratios.append(4 * (one - begun) / (time.perf_counter() - one))
    return statistics.median(ratios)
