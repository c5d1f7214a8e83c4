"""`docs/results/pathfinder.md` from the rows of the study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.studies.batch_and_match.render import errors, trusted
from benchmarks.studies.pages import EMPTY_NOTES, fold
from benchmarks.studies.pathfinder.measure import METHODS, OWN
from benchmarks.studies.trust.criteria import count

__all__ = ["bars", "page"]

Row = Mapping[str, Any]
MOST, NEAR, WIDTH, CLOSE, SES = 300, 0.1, 0.1, 0.01, 3.0
HEAD = """# Pathfinder

The family `pathfinder` climbs the log density by L-BFGS from 12 starts, four around the
unconstrained origin and eight 10 to 100 sds away (Zhang et al. 2022). On each path the normal of
the curvature history with the best ELBO is its answer; of the paths that ended in one mode the
best answers for it. The draws of all paths are weighted by the mixture of their normals,

```text
w_i = p(u_i) / q(u_i)        q(u) = 1/K sum_k q_k(u)
```

and give the masses of the modes with their errors. Fits are scored by 10,000 of their draws
against the reference draws of posteriordb. *m* is the largest error of the mean of a judged
component in reference sds, *s* the sd ratio farthest from 1. *Raw* are the draws as they are,
*weighted* those with Pareto-smoothed importance weights. Weights count only where k-hat is at most
0.7 and the effective sample size at least 100; elsewhere the raw figure stands. All rows are in
`pathfinder.json`, made by `zoo study pathfinder`."""
WHEN = """## When to use it

* **As the first look at a posterior of unknown shape**: it needs a few hundred gradients, meets
  modes in which other starts never end, and says what mass each of them has.
* **Reweight it.** A raw normal is that of a mode and its curvature, with the bias of Laplace on
  skewed posteriors; the weights repair it where k-hat allows it. With `merge=False` the normals
  of all paths are kept: better to weight, and much too wide as they are where the posterior is far
  from a normal.
* **As starts of chains**: draws of the fit lie in every mode that was found.
* **A mode is found only if a path ends in it.** A mode much narrower than the others has a small
  basin, and no start may lie there. More `paths` help where modes are apart but of like width.
* **Far from a normal** (hierarchies, funnels, rings) the pooled weights are worth few draws, which
  the stop sentence says. The pieces of a ring are named as modes.
* **Options**: `paths`, `evaluations` of a path, `history` (pairs of differences; 6 in the paper,
  here the dimension up to 30), `elbo_draws` at a point of a path, `pool_draws` of a normal,
  `merge` of the paths of a mode into one normal."""


def page(rows: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    fits = [row for entry in rows.get("fits", {}).values() for row in entry]
    modes = [row for target in rows.get("modes", {}).values() for row in target]
    parts = [HEAD, "", *EMPTY_NOTES, "", *_bars(fits, modes), *_modes(modes), *_methods(fits)]
    return fold("\n".join([*parts, *_entries(fits), WHEN]) + "\n")


def right(row: Row) -> bool:
    """Whether a fit to an exact target found every mode with its mass within its error."""
    if row["other"] > CLOSE:
        return False
    return all(
        mass is not None and abs(mass - true) <= max(CLOSE, SES * error)
        for mass, error, true in zip(row["masses"], row["errors"], row["true"], strict=True)
    )


def bars(
    fits: Sequence[Row], modes: Sequence[Row]
) -> list[tuple[str, str, bool | None, list[str]]]:
    """Return every bar: what it asks, what was measured, whether it is met, and who misses it.

    It is None for a figure of which no share is asked.
    """
    own = {r["entry"]: r for r in fits if r["method"] == OWN}
    worst = {e: errors(r) for e, r in own.items()}
    known: dict[str, bool] = {}
    for row in modes:
        known[f"{row['entry']} {row['seed']}"] = right(row)
    asked: tuple[tuple[str, float | None, dict[str, bool]], ...] = (
        (
            f"an answer, with fewer than {MOST} gradients on every path, on all posteriors",
            1.0,
            {e: r.get("mean") is not None and r["path"] < MOST for e, r in own.items()},
        ),
        (
            f"every mode named, with its mass within {SES:g} errors or {CLOSE}, on all fits to"
            " exact targets",
            1.0,
            known,
        ),
        (f"means within {NEAR} sds", None, {e: w[0] <= NEAR for e, w in worst.items()}),
        (
            f"sds within {100 * WIDTH:.0f} %",
            None,
            {e: w[1] <= math.log1p(WIDTH) for e, w in worst.items()},
        ),
        ("weights that count", None, {e: trusted(r) for e, r in own.items()}),
    )
    found = []
    for what, share, good in asked:
        hits = sum(good.values())
        met = None if share is None or not good else hits >= share * len(good)
        names = [_short(e) for e, hit in good.items() if not hit]
        found.append((what, count(hits, len(good)), met, names))
    return found


def _short(entry: str) -> str:
    return entry.partition("/")[2] or entry


def _bars(fits: Sequence[Row], modes: Sequence[Row]) -> list[str]:
    lines = [
        "## Bars",
        "",
        "Posteriors of posteriordb (seed 0) and fits to exact targets, with exact 95 % intervals"
        " (Clopper and Pearson). Lines without a verdict are figures of which no share is asked.",
        "",
        "| bar | measured | met | missed by |",
        "|---|---|---|---|",
    ]
    for what, measured, met, names in bars(fits, modes):
        missing = ", ".join(f"`{n}`" for n in names) or "none"
        verdict = "" if met is None else "yes" if met else "**no**"
        lines.append(f"| {what} | {measured} | {verdict} | {missing} |")
    return [*lines, ""]


def _modes(modes: Sequence[Row]) -> list[str]:
    lines = [
        "## Modes with known masses",
        "",
        "Mixtures of normals in the plane: `modes4` and `modes10` two, 4 and 10 sds apart,"
        " `triangle` three, 8 sds apart, `narrow_mode` two of equal mass, one a tenth as wide."
        " *Found* counts fits in which a normal lies at the mode; mass and error are means over"
        " these fits, *off* is the largest error of a mass there.",
        "",
        "| target | mass | found | mass found | stated error | off | gradients | of a path |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for target in dict.fromkeys(row["entry"] for row in modes):
        rows = [r for r in modes if r["entry"] == target]
        for m, true in enumerate(rows[0]["true"]):
            hits = [r for r in rows if r["masses"][m] is not None]
            masses = [r["masses"][m] for r in hits]
            cells = [
                f"{true:g}",
                count(len(hits), len(rows)),
                f"{sum(masses) / len(hits):.3f}" if hits else "",
                f"{sum(r['errors'][m] for r in hits) / len(hits):.4f}" if hits else "",
                f"{max(abs(x - true) for x in masses):.4f}" if hits else "",
                f"{median(r['gradients'] for r in rows):,.0f}",
                f"{max(r['path'] for r in rows)}",
            ]
            lines.append(f"| `{target}` | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _methods(fits: Sequence[Row]) -> list[str]:
    lines = [
        "## Methods",
        "",
        "Medians over all posteriors; a failed fit counts as infinitely wrong. `history of 6` is"
        " the memory of the paper, `all normals` keeps those of all paths (`merge=False`)."
        " *Weights* is the number of fits whose weights count; the errors"
        " after it take them where they do.",
        "",
        "| method | fits | failed | raw mean | raw sd | weights | mean | sd | gradients | of a path"
        " | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        rows = [r for r in fits if r["method"] == method]
        if not rows:
            continue
        raw = [
            (r["mean"], abs(math.log(r["sd"]))) if r.get("sd") else (math.inf, math.inf)
            for r in rows
        ]
        counted = [errors(r) for r in rows]
        cells = [
            f"{len(rows)}",
            f"{sum(r.get('mean') is None for r in rows)}",
            f"{median(m for m, _ in raw):.3f}",
            f"x{math.exp(median(s for _, s in raw)):.3f}",
            f"{sum(map(trusted, rows))}",
            f"{median(m for m, _ in counted):.3f}",
            f"x{math.exp(median(s for _, s in counted)):.3f}",
            f"{median(r['gradients'] for r in rows):,.0f}",
            f"{median(r['path'] for r in rows):,.0f}",
            f"{median(r['seconds'] for r in rows):.1f}",
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _entries(fits: Sequence[Row]) -> list[str]:
    lines = [
        "## Every posterior",
        "",
        "Seed 0. *Normals* is the number of modes of the fit.",
        "",
        "| entry | raw | weighted | k-hat | ESS | counts | status | normals | gradients | of a path"
        " | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in fits:
        if row["method"] != OWN:
            continue
        good = row.get("mean") is not None
        cells = [
            f"m {row['mean']:.3f}, s {row['sd']:.2g}" if good else "failed",
            f"m {row['weighted_mean']:.3f}, s {row['weighted_sd']:.2g}" if good else "failed",
            "" if row.get("k") is None else f"{row['k']:.2f}",
            f"{row['ess']:,.0f}" if good else "",
            "yes" if trusted(row) else "no",
            row["status"],
            f"{row['normals']}" if good else "",
            f"{row['gradients']:,}",
            f"{row['path']}",
            f"{row['seconds']:.1f}",
        ]
        lines.append(f"| `{_short(row['entry'])}` | " + " | ".join(cells) + " |")
    return [*lines, ""]
