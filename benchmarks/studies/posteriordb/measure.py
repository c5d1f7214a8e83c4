"""The table of variational inference over a group of entries: run it, then write Markdown, CSV and a picture.

Each cell of the table is one family on one entry over several seeds: its verdict, the worst numbers that decided it,
k-hat and what it cost. Nothing is averaged away: the numbers shown are those of the worst seed.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.run.progress import Events
from benchmarks.run.store import RunDir, write_atomic
from benchmarks.studies.draw_parity.measure import USUAL
from benchmarks.studies.pages import notes

__all__ = ["FAMILIES", "run", "summaries", "write"]

FAMILIES = ("mean_field", "full_rank", "low_rank", "laplace")
COLUMNS = (
    "entry", "method", "seed", "status", "verdict", "decided_by", "worst_mean_error", "worst_mean_error_se", "sd_ratio", "sd_ratio_se",
    "pareto_k", "pareto_k_threshold", "gradient_evaluations", "seconds",
)  # fmt: skip


def run(entries: Sequence[str], out: Path, *, seeds: Sequence[int] = (0, 1, 2), jobs: int = 2, events: Events | None = None) -> list[Path]:
    """Fit every family to every entry with every seed, one run directory per seed, and return them; resumes."""
    from benchmarks.run.execute import execute
    from benchmarks.run.plan import make_plan

    folders = []
    for seed in seeds:
        plan = make_plan(name="vi_table", entries=tuple(entries), guides=FAMILIES, nuts=False, seeds=(seed,))
        folders.append(execute(plan, out=out / f"seed{seed}", jobs=jobs, events=events, pages=False).path)
    return folders


def summaries(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Return one row per compared cell of the runs: worst judged mean error in reference sds, farthest sd ratio, k-hat, cost."""
    rows = []
    for folder in folders:
        directory = RunDir.open(folder)
        for name in directory.names():
            cell = directory.read(name)
            if cell is not None and cell["verdict"] is not None:
                rows.append(_row(cell))
    return sorted(rows, key=lambda r: (r["entry"], FAMILIES.index(r["method"]), r["seed"]))


def _row(cell: dict[str, Any]) -> dict[str, Any]:
    judged = [s for s in cell["scores"] if s["judged"] and s["mean_error"] is not None]
    ratios = [s for s in judged if (s["sd_ratio"] or 0) > 0]
    mean: dict[str, Any] = max(judged, key=lambda s: abs(s["mean_error"]), default={})
    spread: dict[str, Any] = max(ratios, key=lambda s: max(s["sd_ratio"], 1 / s["sd_ratio"]), default={})
    weights = cell["pareto_k"] or {}
    return {
        **{key: cell[key] for key in ("entry", "method", "seed", "status", "verdict")},
        "decided_by": cell["reasons"][0]["label"] if cell["reasons"] else "",
        "worst_mean_error": mean.get("mean_error"), "worst_mean_error_se": mean.get("mean_error_se"),
        "sd_ratio": spread.get("sd_ratio"), "sd_ratio_se": spread.get("sd_ratio_se"),
        "pareto_k": weights.get("value"), "pareto_k_threshold": weights.get("threshold"),
        "gradient_evaluations": cell["cost"]["gradient_evaluations"], "seconds": cell["cost"]["seconds"],
    }  # fmt: skip


def write(rows: Sequence[dict[str, Any]], folder: Path, name: str, title: str, remarks: Sequence[str] = ()) -> None:
    """Write `NAME.md`, `NAME.csv` and `NAME.svg` into a folder; `remarks` are lines of Markdown below the title."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / f"{name}.csv", text.getvalue())
    _picture(rows, folder / f"{name}.svg", chains_beside(folder))
    page = folder / f"{name}.md"
    write_atomic(page, markdown(rows, name, title, [*remarks, "", *notes(page)]))


def markdown(rows: Sequence[dict[str, Any]], name: str, title: str, remarks: Sequence[str] = ()) -> str:
    """Return the page: how many of each verdict, then one row per entry."""
    lines = [f"# {title}", "", *remarks, "", f"![worst mean error against gradient evaluations]({name}.svg)", "", "## Verdicts", ""]
    verdicts = sorted({r["verdict"] for r in rows}, key=lambda v: (v != "agrees", v))
    lines += ["| family | fits | " + " | ".join(v.replace("_", " ") for v in verdicts) + " |", "|---|---|" + "---|" * len(verdicts)]
    for family in FAMILIES:
        count = Counter(r["verdict"] for r in rows if r["method"] == family)
        lines.append(f"| {family} | {count.total()} | " + " | ".join(str(count[v]) for v in verdicts) + " |")
    lines += ["", "## Every posterior", "", *_legend(), "", "| entry | " + " | ".join(FAMILIES) + " |", "|---|" + "---|" * len(FAMILIES)]
    entries = sorted({r["entry"] for r in rows})
    lines += [f"| `{e.partition('/')[2] or e}` | " + " | ".join(_cell([r for r in rows if (r["entry"], r["method"]) == (e, f)])
              for f in FAMILIES) + " |" for e in entries]  # fmt: skip
    lines += ["", "## Cost", "", "Gradient evaluations in thousands and seconds of one fit, median over seeds.", ""]
    lines += ["| entry | " + " | ".join(FAMILIES) + " |", "|---|" + "---|" * len(FAMILIES)]
    lines += [f"| `{e.partition('/')[2] or e}` | " + " | ".join(_cost([r for r in rows if (r["entry"], r["method"]) == (e, f)])
              for f in FAMILIES) + " |" for e in entries]  # fmt: skip
    return "\n".join(lines) + "\n"


def _legend() -> list[str]:
    return [
        "Verdict (per seed where seeds differ); *m* worst mean error in reference sds; *s* the sd ratio farthest from 1;",
        "*k* Pareto k-hat of the importance weights. Numbers are those of the worst seed.",
    ]


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    verdicts = [r["verdict"].replace("_", " ") for r in rows]
    word = verdicts[0] if len(set(verdicts)) == 1 else " / ".join(verdicts)
    means = [r["worst_mean_error"] for r in rows if r["worst_mean_error"] is not None]
    ratios = [r["sd_ratio"] for r in rows if r["sd_ratio"]]
    ks = [r["pareto_k"] for r in rows if r["pareto_k"] is not None]
    parts = []
    if means:
        parts.append(f"m {max(means, key=abs):+.2g}")
    if ratios:
        parts.append(f"s {max(ratios, key=lambda r: max(r, 1 / r)):.2g}")
    if ks:
        parts.append(f"k {max(ks):.1f}")
    return f"**{word}** {', '.join(parts)}".strip()


def _cost(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    return f"{median(r['gradient_evaluations'] for r in rows) / 1000:.1f} k, {median(r['seconds'] for r in rows):.1f} s"


def chains_beside(folder: Path) -> list[tuple[float, float]]:
    """Return (gradient evaluations, 1 / sqrt(smallest bulk ESS)) of NUTS on every posterior of the folder's draw parity, if it is there.

    The second number is the standard error, in posterior sds, of the mean that chains know least well.
    """
    path = folder / "draw_parity.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["ess_bulk_min"] and float(r["target_accept"]) == USUAL]  # second runs apart
        return [(float(r["gradient_evaluations"]), float(r["ess_bulk_min"]) ** -0.5) for r in rows]


def _picture(rows: Sequence[dict[str, Any]], path: Path, chains: Sequence[tuple[float, float]]) -> None:
    """Draw the worst mean error of every fit against its gradient evaluations, one mark per family, and the standard errors of NUTS."""
    from benchmarks.report.theme import MARKERS, canvas, light

    figure, axis = canvas(560, 340)
    for i, family in enumerate(FAMILIES):
        found = [r for r in rows if r["method"] == family and r["worst_mean_error"] is not None and r["gradient_evaluations"]]
        x, y = [r["gradient_evaluations"] for r in found], [max(abs(r["worst_mean_error"]), 1e-3) for r in found]
        axis.plot(x, y, linestyle="none", marker=MARKERS[i], color=light(f"m{i + 1}"), markersize=4.5, alpha=0.75, label=family)
    if chains:
        axis.plot(
            *zip(*chains, strict=True), linestyle="none", marker="x", color=light("ref-line"), markersize=4.5, label="nuts, 1 / sqrt(ESS)"
        )
    axis.axhline(0.15, color=light("ref-line"), linewidth=1, linestyle=(0, (3, 3)))
    seen = [r["gradient_evaluations"] for r in rows if r["gradient_evaluations"]] + [number for number, _ in chains] or [1]
    axis.set(
        xscale="log",
        yscale="log",
        xlim=(min(seen) / 2, max(seen) * 2),
        xlabel="gradient evaluations",
        ylabel="worst |mean error| (ref. sds)",
    )
    axis.legend(frameon=False, fontsize=8)
    axis.grid(True, linewidth=0.4)
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Run the table of posteriordb (needs `POSTERIORDB`) into `out/posteriordb` and write it to `docs/results`."""
    import zoo

    class Lines(Events):
        def done(self, label: str, status: str, sentence: str, seconds: float) -> None:
            print(f"{label}: {status}, {seconds:.1f} s", flush=True)

    names = [name for name in zoo.names() if name.startswith("posteriordb/")]
    for name in names[:1]:
        zoo.load(name).load_data()  # says at once where a copy is missing
    rows = summaries(run(names, Path("out/posteriordb"), events=Lines()))
    folder = Path("docs/results")
    folder.mkdir(parents=True, exist_ok=True)
    write(rows, folder, "posteriordb", "Variational inference on posteriordb", remarks(rows))


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return how the table was made, from its own rows."""
    seeds, fits, entries = sorted({r["seed"] for r in rows}), len(rows), len({r["entry"] for r in rows})
    word = "seeds" if len(seeds) > 1 else "seed"
    return [
        f"{entries} posteriors, {fits} fits, {word} {', '.join(map(str, seeds))}, default settings, judged against the collection's 10,000",
        "reference draws. Made by `make posteriordb`; all numbers are in `posteriordb.csv`. What the words mean:",
        "[reading a report](../reading_a_report.md).",
    ]
