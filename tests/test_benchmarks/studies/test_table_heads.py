"""Columns of the pages on methods stand under the heads that name them, by the published rows."""

import json
from pathlib import Path
from statistics import median

import pytest

from benchmarks.studies.batch_and_match import render as batch
from benchmarks.studies.pathfinder import render as path
from benchmarks.studies.reweighted import render as again

RESULTS = Path(__file__).parents[3] / "docs" / "results"
ENTRY = "posteriordb/mesquite-logmesquite_logvash"
SHORT = "`mesquite-logmesquite_logvash`"


def published(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(text, section, row):
    """Return the cells of a row of the first table of a section, by their heads."""
    lines = text.split(f"\n## {section}\n")[1].splitlines()
    lines = [line for line in lines if line.startswith("|")]
    heads, cells = (
        [c.strip() for c in line.strip("|").split(" | ")]
        for line in (lines[0], next(x for x in lines if x.startswith(f"| {row} |")))
    )
    assert len(heads) == len(cells)
    return dict(zip(heads, cells, strict=True))


def figures(row, which=""):
    return f"m {row[f'{which}mean']:.3f}, s {row[f'{which}sd']:.2g}"


def test_batch_and_match():
    rows = published("batch_and_match")
    text = batch.page(rows)
    fits = [r for entry in rows["fits"].values() for r in entry]
    own = [r for r in rows["fits"][ENTRY] if r["method"] == "batch_and_match"]
    one = table(text, "Every posterior", SHORT)
    for head, which in (("raw", ""), ("weighted", "weighted_")):
        worst = max(r[f"{which}mean"] for r in own)
        assert one[head].startswith(f"m {worst:.3f}, s ")
    for method in ("laplace", "deterministic"):
        (other,) = (r for r in rows["fits"][ENTRY] if r["method"] == method)
        counts = other["k"] <= 0.7 and other["ess"] >= 100
        assert one[method] == figures(other, "weighted_" if counts else "")
    assert one["k-hat"] == f"{max(r['k'] for r in own):.2f}"
    assert one["ESS"] == f"{min(r['ess'] for r in own):,.0f}"
    assert one["gradients"] == f"{median(r['gradients'] for r in own):,.0f}"
    assert one["seconds"] == f"{median(r['seconds'] for r in own):.1f}"
    row = table(text, "Methods", "laplace")
    ours = [r for r in fits if r["method"] == "laplace"]
    assert row["raw mean"] == f"{median(r.get('mean') or 1e9 for r in ours):.3f}"
    assert row["raw sd"].startswith("x")
    assert row["gradients"] == f"{median(r['gradients'] for r in ours):,.0f}"
    assert row["seconds"] == f"{median(r['seconds'] for r in ours):.1f}"
    assert row["failed"] == str(sum(r.get("mean") is None for r in ours))
    assert row["settled"] == str(sum(r["status"] == "ok" for r in ours))


def test_pathfinder():
    rows = published("pathfinder")
    text = path.page(rows)
    (part,) = (p for p in rows.values() if ENTRY in p)
    (own,) = (r for r in part[ENTRY] if r["method"] == "pathfinder")
    one = table(text, "Every posterior", SHORT)
    assert one["raw"] == figures(own)
    assert one["weighted"] == figures(own, "weighted_")
    assert one["k-hat"] == f"{own['k']:.2f}"
    assert one["ESS"] == f"{own['ess']:,.0f}"
    assert one["gradients"] == f"{own['gradients']:,}"
    assert one["of a path"] == str(own["path"])
    assert one["normals"] == str(own["normals"])
    assert one["seconds"] == f"{own['seconds']:.1f}"
    every = [r for rs in part.values() for r in rs if r["method"] == "pathfinder"]
    row = table(text, "Methods", "pathfinder")
    assert row["raw mean"] == f"{median(r.get('mean', 1e9) for r in every):.3f}"
    assert row["gradients"] == f"{median(r['gradients'] for r in every):,.0f}"
    assert row["of a path"] == f"{median(r['path'] for r in every):,.0f}"
    assert row["seconds"] == f"{median(r['seconds'] for r in every):.1f}"


def test_reweighted():
    rows = published("reweighted")
    text = again.page(rows)
    own = rows["laplace"][ENTRY]
    one = table(text, "laplace", SHORT)
    for head, name in (("raw m", "raw_mean_error"), ("m", "mean_error")):
        assert one[head] == f"{max(r[name] for r in own):.3f}"
    for head, name, form in (
        ("k-hat", "k_hat", ".2f"),
        ("ESS", "importance_ess", ",.0f"),
        ("S", "guide_draws", ",.0f"),
        ("n", "draws", ",.0f"),
        ("capped", "capped_mass", ".2%"),
    ):
        assert one[head] == format(median(r[name] for r in own), form)
    for head, name in (("raw s", "raw_sd_ratio"), ("s", "sd_ratio")):
        assert float(one[head]) in [pytest.approx(r[name], rel=5e-3) for r in own]


def test_the_rows_tell_the_columns_apart():
    """Figures that were equal would stand under each other's heads unseen."""
    own = published("reweighted")["laplace"][ENTRY]
    assert all(r["guide_draws"] != r["draws"] for r in own)
    assert all(abs(r["raw_mean_error"] - r["mean_error"]) > 0.05 for r in own)
