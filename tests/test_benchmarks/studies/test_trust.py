"""The study of trust: what its rows measure, and what its page counts."""

import math

import pytest

from benchmarks.studies.trust import measure, render


def row(**fields):
    """A fit that is good by the reference, agrees, and is repaired."""
    good = {
        "status": "ok",
        "entry": "coin",
        "family": "laplace",
        "seed": 0,
        "gate": 0,
        "verdict": "agrees",
        "sentence": "laplace agrees.",
        "k_hat": 0.2,
        "held": 9,
        "looks": 10,
        "seconds": 2.0,
        "fit_seconds": 1.0,
    }
    for kind in ("true", "estimated", "repaired"):
        good |= {f"{kind}_mean": 0.01, f"{kind}_log_sd": 0.01}
    return good | fields


def cells(page, criterion):
    line = next(text for text in page.splitlines() if criterion in text)
    return [c.strip() for c in line.strip("|").split("|")]


def test_the_page_counts_bad_and_good_fits():
    bad = {"true_mean": 0.5, "estimated_mean": 0.5, "gate": 1}
    rows = {
        "a": row(**bad),
        "b": row(**{**bad, "gate": 4}, entry="banana", sentence="open.", k_hat=0.9),
        "c": row(),
        "d": row(gate=1, sentence="a false alarm."),
        "e": row(true_mean=0.15, estimated_mean=0.4, repaired_mean=0.2),  # neither bad nor good
        "f": {"status": "left out", "why": "300 coordinates"},
    }
    page = render.page({"fits": rows})
    assert cells(page, "bad fits flagged")[2].startswith("1 of 2 (50%, ")
    assert cells(page, "k-hat above")[2].startswith("1 of 2")
    assert cells(page, "false alarms on good fits")[2].startswith("1 of 2")
    assert cells(page, "good fits called")[2].startswith("1 of 2")
    assert cells(page, "estimated worst errors")[2].startswith("4 of 5")
    assert cells(page, "repaired draws")[2].startswith("4 of 5")
    assert cells(page, "repaired draws")[3] == "**no**"
    assert "90.0% of 50" in cells(page, "90 % intervals")[2]
    assert "banana `laplace` seed 0: worst mean error 0.50 sd" in page
    assert "a false alarm." in " ".join(page.split())
    assert "| left out: 300 coordinates | 1 |" in page


def test_intervals_are_exact():
    """Clopper and Pearson: with 0 of 10 the upper end is 1 - 0.025^(1/10)."""
    high = 1 - 0.025**0.1
    assert render._count(0, 10) == f"0 of 10 (0%, 0% to {high:.0%})"
    assert render._count(10, 10) == f"10 of 10 (100%, {1 - high:.0%} to 100%)"


def test_an_evidence_must_hold_both_its_error_and_the_line():
    kept = {"status": "ok", "islands": 16, "exact": 0.0, "pilot": 0.3}
    rows = {
        "near": kept | {"value": 0.01, "error": 0.01, "se": 0.01},
        "far": kept | {"value": 0.2, "error": 0.2, "se": 0.2},
        "sure": kept | {"value": 0.05, "error": 0.05, "se": 0.001},
    }
    page = render.page({"evidence": rows})
    assert cells(page, "log evidence within")[2].startswith("1 of 3")
    assert "| far | 0.000 | 0.200 +- 0.200 | +0.200 | +0.300 |" in page


def test_exact_draws_are_counted_over_entries():
    rows = {
        name: {"status": "ok", "seeds": 100, "found": 0, "rejected": n}
        for name, n in (("a", 4), ("b", 6))
    }
    page = render.page({"exact_draws": rows})
    assert cells(page, "the test of no drift")[2].startswith("10 of 200 (5%, ")
    assert cells(page, "drift is a finding")[2].startswith("0 of 200")


def test_a_row_of_a_fit_knows_its_true_error():
    """Mean field on a correlated normal (rho 0.9): sds are sqrt(1 - rho^2) = 0.436 of those."""
    found = measure.fit_row("correlated_gaussian", "mean_field", 0)
    truth = -0.5 * math.log(1 - 0.9**2)
    assert found["true_log_sd"] == pytest.approx(truth, abs=0.1)
    assert found["estimated_log_sd"] == pytest.approx(truth, abs=0.1)
    assert found["repaired_log_sd"] < 0.08
    assert found["gate"] == 1
    assert found["looks"] == 2 * found["dimensions"]
    assert found["kl"][0] == pytest.approx(truth, abs=0.1)


def test_what_cannot_be_judged_is_left_out_with_its_reason():
    found = measure.fit_row("vae", "amortized", 0)
    assert found["status"] == "left out"
    assert "trained" in found["why"]


def test_an_evidence_row_is_the_closed_form():
    found = measure.evidence_row("coin", "laplace")
    assert abs(found["error"]) < 5 * found["se"] + 0.01
    assert found["islands"] == 16
