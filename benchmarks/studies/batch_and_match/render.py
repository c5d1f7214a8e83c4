"""`docs/results/batch_and_match.md` from the rows of the study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.studies.batch_and_match.measure import LEAST_ESS, METHODS, OWN, WORST_K
from benchmarks.studies.pages import EMPTY_NOTES, fold
from benchmarks.studies.trust.criteria import count

__all__ = ["bars", "page"]

Row = Mapping[str, Any]
CLOSE, NEAR, WIDTH, SHARE = 0.05, 0.1, 0.1, 0.15
HEAD = """# Batch and match on posteriordb

The family `batch_and_match` fits a normal with a full covariance from the scores of its own draws
(Cai et al. 2024). With means and covariances (z, C) of a batch of draws and (g, G) of their
scores, and a rate r, an update of Normal(m, S) is in closed form:

```text
U  = r G + r/(1+r) g g'            V  = S + r C + r/(1+r) (m - z)(m - z)'
S' U S' + S' = V                   m' = 1/(1+r) m + r/(1+r) (S' g + z)
```

Fits are scored by 10,000 of their draws, in mirrored pairs, against the reference draws of the
collection, which are themselves off by about 0.01 sds per component. *m* is the largest error of
the mean of a judged component in reference sds, *s* the sd ratio farthest from 1. *Raw* are the
draws as they are, *weighted* those with Pareto-smoothed importance weights. Weights count only
where k-hat is at most 0.7 and the effective sample size at least 100; elsewhere the raw figure
stands. Made by `zoo study batch_and_match`; all rows are in `batch_and_match.json`."""
WHEN = """## When to use it

* **Regressions and other posteriors near a normal**: means, widths and correlations with some 500
  gradients, half of them for the mode. Where the posterior is normal, all are exact.
* **Reweight it.** The mean is that of the best ELBO for its covariance, and the covariance is
  narrower than the posterior where that is skewed or has tails; importance weights repair both
  where k-hat allows it.
* **Far from a normal** (hierarchies, funnels) the updates follow the noise of the draws, and the
  budget may end first. The stop sentence says how far the scores are from those of a normal:
  below 0.2 on regressions, 0.3 and more where widths are in doubt.
* **The fit states its own error by the draws** (`fit.stop.sentence`; per coordinate in the buffer
  `draw_error` of the guide, in posterior sds). It says nothing about the error of the family.
* **Options**: `design` of the draws (`matched`, `mirrored`, `sobol` or `independent`, that of the
  paper), `draws` of an update, `target` in posterior sds, and `budget`, the gradients after which
  no further update begins, those of the start aside.
* **Many dimensions**: an update needs four draws per dimension and a matrix of its size; more than
  300 dimensions are refused, and `low_rank` is the alternative."""


def page(rows: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    fits = [row for entry in rows.get("fits", {}).values() for row in entry]
    nuts = rows.get("nuts", {})
    parts = [HEAD, "", *EMPTY_NOTES, "", *_bars(fits, nuts), *_methods(fits, nuts)]
    return fold("\n".join([*parts, *_entries(fits, nuts), WHEN]) + "\n")


def trusted(row: Row) -> bool:
    """Whether the weights of a fit count."""
    k, ess = row.get("k"), row.get("ess")
    return k is not None and ess is not None and k <= WORST_K and ess >= LEAST_ESS


def errors(row: Row) -> tuple[float, float]:
    """Return mean error and |log sd ratio| that count; infinite for a fit that failed."""
    which = "weighted_" if trusted(row) else ""
    mean, sd = row.get(f"{which}mean"), row.get(f"{which}sd")
    return (math.inf, math.inf) if mean is None or not sd else (mean, abs(math.log(sd)))


def bars(fits: Sequence[Row], nuts: Mapping[str, int]) -> list[tuple[str, str, bool, list[str]]]:
    """Return every bar: what it asks, what was measured, whether it is met, and who misses it.

    Posteriors are counted; each by the worst of its seeds.
    """
    entries = _by_entry(fits, OWN)
    if not entries:
        return []
    worst = {e: [max(x) for x in zip(*map(errors, r), strict=True)] for e, r in entries.items()}
    spent = {e: max(r["gradients"] for r in rows) for e, rows in entries.items()}
    asked = (
        (f"means within {CLOSE} sds", 0.75, {e: w[0] <= CLOSE for e, w in worst.items()}),
        (f"means within {NEAR} sds", 0.9, {e: w[0] <= NEAR for e, w in worst.items()}),
        (
            f"sds within {WIDTH:.0%}".replace("%", " %"),
            0.8,
            {e: w[1] <= math.log1p(WIDTH) for e, w in worst.items()},
        ),
        (
            f"at most {100 * SHARE:.0f} % of the gradients of NUTS",
            1.0,
            {e: spent[e] <= SHARE * nuts[e] for e in spent if e in nuts},
        ),
    )
    found = []
    for what, share, good in asked:
        hits = sum(good.values())
        line = f"{what}, on {'all' if share == 1.0 else f'at least {100 * share:.0f} %'}"
        names = [_short(e) for e, met in good.items() if not met]
        found.append((line, count(hits, len(good)), hits >= share * len(good), names))
    return found


def _short(entry: str) -> str:
    return entry.partition("/")[2] or entry


def _by_entry(fits: Sequence[Row], method: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in fits:
        if row["method"] == method:
            found.setdefault(row["entry"], []).append(row)
    return found


def _bars(fits: Sequence[Row], nuts: Mapping[str, int]) -> list[str]:
    lines = [
        "## Bars",
        "",
        "Posteriors, each by the worst of its seeds, with exact 95 % intervals (Clopper and"
        " Pearson). The gradients of NUTS are those to an effective sample size of 400 in every"
        " component, from `draw_parity.csv`: four chains with 800 draws of warm-up, and the share"
        " of the draws that gives this size.",
        "",
        "| bar | measured | met | missed by |",
        "|---|---|---|---|",
    ]
    for what, measured, met, names in bars(fits, nuts):
        missing = ", ".join(f"`{n}`" for n in names) or "none"
        lines.append(f"| {what} | {measured} | {'yes' if met else '**no**'} | {missing} |")
    return [*lines, ""]


def _methods(fits: Sequence[Row], nuts: Mapping[str, int]) -> list[str]:
    lines = [
        "## Methods",
        "",
        "Medians over all posteriors, three seeds of `batch_and_match` and one of the others; a"
        " failed fit counts as infinitely wrong. `independent draws` is the design of the paper."
        " *Weights* is the number of fits whose weights count; the last two columns of errors take"
        " them where they do.",
        "",
        "| method | fits | failed | settled | raw mean | raw sd | weights | mean | sd | gradients"
        " | of NUTS | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        rows = [r for r in fits if r["method"] == method]
        if not rows:
            continue
        shares = [100 * r["gradients"] / nuts[r["entry"]] for r in rows if r["entry"] in nuts]
        raw = [
            (r["mean"], abs(math.log(r["sd"]))) if r.get("sd") else (math.inf, math.inf)
            for r in rows
        ]
        counted = [errors(r) for r in rows]
        figures = [
            f"{len(rows)}",
            f"{sum(r.get('mean') is None for r in rows)}",
            f"{sum(r['status'] == 'ok' for r in rows)}",
            f"{median(m for m, _ in raw):.3f}",
            f"x{math.exp(median(s for _, s in raw)):.3f}",
            f"{sum(map(trusted, rows))}",
            f"{median(m for m, _ in counted):.3f}",
            f"x{math.exp(median(s for _, s in counted)):.3f}",
            f"{median(r['gradients'] for r in rows):,.0f}",
            f"{median(shares):.1f} %" if shares else "",
            f"{median(r['seconds'] for r in rows):.1f}",
        ]
        lines.append(f"| {method} | " + " | ".join(figures) + " |")
    return [*lines, ""]


def _entries(fits: Sequence[Row], nuts: Mapping[str, int]) -> list[str]:
    lines = [
        "## Every posterior",
        "",
        "`batch_and_match` at the worst of its seeds; gradients and seconds are medians over seeds."
        " *Doubt* counts the fits whose stop sentence has the widths in doubt. The last columns"
        " are *m* and *s* of others (seed 0), with weights where these count.",
        "",
        "| entry | raw | weighted | k-hat | ESS | counts | settled | doubt | gradients | of NUTS |"
        " seconds | laplace | deterministic |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    others = {m: _by_entry(fits, m) for m in ("laplace", "deterministic")}
    for entry, rows in _by_entry(fits, OWN).items():
        good = [r for r in rows if r.get("mean") is not None]
        spent = median(r["gradients"] for r in rows)
        cells = [
            _worst(good, ""),
            _worst(good, "weighted_"),
            f"{max(r['k'] for r in good):.2f}" if good else "",
            f"{min(r['ess'] for r in good):,.0f}" if good else "",
            f"{sum(map(trusted, rows))} of {len(rows)}",
            f"{sum(r['status'] == 'ok' for r in rows)} of {len(rows)}",
            f"{sum(bool(r['doubt']) for r in rows)}",
            f"{spent:,.0f}",
            f"{100 * spent / nuts[entry]:.1f} %" if entry in nuts else "",
            f"{median(r['seconds'] for r in rows):.1f}",
            *(_chosen(others[m].get(entry, [])) for m in others),
        ]
        lines.append(f"| `{_short(entry)}` | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _worst(good: Sequence[Row], which: str) -> str:
    if not good:
        return "failed"
    ratio = max((r[f"{which}sd"] for r in good), key=lambda x: abs(math.log(x)))
    return f"m {max(r[f'{which}mean'] for r in good):.3f}, s {ratio:.2g}"


def _chosen(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    which = "weighted_" if trusted(rows[0]) else ""
    return _worst([r for r in rows if r.get("mean") is not None], which)
