"""`docs/results/lora_head.md` from the measured rows of `zoo study lora_head`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.metrics.calibration import BINS
from benchmarks.studies.pages import fold

__all__ = [
    "CASES",
    "COLUMNS",
    "DIGITS",
    "FAMILIES",
    "JUDGED",
    "bars",
    "best_guide",
    "page",
    "pooled_ece",
    "spearman",
]

FAMILIES = ("laplace", "mean_field", "low_rank", "full_rank", "flow")
BASELINES = ("mle", "map", "temperature scaling", "ensemble")
CASES: dict[str, dict[str, Any]] = {  # name in the table -> options of the entry
    "rotation": {},
    "last_layer": {"form": "last_layer"},
    "new_classes": {"task": "new_classes"},
    "inversion": {"task": "inversion"},
}
JUDGED = {"rotation": "rank one", "last_layer": "last layer"}  # cases with ten data seeds
SEEDS = 10  # data seeds required by the bars against mle and temperature scaling
CHAINED = {"rotation": 3, "last_layer": 3}  # data seeds with chains, and with every family
# families on the other data seeds: the closest to the chains
LIGHT = {"rotation": ("flow",), "last_layer": ("laplace", "full_rank")}
METRICS = ("accuracy", "log_loss", "ece", "adaptive_ece", "brier")
HEADS = (
    "method",
    "data seeds",
    "accuracy",
    "log loss",
    "ECE",
    "ECE, pooled",
    "adaptive ECE",
    "Brier",
    "AUROC other classes",
    "AUROC 75 degrees",
    "total variation to NUTS",
    "sd ratio of log odds",
)
COLUMNS = (
    "case",
    "labels",
    "seed",
    "method",
    *METRICS,
    "outside_classes",
    "outside_rotation",
    "distance",
    "floor",
    "sd_ratio",
    "ece_floor",
    "bins",
    "rhat_share",
    "ess_share",
    "rhat_max",
    "ess_min",
    "status",
    "seconds",
)
DIGITS = ".6g"  # of the floats in the table
Array = np.ndarray[Any, Any]
Row = dict[str, Any]


def pooled_ece(rows: Sequence[Row]) -> float:
    """Return the ECE of all test predictions of some rows pooled, from their bin sums.

    Chance adds little to it, unlike to the ECE of one run.
    """
    sums = np.zeros((BINS, 3))
    for row in rows:
        for part in str(row["bins"]).split():
            place, *values = part.split(":")
            sums[int(place)] += [float(v) for v in values]
    return float(np.abs(sums[:, 2] - sums[:, 1]).sum() / sums[:, 0].sum())


def spearman(
    rows: Sequence[Row], *, number: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """Return the rank correlation of ECE and distance to NUTS over methods.

    Its mean over case and seed, its 90 % interval, and the number of pairs (case, seed). The
    interval resamples these pairs, which are independent; methods within one are not. Pairs whose
    chains disagree have no truth and are omitted.
    """
    cases: dict[tuple[str, str], list[Row]] = {}
    known = {(str(r["case"]), str(r["seed"])) for r in rows if r["method"] == "nuts" and _agree(r)}
    for row in rows:
        if row.get("distance") not in ("", None) and (str(row["case"]), str(row["seed"])) in known:
            cases.setdefault((str(row["case"]), str(row["seed"])), []).append(row)
    values = np.array(
        [
            spearmanr(
                [float(r["ece"]) for r in group], [float(r["distance"]) for r in group]
            ).statistic
            for group in cases.values()
            if len(group) >= 4
        ]
    )
    if not len(values):
        return float("nan"), float("nan"), float("nan"), 0
    low, high = interval(values, number, seed)
    return float(values.mean()), low, high, len(values)


def _agree(chains: Row) -> bool:
    """Return whether R-hat is at most 1.01 on 99 % of the test images."""
    return float(chains["rhat_share"]) >= 0.99


def interval(values: Array, number: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the central 90 % bootstrap interval of the mean."""
    random = np.random.default_rng(seed)
    means = values[random.integers(len(values), size=(number, len(values)))].mean(1)
    low, high = np.quantile(means, (0.05, 0.95))
    return float(low), float(high)


def paired(rows: Sequence[Row], metric: str, method: str, other: str) -> Array:
    """Return the metric of two methods per data seed, `[seed, 2]`, over rows of one case."""
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get(metric) not in ("", None):
            table.setdefault(str(row["seed"]), {})[str(row["method"])] = float(row[metric])
    return np.array([[t[method], t[other]] for t in table.values() if method in t and other in t])


def bars(rows: Sequence[Row]) -> list[tuple[str, str, bool | None]]:
    """Return every bar as (bar, measured, met).

    `met` is None if too few data seeds were measured.
    """
    found: list[tuple[str, str, bool | None]] = []
    for case, words in JUDGED.items():
        found += _bars([r for r in rows if r["case"] == case], words)
    value, low, high, cases = spearman(rows)
    if cases:
        bounds = f" (90 % interval {low:+.2f} to {high:+.2f})" if cases > 2 else ", no interval"
        text = f"{value:+.2f}{bounds}, {cases} pair{'s' * (cases > 1)} of case and data seed"
        found.append(
            (
                "rank correlation of ECE and distance to NUTS over methods, with its interval",
                text,
                True if cases > 2 else None,
            )
        )
    spent = sum(float(r["seconds"]) for r in rows if r.get("seconds") not in ("", None)) / 60
    if spent:
        tier, limit = ("full", 15) if {r["case"] for r in rows} > {"rotation"} else ("quick", 3)
        text = (
            f"{spent:.1f} minutes of chains and fits, one after the other (compiling, baselines"
            " and scores apart)"
        )
        found.append((f"{tier} tier within {limit} minutes", text, spent <= limit))
    return found


def best_guide(own: Sequence[Row], seeds: int = 1) -> tuple[str, float]:
    """Return the family with the smallest mean distance to NUTS, and that distance.

    The mean is over the data seeds of one case. Only families that ran on at least `seeds` of them
    count, or all families if none did.
    """
    means = {
        f: np.mean(
            [
                float(r["distance"])
                for r in own
                if r["method"] == f and r.get("distance") not in ("", None)
            ]
            or [np.nan]
        )
        for f in FAMILIES
    }
    ran = {
        f
        for f in FAMILIES
        if len({str(r["seed"]) for r in own if r["method"] == f}) >= seeds
        and np.isfinite(means[f])
    }
    means = {f: value for f, value in means.items() if not ran or f in ran}
    best = min(means, key=lambda f: means[f] if np.isfinite(means[f]) else np.inf)
    return best, float(means[best])


def _bars(own: Sequence[Row], words: str) -> list[tuple[str, str, bool | None]]:
    chains = [r for r in own if r["method"] == "nuts"]
    if not chains:
        return []
    best, distance = best_guide(own)
    floor = np.mean([float(r["floor"]) for r in chains])
    text = (
        f"{best} {distance:.3f} (floor {floor:.3f}, {len(chains)} data"
        f" seed{'s' * (len(chains) > 1)})"
    )
    found: list[tuple[str, str, bool | None]] = [
        (f"{words}: best guide within 0.02 mean total variation of NUTS", text, distance <= 0.02)
    ]
    least = [min(float(r[name]) for r in chains) for name in ("rhat_share", "ess_share")]
    text = (
        f"R-hat <= 1.01 on {100 * least[0]:.1f} %, ESS >= 4,000 on {100 * least[1]:.1f} % of test"
        " images (worst data seed)"
    )
    found.append((f"{words}: NUTS certified on 99 % of test images", text, min(least) >= 0.99))
    # the closest of those that ran often enough for the bars on predictions
    best, distance = best_guide(own, SEEDS)
    for metric, name, line in (("log_loss", "log loss", 0.3), ("ece", "ECE", 0.6)):
        pair = paired(own, metric, best, "mle")
        drop = 1 - pair[:, 0].mean() / pair[:, 1].mean()
        text = (
            f"{best} {pair[:, 0].mean():.3f}, mle {pair[:, 1].mean():.3f}: {-100 * drop:+.0f} %"
            f" over {len(pair)} "
        )
        text += f"data seed{'s' * (len(pair) > 1)}"
        if metric == "ece":
            pooled = [pooled_ece([r for r in own if r["method"] == m]) for m in (best, "mle")]
            chance = np.mean([float(r["ece_floor"]) for r in own if r["method"] == best])
            text += (
                f"; all predictions pooled {pooled[0]:.3f}, {pooled[1]:.3f}:"
                f" {-100 * (1 - pooled[0] / pooled[1]):+.0f} %"
            )
            text += f" (exactly right probabilities would show {chance:.3f} per data seed)"
        enough = len(pair) >= SEEDS  # with fewer data seeds the bar stays open
        found.append(
            (
                f"{words}: {name} {100 * line:.0f} % below mle at 64 labels, {SEEDS} data seeds",
                text,
                bool(drop >= line) if enough else None,
            )
        )
        pair = paired(own, metric, best, "temperature scaling")
        low, high = interval(pair[:, 0] - pair[:, 1])
        text = f"difference {(pair[:, 0] - pair[:, 1]).mean():+.3f}"
        text += (
            f" (90 % interval {low:+.3f} to {high:+.3f})"
            if enough
            else f" ({len(pair)} data seed{'s' * (len(pair) > 1)})"
        )
        found.append(
            (
                f"{words}: {name} below temperature scaling",
                text,
                bool(high < 0) if enough else None,
            )
        )
    return found


def page(rows: Sequence[Row]) -> str:
    """Return the results page."""
    lines = [
        "# lora_head: criteria and tables",
        "",
        INTRODUCTION,
        "| criterion | measured | |",
        "|---|---|---|",
    ]
    verdict = {True: "met", False: "**missed**", None: "open"}
    lines += [f"| {bar} | {text} | {verdict[met]} |" for bar, text, met in bars(rows)]
    for case in CASES:
        own = [r for r in rows if r["case"] == case]
        if not own:
            continue
        seeds, chained = (
            len({str(r["seed"]) for r in own}),
            sum(r["method"] == "nuts" for r in own),
        )
        lines += [
            "",
            f"## {TITLES[case]}",
            "",
            (
                f"Means over {seeds} data seed{'s' if seeds > 1 else ''}, {chained} of them with"
                " chains."
            ),
            "",
        ]
        lines += ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
        for method in (*BASELINES, *FAMILIES, "nuts"):
            mine = [
                r for r in own if r["method"] == method and r.get("accuracy") not in ("", None)
            ]
            if not mine:
                continue
            numbers = [
                _mean(mine, c)
                for c in (*METRICS, "outside_classes", "outside_rotation", "distance", "sd_ratio")
            ]
            numbers.insert(0, str(len(mine)))
            numbers.insert(4, f"{pooled_ece(mine):.3f}")
            if method == "nuts":
                numbers[-2] = f"floor {_mean(mine, 'floor')}"
            lines.append(f"| {method} | " + " | ".join(numbers) + " |")
        doubtful = [r for r in own if r["method"] == "nuts" and not _agree(r)]
        if doubtful:
            worst, share = (
                max(float(r["rhat_max"]) for r in doubtful),
                min(float(r["rhat_share"]) for r in doubtful),
            )
            lines += [
                "",
                (
                    "**The chains of this case disagree** (R-hat at most 1.01 on"
                    f" {100 * share:.0f} % of the test images, up to {worst:.2f}): distances to"
                    " them show which methods are similar, not which are correct."
                ),
            ]
    return fold("\n".join(lines) + "\n")


TITLES = {
    "rotation": "Rotated by 30 degrees, rank-one update (the entry's default)",
    "last_layer": "Rotated by 30 degrees, last layer only (`form=last_layer`)",
    "new_classes": "Three new classes, rank-one update",
    "inversion": "Inverted with noise, rank-one update",
}
INTRODUCTION = """Made by `zoo study lora_head`; 64 labels. All rows are in `lora_head.csv`. NUTS and all families run
on the first data seeds of a case only; the family closest to NUTS there, and all baselines, run on
ten. "ECE, pooled" is computed from the test predictions of all data seeds together. ECE is a sum of
absolute values, so with 350 images alone it is well above 0 by chance.
"""


def _mean(rows: Sequence[Row], column: str) -> str:
    values = [float(r[column]) for r in rows if r.get(column) not in ("", None)]
    return f"{np.mean(values):.3f}" if values else "–"
