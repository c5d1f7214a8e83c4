"""Do our chains and published ones have the same posterior? Moments and a pooled R-hat, one row per entry.

For every component of every quantity, with means m, standard deviations s and their Monte Carlo standard errors:

    |m - m'| / sqrt(se(m)^2 + se(m')^2) <= 4,    |s - s'| / sqrt(se(s)^2 + se(s')^2) <= 4,    R-hat of all chains together <= 1.01.

Both sides are chains, so both have errors (ArviZ `mcse_mean`, `mcse_sd`). Density parity says that the program is the same
function; this says that sampling it leads to the same place.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from benchmarks import arviz_bridge
from benchmarks.mcmc.diagnostics import diagnose
from benchmarks.metrics.components import Array, component_names, evaluate
from benchmarks.reference.gates import SIGMAS
from benchmarks.run.store import strict_json, write_atomic
from benchmarks.studies.pages import notes
from benchmarks.thresholds import RHAT
from zoo.errors import UsageError
from zoo.types import ModelEntry, Posterior

__all__ = ["COLUMNS", "expected_largest", "markdown", "parity", "run", "write"]

USUAL, CAREFUL = 0.8, 0.99  # target acceptance of a first run, and of a second one after divergences
COLUMNS = (
    "entry", "passed", "components", "mean_gap", "mean_at", "sd_gap", "sd_at", "rhat_pooled", "rhat_at", "draws", "ess_bulk_min",
    "ess_tail_min", "divergences", "target_accept", "gradient_evaluations", "seconds", "compile_seconds", "ess_per_second",
)  # fmt: skip


def parity(ours: Posterior, theirs: Posterior, *, target_accept: float = USUAL) -> dict[str, Any]:
    """Compare two sets of chains of the same entry.

    Args:
        ours: chains of a sampler under test, dims `("chain", "draw")`.
        theirs: the chains it is held against.
        target_accept: what the sampler under test aimed at, for the table.

    Returns:
        the columns of `COLUMNS`: gaps in combined standard errors, each with the component it is largest at.

    Raises:
        UsageError: one side is no set of chains, or the two belong to different entries.
    """
    for side in (ours, theirs):
        if side.sample_dims != ("chain", "draw"):
            raise UsageError(f"Draw parity got draws of {side.method!r} without chains; accepted: chains of NUTS or published ones.")
    if ours.entry.name != theirs.entry.name:
        raise UsageError(f"Draw parity got draws of {ours.entry.name!r} and {theirs.entry.name!r}; give two posteriors of one entry.")
    labels, own = _stack(ours)
    _, other = _stack(theirs)
    mean = _gap(own.mean((0, 1)) - other.mean((0, 1)), arviz_bridge.mcse_mean(own), arviz_bridge.mcse_mean(other))
    sd = _gap(own.std((0, 1), ddof=1) - other.std((0, 1), ddof=1), arviz_bridge.mcse_sd(own), arviz_bridge.mcse_sd(other))
    length = min(own.shape[1], other.shape[1])
    rhat = arviz_bridge.rhat(np.concatenate([_thin(own, length), _thin(other, length)]))
    health, cost = diagnose(ours), ours.cost
    passed = bool((mean <= SIGMAS).all() and (sd <= SIGMAS).all() and (rhat <= RHAT).all())
    return {
        "entry": ours.entry.key, "passed": passed, "target_accept": target_accept, "components": len(labels),
        "mean_gap": float(mean.max()), "mean_at": labels[int(mean.argmax())],
        "sd_gap": float(sd.max()), "sd_at": labels[int(sd.argmax())],
        "rhat_pooled": float(rhat.max()), "rhat_at": labels[int(rhat.argmax())],
        "draws": own.shape[0] * own.shape[1], "ess_bulk_min": health.ess_bulk_min, "ess_tail_min": health.ess_tail_min,
        "divergences": health.divergences, "gradient_evaluations": cost.gradient_evaluations, "seconds": cost.seconds,
        "compile_seconds": cost.compile_seconds,
        "ess_per_second": (health.ess_bulk_min or 0.0) / cost.seconds if cost.seconds > 0 else None,
    }  # fmt: skip


def _stack(posterior: Posterior) -> tuple[list[str], Array]:
    """Return labels and values `[chain, draw, component]` of every quantity, judged or not."""
    labels, parts = [], []
    for name, value in evaluate(posterior).items():
        labels += [c.label for c in component_names(name, posterior.entry.quantities[name], value.shape[2:], posterior.data)]
        parts.append(value.reshape(*value.shape[:2], -1))
    return labels, np.concatenate(parts, -1)


def _gap(difference: Array, one: Array, two: Array) -> Array:
    """Return |difference| in combined standard errors; infinite where a side has no error, so that it cannot pass unseen."""
    se = np.sqrt(one**2 + two**2)
    return np.where(se > 0, np.abs(difference) / np.where(se > 0, se, 1.0), math.inf)


def _thin(x: Array, length: int) -> Array:
    """Keep evenly spaced draws of every chain: a pooled R-hat needs chains of one length."""
    return x[:, np.linspace(0, x.shape[1] - 1, length).round().astype(int)]


def run(entries: Sequence[ModelEntry], folder: Path, *, seed: int = 0, jobs: int = 2) -> list[dict[str, Any]]:
    """Run NUTS at full settings on every entry, keep one JSON file each in `folder`, and return the rows; resumes.

    An entry with divergences runs again at target acceptance 0.99: smaller steps cure a sampler that cannot follow the
    density, and leave a wrong density wrong. Both rows are returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for entry in entries:
        for accept in (USUAL, CAREFUL):
            rows.append(_row_of(entry, folder, seed=seed, jobs=jobs, accept=accept))
            print(f"{entry.key} at {accept}: {'passed' if rows[-1]['passed'] else 'NOT passed'}", flush=True)
            if not rows[-1]["divergences"]:
                break
    return rows


def _row_of(entry: ModelEntry, folder: Path, *, seed: int, jobs: int, accept: float) -> dict[str, Any]:
    """Read the row of one run from its file, or run and write it."""
    from benchmarks.mcmc.nuts import run_nuts
    from benchmarks.reference.find import find

    file = folder / f"{entry.name.replace('/', '--')}{'' if accept == USUAL else f'--{accept}'}.json"
    if not file.exists():
        data = entry.load_data()
        truth = find(entry, data)
        if truth.posterior is None:
            raise UsageError(f"{entry.key} has no reference draws ({truth.reason}); draw parity needs an entry that has.")
        ours = run_nuts(entry, seed=seed, data=data, draws=1500, jobs=jobs, target_accept=accept)
        write_atomic(file, strict_json({**parity(ours, truth.posterior, target_accept=accept), "notes": list(ours.notes)}))
    row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return row


def expected_largest(gaps: int) -> tuple[float, float]:
    """Return the median of the largest of that many |z| of independent standard normals, and the chance that it passes 4."""
    median = float(norm.isf((1 - 0.5 ** (1 / gaps)) / 2))
    return median, float(-math.expm1(gaps * math.log1p(-2 * norm.sf(SIGMAS))))


def markdown(rows: Sequence[dict[str, Any]], title: str, remarks: Sequence[str] = (), kept: Sequence[str] = ()) -> str:
    """Return the page: what is compared, how many passed, one row per entry, and the notes of the sampler.

    `kept` are lines that a person wrote about an earlier version.
    """
    first, again = ([r for r in rows if (r["target_accept"] == USUAL) is usual] for usual in (True, False))
    passed, gaps = sum(r["passed"] for r in first), 2 * sum(r["components"] for r in first)
    median, chance = expected_largest(gaps)
    fair = max((max(r["mean_gap"], r["sd_gap"]) for r in rows if r["passed"]), default=math.nan)
    lines = [
        f"# {title}", "", *remarks, *([""] if remarks else []),
        f"{passed} of {len(first)} pass: every mean and standard deviation within {SIGMAS:.0f} combined Monte Carlo standard errors, and",
        f"R-hat of both sets of chains together at most {RHAT}. Gaps are the largest over all components, in combined standard errors,",
        "with the component. ESS/s is the smallest bulk ESS over the seconds of warm-up and draws of all chains, compilation apart.", "",
        f"{gaps} gaps are looked at. With both sides perfect and the gaps independent, the largest of them would be near {median:.1f}",
        f"(median), and {100 * chance:.0f} % of such tables would hold one beyond {SIGMAS:.0f}; the largest of the entries that pass",
        f"is {fair:.2f}.", "",
        *_second_runs(again),
        *kept,
        "| entry | | mean gap | sd gap | pooled R-hat | draws | smallest ESS | divergences | gradients | seconds | compile s | ESS/s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [_row(r) for r in sorted(rows, key=lambda r: (r["entry"], r["target_accept"]))]
    said = [f"* {_name(r)}: {note}" for r in rows for note in r.get("notes", ())]
    return "\n".join([*lines, *(["", "## What the sampler said", "", *said] if said else [])]) + "\n"


def _second_runs(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    passed = sum(r["passed"] for r in rows)
    return [f"Entries with divergences ran again at target acceptance {CAREFUL}: {passed} of {len(rows)} pass then.", ""]


def _short(row: dict[str, Any]) -> str:
    entry = str(row["entry"])
    return entry.partition("/")[2] or entry


def _name(row: dict[str, Any]) -> str:
    return f"`{_short(row)}`" + ("" if row["target_accept"] == USUAL else f" at {CAREFUL}")


def _row(r: dict[str, Any]) -> str:
    gaps = f"{r['mean_gap']:.2f} {r['mean_at']} | {r['sd_gap']:.2f} {r['sd_at']} | {r['rhat_pooled']:.4f}"
    speed = "" if r["ess_per_second"] is None else f"{r['ess_per_second']:,.0f}"
    word = "passes" if r["passed"] else "**misses**"
    return (
        f"| {_name(r)} | {word} | {gaps} | {r['draws']:,} | {r['ess_bulk_min'] or 0:,.0f} | {r['divergences']} "
        f"| {r['gradient_evaluations'] / 1000:,.0f} k | {r['seconds']:.1f} | {r['compile_seconds']:.0f} | {speed} |"
    )


def write(rows: Sequence[dict[str, Any]], folder: Path, name: str, title: str, remarks: Sequence[str] = ()) -> None:
    """Write `NAME.md` and `NAME.csv` into a folder."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}.csv", text.getvalue())
    page = folder / f"{name}.md"
    write_atomic(page, markdown(rows, title, remarks, notes(page)))


def main() -> None:
    """Run the table of posteriordb (needs `POSTERIORDB`) into `out/draw_parity` and write it to `docs/results`."""
    import zoo

    entries = [zoo.load(name) for name in zoo.names() if name.startswith("posteriordb/")]
    entries = [entry for entry in entries if entry.published is not None]
    rows = run(entries, Path("out/draw_parity"))
    remarks = [  # written again with every table; what a person found out is the page's part `notes`
        "Our NUTS (nutpie on the compiled log density, 4 chains of 800 + 1,500, extended to an ESS of 2,000) against posteriordb's 10,000",
        "reference draws, seed 0. Made by `make draw-parity`; all numbers are in `draw_parity.csv`.",
    ]
    write(rows, Path("docs/results"), "draw_parity", "Draw parity with posteriordb", remarks)
