"""Markdown of a run, inserted into a page between two marks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.results import bars, ratios, speeds
from benchmarks.speed.sides import HOMES
from zoo.errors import UsageError

__all__ = ["BEGIN", "END", "insert", "markdown"]

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
NAMES = {
    "ours": "ours",
    "pyro": "Pyro",
    "numpyro": "NumPyro",
    "stan": "Stan",
    "pymc": "PyMC + nutpie",
}
WORDS = {True: "met", False: "**missed**", None: "not measured"}


def markdown(document: Mapping[str, Any]) -> str:
    """Return all tables of a run."""
    parts = [
        _about(document),
        "### Criteria\n\n" + _bars(document),
        "### SVI, microseconds per step\n\n"
        + _absolute(document, ("svi_mean_field", "svi_full_rank"), 1e6),
        "### NUTS, smallest bulk ESS per second\n\n" + _absolute(document, ("nuts",), None),
        "### Gradient, microseconds\n\n"
        + _absolute(document, ("gradient", "batch", "nuts_gradient"), 1e6),
        "### Every ratio: our speed over theirs, median (smallest to largest of the pairs)\n\n"
        + _ratios(document),
        "### Start, seconds\n\n" + _starts(document),
        "### Growth with the data\n\n" + _growth(document),
        _remarks(document),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def insert(page: Path, text: str) -> None:
    """Replace the text between the marks of a page.

    Raises:
        UsageError: the page lacks the marks.
    """
    old = page.read_text(encoding="utf8") if page.exists() else f"{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        raise UsageError(
            f"{page.name} lacks the lines {BEGIN} and {END}; add them where the tables belong."
        )
    head, tail = old.split(BEGIN)[0], old.split(END, 1)[1]
    page.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}", encoding="utf8")


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _about(document: Mapping[str, Any]) -> str:
    machine, settings = document["machine"], document["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    load = document.get("load_average", {}).get("before")
    shared = ""
    if load:
        busy = (
            ": **other work shared this machine**; the ratios are of slices that alternate, the"
            " absolute figures are high"
        )
        shared = f" Load average when it began: {load[0]:.1f}{busy if load[0] > 0.7 else ''}."
    # only for figures in the table: the last time an entry was measured
    loads = {
        name: (r["load_average"]["before"] or [math.nan])[0]
        for r in document.get("again", ())
        for name in r["measured"]
    }
    again = ", ".join(f"{name} ({load:.1f})" for name, load in loads.items())
    again = (
        f" Measured in later runs, with the programs of that time (load averages): {again}."
        if again
        else ""
    )
    left = "".join(
        f" {NAMES.get(side, side)} is left out: {why}."
        for side, why in document.get("left_out", {}).items()
    )
    return (
        f"{'Quick' if document['quick'] else 'Full'} run, {document['seconds'] / 60:.0f} minutes,"
        f" {document['pairs']} pairs, slices of {settings['slice_seconds']:g} s,"
        f" {settings['particles']} particle(s) per SVI step, float64, one thread per process, on"
        f" {machine['processor']} ({machine['cores']} cores,"
        f" {machine['system']}).{shared}{again}{left}\n\n{versions}."
    )


def _bars(document: Mapping[str, Any]) -> str:
    return _rows(
        ["criterion", "required", "measured", ""],
        [[b.name, b.asked, b.measured, WORDS[b.met]] for b in bars(document)],
    )


def _sides(document: Mapping[str, Any]) -> list[str]:
    seen = {side for target in document["targets"].values() for side in target["sides"]}
    return [side for side in HOMES if side in seen]


def number(value: float) -> str:
    """Return three significant digits without an exponent."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _absolute(document: Mapping[str, Any], measures: Sequence[str], scale: float | None) -> str:
    """Return a table of medians: times if `scale` is given, else speeds."""
    columns = [
        (measure, side)
        for measure in measures
        for side in _sides(document)
        if any(speeds(t["sides"].get(side, {}), measure) for t in document["targets"].values())
    ]
    short = {
        "svi_mean_field": "mean field",
        "svi_full_rank": "full rank",
        "nuts": "",
        "gradient": "one",
        "batch": "of 256, per point",
        "nuts_gradient": "in NUTS",
    }
    rows = []
    for target in document["targets"].values():
        cells = []
        for measure, side in columns:
            values = [
                v for v in speeds(target["sides"].get(side, {}), measure) if math.isfinite(v)
            ]
            if not values:
                cells.append("-")
                continue
            middle = statistics.median(values)
            mark = (
                "" if side != "ours" or _compiled(target["sides"][side], measure) else " (eager)"
            )
            cells.append(number(middle if scale is None else scale / middle) + mark)
        rows.append([target["title"], *cells])
    return _rows(["entry", *(f"{short[m]} {NAMES[s]}".strip() for m, s in columns)], rows)


def _compiled(side: Mapping[str, Any], measure: str) -> bool:
    record = side.get("records", {}).get("nuts" if measure == "nuts_gradient" else measure, {})
    return bool(record.get("used", False))


def _ratios(document: Mapping[str, Any]) -> str:
    found = ratios(
        document, ("svi_mean_field", "svi_full_rank", "gradient", "batch", "nuts", "nuts_gradient")
    )
    keys = list(
        dict.fromkeys(
            (r.measure, r.peer) for r in sorted(found, key=lambda r: list(HOMES).index(r.peer))
        )
    )
    rows = []
    for name in document["targets"]:
        cells = {
            (r.measure, r.peer): f"{number(r.median)} ({number(r.low)} to {number(r.high)})"
            for r in found
            if r.target == name
        }
        rows += [
            [name, measure.replace("_", " "), NAMES[peer], cells[measure, peer]]
            for measure, peer in keys
            if (measure, peer) in cells
        ]
    return _rows(["entry", "measure", "peer", "ratio"], rows)


def _starts(document: Mapping[str, Any]) -> str:
    """Return seconds from process start to the first warm call, cold and warm.

    For NUTS and one SVI family.
    """
    rows = []
    for target in document["targets"].values():
        for side, result in target["sides"].items():
            cells = []
            for key in ("cold_seconds", "warm_seconds"):
                spent = result.get(key, {})
                for measures in (("gradient", "nuts"), ("svi_mean_field",)):
                    parts = [spent[m] for m in measures if m in spent]
                    cells.append(number(spent["start"] + sum(parts)) if parts else "-")
            if any(c != "-" for c in cells):
                rows.append([target["title"], NAMES[side], *cells])
    return (
        _rows(["entry", "side", "cold, NUTS", "cold, SVI", "warm, NUTS", "warm, SVI"], rows)
        if rows
        else ""
    )


def _growth(document: Mapping[str, Any]) -> str:
    def cell(row: Mapping[str, Any], key: str) -> str:
        return number(1e6 * row[key]) if key in row else row.get(f"{key}_error", "-")

    rows = [
        [f"{r['rows']:,}", cell(r, "gradient"), cell(r, "svi_mean_field")]
        for r in document.get("growth", ())
    ]
    return (
        _rows(["rows", "gradient on all, us", "SVI step on 100 rows, us"], rows)
        if rows
        else "not measured"
    )


def _remarks(document: Mapping[str, Any]) -> str:
    lines = []
    for name, target in document["targets"].items():
        for side, result in target["sides"].items():
            if "error" in result:
                lines.append(f"- {name}, {NAMES[side]}: {result['error']}")
            if (result.get("rhat") or 1.0) > 1.01:
                lines.append(
                    f"- {name}, {NAMES[side]}: R-hat {result['rhat']:.3f} over the runs of the"
                    " pairs, so its ESS is overstated."
                )
            notes = dict.fromkeys(row["note"] for row in result.get("nuts", ()) if row["note"])
            lines += [f"- {name}, {NAMES[side]}: {note}" for note in notes]
            bad = [row for row in result.get("nuts", ()) if row["ess"] is None or row["ess"] == 0]
            if bad:
                lines.append(
                    f"- {name}, {NAMES[side]}: {len(bad)} of {len(result['nuts'])} runs have no"
                    " usable draws; they enter no ratio."
                )
    eager = [
        f"- {name}, ours, {measure.replace('_', ' ')}: eager ({record.get('reason', '')})"
        for name, target in document["targets"].items()
        for measure, record in target["sides"].get("ours", {}).get("records", {}).items()
        if not record.get("used", False)
    ]
    return "### Remarks\n\n" + "\n".join([*lines, *eager]) if lines or eager else ""
