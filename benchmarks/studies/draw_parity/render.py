"""`docs/results/draw_parity.md` and its table from the rows of `zoo study draw_parity`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import norm

from benchmarks.reference.gates import SIGMAS
from benchmarks.studies.pages import EMPTY_NOTES, fold
from benchmarks.studies.rows import csv_rows, csv_text
from benchmarks.thresholds import RHAT

__all__ = ["CAREFUL", "COLUMNS", "USUAL", "expected_largest", "markdown", "read", "table"]

# target acceptance of a first run, and of a second one after divergences
USUAL, CAREFUL = 0.8, 0.99
COLUMNS = (
    "entry",
    "passed",
    "components",
    "mean_gap",
    "mean_at",
    "sd_gap",
    "sd_at",
    "rhat_pooled",
    "rhat_at",
    "draws",
    "ess_bulk_min",
    "ess_tail_min",
    "divergences",
    "target_accept",
    "gradient_evaluations",
    "seconds",
    "compile_seconds",
    "ess_per_second",
    "notes",
)
SEPARATOR = " | "  # between the notes of one row
TITLE = "Draw parity with posteriordb"
REMARKS = (  # repeated for every table; conclusions by hand go to the part `notes`
    (
        "Our NUTS (nutpie on the compiled log density, 4 chains of 800 + 1,500, extended to an ESS"
        " of 2,000) compared with posteriordb's 10,000 reference draws, seed 0. Made by"
        " `zoo study draw_parity`; `draw_parity.csv` has the rows of the table, unrounded."
    ),
)


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the rows as CSV."""
    return csv_text(
        ({**row, "notes": SEPARATOR.join(row.get("notes") or ())} for row in rows), COLUMNS
    )


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the published CSV, none if there is no file."""
    rows = csv_rows(folder / "draw_parity.csv")
    return [
        {**row, "notes": row["notes"].split(SEPARATOR) if row.get("notes") else []} for row in rows
    ]


def expected_largest(gaps: int) -> tuple[float, float]:
    """Return the median of the largest of that many standard normal |z|.

    They are independent. Also returns the probability that the largest exceeds 4.
    """
    median = float(norm.isf((1 - 0.5 ** (1 / gaps)) / 2))
    return median, float(-math.expm1(gaps * math.log1p(-2 * norm.sf(SIGMAS))))


def markdown(
    rows: Sequence[dict[str, Any]], title: str = TITLE, remarks: Sequence[str] = REMARKS
) -> str:
    """Return the page: the method, how many passed, one row per entry, notes of the sampler."""
    first, again = (
        [r for r in rows if (r["target_accept"] == USUAL) is usual] for usual in (True, False)
    )
    passed, gaps = sum(r["passed"] for r in first), 2 * sum(r["components"] for r in first)
    median, chance = expected_largest(gaps)
    fair = max((max(r["mean_gap"], r["sd_gap"]) for r in rows if r["passed"]), default=math.nan)
    lines = [
        f"# {title}",
        "",
        *remarks,
        *([""] if remarks else []),
        (
            f"{passed} of {len(first)} pass: every mean and standard deviation agrees within"
            f" {SIGMAS:.0f} combined Monte Carlo standard errors, and R-hat of both sets of chains"
            f" together is at most {RHAT}. The table gives the largest gaps over all components, in"
            " combined standard errors, with the component. ESS/s is the smallest bulk ESS divided"
            " by the seconds of warm-up and draws of all chains, without compilation."
        ),
        "",
        (
            f"There are {gaps} gaps. If both sides were correct and the gaps independent, the"
            f" largest would have a median of {median:.1f}, and {100 * chance:.0f} % of such tables"
            f" would contain one above {SIGMAS:.0f}. The largest among the entries that pass is"
            f" {fair:.2f}."
        ),
        "",
        *_second_runs(again),
        *EMPTY_NOTES,
        "",
        (
            "| entry | | mean gap | sd gap | pooled R-hat | draws | smallest ESS | divergences |"
            " gradients | seconds | compile s | ESS/s |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(r) for r in sorted(rows, key=lambda r: (r["entry"], r["target_accept"]))]
    said = [f"* {_name(r)}: {note}" for r in rows for note in r.get("notes") or ()]
    return fold(
        "\n".join([*lines, *(["", "## Messages of the sampler", "", *said] if said else [])])
        + "\n"
    )


def _second_runs(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    passed = sum(r["passed"] for r in rows)
    return [
        (
            f"Entries with divergences were run again at target acceptance {CAREFUL}:"
            f" {passed} of {len(rows)} pass."
        ),
        "",
    ]


def _short(row: dict[str, Any]) -> str:
    entry = str(row["entry"])
    return entry.partition("/")[2] or entry


def _name(row: dict[str, Any]) -> str:
    return f"`{_short(row)}`" + ("" if row["target_accept"] == USUAL else f" at {CAREFUL}")


def _row(r: dict[str, Any]) -> str:
    gaps = (
        f"{r['mean_gap']:.2f} {r['mean_at']} | {r['sd_gap']:.2f} {r['sd_at']} |"
        f" {r['rhat_pooled']:.4f}"
    )
    speed = "" if r["ess_per_second"] is None else f"{r['ess_per_second']:,.0f}"
    word = "passes" if r["passed"] else "**misses**"
    return (
        f"| {_name(r)} | {word} | {gaps} | {r['draws']:,} | {r['ess_bulk_min'] or 0:,.0f} |"
        f" {r['divergences']} | {r['gradient_evaluations'] / 1000:,.0f} k | {r['seconds']:.1f} |"
        f" {r['compile_seconds']:.0f} | {speed} |"
    )
