"""Lines and table of the cost of an assessment, for `docs/results/trust.md`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.studies.trust.criteria import Row, line

__all__ = ["cost_lines", "cost_table"]

TINY = 5e-5  # seconds of one gradient: below, the time of a call is not that of its arithmetic
WITHOUT, WITH = (2.0, 1.0), (10.0, 5.0)  # seconds, and times NUTS
DEPTH = 0.05  # of NUTS's


def cost_lines(rows: Mapping[str, Row]) -> list[str]:
    """Return the criteria of cost: medians, tiny and compute-bound densities apart."""
    out = []
    for words, own in _groups(rows):
        for what, key, (seconds, times) in (
            ("without SMC", "drift_seconds", WITHOUT),
            ("with SMC", "seconds", WITH),
        ):
            taken = [r for r in own if r[key] is not None]
            if not taken:
                continue
            over = [r[key] / max(seconds, times * r["nuts_seconds"]) for r in taken]
            measured = (
                f"{np.median([r[key] for r in taken]):.1f} s,"
                f" {np.median([r[key] / r['nuts_seconds'] for r in taken]):.1f}x;"
                f" {sum(v <= 1 for v in over)} of {len(over)} entries"
            )
            asked = f"at most {seconds:.0f} s, or {times:.0f}x NUTS to ESS 1,000"
            met = float(np.median(over)) <= 1
            out.append(line(f"CPU seconds {what}, medians, {words}", asked, measured, met))
        share = float(np.median([r["depth"] / r["nuts_depth"] for r in own]))
        name = f"gradients one after another, median, {words}"
        out.append(line(name, "<= 5 % of NUTS's", f"{share:.1%}", share <= DEPTH))
    return out


def cost_table(rows: Mapping[str, Row]) -> list[str]:
    """Return one line per entry."""
    known = [r for _, own in _groups(rows) for r in own]
    if not known:
        return []
    lines = [
        "## Cost beside NUTS",
        "",
        "CPU seconds of one process with one thread, without fits, compilation and the depth of"
        " climbs. NUTS runs four chains one after another, and is counted up to an ESS of 1,000.",
        "",
        "| entry | coordinates | one gradient, us | NUTS, s | checks and drift, s | all, s |"
        " depth: NUTS, trust | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in known:
        drift = "not run" if r["drift_seconds"] is None else f"{r['drift_seconds']:.1f}"
        lines.append(
            f"| {r['entry']} | {r['dimensions']} | {1e6 * r['gradient_seconds']:.1f} |"
            f" {r['nuts_seconds']:.1f} | {drift} | {r['seconds']:.1f} |"
            f" {r['nuts_depth']:,.0f}, {r['depth']:,.0f} | `{r['verdict']}` |"
        )
    return lines


def _groups(rows: Mapping[str, Row]) -> list[tuple[str, list[Row]]]:
    known = [r for r in rows.values() if r.get("status") == "ok"]
    tiny = [r for r in known if r["gradient_seconds"] < TINY]
    bound = [r for r in known if r["gradient_seconds"] >= TINY]
    named = (("tiny densities", tiny), ("compute-bound densities", bound))
    return [(words, own) for words, own in named if own]
