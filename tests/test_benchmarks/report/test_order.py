"""One order and one word for a row in every table, and families that stay together."""

import dataclasses

import numpy as np
import pytest
from support import report_factory

from benchmarks.report import overview
from benchmarks.report.blocks import parts
from benchmarks.report.components import make_view
from benchmarks.report.html import _blocks
from benchmarks.report.inputs import ReportInput
from benchmarks.report.sections import estimates, findings
from benchmarks.report.terminal import table
from benchmarks.report.theme import in_order
from benchmarks.report.words import headline, row_word
from benchmarks.types import Reason


def renamed(comparison, method, seed=0, **changes):
    posterior = dataclasses.replace(comparison.posterior, method=method, seed=seed)
    return dataclasses.replace(comparison, posterior=posterior, **changes)


@pytest.fixture(scope="module")
def entry():
    """Rows by seed, as a run has them: NUTS first and families apart."""
    made = report_factory.gaussian(np.random.default_rng(7))
    row = next(c for c in made.comparisons if c.method == "mean_field")
    order = ("nuts", "mean_field", "laplace", "mean_field_reweighted")
    rows = [renamed(row, method, seed) for seed in (0, 1) for method in order]
    return dataclasses.replace(made, comparisons=tuple(rows))


def test_grid_sections_and_terminal_have_one_order(entry):
    families = ["mean_field", "mean_field_reweighted", "laplace", "nuts"]
    order = [f"{method} s{seed}" for method in families for seed in (0, 1)]
    run = ReportInput(entries=[entry], meta={})
    assert overview.columns(run) == order
    assert list(overview.cells(entry)) == list(make_view(entry).names) == order
    assert list(make_view(entry).by_name) == order
    assert [v["name"] for v in findings.verdicts_of(make_view(entry))] == order
    lines = findings.markdown(entry).replace("\\", "").splitlines()
    assert [line.split("**")[1] for line in lines] == order
    shown = [m for block in _blocks(run, order) for m in block["methods"]]
    assert shown == order
    text = table(run, 120, color=False)
    assert sorted(order, key=text.index) == order
    assert in_order(reversed(families)) == families


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        ([], [0]),
        (list("abcdefg"), [4, 3]),
        ([f"flow s{i}" for i in range(8)], [6, 2]),
        (["a s0", "a s1", "b s0", "b s1", "c s0", "c s1", "d s0", "d s1"], [4, 4]),
        (["flow", "flow_reweighted", "a s0", "a s1", "a s2", "a s3", "b", "c"], [6, 2]),
    ],
)
def test_a_family_is_in_one_part_of_a_table(names, sizes):
    found = parts(names)
    assert [len(p) for p in found] == sizes
    assert [i for p in found for i in p] == list(range(len(names)))


def test_the_word_of_a_row_knows_refusals_references_and_chains():
    known = {"drawn": True, "chains": False, "reference": True}
    assert row_word("flow_reweighted", "fit_failed", "refused", **known) == "refused"
    assert row_word("flow", "fit_failed", "error", **known) == "error"
    assert row_word("flow", "fit_failed", "error", **{**known, "drawn": False}) == "fit failed"
    assert row_word("nuts", "fit_failed", "ok", **{**known, "chains": True}) == "not converged"
    for method in ("nuts", "smc", "short_chains"):
        assert row_word(method, "no_reference", "ok", **known) == "is the reference"
        assert row_word(method, "no_reference", "ok", **{**known, "reference": False}) == (
            "no reference"
        )
    assert row_word("flow", "too_narrow", "ok", **known) == "too narrow"


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (
            "x cannot be reweighted: k-hat 0.79 (at most 0.50), and of 8,000",
            "k-hat 0.79, at most 0.50",
        ),
        (
            "x: k-hat 0.45 (at most 0.50), and of 8,000 draws, worth 200, 100 are left"
            " (at least 200).",
            "100 draws left, at least 200",
        ),
        ("There is no usable fit of x to reweight; see the row x.", "no usable fit"),
        ("x: its weights are products over 40 rows (at most 16)", "too many rows"),
        ("x: 9,000 coordinates are too many for joint weights", "too many coordinates"),
        ("x: weights of its 16,000 draws are not finite.", "weights not finite"),
        ("x: A point, no spread, in z", "a point"),
        ("another", ""),
    ],
)
def test_the_cell_of_a_refused_row_says_why(entry, reason, shown):
    why = Reason(verdict="fit_failed", label="", excess=float("nan"), sentence=reason)
    row = entry.comparisons[0]
    refused = dataclasses.replace(row, verdict="fit_failed", status="refused", reasons=(why,))
    assert headline(refused) == ("", shown)


def test_a_quantity_described_by_its_own_name_has_the_name_once():
    made = report_factory.unknown(np.random.default_rng(7))
    label = estimates.estimates(make_view(made))[1][0].label
    (name, *_) = made.entry.quantities
    for description, about in ((label, ""), ("the level", "the level")):
        quantity = dataclasses.replace(made.entry.quantities[name], description=description)
        known = {**made.entry.quantities, name: quantity}
        entry = dataclasses.replace(made.entry, quantities=known)
        row = estimates.estimates(make_view(dataclasses.replace(made, entry=entry)))[1][0]
        assert (row.label, row.about) == (label, about)


def test_long_names_break_beside_their_badge(entry):
    (row, *_) = entry.comparisons
    long = dataclasses.replace(entry, comparisons=(renamed(row, "batch_and_match_reweighted"),))
    page = str(findings.html(make_view(long)))
    assert "<b>batch_<wbr>and_<wbr>match_<wbr>reweighted<wbr></b>" in page


def test_the_terminal_says_once_that_there_is_no_reference():
    why = "No reference is known for coin on these data; run NUTS on it."
    made = report_factory.unknown(np.random.default_rng(7))
    reason = Reason(verdict="no_reference", label="", excess=0.0, sentence=why)
    reference = dataclasses.replace(made.reference, reason=why)
    rows = tuple(
        dataclasses.replace(c, reasons=(reason,), reference=reference, trust=())
        for c in made.comparisons
    )
    entry = dataclasses.replace(made, comparisons=rows, reference=reference, sentence="")
    text = " ".join(table(ReportInput(entries=[entry], meta={}), 120, color=False).split())
    assert text.count("No reference is known") == 1
