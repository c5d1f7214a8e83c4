"""Sentences of entries: the largest of several reasons orders the methods and decides."""

from dataclasses import replace

import numpy as np
import pytest
from support import report_factory

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
