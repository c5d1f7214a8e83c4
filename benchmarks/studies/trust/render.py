"""`docs/results/trust.md` from the rows of `zoo study trust`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import t

from benchmarks.studies.pages import fold
from benchmarks.studies.trust.criteria import GOOD, REPAIRED, Row, bad, count, line, within
from benchmarks.studies.trust.render_cost import cost_lines, cost_table
from benchmarks.studies.trust.render_hard import hard_lines, hard_table

__all__ = ["page"]

CLOSE_SD, CLOSE_SHARE = 0.1, 0.3  # how far an estimated worst error may lie from the true one
NATS = 0.1

HEAD = """# Trust without a truth

[`zoo trust`](../may_i_trust_this_fit.md) judges a fit without any reference. Here it is judged on
entries whose reference is known, but not shown to it. Made by `zoo study trust`; the raw rows are in
`trust.json`.

A fit is *bad* if by the reference a judged mean is off by more than 0.2 sd or an sd by more than a
factor 1.25, *good* if all are within 0.1 sd and a factor 1.1. It is *flagged* if the verdict is a
finding or a failure. Intervals are exact (Clopper and Pearson), 95 %; they take fits as
independent, which those of one entry are not."""


def page(rows: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the page as Markdown; parts may be missing."""
    fits = [r for r in rows.get("fits", {}).values() if r.get("status") == "ok"]
    lines = [
        HEAD,
        "",
        _extent(rows, fits),
        "",
        "| criterion | asked | measured | met |",
        "|---|---|---|---|",
    ]
    hard = rows.get("hard", {})
    lines += [*_fit_lines(fits), *hard_lines(hard)]
    lines += _exact_lines(rows.get("exact_draws", {}))
    lines += _evidence_lines(rows.get("evidence", {}))
    lines += cost_lines(rows.get("cost", {}))
    lines += ["", *_table(fits), "", *hard_table(hard)]
    lines += ["", *_evidence_table(rows.get("evidence", {}))]
    if cost := cost_table(rows.get("cost", {})):
        lines += ["", *cost]
    lines += ["", *_left_out({**rows.get("fits", {}), **hard, **rows.get("cost", {})})]
    return fold("\n".join(lines).rstrip() + "\n")


def _extent(rows: Mapping[str, Mapping[str, Row]], fits: Sequence[Row]) -> str:
    """Say how many fits there are, and how many of the planned rows of each part were measured."""
    entries = len({r["entry"] for r in fits})
    text = f"{len(fits)} fits of {entries} entries."
    open_parts = [
        f"{len(rows.get(part, {}))} of {planned} planned rows of `{part}`"
        for part, planned in rows.get("planned", {}).items()
        if isinstance(planned, int) and len(rows.get(part, {})) < planned
    ]
    if open_parts:
        text += (
            f" **The run is not finished**: {', '.join(open_parts)}. Those of `fits` and `cost` are"
            " taken in a fixed random order; the next run carries on."
        )
    return text


def _flagged(row: Row) -> bool:
    return row["gate"] == 1


def _close(row: Row) -> bool:
    """Whether both estimated worst errors lie within 0.1 (or 30 %) of the true ones."""
    for name in ("mean", "log_sd"):
        true, estimated = row.get(f"true_{name}"), row.get(f"estimated_{name}")
        if true is None or estimated is None:
            return False
        if not abs(true - estimated) <= max(CLOSE_SD, CLOSE_SHARE * true):
            return False
    return True


def _fit_lines(fits: Sequence[Row]) -> list[str]:
    if not fits:
        return []
    wrong, good = [r for r in fits if bad(r)], [r for r in fits if within(r, "true", GOOD)]
    flagged, alarms = sum(map(_flagged, wrong)), sum(map(_flagged, good))
    settled = sum(r["gate"] == 0 for r in good)
    blind = sum((r.get("k_hat") or 0) > 0.7 for r in wrong)
    close, held = sum(map(_close, fits)), sum(r.get("held", 0) for r in fits)
    looks = sum(r.get("looks", 0) for r in fits)
    mended = sum(within(r, "repaired", REPAIRED) for r in fits)
    by_entry = _by_entry(fits)
    out = []
    if wrong:
        share = flagged / len(wrong)
        out.append(line("bad fits flagged", ">= 97 %", count(flagged, len(wrong)), share >= 0.97))
        out.append(f"| *for comparison: k-hat above 0.7* | | {count(blind, len(wrong))} | |")
    if good:
        share = alarms / len(good)
        out.append(
            line("false alarms on good fits", "<= 8 %", count(alarms, len(good)), share <= 0.08)
        )
        out.append(f"| *good fits called `agrees`* | | {count(settled, len(good))} | |")
    out.append(
        line(
            "estimated worst errors within 0.1 (or 30 %) of the true ones",
            ">= 80 %",
            count(close, len(fits)),
            close / len(fits) >= 0.8,
        )
    )
    if looks:
        low, high = by_entry
        out.append(
            line(
                "90 % intervals hold the true errors",
                "85 to 95 %",
                f"{held / looks:.1%} of {looks} (by entry {low:.0%} to {high:.0%})",
                0.85 <= held / looks <= 0.95,
            )
        )
    out.append(
        line(
            "repaired draws: means within 0.1 sd, sds within 8 %",
            ">= 95 %",
            count(mended, len(fits)),
            mended / len(fits) >= 0.95,
        )
    )
    return out


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"


def _by_entry(fits: Iterable[Row]) -> tuple[float, float]:
    """Return the smallest and the largest share of intervals that hold, over entries."""
    shares: dict[str, list[int]] = {}
    for row in fits:
        found = shares.setdefault(row["entry"], [0, 0])
        found[0] += row.get("held", 0)
        found[1] += row.get("looks", 0)
    values = [a / b for a, b in shares.values() if b]
    return min(values, default=math.nan), max(values, default=math.nan)


def _exact_lines(rows: Mapping[str, Row]) -> list[str]:
    known = [r for r in rows.values() if r.get("status") == "ok"]
    if not known:
        return []
    seeds = sum(r["seeds"] for r in known)
    rejected, found = sum(r["rejected"] for r in known), sum(r["found"] for r in known)
    return [
        line(
            "exact draws: the test of no drift (5 %, familywise) rejects",
            "2 to 8 %",
            f"{count(rejected, seeds)}, {len(known)} entries",
            0.02 <= rejected / seeds <= 0.08,
        ),
        line(
            "exact draws: drift is a finding", "<= 1 %", count(found, seeds), found / seeds <= 0.01
        ),
    ]


def _evidence_lines(rows: Mapping[str, Row]) -> list[str]:
    known = [r for r in rows.values() if r.get("status") == "ok"]
    if not known:
        return []
    good = sum(_exactly(r, len(known)) for r in known)
    return [
        line(
            f"log evidence within {NATS} nats and its own error, over all exact values",
            "all",
            count(good, len(known)),
            good == len(known),
        )
    ]


def _exactly(row: Row, number: int) -> bool:
    own = float(t.isf(0.05 / (2 * number), row["islands"] - 1)) * row["se"]
    return row.get("known", True) and abs(row["error"]) <= min(own, NATS)


def _median(values: Iterable[float]) -> str:
    found = list(values)
    return f"{np.median(found):.1f}" if found else ""


def _table(fits: Sequence[Row]) -> list[str]:
    """Return one line per family: counts of verdicts and costs."""
    if not fits:
        return []
    lines = [
        "## Fits by family",
        "",
        "| family | fits | bad | flagged of these | good | flagged of these | seconds, median |"
        " fit seconds, median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    column: Callable[[Sequence[Row], str], str] = lambda rows, name: _median(r[name] for r in rows)  # noqa: E731
    for family in dict.fromkeys(r["family"] for r in fits):
        own = [r for r in fits if r["family"] == family]
        wrong, good = [r for r in own if bad(r)], [r for r in own if within(r, "true", GOOD)]
        lines.append(
            f"| `{family}` | {len(own)} | {len(wrong)} | {sum(map(_flagged, wrong))} | {len(good)} |"
            f" {sum(map(_flagged, good))} | {column(own, 'seconds')} |"
            f" {column(own, 'fit_seconds')} |"
        )
    missed = [r for r in fits if bad(r) and not _flagged(r)]
    alarms = [r for r in fits if within(r, "true", GOOD) and _flagged(r)]
    for title, rows in (("Bad fits not flagged", missed), ("Good fits flagged", alarms)):
        lines += ["", f"**{title}**: {len(rows)}."]
        lines += [
            f"* {r['entry']} `{r['family']}` seed {r['seed']}: worst mean error"
            f" {_number(r['true_mean'])} sd, worst |log sd ratio| {_number(r['true_log_sd'])} by the"
            f" reference; {r['sentence']}"
            for r in rows
        ]
    return lines


def _evidence_table(rows: Mapping[str, Row]) -> list[str]:
    known = {n: r for n, r in rows.items() if r.get("status") == "ok"}
    if not known:
        return []
    lines = [
        "## Evidence beside closed forms",
        "",
        "| posterior, start | exact | SMC | error | pilot alone |",
        "|---|---|---|---|---|",
    ]
    for name, r in known.items():
        lines.append(
            f"| {name} | {r['exact']:.3f} | {r['value']:.3f} +- {r['se']:.3f}"
            f"{'' if r.get('known', True) else ', not known'} |"
            f" {r['error']:+.3f} | {r['pilot'] - r['exact']:+.3f} |"
        )
    return lines


def _left_out(rows: Mapping[str, Row]) -> list[str]:
    """Count the rows without a number by reason, so that none vanishes."""
    reasons: dict[str, int] = {}
    for row in rows.values():
        if row.get("status") != "ok":
            text = f"{row.get('status')}: {str(row.get('why', '')).split(';')[0][:120]}"
            reasons[text] = reasons.get(text, 0) + 1
    if not reasons:
        return []
    lines = ["## Left out", "", "| reason | fits |", "|---|---|"]
    return [*lines, *(f"| {k.replace('|', '/')} | {v} |" for k, v in sorted(reasons.items()))]
