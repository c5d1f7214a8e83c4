"""The study of deterministic fits: rows of real fits, bars with their figures, an honest page."""

import numpy as np
import pytest

import zoo
from benchmarks.studies import against_reference
from benchmarks.studies.deterministic import measure, render
from benchmarks.studies.deterministic.study import STUDY
from benchmarks.studies.record import Work
from benchmarks.workers import TaskResult


def fit(method, seed, mean, ratio, gradients=400, entry="posteriordb/a"):
    return {
        "entry": entry,
        "method": method,
        "seed": seed,
        "status": "ok" if mean is not None else "init_failed",
        "mean_error": mean,
        "sd_ratio": ratio,
        "gradients": gradients,
        "seconds": 0.2,
        "elbo": -3.0,
        "draw_error": 0.001,
    }


FITS = [
    fit("deterministic", 0, 0.02, 0.98),
    fit("deterministic", 1, 0.03, 1.02, 500),
    fit("deterministic", 2, 0.01, 0.99, 300),
    *(fit("30 independent", seed, 0.2, 1.0) for seed in range(3)),
    fit("laplace", 0, None, None),
]
SPREAD = [{"entry": "b", "design": "matched", "fits": 20, "spread": 0.0021, "stated": 0.0025}]
ROWS = {"fits": {"posteriordb/a": FITS}, "calibration": {"b": SPREAD}}


def test_every_bar_has_its_figure_and_its_verdict():
    found = render.bars(FITS)
    assert [figure for _, figure, _ in found] == [
        "0.020",
        "2.0 %",
        "median 400, largest 500",
        "10.0 times (medians 0.200 and 0.020)",
    ]
    assert all(met for *_, met in found)
    worse = [fit("deterministic", 0, 0.05, 0.9, 3001), fit("30 independent", 0, 0.2, 1.0)]
    assert [met for *_, met in render.bars(worse)] == [False] * 4
    assert "| 11.1 % | **no** |" in render.page({"fits": {"a": worse}})
    assert render.bars([]) == []


def test_a_failed_fit_counts_against_its_method():
    text = render.page(ROWS)
    assert "| laplace | 1 | 1 | inf | xinf | 400 | 0.20 |" in text
    assert "| deterministic | 3 | 0 | 0.020 | x1.020 | 400 | 0.20 |" in text
    assert "failed 1 of 1, 400 g, 0.2 s" in text
    assert "| `a` | m 0.030, s 0.98, 400 g, 0.2 s |" in text
    assert "| `b` | matched | 20 | 0.0021 | 0.0025 |" in text


def test_the_page_is_that_of_its_published_rows(tmp_path):
    made = STUDY.render(ROWS)
    (tmp_path / "deterministic.json").write_text(made.files["deterministic.json"])
    assert STUDY.render(STUDY.read(tmp_path)) == made
    assert STUDY.render({}).text.startswith("# Deterministic fits on posteriordb\n")


def test_rows_are_those_of_real_fits(monkeypatch):
    own = ("deterministic", "30 independent", "laplace")
    monkeypatch.setattr(measure, "METHODS", {name: measure.METHODS[name] for name in own})
    rows = measure.rows_of("weibull_survival", (0,))
    assert [r["method"] for r in rows] == list(own)
    plain, independent, laplace = rows
    assert plain["mean_error"] < 0.1 < independent["mean_error"]
    assert 0.9 < plain["sd_ratio"] < 1.1
    assert plain["draw_error"] < 0.03 < independent["draw_error"]
    assert laplace["draw_error"] is None
    assert all(r["gradients"] < 3000 and np.isfinite(r["elbo"]) for r in rows)


def test_the_calibration_compares_spread_and_statement():
    rows = measure.calibrate("weibull_survival", tuple(range(4)))
    assert [r["design"] for r in rows] == list(measure.DESIGNS)
    by = {r["design"]: r for r in rows}
    assert by["matched"]["spread"] < 0.1 * by["independent"]["spread"]
    assert all(r["fits"] == 4 and 0.1 < r["spread"] / r["stated"] < 10 for r in rows)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("part", ["fits", "calibration"])
def test_missing_entries_are_measured_and_kept(monkeypatch, tmp_path, part, quick):
    asked = []

    class Say:
        def say(self, text):
            asked.append(text)

    def run_tasks(tasks, *, jobs, timeout, on_done):
        asked.extend(task.name for task in tasks)
        for task in tasks[:-1]:
            on_done(TaskResult(name=task.name, status="ok", value=[task.fn.args]))
        on_done(TaskResult(name=tasks[-1].name, status="error", error="broken"))

    monkeypatch.setattr(against_reference, "run_tasks", run_tasks)
    work = Work(quick=quick, jobs=1, out=tmp_path, progress=Say())
    rows = measure.measure(part, work)
    names = [n for n in zoo.names() if n.startswith("posteriordb/")]
    expected = names if part == "fits" else list(measure.CALIBRATED)
    if quick:
        expected = [n for n in expected if n in (*measure.QUICK, measure.CALIBRATED[-1])]
    assert [name for name in asked if name in zoo.names()] == expected
    assert list(rows) == expected[:-1]  # the failed one is asked for again
    asked.clear()
    measure.measure(part, work)
    assert [name for name in asked if name in zoo.names()] == expected[-1:]
