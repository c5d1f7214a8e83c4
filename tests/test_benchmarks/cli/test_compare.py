"""`zoo report` of a run whose models are not executed: its stored rows."""

import pytest

from benchmarks.cli.compare import _print_stored, _stored_word

LINE = "mean_field is too narrow: b: sd is 0.41 +- 0.01 times the reference's."


def cell(method, verdict, status="ok", **fields):
    return {
        "entry": "line",
        "method": method,
        "seed": 0,
        "status": status,
        "verdict": verdict,
        "sentence": LINE,
        "mcmc": None,
        "stop": {"status": status},
        "reference": {"kind": "estimated"},
        **fields,
    }


def test_stored_rows_have_the_words_signs_and_order_of_the_report(capsys):
    rows = [
        cell("full_rank", "agrees", seed=1),
        cell("full_rank", "agrees"),
        cell("full_rank_reweighted", "fit_failed", "refused", reference=None),
        cell("mean_field", "too_narrow"),
        cell("smc", "no_reference"),
        cell("laplace", None),
    ]
    _print_stored(rows)
    shown = capsys.readouterr().out
    found = [line.split()[1:3] for line in shown.splitlines()[1:]]
    assert found == [
        ["mean_field", "0"],
        ["full_rank", "0"],
        ["full_rank", "1"],
        ["full_rank_reweighted", "0"],
        ["laplace", "0"],
        ["smc", "0"],
    ]
    assert "0.41 \u00b1 0.01 times" in shown
    for word in ("too narrow", "is the reference", "laplace"):
        assert word in shown
    assert shown.count("refused") == 2  # as status and as word
    assert not any(code in shown for code in ("too_narrow", "no_reference", "fit_failed", "+-"))


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (cell("flow", "fit_failed", "error"), "fit failed"),
        (cell("flow", "fit_failed", "error", stop={"status": "ok"}), "error"),  # not compared
        (cell("nuts", "fit_failed", "error", stop=None), "error"),
        (cell("nuts", "fit_failed", "not_converged", mcmc={}), "not converged"),
        (cell("nuts", "no_reference", reference=None), "no reference"),
        (cell("flow", None), ""),
    ],
)
def test_a_stored_row_has_the_word_of_the_report(row, word):
    assert _stored_word(row) == word
