"""Sentences of entries: the largest of several reasons orders the methods and decides."""

from dataclasses import replace

import numpy as np
import pytest
from support import report_factory

from benchmarks.comparison import sentences
from benchmarks.comparison.sentences import entry_sentence
from benchmarks.types import Reason


@pytest.fixture(scope="module")
def rows():
    entry = report_factory.gaussian(np.random.default_rng(7))
    return {c.method: c for c in entry.comparisons}


def found(row, *excesses):
    """Return the row with one reason per excess, the first of which names its verdict."""
    reasons = tuple(
        Reason(verdict=word, label="z[Choate]", excess=excess, sentence=f"it is {word}.")
        for word, excess in zip(("too_narrow", "shifted"), excesses, strict=False)
    )
    return replace(row, verdict=reasons[0].verdict, reasons=reasons)


def test_the_larger_of_two_reasons_decides_whether_to_avoid(rows):
    bad = found(rows["mean_field"], 4.0, 1.2)
    mild = found(rows["mean_field"], 1.9, 1.2)
    assert "do not use mean_field" in entry_sentence([bad])
    assert "do not use" not in entry_sentence([mild])


@pytest.mark.parametrize("swapped", [False, True])
def test_the_larger_of_two_reasons_orders_the_methods(rows, swapped):
    first, second = ("low_rank", "mean_field") if swapped else ("mean_field", "low_rank")
    worse = found(rows[first], 2.8, 1.1)
    better = found(rows[second], 1.9, 1.8)
    text = entry_sentence([better, worse])
    assert text.index(first) < text.index(second)


def test_what_many_rows_do_is_said_in_the_plural():
    assert sentences._number("is refused", 1) == "is refused"
    assert sentences._number("is refused", 2) == "are refused"
    assert sentences._number("has no reference", 2) == "have no reference"
    assert sentences._number("failed (No start)", 2) == "failed (No start)"
    named = ["b s10", "a s1", "a s0", "c", "b s2"]
    assert sentences._rows(named, {"a s1": "1 divergence", "c": "2 divergences"}) == (
        "b s2 and s10, a s0 and s1 (1 divergence) and c (2 divergences)"
    )


def test_one_missing_reference_is_said_once_with_its_cure(rows):
    why = Reason(
        verdict="no_reference", label="", excess=0.0, sentence="None is known; run NUTS on it."
    )
    found = [
        replace(
            rows[method],
            verdict="no_reference",
            reasons=(why,),
            reference=replace(rows[method].reference, posterior=None),
        )
        for method in ("low_rank", "mean_field")
    ]
    told = "low_rank and mean_field have no reference (None is known; run NUTS on it)."
    assert entry_sentence(found).endswith(f": {told}")
