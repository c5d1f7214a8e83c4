"""`docs/results/reweighted.md` from the rows of the study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.studies.pages import EMPTY_NOTES, fold
from benchmarks.studies.trust.criteria import count

__all__ = ["bars", "met", "page"]

Row = Mapping[str, Any]
MEAN_BAR, WIDTH_BAR, SHARE_BAR = 0.1, 0.1, 0.9
HEAD = """# Reweighted draws on posteriordb

A row `<family>_reweighted` (`benchmarks.reweight`, `zoo compare --reweight`) has draws of a fitted
guide q that are chosen by their importance weights log p(u, data) - log q(u), Pareto-smoothed
(Vehtari et al. 2024), each at most once: draw i with probability min(1, c w_i) (systematic
sampling, Madow 1949). Of the S draws of the guide n are left,

```text
n = the largest number up to 4,000 with  sum_i max(0, w_i - 1 / n) <= 0.01  and  n <= ESS / 2
```

S is 16,000 at first and grows to 256,000 where n is smaller than 4,000. Where k-hat is above 0.5,
draws of a t distribution of four degrees of freedom, with the mean and covariance of the guide's
draws, are weighted in the same way. If their k-hat is above 0.5 too, or fewer than 200 draws are
left, the row is refused. Every row is compared with the reference draws of
the collection by `benchmarks.compare`, as is the raw row with 4,000 draws. *m* is the largest
error of the mean of a judged component in reference sds, *s* the sd ratio farthest from 1. Made by
`zoo study reweighted`; all rows are in `reweighted.json`."""


def page(rows: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    fits = [row for part in rows.values() for entry in part.values() for row in entry]
    parts = [HEAD, "", *EMPTY_NOTES, "", *_bars(fits), *_missed(fits)]
    for family in dict.fromkeys(r["method"] for r in fits):
        parts += _family([r for r in fits if r["method"] == family], family)
    return fold("\n".join(parts).rstrip("\n") + "\n")


def met(row: Row, prefix: str = "") -> bool:
    """Whether all means of a row are within 0.1 reference sds, and all sds within 10 %."""
    mean, ratio = row.get(f"{prefix}mean_error"), row.get(f"{prefix}sd_ratio")
    if mean is None or not ratio:
        return False
    return bool(mean <= MEAN_BAR and abs(math.log(ratio)) <= math.log(1 + WIDTH_BAR))


def bars(fits: Sequence[Row]) -> list[tuple[str, int, int, int]]:
    """Return what is counted, how many meet the bar with every seed, with most, and of how many."""
    found = []
    for family in dict.fromkeys(r["method"] for r in fits):
        groups = list(_groups([r for r in fits if r["method"] == family]).values())
        for label, prefix in ((f"`{family}`, reweighted", ""), (f"`{family}`, raw", "raw_")):
            shares = [sum(met(r, prefix) for r in group) / len(group) for group in groups]
            every, most = sum(x == 1 for x in shares), sum(x > 0.5 for x in shares)
            found.append((label, every, most, len(groups)))
    return found


def _groups(fits: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of every posterior on which some fit of the family ended well.

    A Laplace fit ends well where there is a mode.
    """
    groups: dict[str, list[Row]] = {}
    for row in fits:
        groups.setdefault(row["entry"], []).append(row)
    return {e: own for e, own in groups.items() if any(r.get("raw_mean_error") for r in own)}


def _bars(fits: Sequence[Row]) -> list[str]:
    lines = [
        "## The bar",
        "",
        f"Posteriors on which all means are within {MEAN_BAR} reference sds and all sds within"
        f" {WIDTH_BAR:.0%} (three seeds for `laplace`, one for other families), of those"
        " on which the family has a fit; for `laplace` these are the posteriors that have a mode."
        " In brackets the share with its"
        " exact 95 % interval (Clopper and Pearson 1934). The bar counts posteriors that meet it"
        " with every seed; a refused row or a failed fit does not.",
        "",
        "| draws | with every seed | with most seeds | bar | met |",
        "|---|---|---|---|---|",
    ]
    for label, hits, most, total in bars(fits):
        asked = label == "`laplace`, reweighted"
        bar = f">= {SHARE_BAR:.0%}" if asked else ""
        word = ("yes" if hits >= SHARE_BAR * total else "**no**") if asked else ""
        shown = f"{count(hits, total)} | {count(most, total)}"
        lines.append(f"| {label} | {shown} | {bar} | {word} |")
    return [*lines, ""]


def _missed(fits: Sequence[Row]) -> list[str]:
    lines = []
    for entry, group in _groups([r for r in fits if r["method"] == "laplace"]).items():
        left = [r for r in group if not met(r)]
        if left:
            seeds = ", ".join(str(r["seed"]) for r in left)
            reasons = "; ".join(dict.fromkeys(_why(r) for r in left))
            lines.append(f"* `{_short(entry)}` (seed {seeds}): {reasons}.")
    without = sorted({r["entry"] for r in fits if r["method"] == "laplace"} - set(_groups(fits)))
    if without:
        lines.append(
            f"* Without a mode, not counted: {', '.join(f'`{_short(e)}`' for e in without)}."
        )
    return ["## Misses of laplace", "", *(lines or ["None."]), ""]


def _why(row: Row) -> str:
    if row["refused"]:
        return str(row["refused"]).partition(": ")[2].split("; ")[0].rstrip(".")
    return (
        f"{row['mean_of']} mean off by {row['mean_error']:.2f} sds, {row['sd_of']} sd"
        f" x{row['sd_ratio']:.2f} (k-hat {row['k_hat']:.2f}, {row['draws']:,} draws)"
    )


def _short(entry: str) -> str:
    return entry.partition("/")[2] or entry


def _family(fits: Sequence[Row], family: str) -> list[str]:
    lines = [
        f"## {family}",
        "",
        "*m* and *s* of the worst seed; k-hat, importance ESS, S and n are medians over the seeds"
        " that were reweighted.",
        "",
        "| entry | raw m | raw s | m | s | k-hat | ESS | S | n | capped |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry, group in _groups(fits).items():
        lines.append(f"| `{_short(entry)}` | {' | '.join(_cells(group))} |")
    return [*lines, ""]


def _cells(group: Sequence[Row]) -> list[str]:
    good = [r for r in group if r.get("mean_error") is not None]
    raw = [r for r in group if r.get("raw_mean_error") is not None]
    cells = [*_worst(raw, "raw_"), *_worst(good, "")]
    refused = f"refused {len(group) - len(good)} of {len(group)}" if len(good) < len(group) else ""
    cells[2] = ", ".join(filter(None, [refused, cells[2]]))
    if not good:
        return [*cells, "", "", "", "", ""]
    middle = {
        name: median(r[name] for r in good)
        for name in ("k_hat", "importance_ess", "guide_draws", "draws", "capped_mass")
    }
    return [
        *cells,
        f"{middle['k_hat']:.2f}",
        f"{middle['importance_ess']:,.0f}",
        f"{middle['guide_draws']:,.0f}",
        f"{middle['draws']:,.0f}",
        f"{middle['capped_mass']:.2%}",
    ]


def _worst(rows: Sequence[Row], prefix: str) -> list[str]:
    if not rows:
        return ["", ""]
    ratio = max((r[f"{prefix}sd_ratio"] for r in rows), key=lambda x: abs(math.log(max(x, 1e-12))))
    return [f"{max(r[f'{prefix}mean_error'] for r in rows):.3f}", f"{ratio:.3g}"]
