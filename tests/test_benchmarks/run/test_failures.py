"""Which rows of a run count as failed: those without usable draws, and unusable references."""

import pytest

from benchmarks.run.failures import failures


def cell(status, verdict, sentence="a sentence", seed=0):
    return {
        "entry": "coin",
        "method": "laplace",
        "seed": seed,
        "status": status,
        "verdict": verdict,
        "sentence": sentence,
        "stop": {"sentence": "it stopped"},
    }


@pytest.mark.parametrize(
    ("status", "verdict", "fails"),
    [
        ("ok", "agrees", False),
        ("ok", "too_narrow", False),
        ("ok", "inconclusive", False),
        ("ok", "no_reference", False),
        ("not_converged", "shifted", False),
        ("ok", "fit_failed", True),  # draws that are not finite
        ("ok", None, True),  # a comparison that failed
        ("ok", "reference_unusable", True),
        ("nan", "fit_failed", True),
        ("killed", "fit_failed", True),
        ("unusable", "agrees", True),
    ],
)
def test_a_finding_is_no_failure_and_everything_unusable_is_one(status, verdict, fails):
    assert bool(failures([cell(status, verdict)])) == fails


def test_a_failure_names_its_row_and_the_reason():
    assert failures([cell("ok", "fit_failed", "draws are NaN", seed=3)]) == [
        "coin laplace seed 3: ok: draws are NaN"
    ]
    assert failures([cell("error", None, "")]) == ["coin laplace: error: it stopped"]
