"""`docs/results/deterministic.md` from the rows of the study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.studies.deterministic.measure import METHODS
from benchmarks.studies.pages import EMPTY_NOTES, fold

__all__ = ["bars", "page"]

Row = Mapping[str, Any]
SHOWN = ("deterministic", "its mean field", "30 independent", "mean_field", "laplace")
MEAN_BAR, WIDTH_BAR, GRADIENT_BAR, GAIN_BAR = 0.03, 0.03, 3000, 5.0
HEAD = """# Deterministic fits on posteriordb

The family `deterministic` minimizes minus the ELBO of a normal mean field on draws z that stay
fixed,

```text
F(m, xi) = -1/M sum_j log p(m + exp(xi) z_j, data) - sum_i xi_i      [nats]
```

with BFGS (Giordano, Ingram and Broderick 2024). Its guide is the normal at that optimum with the
covariance of the linear response (Giordano, Broderick and Jordan 2018),

```text
C = (H_mm - H_mx H_xx^-1 H_xm)^-1,      H the Hessian of F
```

Fits are scored by 40,000 of their draws against the reference draws of the collection (10,000 for
most), which are themselves off by about 0.01 sds per component. *m* is the largest error of the
mean of a judged component in reference sds, *s* the sd ratio farthest from 1. Made by
`zoo study deterministic`; all rows are in `deterministic.json`. The final ELBO of every fit is
estimated by fresh draws: the minimum of F is lower than minus the best ELBO on average, because
the optimum adapts to its draws."""
WHEN = """## When to use it

* **First choice for regressions and other posteriors near a normal** in the unconstrained vector:
  means and widths of NUTS for a few hundred gradients, without learning rate or stopping rule.
  Where the posterior is normal, means, widths and correlations are exact.
* **Hierarchies, tails of scales, nonlinear dependence**: the location is that of the mean field,
  and the linear response extrapolates the curvature there. If the normal with this covariance has
  a lower ELBO than the mean field on 512 new draws, the stop sentence says so; its widths are then
  in doubt.
* **The fit states its own error by the draws** (`fit.stop.sentence`; per coordinate in the buffer
  `draw_error` of the guide, in posterior sds). It says nothing about the error of the mean field.
* **Options**: `covariance="mean_field"` draws from the mean field itself, whose widths are also in
  the buffer `mean_field_scale`; `design` is `matched` (default), `mirrored`, `sobol` or
  `independent`; `draws` of a block, `target` in posterior sds, and `budget`, the gradients beyond
  which the draws stop growing. The optimum on the first draws is found at any cost.
* **Many dimensions**: the Hessian of F costs one gradient per draw and dimension. Above 300
  dimensions it is not formed: the guide is the mean field, its error by the draws is unknown, and
  a direction that the data leave free is not noticed.
* A posterior without an optimum of F (an improper tail, a direction that the data leave free)
  ends `init_failed` and names what runs away."""


def page(rows: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    fits = [row for entry in rows.get("fits", {}).values() for row in entry]
    spread = [row for entry in rows.get("calibration", {}).values() for row in entry]
    parts = [HEAD, "", *EMPTY_NOTES, "", *_summary(fits), *_entries(fits), *_calibration(spread)]
    return fold("\n".join([*parts, WHEN]) + "\n")


def bars(fits: Sequence[Row]) -> list[tuple[str, str, bool]]:
    """Return every bar: what it asks, what was measured, and whether it is met."""
    own, plain = _median(fits, "deterministic"), _median(fits, "30 independent")
    if not (own and plain):
        return []
    gain = plain["mean"] / own["mean"]
    most = max(r["gradients"] for r in _of(fits, "deterministic"))
    return [
        (
            f"median worst mean error at most {MEAN_BAR} sds",
            f"{own['mean']:.3f}",
            own["mean"] <= MEAN_BAR,
        ),
        (
            f"median worst sd of the linear response within {100 * WIDTH_BAR:.0f} %",
            f"{100 * math.expm1(own['width']):.1f} %",
            math.expm1(own["width"]) <= WIDTH_BAR,
        ),
        (
            f"at most {GRADIENT_BAR:,} gradients each",
            f"median {own['gradients']:,.0f}, largest {most:,}",
            most <= GRADIENT_BAR,
        ),
        (
            f"at least {GAIN_BAR:.0f} times better than 30 independent draws",
            f"{gain:.1f} times (medians {plain['mean']:.3f} and {own['mean']:.3f})",
            gain >= GAIN_BAR,
        ),
    ]


def _of(fits: Sequence[Row], method: str) -> list[Row]:
    return [r for r in fits if r["method"] == method]


def _median(fits: Sequence[Row], method: str) -> dict[str, float]:
    """Return medians over all fits of a method; a failed fit counts as infinitely wrong."""
    found = _of(fits, method)
    if not found:
        return {}
    return {
        "mean": median(
            math.inf if r.get("mean_error") is None else r["mean_error"] for r in found
        ),
        "width": median(
            abs(math.log(r["sd_ratio"])) if r.get("sd_ratio") else math.inf for r in found
        ),
        "gradients": median(r["gradients"] for r in found),
        "seconds": median(r["seconds"] for r in found),
        "failed": sum(r.get("mean_error") is None for r in found),
        "fits": len(found),
    }


def _summary(fits: Sequence[Row]) -> list[str]:
    lines = ["## Bars", "", "| bar | measured | met |", "|---|---|---|"]
    lines += [f"| {a} | {b} | {'yes' if met else '**no**'} |" for a, b, met in bars(fits)]
    lines += [
        "",
        "## Methods",
        "",
        "Medians over all posteriors and seeds; a failed fit counts as infinitely wrong. `mirrored`"
        " and `sobol` are other designs of the draws of `deterministic`; `30 independent` is the"
        " design of the paper. The sd error is the factor by which the worst sd is off.",
        "",
        "| method | fits | failed | worst mean error | worst sd error | gradients | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        m = _median(fits, method)
        if m:
            lines.append(
                f"| {method} | {m['fits']} | {m['failed']} | {m['mean']:.3f} |"
                f" x{math.exp(m['width']):.3f} | {m['gradients']:,.0f} |"
                f" {m['seconds']:.2f} |"
            )
    return [*lines, ""]


def _entries(fits: Sequence[Row]) -> list[str]:
    lines = [
        "## Every posterior",
        "",
        "*m* and *s* of the worst seed; gradients and seconds are medians over seeds.",
        "",
        "| entry | " + " | ".join(SHOWN) + " |",
        "|---|" + "---|" * len(SHOWN),
    ]
    for entry in dict.fromkeys(r["entry"] for r in fits):
        cells = [_cell([r for r in _of(fits, m) if r["entry"] == entry]) for m in SHOWN]
        lines.append(f"| `{entry.partition('/')[2] or entry}` | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    good = [r for r in rows if r.get("mean_error") is not None]
    cost = f"{median(r['gradients'] for r in rows):,.0f} g, {median(r['seconds'] for r in rows):.1f} s"
    failed = f"failed {len(rows) - len(good)} of {len(rows)}, " if len(good) < len(rows) else ""
    if not good:
        return failed + cost
    ratio = max((r["sd_ratio"] for r in good), key=lambda x: abs(math.log(x)))
    return f"{failed}m {max(r['mean_error'] for r in good):.3f}, s {ratio:.2g}, {cost}"


def _calibration(spread: Sequence[Row]) -> list[str]:
    if not spread:
        return []
    lines = [
        "## The stated error of the draws",
        "",
        "The largest sd of a location over fits with different seeds (*spread*), and the error that"
        " these fits state (median), both in posterior sds.",
        "",
        "| entry | design | fits | spread | stated |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{r['entry']}` | {r['design']} | {r['fits']} | {r['spread']:.2g} | {r['stated']:.2g} |"
        for r in spread
    ]
    return [*lines, ""]
