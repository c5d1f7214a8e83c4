"""The table of evidences: rows, page, and what is stored of them."""

import json
from pathlib import Path

from benchmarks.studies.evidence import measure
from benchmarks.studies.evidence.render import package, page
from benchmarks.studies.evidence.study import STUDY
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
