"""The table of evidences: rows, page, and what is stored of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import zoo
from benchmarks.mcmc.tempered_smc import ISLANDS
from benchmarks.studies.evidence import measure
from benchmarks.studies.evidence.render import package, page
from benchmarks.studies.evidence.study import STUDY
from zoo.errors import FitError
from zoo.truth import evidence

ROW = {
    "status": "ok",
    "why": "",
    "dimensions": 3,
    "family": "laplace",
    "value": -10.02,
    "se": 0.01,
    "low": -10.05,
    "high": -9.99,
    "islands": 16,
    "exact": -10.0,
    "elbo": -10.5,
    "gradients": 5,
    "seconds": 1.0,
    "fingerprint": [-1.0, -2.0, -3.0],
}


def test_a_row_that_cannot_be_measured_says_why():
    assert "its weights are trained" in measure.evidence_row("vae")["why"]
    assert "another form of eight_schools" in measure.evidence_row("eight_schools_centered")["why"]
    assert "1020 coordinates, at most 150" in measure.evidence_row("item_response")["why"]


def test_the_page_shows_value_error_and_distance_from_the_exact_one():
    far = {**ROW, "exact": -10.2}  # 18 errors, and over a tenth of a nat
    unknown = {**ROW, "exact": None, "value": -5.0}
    doubt = {**ROW, "status": "in doubt", "why": "The islands of SMC lie 3.0 nats apart."}
    out = {"status": "left out", "why": "200 coordinates, at most 150"}
    rows = {"table": {"a": ROW, "b": far, "c": unknown, "d": doubt, "e": out}}
    text = page(rows)
    flowing = text.replace("\n", " ")
    assert "1 of 2 exact values are met" in flowing
    assert "The largest error is 0.180 nats." in flowing
    assert "| a | 3 | -10.020 ± 0.010 | -10.000 | -2.0 | laplace |" in text
    assert "| c | 3 | -5.000 ± 0.010 |  |  | laplace |" in text
    assert "| d | 3 | -10.020 ± 0.010 (in doubt) |" in text
    assert "* d: The islands of SMC lie 3.0 nats apart." in text
    assert "* e: 200 coordinates, at most 150." in text
    assert set(package(rows)) == {"a", "b", "c"}
    assert set(package(rows)["a"]) == {"value", "se", "exact", "islands", "fingerprint"}


def test_the_stored_file_is_that_of_the_published_rows():
    rows = STUDY.read(Path("docs/results"))
    stored = json.loads(evidence.FILE.read_text(encoding="utf-8"))
    assert stored == json.loads(STUDY.render(rows).package["zoo/references/evidence.json"])


@pytest.mark.usefixtures("eager")
def test_a_row_is_left_out_by_its_size_and_in_doubt_without_an_estimate(monkeypatch):
    asked = []

    def fails(fit, density, *, islands, seed):
        asked.append((fit.family, islands, seed))
        raise FitError("planted: no way to the posterior.")

    monkeypatch.setattr(measure, "estimate_from", fails)
    found = measure.evidence_row("coin", seed=5)
    assert found == {
        "status": "in doubt",
        "why": "planted: no way to the posterior",
        "dimensions": 1,
    }
    assert asked == [(measure.STARTS[0], 2 * ISLANDS, 5)]
    monkeypatch.setattr(measure, "_first_fit", lambda *given: None)
    assert measure.evidence_row("coin")["why"] == "no guide to begin from could be fitted"
    monkeypatch.setattr(measure, "NUMBERS", 3)
    why = measure.evidence_row("coin")["why"]
    assert "numbers in one evaluation of the density, at most 3" in why


def test_the_first_fit_that_is_usable_begins(monkeypatch):
    entry, tried = zoo.load("coin"), []

    def fit(entry, family, seed, data):
        tried.append(family)
        return SimpleNamespace(ok=len(tried) == 2, family=family)

    monkeypatch.setattr(measure.guides, "fit", fit)
    found = measure._first_fit(entry, entry.load_data(), 0)
    assert tried == list(measure.STARTS[:2])
    assert found.family == measure.STARTS[1]
    monkeypatch.setattr(measure.guides, "fit", lambda *a, **k: SimpleNamespace(ok=False))
    assert measure._first_fit(entry, entry.load_data(), 0) is None
