"""Metrics register themselves by a record, from a file or plug-in; verdicts are built in."""

import csv
import functools
import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import planting
from support.installed import Installed
from support.short_runs import few_trees

from benchmarks import results_frame
from benchmarks.comparison.score import compare
from benchmarks.metrics.components import side
from benchmarks.metrics.metric import (
    FIELDS,
    METRICS,
    JointDistance,
    Metric,
    component_metrics,
    joint_distances_known,
    own_columns,
)
from benchmarks.report import render_html
from benchmarks.run.execute import execute
from benchmarks.run.plan import make_plan
from benchmarks.run.progress import Events
from benchmarks.run.read import read_run
from benchmarks.run.results import score_columns, score_rows
from zoo.errors import UsageError

ROOT = Path(__file__).parents[3]
CSV = (
    "quantity",
    "index",
    "label",
    "mean_error",
    "mean_error_se",
    "sd_ratio",
    "sd_ratio_se",
    "wasserstein",
    "q05_error",
    "q50_error",
    "q95_error",
    "coverage50",
    "coverage90",
    "judged",
)
PLUGIN = """
import numpy as np

from benchmarks.metrics.metric import JointDistance, Metric

SAID = dict(
    term="median gap", definition="difference of medians", unit="of the quantity",
    good="near 0", blind="everything else",
)

def gap(method, reference):
    return {"gap": np.median(method.flat, 0) - np.median(reference.flat, 0)}

def largest(a, b, seed):
    return float(np.abs(a.mean(0) - b.mean(0)).max()), None

METRIC = Metric(name="gap", columns=("gap",), compute=gap, **SAID)
FAILS = Metric(name="fails", columns=("fails",), compute=lambda m, r: {"fails": 1 / 0}, **SAID)
SHORT = Metric(name="short", columns=("short",), compute=lambda m, r: {"short": [1.0]}, **SAID)
OTHER = Metric(name="other", columns=("other",), compute=lambda m, r: {"another": m.mean}, **SAID)
TAKEN = Metric(name="taken", columns=("sd_ratio",), compute=gap, **SAID)
MEANS = JointDistance(name="means", measure=largest, **SAID)
BROKEN = JointDistance(name="broken", measure=lambda a, b, seed: 1 / 0, **SAID)
JUDGE = JointDistance(
    name="judge", measure=lambda a, b, seed: (1.0, 0.1), line=lambda *x: 0.5, **SAID
)
ELBO = JointDistance(name="elbo", measure=largest, **SAID)
SLOW = Metric(name="slow", columns=("seconds",), compute=gap, **SAID)
FLOOR = Metric(name="floor", columns=("c2st_floor",), compute=gap, **SAID)
NOTHING = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    made = Installed(tmp_path, METRICS)
    yield lambda *lines, **files: made(*lines, **{"outside_metric": PLUGIN, **files})
    made.close()


@functools.cache
def pair(rho=0.5, sd=1.0, d=2):
    rng = np.random.default_rng(3)
    entry = planting.entry(d)
    return planting.guide(sd * planting.normals(rng, 2000, d, rho), model=entry), planting.chains(
        planting.normals(rng, 4000, d, rho).reshape(4, 1000, d), model=entry
    )


@functools.cache
def plain(**options):
    """The comparison without any plug-in, made once."""
    return compare(*pair(**options))


@pytest.mark.parametrize("name", METRICS)
def test_every_file_is_a_metric_of_its_name(name):
    metric = METRICS[name]
    assert metric.name == name
    assert metric.definition[-1] not in ".;"
    if isinstance(metric, Metric):
        rng = np.random.default_rng(1)
        sides = (
            side({"x": rng.standard_normal((1, 500, 3))}, True),
            side({"x": rng.standard_normal((4, 200, 3))}, False),
        )
        found = metric.compute(*sides)
        assert set(metric.columns) <= set(found) <= FIELDS | set(metric.columns)
        assert all(v.shape == (3,) for v in found.values())
    else:
        assert isinstance(metric, JointDistance)


def test_the_files_of_a_run_have_the_columns_they_had():
    """Those of metrics that are added later follow them."""
    first = own_columns()[: len(CSV) - 4]
    assert ("quantity", "index", "label", *first, "judged") == CSV


def test_the_page_on_reports_has_every_metric():
    page = (ROOT / "docs" / "reading_a_report.md").read_text(encoding="utf-8")
    for metric in METRICS.values():
        names = metric.values if isinstance(metric, Metric) else (metric.name,)
        rows = [
            line
            for line in page.splitlines()
            if line.startswith("|") and all(f"`{n}`" in line for n in names)
        ]
        assert any(metric.blind in row for row in rows), metric.name


@pytest.mark.usefixtures("undrawn")
def test_the_file_of_the_page_is_a_metric(install, tmp_path):
    """The file in docs/add_a_metric.md, through a comparison on disk.

    It appears in table, CSV, JSON, data frame and glossary.
    """
    page = (ROOT / "docs" / "add_a_metric.md").read_text(encoding="utf-8")
    (code,) = [
        b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "METRIC = Metric(" in b
    ]
    plan, out = (
        make_plan(entries=["coin"], guides=["laplace"], nuts=False, quick=True, compile="off"),
        tmp_path / "run",
    )
    (cell,) = execute(plan, out=out, jobs=1).cells
    assert all("extra" not in score for score in cell["scores"])
    plain = (out / "results.csv").read_bytes()
    kept = {p.name for p in (out / "cells").iterdir()}
    install("missed_tails = missed_tails_metric:METRIC", missed_tails_metric=code)
    result = execute(plan, out=out, jobs=1)
    assert {p.name for p in (out / "cells").iterdir()} == kept  # the draws are reused
    (cell,) = result.cells
    first = cell["scores"][0]["extra"]
    assert set(first) == {"missed_tails", "missed_tails_se"}
    assert abs(first["missed_tails"] - 0.02) < 0.05
    assert (
        json.loads((out / "cells" / next(iter(kept)) / "cell.json").read_text())["scores"][0][
            "extra"
        ]
        == first
    )
    rows = list(csv.reader((out / "results.csv").read_text().splitlines()))
    at = rows[0].index("missed_tails")
    assert tuple(rows[0][rows[0].index("quantity") : at + 2]) == (
        *CSV,
        "missed_tails",
        "missed_tails_se",
    )
    assert float(rows[1][at]) == first["missed_tails"]
    assert results_frame(out)["missed_tails"][0] == first["missed_tails"]
    html = (out / "report.html").read_text()
    assert '<a class="term" href="#d-missed_tails" title="share of reference draws beyond' in html
    assert '<div id="d-missed_tails"><dt>missed tails</dt>' in html

    # uninstalled: stored values are still read, and the next comparison lacks it
    install()
    assert "missed_tails_se" in results_frame(out).columns
    assert "a column of a metric that is not installed here" in render_html(read_run(out).report)
    execute(plan, out=out, jobs=1)
    assert (out / "results.csv").read_bytes() == plain


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A further folder of built-in metrics: a function that adds a file to it."""
    package = f"own_metrics_{abs(hash(tmp_path.name))}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METRICS, "_folders", (*METRICS._folders, package))

    def add(name, text):
        (tmp_path / package / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        METRICS.forget()

    yield add
    monkeypatch.undo()
    METRICS.forget()


@pytest.mark.usefixtures("undrawn")
def test_the_file_of_the_page_is_a_built_in_metric_too(own_folder, tmp_path):
    """A file in the folder is all that it takes; the verdict is what it was."""
    page = (ROOT / "docs" / "add_a_metric.md").read_text(encoding="utf-8")
    (code,) = [
        b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "METRIC = Metric(" in b
    ]
    before = plain(sd=0.5)
    own_folder("missed_tails", code)
    assert "missed_tails" not in METRICS.plugins
    after = compare(*pair(sd=0.5))
    assert all(set(s.extra) == {"missed_tails", "missed_tails_se"} for s in after.scores)
    assert [replace(s, extra={}) for s in after.scores] == list(before.scores)
    assert (after.verdict, after.reasons) == (before.verdict, before.reasons)
    plan = make_plan(entries=["coin"], guides=["laplace"], nuts=False, quick=True, compile="off")
    (cell,) = execute(plan, out=tmp_path / "run", jobs=1).cells
    first = cell["scores"][0]["extra"]
    assert abs(first["missed_tails"] - 0.02) < 0.05
    lines = (tmp_path / "run" / "results.csv").read_text().splitlines()
    row = next(iter(csv.DictReader(lines)))
    assert lines[0].split(",").count("missed_tails") == 1
    assert float(row["missed_tails"]) == first["missed_tails"]
    assert '<div id="d-missed_tails"><dt>missed tails</dt>' in (
        tmp_path / "run" / "report.html"
    ).read_text(encoding="utf-8")


def test_a_built_in_metric_with_other_columns_than_its_record_is_refused(own_folder):
    own_folder("other", PLUGIN.replace("METRIC = ", "GAP = ").replace("OTHER = ", "METRIC = "))
    with pytest.raises(UsageError, match="its record names"):
        compare(*pair())


def test_every_distance_has_its_columns_in_the_table(own_folder, install):
    """Value, error and floor of built-in ones are in each file; others where a cell has them."""
    first = ("c2st", "c2st_se", "c2st_floor", "sliced_wasserstein", "sliced_wasserstein_se")
    columns = score_columns()
    at = columns.index("c2st")
    assert tuple(columns[at : at + 5]) == first
    own_folder("means", PLUGIN.replace("METRIC = ", "GAP = ").replace("MEANS = ", "METRIC = "))
    assert {"means", "means_se", "means_floor"} < set(score_columns())
    made = [{"name": "means", "value": 0.5, "se": None, "floor": 0.1, "line": None}]
    cell = {"scores": [], "distances": made, "entry": "a", "method": "b", "seed": 0}
    (row,) = score_rows([{**cell, "status": "ok", "verdict": "agrees"}])
    assert (row["means"], row["means_se"], row["means_floor"]) == (0.5, None, 0.1)
    assert set(row) <= set(score_columns([cell]))


def test_the_distance_of_a_plugin_has_columns_where_a_cell_has_it(install):
    """Also when it is not installed any more."""
    cell = {"scores": [], "distances": [{"name": "means"}]}
    assert "means_floor" not in score_columns()
    assert "means_floor" in score_columns([cell])


def test_an_installed_metric_and_distance_are_scored_and_decide_nothing(install):
    before = plain(sd=0.5)
    install("gap = outside_metric:METRIC", "means = outside_metric:MEANS")
    after = compare(*pair(sd=0.5))
    assert [s.extra.keys() for s in after.scores] == [{"gap"}, {"gap"}]
    assert (after.verdict, after.reasons, after.notes) == (
        before.verdict,
        before.reasons,
        before.notes,
    )
    assert [replace(s, extra={}) for s in after.scores] == list(before.scores)
    assert [d.name for d in after.distances] == ["c2st", "sliced_wasserstein", "means"]
    assert after.distances[:2] == before.distances
    assert after.distances[2].floor is not None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "fails = outside_metric:FAILS",
            "The metric fails is left out, it failed: ZeroDivisionError: division by zero",
        ),
        (
            "short = outside_metric:SHORT",
            "The metric short is left out, it failed: UsageError: its columns have the shapes",
        ),
        (
            "other = outside_metric:OTHER",
            "it returned the columns ['another']; its record names ['other']",
        ),
        (
            "taken = outside_metric:TAKEN",
            "The metric 'taken' has the column 'sd_ratio', which is taken",
        ),
        (
            "broken = outside_metric:BROKEN",
            "The distance broken is left out, it failed: ZeroDivisionError",
        ),
        (
            "elbo = outside_metric:ELBO",
            "The distance 'elbo' has the column 'elbo', which is taken",
        ),
        (
            "slow = outside_metric:SLOW",
            "The metric 'slow' has the column 'seconds', which is taken",
        ),
        (
            "floor = outside_metric:FLOOR",
            "The metric 'floor' has the column 'c2st_floor', which is taken",
        ),
        ("judge = outside_metric:JUDGE", "only built-in distances decide a verdict"),
        (
            "lost = outside_metric:MISSING",
            "The metric 'lost' of outside_metric:MISSING cannot be loaded (AttributeError",
        ),
        (
            "lost = outside_metric:METRIC",
            (
                "The metric 'lost' is a Metric called 'gap'; accepted: METRIC = Metric or"
                " JointDistance"
            ),
        ),
        ("lost = outside_metric:NOTHING", "The metric 'lost' is a int"),
    ],
)
def test_a_broken_plugin_is_one_sentence_and_costs_nothing_else(install, line, says, monkeypatch):
    few_trees(monkeypatch)
    before = plain(rho=0.6)
    install(line, "gap = outside_metric:METRIC")
    after = compare(*pair(rho=0.6))
    (note,) = after.notes
    assert says in note
    assert [replace(s, extra={}) for s in after.scores] == list(before.scores)
    assert all(set(s.extra) == {"gap"} for s in after.scores)
    assert after.distances == before.distances
    assert after.verdict == before.verdict


@pytest.mark.usefixtures("undrawn")
def test_a_broken_plugin_is_named_once_on_the_way(install, tmp_path):
    class Heard(Events):
        said: list = []  # noqa: RUF012

        def warn(self, sentence):
            self.said.append(sentence)

    install("lost = outside_metric:MISSING")
    execute(
        make_plan(entries=["coin"], guides=["laplace"], nuts=False, quick=True, compile="off"),
        out=tmp_path / "run",
        events=Heard(),
        jobs=1,
    )
    assert len([s for s in Heard.said if "'lost'" in s]) == 1


def test_a_plugin_does_not_replace_a_metric_of_ours(install):
    install("sd_ratio = outside_metric:METRIC")
    assert METRICS["sd_ratio"].compute.__module__ == "benchmarks.metrics.marginal.sd_ratio"
    names = [m.name for m in [*component_metrics()[0], *joint_distances_known()[0]]]
    files = [
        path.stem
        for folder in ("marginal", "joint")
        for path in (ROOT / "benchmarks" / "metrics" / folder).glob("[a-z]*.py")
    ]
    assert sorted(names) == sorted(files)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "my metric"}, "letters, digits and _"),
        ({"blind": " "}, "says nothing in blind"),
        ({"columns": ()}, "accepted: different names"),
        ({"columns": ("a", "a")}, "accepted: different names"),
        ({"columns": ("a b",)}, "accepted: different names"),
        ({"columns": ("a", "b_se")}, "'b_se' without 'b'"),
    ],
)
def test_a_record_that_would_fail_later_is_refused(fields, says):
    said = dict.fromkeys(("term", "definition", "unit", "good", "blind"), "words")
    with pytest.raises(UsageError, match=says):
        Metric(
            **{
                "name": "mine",
                "columns": ("a",),
                "compute": lambda method, reference: {},
                **said,
                **fields,
            }
        )
