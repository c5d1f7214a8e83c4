"""The study of Pathfinder: rows of real fits, modes with known masses, an honest page."""

import math

import numpy as np
import pytest

import zoo
from benchmarks.studies import against_reference
from benchmarks.studies.pathfinder import measure, render
from benchmarks.studies.pathfinder.study import STUDY
from benchmarks.studies.record import Work
from benchmarks.workers import TaskResult


def fit(entry, raw=(0.2, 0.95), weighted=(0.01, 1.01), k=0.3, ess=5000.0, **fields):
    row = {
        "entry": f"posteriordb/{entry}",
        "method": "pathfinder",
        "seed": 0,
        "status": "ok",
        "said": "One mode.",
        "gradients": 700,
        "path": 80,
        "seconds": 0.2,
        "elbo": -3.0,
        "normals": 1,
        "k": k,
        "ess": ess,
    }
    row |= dict(zip(("mean", "sd", "weighted_mean", "weighted_sd"), raw + weighted, strict=True))
    return row | fields


def failed(entry):
    gone = ("k", "ess", "mean", "sd", "weighted_mean", "weighted_sd")
    row = fit(entry, status="init_failed", elbo=None)
    return {name: value for name, value in row.items() if name not in gone}


def modes(seed, masses, errors=(0.002, 0.002), other=0.0):
    row = {"entry": "modes10", "method": "pathfinder", "seed": seed, "gradients": 60, "path": 9}
    lists = {"true": [0.7, 0.3], "masses": list(masses), "errors": list(errors)}
    return row | lists | {"other": other}


FITS = [
    fit("a"),
    fit("b", weighted=(0.2, 1.2)),
    fit("c", k=0.8, path=300),
    fit("d", raw=(0.05, 0.5), ess=99.0),
    fit("a", method="history of 6"),
    failed("e"),
]
MODES = [
    modes(0, (0.7, 0.3)),
    modes(1, (0.72, 0.28), (0.007, 0.007)),
    modes(2, (0.72, 0.28)),
    modes(3, (1.0, None), (0.0, None)),
    modes(4, (0.7, 0.28), other=0.02),
]
ROWS = {
    "fits": {
        e: [r for r in FITS if r["entry"] == e] for e in dict.fromkeys(r["entry"] for r in FITS)
    },
    "modes": {"modes10": MODES},
}


def test_a_fit_is_right_if_every_mode_has_its_mass():
    assert [render.right(r) for r in MODES] == [True, True, False, False, False]


def test_bars_count_posteriors_and_fits_to_targets():
    found = render.bars(FITS, MODES)
    assert [measured.partition(" (")[0] for _, measured, _, _ in found] == [
        "3 of 5",
        "2 of 5",
        "2 of 5",
        "2 of 5",
        "2 of 5",
    ]
    assert [names for *_, names in found] == [
        ["c", "e"],
        ["modes10 2", "modes10 3", "modes10 4"],
        ["b", "c", "e"],
        ["b", "d", "e"],
        ["c", "d", "e"],
    ]
    assert [met for _, _, met, _ in found] == [False, False, None, None, None]
    assert [met for _, _, met, _ in render.bars(FITS[:1], MODES[:1])][:2] == [True, True]
    assert [met for _, _, met, _ in render.bars([], [])] == [None] * 5


def test_the_page_is_that_of_its_published_rows(tmp_path):
    made = STUDY.render(ROWS)
    (tmp_path / "pathfinder.json").write_text(made.files["pathfinder.json"])
    assert STUDY.render(STUDY.read(tmp_path)) == made
    assert "| `modes10` | 0.3 | 4 of 5 (80%, 28% to 99%) | 0.285 | 0.0033 | 0.0200 | 60 | 9 |" in (
        made.text
    )
    assert "| `a` | m 0.200, s 0.95 | m 0.010, s 1 | 0.30 | 5,000 | yes | ok | 1 | 700 | 80 |" in (
        made.text
    )
    assert "| `e` | failed | failed |  |  | no | init_failed |  | 700 | 80 | 0.2 |" in made.text
    assert "| history of 6 | 1 | 0 | 0.200 |" in made.text
    assert STUDY.render({}).text.startswith("# Pathfinder\n")


def test_rows_are_those_of_real_fits(monkeypatch):
    monkeypatch.setattr(measure, "DRAWS", 3000)
    rows = measure.rows_of("weibull_survival", (0,))
    assert [r["method"] for r in rows] == ["pathfinder", "history of 6", "all normals"]
    for row in rows:
        assert row["weighted_mean"] < 0.1
        assert 0.9 < row["weighted_sd"] < 1.1
        assert row["path"] < 300
        assert row["gradients"] < 12 * 300
        assert 100 < row["ess"] <= 3000


def test_modes_are_matched_to_normals_by_their_centers():
    row = measure.mode_row("modes10", 0)
    assert row["masses"] == pytest.approx([0.7, 0.3], abs=0.01)
    assert row["true"] == [0.7, 0.3]
    assert row["other"] == 0.0
    assert render.right(row)


def test_errors_are_in_reference_sds():
    values = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    center, width = np.array([0.0, 2.0]), np.array([4.0, 1.0])
    mean, sd = against_reference.worst(values, None, center, width)
    assert (mean, sd) == pytest.approx((0.5, (8 / 3) ** 0.5 / 4))
    mean, sd = against_reference.worst(values, np.array([0.0, 0.5, 0.5]), center, width)
    assert (mean, sd) == pytest.approx((0.75, 0.25))
    assert math.isfinite(mean)


@pytest.mark.parametrize("part", ["fits", "modes"])
@pytest.mark.parametrize("quick", [False, True])
def test_missing_entries_are_measured_and_kept(monkeypatch, tmp_path, part, quick):
    asked = []

    class Say:
        def say(self, text):
            pass

    def run_tasks(tasks, *, jobs, timeout, on_done):
        asked.extend(task.name for task in tasks)
        for task in tasks[:-1]:
            on_done(TaskResult(name=task.name, status="ok", value=[task.fn.args]))
        on_done(TaskResult(name=tasks[-1].name, status="error", error="broken"))

    monkeypatch.setattr(against_reference, "run_tasks", run_tasks)
    work = Work(quick=quick, jobs=1, out=tmp_path, progress=Say())
    rows = measure.measure(part, work)
    every = [n for n in zoo.names() if n.startswith("posteriordb/")]
    expected = [n for n in every if n in measure.QUICK] if quick else every
    if part == "modes":
        expected = list(measure.MODES)[: 2 if quick else None]
    assert asked == expected
    assert list(rows) == expected[:-1]  # the failed one is asked for again
    asked.clear()
    measure.measure(part, work)
    assert asked == expected[-1:]
