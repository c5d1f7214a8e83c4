"""Which rows of a run count as failed: those without usable draws, and unusable references."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import benchmarks
from benchmarks.report import render_table
from benchmarks.run import evaluate
from benchmarks.run.execute import execute
from benchmarks.run.failures import failures
from benchmarks.run.plan import make_plan
from benchmarks.run.read import read_run


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
    # the sentence of a fit that went well would say nothing of it
    (said,) = failures([cell("ok", None, "")])
    assert said.startswith("coin laplace: ok: it has not been compared; repeat")


def test_rows_without_a_usable_reference_are_named_once_and_not_why():
    """The reason is a warning already: it was printed again for every row."""
    why = "the chains disagree: R-hat is 1.2"
    cells = [cell("ok", "reference_unusable", why, seed=seed) for seed in (0, 1)]
    assert failures(cells) == [
        "coin: laplace, laplace seed 1 cannot be judged, for the reference is unusable"
    ]


def test_why_a_reference_is_unusable_is_said_once(capsys):
    """Chains of a narrow funnel fail; what was found before and after a look at them was said."""

    def funnel(y):
        v = pyro.sample("v", dist.Normal(0.0, 3.0))
        with pyro.plate("unit", 9):
            x = pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))
        pyro.sample("y", dist.Normal(x.sum(-1), 10.0), obs=y)

    data = {"y": torch.tensor(0.3)}
    benchmarks.compare_program(funnel, data, families=["laplace"], quick=True, jobs=1)
    said = capsys.readouterr().err.splitlines()
    assert sum("zoo: warning: my_model: " in line for line in said) == 1, said


def test_a_comparison_that_fails_is_a_row_with_its_reason_and_runs_again(tmp_path, monkeypatch):
    """It was missing in the table, and the reason given was the sentence of the fit."""
    plan = make_plan(entries=["coin"], guides=["laplace"], nuts=False, quick=True, compile="off")

    def fails(*sides):
        raise TypeError("no such field.")

    monkeypatch.setattr(evaluate, "compare_cell", fails)
    result = execute(plan, out=tmp_path / "run", jobs=1)
    (content,) = result.cells
    why = "comparing its draws with the reference failed: TypeError: no such field"
    assert content["sentence"] == f"laplace has draws but no scores: {why}."
    assert (content["status"], content["verdict"]) == ("error", "fit_failed")
    assert result.failures == [f"coin laplace: error: {content['sentence']}"]
    table = render_table(result.report)
    assert "Nothing was compared" not in table
    (row,) = [line.split() for line in table.splitlines() if "laplace" in line.split()[1:2]]
    assert row[:3] == ["coin", "laplace", "error"]
    for page in ("report.md", "report.html"):
        assert why in (tmp_path / "run" / page).read_text(encoding="utf-8")
    again = read_run(tmp_path / "run")
    assert [c.sentence for c in again.report.entries[0].comparisons] == [content["sentence"]]
    monkeypatch.undo()
    (content,) = execute(plan, out=tmp_path / "run", jobs=1).cells
    assert (content["status"], content["verdict"]) == ("ok", "agrees")
