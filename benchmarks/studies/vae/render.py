"""`docs/results/vae.md` from the figures of `zoo study vae`; missing ones are omitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.studies.pages import fold

__all__ = ["render"]

ROWS = 8
FAMILIES = {
    "amortized": "independent normals",
    "amortized_full": "full covariance",
    "amortized_flow": "flow",
}


def render(numbers: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    scores, bars = (numbers.get(k, {}) for k in ("scores", "bars"))
    if bars:
        parts += ["## Criteria\n", *_bars(bars, scores)]
    if scores:
        parts += [
            "## Exact scores of jointly trained variants\n",
            SCORES,
            *_scores(scores, numbers.get("others", {})),
        ]
        if len(scores) < ROWS:
            parts.append(f"{len(scores)} of {ROWS} rows are measured so far.\n")
    if bars:
        parts += ["## Gaps with a common decoder\n", GAPS, *_gaps(bars)]
    return fold("\n".join(parts).rstrip() + "\n")


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _bars(bars: dict[str, Any], scores: dict[str, Any]) -> list[str]:
    lines = ["| criterion | measured | |", "|---|---|---|"]
    if scores:
        cpu, wall = (sum(s[k] for s in scores.values()) for k in ("seconds", "wall"))
        lines.append(
            f"| at least 8 rows with exact NLL within 6 minutes on 2 cores | {len(scores)} rows in"
            f" {cpu:.0f} s of one core ({wall:.0f} s of wall time, on a machine shared with other"
            f" work) | {_verdict(len(scores) >= 8 and cpu <= 720)} |"
        )
    if "iwae5000" in bars:
        b = bars["iwae5000"]
        lines.append(
            f"| IWAE-5000 within 0.02 nats of the grid | mean error {b['mean_error']:+.4f},"
            f" largest {b['largest']:.3f} nats over {b['images']} held-out images |"
            f" {_verdict(abs(b['mean_error']) <= 0.02)} |"
        )
    if "iwae5000 refined" in bars:
        b = bars["iwae5000 refined"]
        lines.append(
            "| the same from the encoder's q after 50 refinement steps | mean error"
            f" {b['mean_error']:+.4f}, largest {b['largest']:.3f} nats |"
            f" {_verdict(abs(b['mean_error']) <= 0.02)} |"
        )
    if "iwae5000 defensive" in bars:
        b = bars["iwae5000 defensive"]
        lines.append(
            "| the same with half of the 5,000 draws from the prior (defensive importance"
            f" sampling) | mean error {b['mean_error']:+.4f}, largest {b['largest']:.3f} nats |"
            f" {_verdict(abs(b['mean_error']) <= 0.02)} |"
        )
    if {"amortized", "amortized_full", "amortized_flow"} <= bars.keys():
        for part in ("train", "held out"):
            base = bars["amortized"][f"approximation_gap_nats {part}"][0]
            removed = {
                f: 1 - bars[f][f"approximation_gap_nats {part}"][0] / base
                for f in ("amortized_full", "amortized_flow")
            }
            best = max(removed.values())
            lines.append(
                f"| full covariance or flow removes 80 % of the approximation gap ({part}) | full"
                f" covariance {100 * removed['amortized_full']:.0f} %, flow"
                f" {100 * removed['amortized_flow']:.0f} % of {base:.3f} nats |"
                f" {_verdict(best >= 0.8)} |"
            )
    for part in ("train", "held out"):
        if "amortized" in bars:
            gap, left = (
                bars["amortized"][f"{k} {part}"][0]
                for k in ("amortization_gap_nats", "refined_gap_nats")
            )
            lines.append(
                f"| 50 refinement steps remove 90 % of the amortization gap ({part}) |"
                f" {100 * (1 - left / gap):.0f} % of {gap:.3f} nats |"
                f" {_verdict(left <= 0.1 * gap)} |"
            )
    worst = max((bars[f]["identity_worst"] for f in FAMILIES if f in bars), default=None)
    if worst is not None:
        images = sum(bars[f]["images"] for f in FAMILIES if f in bars)
        lines.append(
            f"| log p(x) - ELBO = KL within 0.001 nats | largest error {worst:.1e} nats over"
            f" {images} images | {_verdict(worst <= 1e-3)} |"
        )
    return [*lines, ""]


def _scores(scores: dict[str, Any], others: dict[str, Any]) -> list[str]:
    lines = [
        (
            "| trained by | NLL train | NLL held out | -ELBO held out | gap | active units |"
            " mutual information | KL(aggregate, prior) | seconds |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, s in scores.items():
        runs = [s, *(o for key, o in others.items() if key.rpartition(", seed ")[0] == name)]
        mark = "" if all(r["grid_ok"] for r in runs) else " (grid not certified)"
        lines.append(
            f"| {name} | {_range(runs, 'nll_train', 2)} | {_range(runs, 'nll_held_out', 2)}{mark}"
            f" | {_range(runs, 'minus_elbo_held_out', 2)} |"
            f" {_mean([r['minus_elbo_held_out'] - r['nll_held_out'] for r in runs]):.2f} |"
            f" {', '.join(str(r['active_units']) for r in runs)} |"
            f" {_range(runs, 'mutual_information_nats', 2)} |"
            f" {_mean([r['aggregate_kl_nats'] for r in runs]):.2f} | {s['seconds']:.0f} |"
        )
    steps, error = (
        {s["steps_asked"] for s in scores.values()},
        max(s["nll_held_out_se"] for s in scores.values()),
    )
    seeds = 1 + len({key.rpartition(", seed ")[2] for key in others})
    return [
        *lines,
        "",
        (
            f"{seeds} seed{'s' * (seeds > 1)} (weights and"
            f" training){', means (smallest to largest)' * (seeds > 1)}; at most {max(steps)}"
            f" steps. The bootstrap standard error over held-out images, at most {error:.2f} nats,"
            " is common to all rows. Seconds are CPU seconds of one core for one seed,"
            " including training, compilation and scoring."
        ),
        "",
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _range(runs: list[dict[str, Any]], name: str, digits: int) -> str:
    """Return the mean over seeds with the smallest and the largest."""
    values = [r[name] for r in runs]
    between = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{_mean(values):.{digits}f}{between}"


def _gaps(bars: dict[str, Any]) -> list[str]:
    lines = [
        "| guide | part | KL(q, posterior) | approximation | amortization | left after 50 steps |"
        " KL(posterior, q) | coverage of 90 % intervals | k-hat |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for family, words in FAMILIES.items():
        if family not in bars:
            continue
        for part in ("train", "held out"):
            columns = (
                "kl_nats",
                "approximation_gap_nats",
                "amortization_gap_nats",
                "refined_gap_nats",
                "reverse_kl_nats",
            )
            cells = [
                f"{m:.3f} ± {s:.3f}" for m, s in (bars[family][f"{c} {part}"] for c in columns)
            ]
            cover, khat = (
                bars[family][f"coverage90 {part}"][0],
                bars[family][f"pareto_k {part}"][0],
            )
            lines.append(
                f"| {words} | {part} | "
                + " | ".join(cells)
                + f" | {100 * cover:.0f} % | {khat:.2f} |"
            )
    faults = [
        f"* {words}: {fault}"
        for family, words in FAMILIES.items()
        for fault in bars.get(family, {}).get("faults", ())
    ]
    note = (
        ["The gap report found faults:", "", *faults, ""]
        if faults
        else ["The gap report found no faults.", ""]
    )
    return [*lines, "", *note]


HEAD = """# Autoencoders against the exact evidence

Binary 8 x 8 digits (1,438 training and 359 held-out images), two latent dimensions, decoder and
encoder with two hidden layers of 32 units. Every log p(x) and every posterior on this page is
integrated on a grid, which is refined until doubling its points changes log p(x) by less than 0.001
nats. Numbers are nats per image; ± precedes one bootstrap standard error over images.

Made by `zoo study vae`; the raw numbers are in [vae.json](vae.json).
"""
SCORES = """Each row has its own decoder and encoder, trained jointly. NLL is the exact mean of -log p(x), not a
bound, over all or every second training image and all 359 held-out images; the gap is the loss of
the row's encoder on held-out images. The mutual information of image and code is exact, over 300 or
400 training images (at most log 300 = 5.70 nats). A unit is active if the variance over images of
its exact posterior mean is above 0.01.
"""
GAPS = """The decoder of the row "plain", first seed, is held fixed, and each guide is fitted to it on all
training images. `benchmarks.gap_report(fit)` makes such a table for any fit of these entries.
"""
