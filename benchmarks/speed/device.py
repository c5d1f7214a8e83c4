"""Optimizer steps on a graphics card and on the CPU of the same machine, small to large.

    python -m benchmarks.speed.device [--devices cpu,cuda] [--seconds 1] [--pairs 5]
                                      [--out out/device]
    python -m benchmarks.speed.device --table FILE.json...

Both devices take the same steps with the same noise; slices are interleaved. Writes `device.json`;
with `--table` it prints the Markdown table of one or more of them, as in `docs/performance.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import zoo
from benchmarks.speed.extra import machine
from benchmarks.speed.side_ours import PausedFit
from benchmarks.speed.sides import Settings
from benchmarks.speed.targets import Target, find
from zoo.compiler.cuda import check_device, name_of

__all__ = ["CASES", "Case", "main", "measure", "page"]

IMAGES = 4000


@dataclass(frozen=True, kw_only=True)
class Case:
    """A step to time: its title, the function that makes its target, and settings of the fit."""

    title: str
    family: str
    make: Callable[[Path], Target]
    settings: dict[str, Any]


def _images(folder: Path) -> Target:
    """Return the classic autoencoder on generated binary images of 28 x 28 pixels."""
    path = folder / "images.npy"
    values = np.random.default_rng(0).random((IMAGES, 28, 28)) < 0.2
    np.save(path, (255 * values).astype(np.uint8))
    entry = zoo.load(f"vae[images={path},latent=20,hidden=400,layers=1,threshold=0.5]")
    return Target(name="vae", title="vae", form="vae", entry=entry)


CASES = (
    Case(
        title="eight schools, full_rank, 64 particles",
        family="full_rank",
        make=lambda _: find("eight_schools"),
        settings={},
    ),
    Case(
        title="linear 20,000 x 50, full_rank, 64 particles",
        family="full_rank",
        make=lambda _: find("linear_20000"),
        settings={},
    ),
    Case(
        title="regression on 200,000 rows, all in each step, 4 particles",
        family="mean_field",
        make=lambda _: find("growth_200000"),
        settings={"num_particles": 4, "batch_size": 200_000},
    ),
    Case(
        title="VAE 784-400-20, minibatches of 256, 1 particle",
        family="amortized",
        make=_images,
        settings={"num_particles": 1, "batch_size": 256},
    ),
)


def measure(
    cases: Sequence[Case], *, seconds: float, pairs: int, devices: Sequence[str] = ("cpu", "cuda")
) -> list[dict[str, Any]]:
    """Return seconds per step of each case on each device, and those of the first call.

    Medians and quartiles are over interleaved slices.

    Raises:
        UsageError: no card.
    """
    for device in devices:
        check_device(device)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for case in cases:
            target = case.make(Path(folder))
            data = target.entry.load_data()
            settings = Settings(particles=64, compile="on")
            row: dict[str, Any] = {"case": case.title}
            fits = {
                d: PausedFit(target, data, case.family, settings, **{"device": d, **case.settings})
                for d in devices
            }
            for device, fit in fits.items():
                began = time.perf_counter()
                fit.slice(0.1)
                row[f"{device}_first"] = time.perf_counter() - began
            times: dict[str, list[float]] = {d: [] for d in devices}
            for _ in range(pairs):
                for device, fit in fits.items():
                    times[device].append(fit.slice(seconds).per)
            for device, fit in fits.items():
                fit.close()
                row[device] = statistics.median(times[device])
                row[f"{device}_quartiles"] = list(np.quantile(times[device], (0.25, 0.75)))
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    return rows


def page(documents: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table: one column per device, and the CPU's time over the card's."""
    columns = {
        device: document["names"][device] for document in documents for device in document["names"]
    }
    times: dict[str, dict[str, float]] = {}
    for document in documents:
        for row in document["rows"]:
            times.setdefault(row["case"], {}).update({d: row[d] for d in columns if d in row})
    lines = [
        f"| one step | {' | '.join(columns.values())} | ratio |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for case, row in times.items():
        ratio = f"{row['cpu'] / row['cuda']:.2f}" if {"cpu", "cuda"} <= set(row) else ""
        cells = [f"{1e6 * row[d]:,.0f} us" if d in row else "" for d in columns]
        lines.append(f"| {case} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case, or print the table of earlier measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--devices", default="cpu,cuda", help="one or both, separated by a comma")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a timed slice")
    parser.add_argument("--pairs", type=int, default=5, help="slices per side")
    parser.add_argument(
        "--out", type=Path, default=Path("out/device"), help="folder of device.json"
    )
    parser.add_argument("--table", type=Path, nargs="+", help="files to print as one table")
    options = parser.parse_args()
    if options.table:
        print(
            page([json.loads(path.read_text(encoding="utf8")) for path in options.table]), end=""
        )
        return
    devices = options.devices.split(",")
    rows = measure(CASES, seconds=options.seconds, pairs=options.pairs, devices=devices)
    about = machine()
    names = {
        d: f"{name_of(torch.device(d))}" if d != "cpu" else f"one thread of {about['processor']}"
        for d in devices
    }
    document = {
        "names": names,
        "machine": about,
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "device.json").write_text(
        json.dumps(document, indent=1) + "\n", encoding="utf8"
    )
    print(page([document]), end="")


if __name__ == "__main__":
    main()
