"""Rows of reweighted draws in a run: beside their family, kept, resumed, refused by name."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from support import report_factory
from support.short_runs import short_fits

from benchmarks.comparison.sentences import advised, comparison_sentence, entry_sentence
from benchmarks.report import overview
from benchmarks.report.theme import marks
from benchmarks.report.words import glossary
from benchmarks.run import reweighted as runs
from benchmarks.run import sources
from benchmarks.run.execute import execute
from benchmarks.run.failures import failures
from benchmarks.run.plan import Plan, make_plan
from benchmarks.run.prepare import command, plan_cells, prepare
from benchmarks.run.progress import Events
from benchmarks.types import Reason, base_of, reweighted_name
from zoo.errors import FitError, command_line

RUN = {"nuts": False, "quick": True, "compile": "off", "reweight": True}
MODEL = "correlated_gaussian[d=2,rho=0.95]"  # a mean field of 0.31 times the width


@pytest.fixture(scope="module", autouse=True)
def short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_BACKEND", "eager")
        short_fits(patch, 500, 50)
        yield


def plan_of(*families, **fields):
    return make_plan(entries=[MODEL], guides=list(families), **{**RUN, **fields})


@pytest.fixture(scope="module")
def done(short, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, execute(plan_of("mean_field", "laplace"), out=out, jobs=1)


def row(result, method):
    return next(c for c in result.cells if c["method"] == method)


def test_every_family_has_a_reweighted_row_beside_it(done):
    _, result = done
    methods = ["mean_field", "mean_field_reweighted", "laplace", "laplace_reweighted"]
    assert [c["method"] for c in result.cells] == methods
    assert overview.columns(result.report) == methods
    assert row(result, "laplace_reweighted")["verdict"] == "agrees"
    assert row(result, "laplace_reweighted")["elbo"] is None
    notes = row(result, "laplace_reweighted")["notes"]
    assert notes[0].startswith("2,000 of 8,000 draws of laplace, each at most once")


def test_weights_that_do_not_allow_it_are_a_row_with_the_reason_and_no_failure(done):
    out, result = done
    cell = row(result, "mean_field_reweighted")
    assert (cell["status"], cell["verdict"]) == ("refused", "fit_failed")
    assert "cannot be reweighted: k-hat " in cell["sentence"]
    assert result.failures == []
    shown = overview.cells(result.report.entries[0])["mean_field_reweighted"]
    assert shown.word == "refused"
    assert shown.number.startswith("k-hat ")
    assert shown.number.endswith(", at most 0.50")
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "**refused**" in page
    assert "mean\\_field\\_reweighted is refused (k-hat " in page
    assert "do not use mean\\_field_reweighted" not in page


def test_a_second_run_computes_nothing_and_the_row_can_be_added_later(done, tmp_path):
    out, result = done
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    said = []
    events = Events()
    events.say = said.append
    again = execute(plan_of("mean_field", "laplace"), out=copy, events=events)
    assert "every cell is complete already" in said
    assert json.dumps(again.cells) == json.dumps(result.cells)
    first = tmp_path / "first"
    execute(plan_of("laplace", reweight=False), out=first, jobs=1)
    both = execute(plan_of("laplace"), out=first, events=events, jobs=1)
    assert "1 of 2 cells to run, 1 is complete already; about 5 seconds with 1 job" in said
    assert row(both, "laplace_reweighted")["scores"] == row(result, "laplace_reweighted")["scores"]


def cell_of(*families, **fields):
    plan = plan_of(*families, **fields)
    cells = plan_cells(plan, [prepare(plan, MODEL)])
    return next(c for c in cells if c.method == "laplace_reweighted")


def test_the_key_has_the_fit_the_draws_and_the_code(monkeypatch):
    cell = cell_of("laplace")
    assert [c.method for c in cell.starts] == ["laplace"]
    assert cell_of("mean_field", "laplace").key == cell.key
    assert cell_of("laplace", restarts=2).key != cell.key
    assert cell_of("laplace", quick=False).key != cell.key
    assert cell_of("laplace", seeds=[3]).key != cell.key
    files = {p.relative_to(sources.ROOT).as_posix() for p in sources.code_files("reweight")}
    for name in ("comparison/reweight.py", "metrics/resample.py", "metrics/weights.py"):
        assert f"benchmarks/{name}" in files
    keys = []
    for code in ("one", "another"):
        made = lambda part, code=code: code if part == "reweight" else "same"  # noqa: E731
        monkeypatch.setattr("benchmarks.run.cell.code_digest", made)
        keys.append(dataclasses.replace(cell).key)
    assert keys[0] != keys[1]


def test_the_plan_and_its_command_name_it():
    plan = plan_of("laplace")
    assert command(plan).endswith("--no-nuts --quick --reweight")
    assert plan.digest() != plan_of("laplace", reweight=False).digest()
    assert plan_of("laplace", reweight=False).extended(plan).reweight
    given = Plan(entries=("mine",), guides=("laplace",), reweight=True)
    assert command(given) == "benchmarks.compare_program(model, data, ['laplace'], reweight=True)"


def test_a_fit_that_failed_leaves_nothing_to_reweight():
    with pytest.raises(
        FitError, match="no usable fit of laplace to reweight; see the row laplace"
    ):
        runs.from_fit(None, "laplace", {"compile": "off"}, draws=10, seed=0)


def test_only_rows_that_were_refused_are_no_failure():
    cell = {"entry": "coin", "method": "laplace_reweighted", "seed": 0, "verdict": "fit_failed"}
    assert failures([{**cell, "status": "refused", "sentence": "why"}]) == []
    assert failures([{**cell, "status": "error", "sentence": "why"}]) != []


def test_names_go_back_and_forth():
    assert base_of(reweighted_name("laplace")) == "laplace"
    assert base_of("nuts") == "nuts"


def test_a_reweighted_row_has_the_color_of_its_family_and_another_marker():
    found = marks(["laplace", "laplace_reweighted", "mine", "mine_reweighted", "nuts"])
    for family in ("laplace", "mine"):
        raw, new = found[family], found[f"{family}_reweighted"]
        assert raw.color == new.color
        assert raw.marker != new.marker
        assert raw.dash != new.dash
    assert marks(["laplace_reweighted"])["laplace_reweighted"] == found["laplace_reweighted"]


def rows_of():
    """A mean field that is too narrow, and reweighted draws of it that agree or not."""
    made = report_factory.gaussian(np.random.default_rng(7))
    found = {c.method: c for c in made.comparisons}
    bad = Reason(verdict="too_narrow", label="z[Choate]", excess=4.0, sentence="it is narrow.")
    raw = dataclasses.replace(found["mean_field"], verdict="too_narrow", reasons=(bad,))
    name = dataclasses.replace(raw.posterior, method="mean_field_reweighted")
    return raw, dataclasses.replace(raw, posterior=name)


def test_advice_is_the_reweighted_row_only_where_it_agrees():
    raw, bad = rows_of()
    good = dataclasses.replace(bad, verdict="agrees", reasons=())
    assert advised([raw, good])[0].sentence.endswith(
        "use mean_field_reweighted, which agrees here."
    )
    assert "prefer mean_field_reweighted" in entry_sentence([raw, good])
    for sentence in (c.sentence for c in advised([raw, bad])):
        assert "use mean_field_reweighted" not in sentence
    # the next step of reweighted draws is that of their family
    ends = {c.sentence.rpartition(";")[2] for c in advised([raw, bad])}
    assert len(ends) == 1


def test_a_refused_row_is_named_with_its_figures_and_never_first():
    raw, bad = rows_of()
    sentence = "mean_field on x cannot be reweighted: k-hat 0.93 (at most 0.70)."
    reason = Reason(verdict="fit_failed", label="", excess=float("nan"), sentence=sentence)
    refused = dataclasses.replace(
        bad, status="refused", verdict="fit_failed", reasons=(reason,), sentence=sentence
    )
    text = entry_sentence([refused, raw])
    assert "mean_field_reweighted is refused (k-hat 0.93 (at most 0.70))" in text
    assert text.index("do not use mean_field (") < text.index("is refused")
    assert advised([refused, raw])[0].sentence == f"{sentence[:-1]}; try full_rank."
    good = dataclasses.replace(raw, verdict="agrees", reasons=())
    assert "prefer" not in entry_sentence([refused, good])  # nothing is wrong


def refusals(*others, rejected="too_narrow", **fields):
    """Return a refused row of a mean field, that mean field, and other rows by their verdicts."""
    raw, bad = rows_of()
    said = "mean_field on x cannot be reweighted: k-hat 0.93 (at most 0.50), of 9 draws."
    reason = Reason(verdict="fit_failed", label="", excess=float("nan"), sentence=said)
    entry = dataclasses.replace(raw.posterior.entry, families=("mean_field",))
    failed = {"status": "refused", "verdict": "fit_failed", "reasons": (reason,)}
    rows = [dataclasses.replace(bad, **failed), dataclasses.replace(raw, verdict=rejected)]
    for method, verdict in others:
        posterior = dataclasses.replace(raw.posterior, method=method)
        rows.append(dataclasses.replace(raw, posterior=posterior, verdict=verdict))
    return [
        dataclasses.replace(c, posterior=dataclasses.replace(c.posterior, entry=entry, **fields))
        for c in rows
    ]


@pytest.mark.parametrize(
    ("others", "step"),
    [
        ([], "add a row of tempered SMC by repair=True"),
        ([("full_rank", "agrees")], "use full_rank, which agrees here"),
        ([("full_rank_reweighted", "agrees")], "use full_rank_reweighted, which agrees here"),
        ([("smc", "agrees")], "use smc, which agrees here"),
        ([("smc", "no_reference")], "use the draws of smc"),  # it is the reference
        ([("nuts", "agrees")], "use nuts"),
    ],
)
def test_a_refused_row_has_the_next_step_that_its_run_allows(others, step):
    sentence = advised(refusals(*others))[0].sentence
    assert sentence.endswith(f"k-hat 0.93 (at most 0.50), of 9 draws; {step}.")


def test_a_refused_row_of_a_family_that_agrees_says_so():
    rows = refusals(("full_rank", "agrees"), rejected="agrees")
    assert advised(rows)[0].sentence.endswith("; mean_field agrees as it is.")
    with command_line():
        assert advised(refusals())[0].sentence.endswith("; add a row of tempered SMC by --repair.")


def test_advice_that_an_earlier_version_stored_with_the_reason_is_left_out():
    rows = refusals(("full_rank", "agrees"))
    (reason,) = rows[0].reasons
    said = (
        f"{reason.sentence[:-1]}; fit a richer family, or add a row of tempered SMC by --repair."
    )
    old = dataclasses.replace(rows[0], reasons=(dataclasses.replace(reason, sentence=said),))
    assert advised([old, *rows[1:]])[0].sentence == advised(rows)[0].sentence
    assert advised([old, *rows[1:]])[0].reasons == (reason,)


def test_refused_rows_are_counted_and_the_step_comes_first():
    rows = [*refusals(("full_rank", "agrees")), *refusals(("full_rank", "agrees"), seed=1)]
    text = entry_sentence(rows).partition(": ")[2]
    assert text.startswith("prefer full_rank; do not use mean_field s0 and s1 (worst: ")
    assert "; 2 reweighted rows are refused; full_rank s0 and s1 agree with" in text
    assert text.count("refused") == 1


def test_the_reason_of_a_refused_row_gives_no_advice():
    """Advice of a row is that of its run; only a caller of `reweight` has no other row."""
    fit = SimpleNamespace(ok=True, points=("z",), family="map", entry=SimpleNamespace(key="coin"))
    with pytest.raises(FitError) as error:
        runs.from_fit(fit, "map", {"compile": "off"}, draws=10, seed=0)
    assert "no weights, and its ELBO is no bound." in str(error.value)
    assert "laplace" not in str(error.value)


def test_the_glossary_says_what_a_reweighted_row_is(done):
    out, _ = done
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "chosen by their Pareto-smoothed importance weights" in page
    raw, _ = rows_of()
    assert "reweighted" not in dict(glossary([raw]))


def test_agreement_with_an_estimate_says_what_nobody_saw():
    text = comparison_sentence("laplace_reweighted", "agrees", (), kind="estimated")
    assert text.endswith("; a mode that no particle reached cannot be seen.")
    assert "particle" not in comparison_sentence("laplace_reweighted", "agrees", (), kind="stored")


def test_a_model_in_python_has_the_row_too():
    import pyro
    import pyro.distributions as dist
    import torch

    import benchmarks

    def level(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    card = benchmarks.compare_program(
        level,
        {"y": torch.tensor([0.3, 1.1])},
        ["laplace"],
        nuts=False,
        trust=False,
        reweight=True,
        quick=True,
        progress=False,
        jobs=1,
    )
    assert list(card.verdicts) == ["laplace", "laplace_reweighted"]
