"""The study of batch and match: rows of real fits, weights that count, bars, an honest page."""

import math

import numpy as np
import pytest

import zoo
from benchmarks.studies import against_reference
from benchmarks.studies.batch_and_match import measure, render
from benchmarks.studies.batch_and_match.study import STUDY
from benchmarks.studies.record import Work
from benchmarks.workers import TaskResult


def fit(entry, seed=0, raw=(0.04, 0.95), weighted=(0.01, 1.01), k=0.3, ess=5000.0, **fields):
    row = {
        "entry": f"posteriordb/{entry}",
        "method": "batch_and_match",
        "seed": seed,
        "status": "ok",
        "gradients": 400,
        "seconds": 0.2,
        "elbo": -3.0,
        "doubt": False,
        "k": k,
        "ess": ess,
    }
    row |= dict(zip(("mean", "sd", "weighted_mean", "weighted_sd"), raw + weighted, strict=True))
    return row | fields


def failed(entry, method="batch_and_match"):
    gone = ("k", "ess", "mean", "sd", "weighted_mean", "weighted_sd")
    row = fit(entry, method=method, status="init_failed")
    return {name: value for name, value in row.items() if name not in gone}


FITS = [
    fit("a"),
    fit("a", 1, weighted=(0.02, 1.02), gradients=500),
    fit("b", raw=(0.2, 0.6), weighted=(0.04, 0.97), gradients=3000, doubt=True),
    fit("c", raw=(0.2, 0.6), weighted=(0.02, 0.99), k=0.8),
    fit("d", raw=(0.08, 0.93), weighted=(0.3, 0.5), ess=99.0, status="not_converged"),
    fit("a", method="laplace", raw=(0.3, 0.9)),
    failed("b", "laplace"),
]
NUTS = {"posteriordb/a": 13_000, "posteriordb/b": 16_000, "posteriordb/c": 15_000}
ROWS = {
    "fits": {
        e: [r for r in FITS if r["entry"] == e] for e in dict.fromkeys(r["entry"] for r in FITS)
    },
    "nuts": NUTS,
}


def test_weights_count_where_k_and_size_allow():
    assert [render.trusted(r) for r in FITS] == [True, True, True, False, False, True, False]
    assert render.errors(FITS[2]) == (0.04, abs(math.log(0.97)))
    assert render.errors(FITS[3]) == (0.2, abs(math.log(0.6)))
    assert render.errors(FITS[6]) == (math.inf, math.inf)
    assert not render.trusted(fit("a", k=None))  # k-hat that is no number, in strict JSON


def test_bars_count_posteriors_by_their_worst_seed():
    found = render.bars(FITS, NUTS)
    assert [measured.partition(" (")[0] for _, measured, _, _ in found] == [
        "2 of 4",
        "3 of 4",
        "3 of 4",
        "2 of 3",
    ]
    assert [names for *_, names in found] == [["c", "d"], ["c"], ["c"], ["b"]]
    assert not any(met for _, _, met, _ in found)
    assert found[0][1] == "2 of 4 (50%, 7% to 93%)"  # exact interval
    assert all(met for _, _, met, _ in render.bars(FITS[:2], NUTS))
    assert render.bars([failed("e"), *FITS[:2]], NUTS)[0][3] == ["e"]
    assert render.bars([], {}) == []


def test_the_page_shows_raw_and_weighted_side_by_side():
    text = render.page(ROWS)
    assert "| means within 0.05 sds, on at least 75 % | 2 of 4" in text
    assert "| **no** | `c`, `d` |" in text
    assert (
        "| `a` | m 0.040, s 0.95 | m 0.020, s 1 | 0.30 | 5,000 | 2 of 2 | 2 of 2 | 0 | 450 |"
        in text
    )
    assert "| 3.5 % | 0.2 | m 0.010, s 1 |  |" in text
    assert "| `c` | m 0.200, s 0.6 | m 0.020, s 0.99 | 0.80 | 5,000 | 0 of 1 |" in text
    assert "| laplace | 2 | 1 | 1 | inf | xinf | 1 | inf | xinf | 400 |" in text
    assert "| batch_and_match | 5 | 0 | 4 | 0.080 |" in text
    assert "| `e` | failed | failed |" in render.page({"fits": {"e": [failed("e")]}})


def test_the_page_is_that_of_its_published_rows(tmp_path):
    made = STUDY.render(ROWS)
    (tmp_path / "batch_and_match.json").write_text(made.files["batch_and_match.json"])
    assert STUDY.render(STUDY.read(tmp_path)) == made
    assert STUDY.render({}).text.startswith("# Batch and match on posteriordb\n")


def test_rows_are_those_of_real_fits(monkeypatch):
    monkeypatch.setattr(measure, "PAIRS", 1500)
    rows = measure.rows_of("weibull_survival", (0, 1))
    assert [(r["method"], r["seed"]) for r in rows] == [
        ("batch_and_match", 0),
        ("batch_and_match", 1),
        ("independent draws", 0),
        ("laplace", 0),
        ("deterministic", 0),
    ]
    laplace = rows[3]
    assert laplace["weighted_mean"] < 0.1 < laplace["mean"]
    for row in rows:
        assert row["weighted_mean"] < 0.1
        assert 0.9 < row["weighted_sd"] < 1.1
        assert row["gradients"] < 2000
        assert 100 < row["ess"] <= 3000
    assert all(r["mean"] < 0.1 for r in rows[:2])


def test_errors_are_in_reference_sds():
    values = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    center, width = np.array([0.0, 2.0]), np.array([4.0, 1.0])
    mean, sd = against_reference.worst(values, None, center, width)
    assert mean == pytest.approx(0.5)
    assert sd == pytest.approx((8 / 3) ** 0.5 / 4)
    mean, sd = against_reference.worst(values, np.array([0.5, 0.0, 0.5]), center, width)
    assert mean == pytest.approx(0.5)
    assert sd == pytest.approx(0.5)
    mean, sd = against_reference.worst(values, np.array([0.0, 0.5, 0.5]), center, width)
    assert mean == pytest.approx(0.75)
    assert sd == pytest.approx(0.25)


def test_the_gradients_of_nuts_are_those_of_its_warm_up_and_some_draws():
    row = {
        "entry": "a",
        "draws": 6000,
        "ess_bulk_min": 2000.0,
        "ess_tail_min": 3000.0,
        "gradient_evaluations": 92_000,
    }
    assert measure.nuts_gradients([row]) == {"a": 10 * (3200 + 1200)}
    few = row | {"ess_tail_min": 100.0, "gradient_evaluations": 91_000}
    assert measure.nuts_gradients([few]) == {"a": 91_000}
    assert measure.nuts_gradients([few, row]) == {"a": 91_000}  # the first of two runs


@pytest.mark.parametrize("quick", [False, True])
def test_missing_entries_are_measured_and_kept(monkeypatch, tmp_path, quick):
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
    rows = measure.measure("fits", work)
    names = [n for n in zoo.names() if n.startswith("posteriordb/")]
    expected = [n for n in names if n in measure.QUICK] if quick else names
    assert [name for name in asked if name in zoo.names()] == expected
    assert list(rows) == expected[:-1]  # the failed one is asked for again
    asked.clear()
    measure.measure("fits", work)
    assert [name for name in asked if name in zoo.names()] == expected[-1:]


def test_the_gradients_of_nuts_are_read_from_the_published_table(tmp_path, monkeypatch):
    class Say:
        def say(self, text):
            pass

    work = Work(quick=False, jobs=1, out=tmp_path, progress=Say())
    found = measure.measure("nuts", work)
    assert len(found) == 37
    assert all(10_000 < v < 500_000 for v in found.values())
    monkeypatch.chdir(tmp_path)
    assert measure.measure("nuts", work) == {}
