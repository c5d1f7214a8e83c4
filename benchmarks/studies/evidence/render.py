"""`docs/results/evidence.md` and `zoo/references/evidence.json` from the rows of the study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy.stats import t

from benchmarks.studies.pages import EMPTY_NOTES, fold

__all__ = ["package", "page"]

Row = Mapping[str, Any]
NATS = 0.1
HEAD = """# Log evidence of every entry

log p(observed) in nats, by tempered SMC: a pilot chooses the path and the steps, 16 islands of
1,024 fresh points use them unchanged, and the evidence is the mean of their estimates
([decision 015](../decisions/015_trust_without_truth.md)). ± is one standard error, from the
differences between islands. Chains from the final points must neither move nor know where they
began; else the row is *in doubt* and nothing is stored. Made by `zoo study evidence`; the raw rows
are in `evidence.json`. `zoo list --long` shows the stored values, and reports of these entries show
the nats that each guide loses."""


def page(rows: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the page as Markdown."""
    table = rows.get("table", {})
    found = {name: r for name, r in table.items() if "value" in r}
    lines = [HEAD, "", _against_exact(found), ""]
    lines += ["| entry | dimensions | log evidence | exact | error / se | from |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, row in sorted(found.items()):
        exact, error = row["exact"], ""
        if exact is not None:
            error = f"{(row['value'] - exact) / row['se']:+.1f}"
        doubt = " (in doubt)" if row["status"] != "ok" else ""
        value = f"{row['value']:.3f} ± {row['se']:.3f}{doubt}"
        shown = "" if exact is None else f"{exact:.3f}"
        lines.append(
            f"| {name} | {row['dimensions']} | {value} | {shown} | {error} | {row['family']} |"
        )
    lines += ["", "## Left out or in doubt", ""]
    lines += [
        f"* {name}: {row['why'].rstrip('.')}."
        for name, row in sorted(table.items())
        if row["status"] != "ok"
    ]
    lines += ["", *EMPTY_NOTES]
    return fold("\n".join(lines).rstrip() + "\n")


def _against_exact(found: Mapping[str, Row]) -> str:
    """Say how many exact values are met, in errors (Bonferroni) and in nats."""
    known = [r for r in found.values() if r["exact"] is not None and r["status"] == "ok"]
    if not known:
        return "No entry with an exact evidence was measured."
    close = sum(
        abs(r["value"] - r["exact"])
        <= float(t.isf(0.05 / (2 * len(known)), r["islands"] - 1)) * r["se"]
        and abs(r["value"] - r["exact"]) <= NATS
        for r in known
    )
    worst = max(abs(r["value"] - r["exact"]) for r in known)
    return (
        f"{close} of {len(known)} exact values are met: within t(0.05 / 2m, 15) of its own errors"
        f" and within {NATS} nats. The largest error is {worst:.3f} nats."
    )


def package(rows: Mapping[str, Mapping[str, Row]]) -> dict[str, Row]:
    """Return the stored evidences: those that are not in doubt."""
    return {
        name: {k: row[k] for k in ("value", "se", "exact", "islands", "fingerprint")}
        for name, row in sorted(rows.get("table", {}).items())
        if row["status"] == "ok" and math.isfinite(row["se"])
    }
