"""Rows of the study of evidences: what is left out, what a row has, and what is kept."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.studies.evidence import measure as study
from benchmarks.studies.evidence.measure import evidence_row, measure
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from benchmarks.workers import TaskResult
from zoo.errors import FitError


@pytest.fixture
def parts(monkeypatch):
    """An entry, its density and its fits, all of which a test may change."""
    made = SimpleNamespace(
        entry=SimpleNamespace(
            key="mine",
            learns=False,
            reference_of=None,
            dtype=torch.float64,
            load_data=lambda: "data",
            program=lambda data: "program",
            exact=lambda data: None,
        ),
        density=SimpleNamespace(
            dim=study.SMC_DIMENSIONS,
            compile=lambda mode, expected_calls, expected_points: made.calls.append(
                (mode, expected_calls, expected_points)
            ),
            work=lambda: SimpleNamespace(numbers=study.NUMBERS),
            gradient_evaluations=11,
        ),
        flat=False,
        ok={"laplace", "mean_field", "full_rank"},
        calls=[],
        found=SimpleNamespace(
            doubt="",
            evidence=SimpleNamespace(value=-1.5, se=0.1, low=-1.7, high=-1.3, islands=[0] * 16),
            posterior=SimpleNamespace(
                cost=SimpleNamespace(seconds=3.0), doubt="", stats={"moved": torch.tensor([False])}
            ),
        ),
        error=None,
    )

    def fit(entry, family, *, seed, data):
        made.calls.append((family, seed, data))
        elbo = SimpleNamespace(value_nats=-2.0) if family == "laplace" else None
        return SimpleNamespace(family=family, ok=family in made.ok, elbo=elbo)

    def estimate(fit, density, *, islands, seed):
        made.calls.append((islands, seed))
        if made.error is not None:
            raise made.error
        return made.found, "draws"

    monkeypatch.setattr(study.zoo, "load", lambda name: made.entry)
    monkeypatch.setattr(study, "LogDensity", lambda program, data, dtype: made.density)
    monkeypatch.setattr(study, "flat_sites", lambda density: made.flat)
    monkeypatch.setattr(study.guides, "fit", fit)
    monkeypatch.setattr(study, "estimate_from", estimate)
    monkeypatch.setattr(study, "fingerprint", lambda density, points: ("print", points))
    monkeypatch.setattr(study.stored, "points", lambda key, density: key)
    return made


def test_a_row_has_the_estimate_and_what_it_is_compared_with(parts):
    parts.entry.exact = lambda data: SimpleNamespace(log_evidence=-1.4)
    assert evidence_row("mine", seed=5) == {
        "status": "ok",
        "why": "",
        "dimensions": study.SMC_DIMENSIONS,
        "family": "laplace",
        "value": -1.5,
        "se": 0.1,
        "low": -1.7,
        "high": -1.3,
        "islands": 16,
        "exact": -1.4,
        "elbo": -2.0,
        "gradients": 11,
        "seconds": 3.0,
        "fingerprint": ("print", "mine"),
    }
    assert parts.calls == [("auto", 10**6, 10**6), ("laplace", 5, "data"), (2 * study.ISLANDS, 5)]


def test_the_first_family_that_can_be_fitted_is_the_start(parts):
    parts.ok = {"full_rank"}
    row = evidence_row("mine")
    assert (row["family"], row["elbo"], row["exact"]) == ("full_rank", None, None)
    assert [c[0] for c in parts.calls[1:4]] == ["laplace", "mean_field", "full_rank"]
    parts.ok = {"mean_field", "full_rank"}
    assert evidence_row("mine")["family"] == "mean_field"
    parts.ok = set()
    assert evidence_row("mine") == {
        "status": "left out",
        "why": "no guide to begin from could be fitted",
    }


def test_an_evidence_of_points_that_were_moved_on_is_in_doubt(parts):
    parts.found.posterior.stats["moved"] = torch.tensor([False, True])
    row = evidence_row("mine")
    assert (row["status"], row["why"]) == ("in doubt", study.MOVED)


def test_a_doubt_and_a_failure_are_kept_as_such(parts):
    parts.found.doubt = "the islands differ"
    row = evidence_row("mine")
    assert (row["status"], row["why"], row["value"]) == ("in doubt", "the islands differ", -1.5)
    parts.error = FitError("It failed.\nSee above.")
    assert evidence_row("mine") == {
        "status": "in doubt",
        "why": "It failed. See above",
        "dimensions": study.SMC_DIMENSIONS,
    }


@pytest.mark.parametrize(
    ("place", "name", "value", "why"),
    [
        (
            "entry",
            "learns",
            True,
            "its weights are trained, so the evidence is that of each training",
        ),
        ("entry", "reference_of", "other", "another form of other, with the same evidence"),
        (
            "density",
            "dim",
            study.SMC_DIMENSIONS + 1,
            f"{study.SMC_DIMENSIONS + 1} coordinates, at most {study.SMC_DIMENSIONS}",
        ),
        ("", "flat", True, "an improper prior: there is no evidence"),
        (
            "density",
            "work",
            lambda: SimpleNamespace(numbers=60_001),
            "60,001 numbers in one evaluation of the density, at most 60,000",
        ),
    ],
)
def test_what_is_left_out_says_why_and_fits_nothing(parts, place, name, value, why):
    setattr(getattr(parts, place) if place else parts, name, value)
    assert evidence_row("mine") == {"status": "left out", "why": why}
    assert parts.calls == []


class Say:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.mark.parametrize(
    ("quick", "names"), [(True, ["coin", "linear_regression"]), (False, "abc")]
)
def test_missing_rows_are_measured_kept_and_said(monkeypatch, tmp_path, quick, names):
    names, asked = list(names), []

    def run(tasks, *, jobs, timeout, on_done):
        asked.append(([t.name for t in tasks], jobs, timeout))
        for i, task in enumerate(tasks):
            assert task.fn.args == (task.name,)
            value = {"status": "ok", "value": 1.0, "se": 0.25, "why": ""}
            if i == 1:
                on_done(TaskResult(name=task.name, status="timeout", error="too long"))
            else:
                on_done(TaskResult(name=task.name, status="ok", value=value))

    monkeypatch.setattr(study, "run_tasks", run)
    monkeypatch.setattr(study.zoo, "names", lambda: names)
    kept = Kept(tmp_path / "rows.json")
    kept.put("left over", 1)
    if not quick:
        kept.put("a", {"status": "left out", "why": "known"})
    given = Work(quick=quick, jobs=3, out=tmp_path, progress=Say())
    rows = measure("all", given)
    assert list(rows) == names
    todo = names if quick else ["b", "c"]
    assert asked == [(todo, 3, 1200.0)]
    assert rows[todo[1]] == {"status": "timeout", "why": "too long"}
    assert rows[todo[0]]["value"] == 1.0
    assert given.progress.lines == [f"{todo[0]}: 1.000 +- 0.250", f"{todo[1]}: too long"]
    assert kept.rows["left over"] == 1
