"""The bars of `lora_head`, measured: posteriors, point estimates and ensembles over tasks and data seeds, against NUTS.

    python -c "from benchmarks.adapter_lab import main; main()" --quick --out docs/results

writes `lora_head.csv` (one row per task, data seed and method; rows that are there are kept, so that an interrupted run
goes on) and `lora_head.md` from it. A quick run takes the first three data seeds of one task, a full one ten and the other tasks.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.metrics.calibration import BINS, ece_floor
from benchmarks.predictions import halves, predictive, score_rows
from benchmarks.store import write_atomic

__all__ = ["COLUMNS", "FAMILIES", "bars", "main", "measure", "page", "spearman"]

FAMILIES = ("laplace", "mean_field", "low_rank", "full_rank", "flow")
BASELINES = ("mle", "map", "temperature scaling", "ensemble")
TASKS = ("rotation", "new_classes", "inversion")
METRICS = ("accuracy", "log_loss", "ece", "adaptive_ece", "brier")
COLUMNS = (
    "task", "labels", "seed", "method", *METRICS, "outside_classes", "outside_rotation", "distance", "floor", "sd_ratio",
    "ece_floor", "bins", "rhat_share", "ess_share", "rhat_max", "ess_min", "status", "seconds",
)  # fmt: skip
HEADS = (
    "method", "accuracy", "log loss", "ECE", "adaptive ECE", "Brier", "AUROC other classes", "AUROC 75 degrees", "total variation to NUTS",
    "sd ratio of log odds",
)  # fmt: skip
QUICK = {"draws": 500, "tune": 500}
QUICK_FIT: dict[str, Any] = {"steps": 1500}
FULL = {"draws": 1500, "tune": 800}
CERTIFIED_RHAT, CERTIFIED_ESS = 1.01, 4000
Array = np.ndarray[Any, Any]
Row = dict[str, Any]


def plan(quick: bool) -> list[tuple[str, int]]:
    """Return the (task, data seed) pairs of a run."""
    if quick:
        return [("rotation", seed) for seed in range(3)]
    return [*(("rotation", seed) for seed in range(10)), *((task, seed) for task in TASKS[1:] for seed in range(3))]


def measure(task: str, seed: int, *, quick: bool, jobs: int = 2, labels: int = 64) -> list[Row]:
    """Run every method on one task and data seed and return one row each."""
    import benchmarks
    import guides
    import zoo

    entry = zoo.load("lora_head", task=task, labels=labels)
    data = entry.load_data(seed)
    assert entry.baselines is not None
    made = entry.baselines(data, 0, **entry.settings)
    nuts = benchmarks.run_nuts(entry, seed=seed, data=data, jobs=jobs, min_ess=0, **(QUICK if quick else FULL))  # type: ignore[arg-type]
    posteriors, status, seconds = {"nuts": nuts}, {"nuts": "ok"}, {"nuts": nuts.cost.seconds}
    for family in FAMILIES:
        fit = guides.fit(entry, family, seed=seed, data=data, **(QUICK_FIT if quick else {}))
        status[family], seconds[family] = fit.stop.status, fit.cost.seconds
        if fit.ok:
            posteriors[family] = guides.draw(fit, 2000 if quick else 4000)
    found = {m: {n: p.double().numpy() for n, p in sets.items()} for m, sets in made.probabilities.items()}
    found.update({name: predictive(made, p) for name, p in posteriors.items()})
    parts = halves(made, nuts)
    assert parts is not None
    floor = score_rows({"half": parts[0]}, made.labels.numpy(), parts[1]["test"], set())[0].distance
    width = {name: log_odds_sd(p) for name, p in posteriors.items()}
    rows = []
    for row in score_rows(found, made.labels.numpy(), found["nuts"]["test"], set(posteriors), "nuts"):
        outside = {f"outside_{'classes' if 'classes' in k else 'rotation'}": v for k, v in row.outside.items()}
        more: Row = certify(nuts, made) if row.method == "nuts" else {}
        ratio = float(np.exp(np.log(width[row.method] / width["nuts"]).mean())) if row.posterior else ""
        rows.append({
            "task": task, "labels": labels, "seed": seed, "method": row.method, **{m: row.metrics[m].value for m in METRICS}, **outside,
            "distance": "" if row.distance is None else row.distance, "floor": floor, "sd_ratio": ratio,
            "ece_floor": ece_floor(found[row.method]["test"]), "bins": bin_sums(found[row.method]["test"], made.labels.numpy()),
            "status": status.get(row.method, "ok"), "seconds": seconds.get(row.method, ""), **more,
        })  # fmt: skip
    for family in (f for f in FAMILIES if f not in posteriors):
        rows.append({"task": task, "labels": labels, "seed": seed, "method": family, "status": status[family], "seconds": seconds[family]})
    return rows


def bin_sums(p: Array, y: Array) -> str:
    """Return rows, sum of confidences and number right of every confidence bin that is not empty, from which ECE over seeds is pooled."""
    place = np.clip(np.ceil(p.max(1) * BINS).astype(int) - 1, 0, BINS - 1)
    return " ".join(
        f"{b}:{(place == b).sum()}:{p.max(1)[place == b].sum():.5f}:{(p.argmax(1) == y)[place == b].sum()}" for b in np.unique(place)
    )


def pooled_ece(rows: Sequence[Row]) -> float:
    """Return the ECE of all test predictions of some rows together, from their bin sums: chance adds little to it, unlike to one run's."""
    sums = np.zeros((BINS, 3))
    for row in rows:
        for part in str(row["bins"]).split():
            place, *values = part.split(":")
            sums[int(place)] += [float(v) for v in values]
    return float(np.abs(sums[:, 2] - sums[:, 1]).sum() / sums[:, 0].sum())


def log_odds_sd(posterior: Any) -> Array:
    """Return the posterior sd of the log odds of every probe image."""
    axes = len(posterior.sample_dims)
    value: Array = posterior.quantities()["log_odds"].flatten(0, axes - 1).std(0).numpy()
    return value


def certify(nuts: Any, made: Any) -> Row:
    """Return the share of test images whose true class's probability has R-hat <= 1.01, and ESS >= 4,000, and the worst values."""
    import torch

    from benchmarks.arviz_bridge import ess_bulk, rhat

    labels = made.labels
    parts = []
    for chain in range(nuts.sample_shape[0]):
        draws = {k: v[chain] for k, v in nuts.draws.items()}
        pieces = torch.arange(nuts.sample_shape[1]).split(250)
        p = [made.predict({k: v[i] for k, v in draws.items()})["test"] for i in pieces]
        parts.append(torch.cat(p)[:, torch.arange(len(labels)), labels])
    x = torch.stack(parts).numpy()  # [chain, draw, row]
    r, e = rhat(x), ess_bulk(x)
    return {
        "rhat_share": float((r <= CERTIFIED_RHAT).mean()), "ess_share": float((e >= CERTIFIED_ESS).mean()),
        "rhat_max": float(r.max()), "ess_min": float(e.min()),
    }  # fmt: skip


# -- what the rows say -------------------------------------------------------------------------------------------------


def spearman(rows: Sequence[Row], *, number: int = 2000, seed: int = 0) -> tuple[float, float, float, int]:
    """Return the mean over task and seed of the rank correlation of ECE and distance to NUTS over methods, its 90 % interval, cases.

    The interval resamples cases (task, seed), which are independent; methods within one are not.
    """
    from scipy.stats import spearmanr

    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("distance") not in ("", None):
            cases.setdefault((str(row["task"]), str(row["seed"])), []).append(row)
    values = np.array([
        spearmanr([float(r["ece"]) for r in group], [float(r["distance"]) for r in group]).statistic
        for group in cases.values() if len(group) >= 4
    ])  # fmt: skip
    if not len(values):
        return float("nan"), float("nan"), float("nan"), 0
    low, high = interval(values, number, seed)
    return float(values.mean()), low, high, len(values)


def interval(values: Array, number: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the central 90 % bootstrap interval of the mean."""
    random = np.random.default_rng(seed)
    means = values[random.integers(len(values), size=(number, len(values)))].mean(1)
    low, high = np.quantile(means, (0.05, 0.95))
    return float(low), float(high)


def paired(rows: Sequence[Row], metric: str, method: str, other: str) -> Array:
    """Return per data seed `[case, 2]` the metric of two methods on `rotation`."""
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["task"] == "rotation" and row.get(metric) not in ("", None):
            table.setdefault(str(row["seed"]), {})[str(row["method"])] = float(row[metric])
    return np.array([[t[method], t[other]] for t in table.values() if method in t and other in t])


def bars(rows: Sequence[Row]) -> list[tuple[str, str, bool | None]]:
    """Return every bar as (bar, measured, met); met is None where nothing was measured."""
    turned = [r for r in rows if r["task"] == "rotation"]
    means = {f: np.mean([float(r["distance"]) for r in turned if r["method"] == f and r.get("distance") not in ("", None)] or [np.nan])
             for f in FAMILIES}  # fmt: skip
    best = min(means, key=lambda f: means[f] if np.isfinite(means[f]) else np.inf)
    floors = [float(r["floor"]) for r in turned if r["method"] == "nuts"]
    if not floors:
        return []
    shares = [(float(r["rhat_share"]), float(r["ess_share"])) for r in turned if r["method"] == "nuts"]
    text = f"{best} {means[best]:.3f} (floor {np.mean(floors):.3f}, {len(floors)} data seeds)"
    found: list[tuple[str, str, bool | None]] = [("best guide within 0.02 mean total variation of NUTS", text, bool(means[best] <= 0.02))]
    top = max(shares)
    text = f"R-hat <= 1.01 on {100 * top[0]:.1f} %, ESS >= 4,000 on {100 * top[1]:.1f} % of test images (best run)"
    found.append(("NUTS certified on 99 % of test images", text, min(top) >= 0.99))
    for metric, name, line in (("log_loss", "log loss", 0.3), ("ece", "ECE", 0.6)):
        pair = paired(rows, metric, best, "mle")
        if len(pair):
            drop = 1 - pair[:, 0].mean() / pair[:, 1].mean()
            text = f"{best} {pair[:, 0].mean():.3f}, mle {pair[:, 1].mean():.3f}: {-100 * drop:+.0f} % over {len(pair)} data seeds"
            found.append((f"{name} {100 * line:.0f} % below mle at 64 labels", text, bool(drop >= line)))
        pair = paired(rows, metric, best, "temperature scaling")
        if len(pair):
            gap = pair[:, 0] - pair[:, 1]
            low, high = interval(gap)
            text = f"difference {gap.mean():+.3f} (90 % interval {low:+.3f} to {high:+.3f})"
            found.append((f"{name} below temperature scaling", text, bool(high < 0)))
    value, low, high, cases = spearman(rows)
    found.append(("rank correlation of ECE and distance to NUTS over methods, published", f"{value:+.2f} ({low:+.2f} to {high:+.2f}), "
                  f"{cases} cases of task and data seed", None if cases == 0 else True))  # fmt: skip
    return found


def page(rows: Sequence[Row]) -> str:
    """Return the results page."""
    lines = [
        "# lora_head: bars and tables",
        "",
        "Made by `benchmarks.adapter_lab`; rank one, 64 labels. All rows are in `lora_head.csv`.",
        "",
    ]
    lines += ["| bar | measured | |", "|---|---|---|"]
    words = {True: "met", False: "**missed**", None: "not measured"}
    lines += [f"| {bar} | {text} | {words[met]} |" for bar, text, met in bars(rows)]
    for task in TASKS:
        own = [r for r in rows if r["task"] == task]
        if not own:
            continue
        seeds = len({str(r["seed"]) for r in own})
        lines += ["", f"## {task}, mean over {seeds} data seed{'s' if seeds > 1 else ''}", ""]
        lines += ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
        for method in (*BASELINES, *FAMILIES, "nuts"):
            mine = [r for r in own if r["method"] == method]
            if not mine:
                continue
            numbers = [_mean(mine, c) for c in (*METRICS, "outside_classes", "outside_rotation", "distance", "sd_ratio")]
            if method == "nuts":
                numbers[-2] = f"floor {_mean(mine, 'floor')}"
            lines.append(f"| {method} | " + " | ".join(numbers) + " |")
    return "\n".join(lines) + "\n"


def _mean(rows: Sequence[Row], column: str) -> str:
    values = [float(r[column]) for r in rows if r.get(column) not in ("", None)]
    return f"{np.mean(values):.3f}" if values else "–"


def read(path: Path) -> list[Row]:
    """Return the rows of an earlier run, none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def save(rows: Sequence[Row], folder: Path) -> None:
    """Write the table and the page."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_atomic(folder / "lora_head.csv", text.getvalue())
    write_atomic(folder / "lora_head.md", page(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and write table and page after every data seed."""
    from benchmarks.workers import one_thread

    parser = argparse.ArgumentParser(description="The bars of lora_head.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    rows = read(options.out / "lora_head.csv")
    with one_thread():
        for task, seed in plan(options.quick):
            if any(r["task"] == task and str(r["seed"]) == str(seed) for r in rows):
                continue
            rows += measure(task, seed, quick=options.quick, jobs=options.jobs)
            save(rows, options.out)
            print(f"{task}, data seed {seed}: done", flush=True)
    save(rows, options.out)
