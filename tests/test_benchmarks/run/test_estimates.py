"""Runs without a truth: a row of tempered SMC stands in for it, and every fit is assessed."""

import csv
import dataclasses
import hashlib
import json
import math
import shutil

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import multivariate_normal
from support.short_runs import short_fits, small_islands

import zoo
from benchmarks.comparison.assess import assess, assess_row
from benchmarks.comparison.sentences import advised
from benchmarks.mcmc.short_chains import nested_r_hat
from benchmarks.metrics.numbers import value_with_error
from benchmarks.report.components import make_view
from benchmarks.report.numbers import with_error
from benchmarks.run import estimates
from benchmarks.run.execute import execute
from benchmarks.run.plan import Plan, make_plan
from benchmarks.run.prepare import command, plan_cells, prepare
from benchmarks.run.progress import Events
from benchmarks.run.record import comparison_of, scored_cell
from benchmarks.run.results import score_rows
from benchmarks.trust.estimate import METHOD, estimated_reference
from zoo.errors import FitError, UsageError
from zoo.types import Reference

Y, SIGMA = (1.3, 0.4, 0.9), 0.5


def total(y):
    """Two unknown summands: y_i ~ Normal(a + b, 0.5), a and b ~ Normal(0, 1)."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a + b, SIGMA), obs=y)


def entry_of():
    return zoo.from_program(total, {"y": torch.tensor(Y)}, families=["mean_field", "laplace"])


class Said(Events):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.lines.append(text)


def plan_of(**fields):
    return make_plan(entries=["total"], nuts=False, compile="off", quick=True, **fields)


@pytest.fixture(scope="module", autouse=True)
def short():
    """Fits that settle in some hundred steps: the posteriors here are normal."""
    with pytest.MonkeyPatch.context() as patch:
        short_fits(patch, 500, 50)
        small_islands(patch)
        yield


@pytest.fixture(scope="module")
def done(short, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    result = execute(plan_of(), out=out, entries=[entry_of()], jobs=2)
    return out, result


def row(result, method):
    return next(c for c in result.cells if c["method"] == method)


def exact():
    """Posterior covariance of (a, b), mean, and log evidence, in closed form."""
    design = np.ones((3, 2))
    precision = np.eye(2) + design.T @ design / SIGMA**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ design.T @ np.array(Y) / SIGMA**2
    marginal = multivariate_normal(np.zeros(3), SIGMA**2 * np.eye(3) + design @ design.T)
    return covariance, mean, float(marginal.logpdf(Y))


def test_a_program_without_a_reference_ends_in_verdicts(done):
    _, result = done
    assert [c["method"] for c in result.cells] == ["mean_field", "laplace", METHOD]
    assert [r["kind"] for r in result.references.values()] == ["estimated"]
    assert row(result, "mean_field")["verdict"] == "too_narrow"
    assert row(result, "laplace")["verdict"] == "agrees"
    assert row(result, METHOD)["verdict"] == "no_reference"
    estimate = row(result, METHOD)
    assert "is the reference of the other rows" in estimate["sentence"]
    # a reason that the sentence has is not printed again
    assert all(r["sentence"] in estimate["sentence"] for r in estimate["reasons"])
    assert result.failures == []


def test_its_scores_are_those_of_the_closed_form(done):
    covariance, _, _ = exact()
    _, result = done
    truth = math.sqrt(1 / np.linalg.inv(covariance)[0, 0] / covariance[0, 0])
    for score in row(result, "mean_field")["scores"]:
        assert abs(score["sd_ratio"] - truth) < 4 * score["sd_ratio_se"] + 0.02
        assert abs(score["mean_error"]) < 4 * score["mean_error_se"] + 0.05


def test_the_evidence_and_the_nats_are_those_of_the_closed_form(done):
    covariance, _, evidence = exact()
    _, result = done
    cell = row(result, "mean_field")
    found = cell["log_evidence"]
    assert found["exact"] is None
    assert abs(found["estimate"] - evidence) < 5 * found["estimate_se"] + 0.01
    shown = next(c for c in result.report.entries[0].comparisons if c.method == "mean_field")
    kl = 0.5 * math.log(np.linalg.det(covariance) * np.prod(np.diag(np.linalg.inv(covariance))))
    assert abs(shown.lost[0] - kl) < 5 * shown.lost[1] + 0.02
    assert "(estimated)" in cell["sentence"]
    assert "nats below the log evidence" in cell["sentence"]
    assert cell["sentence"].endswith("use laplace, which agrees here.")


def test_the_steps_of_the_protocol_are_checks_of_the_row(done):
    _, result = done
    checks = {t["name"]: t["passed"] for t in row(result, "mean_field")["trust"]}
    assert checks["drift"] is False
    assert checks["climbs"] is True
    assert checks["smc"] is True
    assert all(
        passed
        for name, passed in ((t["name"], t["passed"]) for t in row(result, "laplace")["trust"])
        if name != "restarts"
    )


def test_pages_and_tables_hold_the_estimated_scores(done):
    out, _ = done
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "is the reference" in page
    assert "nats lost" in page
    rows = list(csv.DictReader((out / "results.csv").read_text(encoding="utf-8").splitlines()))
    assert {r["method"] for r in rows if r["sd_ratio"]} == {"mean_field", "laplace"}


def test_what_is_read_has_value_and_error_in_their_places(done):
    out, result = done
    page = (out / "report.html").read_text(encoding="utf-8")
    truth = result.report.entries[0].reference
    shown = next(c for c in result.report.entries[0].comparisons if c.method == "mean_field")
    nats, se = shown.lost
    assert nats > 5 * se
    assert f"{value_with_error(nats, se)} nats below the log evidence" in shown.sentence
    assert with_error(nats, se) in page
    assert f"{with_error(truth.log_evidence, truth.log_evidence_se)} nats by SMC" in page
    (record,) = result.references.values()
    assert record["log_evidence"] == pytest.approx(exact()[2], abs=0.1)
    assert 0 < record["log_evidence_se"] < 0.1


def test_densities_of_a_thousand_rows_are_not_too_large():
    plan = Plan(entries=("logistic_regression",), guides=("mean_field",), nuts=False, repair=True)
    made = prepare(plan, "logistic_regression")
    assert made.methods == ("mean_field", METHOD)
    assert made.remark == ""


def test_a_second_run_computes_nothing(done, tmp_path):
    out, result = done
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    said = Said()
    again = execute(plan_of(), out=copy, entries=[entry_of()], events=said)
    assert "every cell is complete already" in said.lines
    assert json.dumps(again.cells) == json.dumps(result.cells)
    assert again.report.entries[0].reference.kind == "estimated"


def test_other_guides_to_begin_from_are_another_row(done):
    cells = {}
    for families in (["mean_field"], ["mean_field", "laplace"]):
        prepared = prepare(plan_of(guides=families), entry_of())
        cells[len(families)] = plan_cells(plan_of(guides=families), [prepared])[-1]
    assert {c.method for c in cells.values()} == {METHOD}
    assert cells[1].key != cells[2].key


def test_a_row_in_doubt_is_no_truth_and_nothing_agrees(done):
    """The islands' doubt reaches every row: findings of the chains stay, agreement does not."""
    _, result = done
    report = result.report.entries[0]
    smc = report.reference.posterior
    doubted = dataclasses.replace(smc, doubt="The islands of SMC lie 3.0 nats apart.")
    truth = estimated_reference(doubted, proper=True)
    assert not truth.usable
    assert truth.log_evidence is None
    right = report.comparisons[1]
    found = assess(right.fit, draws=right.posterior, smc=truth)
    assert (right.method, found.verdict) == ("laplace", "inconclusive")
    assert "3.0 nats apart" in next(k.sentence for k in found.checks if k.name == "smc")
    rows = [assess_row(c.posterior, c.fit, truth) for c in report.comparisons[:2]]
    assert {c.method: c.verdict for c in rows} == {
        "mean_field": "too_narrow",
        "laplace": "inconclusive",
    }
    for c in rows:
        assert "3.0 nats apart" in next(k.sentence for k in c.trust if k.name == "smc")
    for c, held in zip(rows, report.comparisons, strict=False):
        assert (c.reference, held.compared_with) == (truth, "")
        assert c.compared_with == "short chains begun at its own draws"
    assert "too narrow (estimated by short chains begun at its own draws): " in rows[0].sentence
    (again,) = [c for c in advised(rows) if c.method == "mean_field"]
    assert "(estimated by short chains begun at its own draws)" in again.sentence
    # what is in doubt stands in no column and no curve of the truth; its row has its own
    doubtful = dataclasses.replace(report, reference=truth, comparisons=tuple(rows))
    assert make_view(report).reference
    assert not make_view(doubtful).reference
    kept = scored_cell(result.cells[0], rows[0])
    assert comparison_of(kept, rows[0].posterior, truth).compared_with == rows[0].compared_with
    table = score_rows([kept, scored_cell(result.cells[1], report.comparisons[1])])
    assert {r["truth"] for r in table} == {rows[0].compared_with, "estimated"}


def test_repair_adds_a_row_beside_a_known_truth(tmp_path):
    plan = Plan(
        entries=("correlated_gaussian[d=2,rho=0.9]",),
        guides=("mean_field",),
        nuts=False,
        compile="off",
        repair=True,
        quick=True,
    )
    assert command(plan).endswith("--no-nuts --quick --repair")
    result = execute(plan, out=tmp_path / "run", pages=False)
    assert [r["kind"] for r in result.references.values()] == ["analytic"]
    assert row(result, "mean_field")["verdict"] == "too_narrow"
    smc = row(result, METHOD)
    assert smc["verdict"] == "agrees"
    assert smc["mcmc"] is None  # islands are no chains
    for score in smc["scores"]:
        assert abs(score["mean_error"]) < 4 * score["mean_error_se"]
        assert abs(math.log(score["sd_ratio"])) < 4 * score["sd_ratio_se"]
        assert score["mean_error_se"] < 0.05


def test_a_known_truth_needs_no_row_of_smc():
    plan = Plan(entries=("eight_schools",), guides=("mean_field",), nuts=False)
    assert prepare(plan, "eight_schools").methods == ("mean_field",)


@pytest.mark.parametrize(
    ("limit", "value", "part", "methods"),
    [
        (
            "SMC_DIMENSIONS",
            1,
            "(2 coordinates, at most 1); short chains stand in for it",
            ["laplace", "short_chains"],
        ),
        (
            "SMC_NUMBERS",
            10,
            "numbers in one evaluation of the density, at most 10); fits are assessed by chains",
            ["laplace"],
        ),
    ],
)
def test_what_is_too_large_for_smc_is_said(limit, value, part, methods, monkeypatch, tmp_path):
    monkeypatch.setattr(f"benchmarks.run.prepare.{limit}", value)
    # a loaded machine would forecast that chains take longer
    monkeypatch.setattr("benchmarks.comparison.assess.ROW_SECONDS", 1e6)
    said = Said()
    plan = plan_of(guides=["laplace"])
    result = execute(plan, out=tmp_path / "r", entries=[entry_of()], events=said, pages=False)
    assert [c["method"] for c in result.cells] == methods
    (line,) = [text for text in said.lines if "no row of tempered SMC" in text]
    assert part in line
    cell = row(result, "laplace")
    assert cell["verdict"] == "inconclusive"
    assert "a missed mode would not be seen" in cell["sentence"]
    own = "" if "short_chains" in methods else "short chains begun at its own draws"
    assert cell["compared_with"] == own
    passed = {t["name"]: t["passed"] for t in cell["trust"]}
    assert passed["drift"] is passed["short_chains"] is True
    for score in cell["scores"]:  # against the ends of the chains, whose posterior is the guide's
        assert abs(score["mean_error"]) < 5 * score["mean_error_se"]
        assert 0.0 < score["mean_error_se"] < 0.05
    found = result.report.entries[0].reference
    assert found.kind == ("estimated" if "short_chains" in methods else "none")
    if found.posterior is not None:
        assert found.posterior.method == "short_chains"
        assert found.posterior.sample_shape == (4096,)
        assert found.log_evidence is None
        group = found.posterior.stats["group"]  # kept in the file: nested R-hat can be computed
        values = found.posterior.draws["a"].reshape(32, 128, 1).numpy()
        assert group.reshape(32, 128).float().std(1).max() == 0
        assert (nested_r_hat(values) < 1.02).all()
        row_of = next(c for c in result.report.entries[0].comparisons if c.method == methods[1])
        note = next(n for n in row_of.posterior.notes if "groups" in n)
        worst = max(
            nested_r_hat(
                q.fn(found.posterior.draws, found.posterior.data)
                .double()
                .reshape(32, 128, -1)
                .numpy()
            ).max()
            for q in found.posterior.entry.quantities.values()
            if q.judged
        )
        assert note.startswith("32 groups of 128 chains, ")
        assert f"nested R-hat {worst:.3f}," in note


def test_the_name_of_a_folder_is_that_of_earlier_versions():
    """Fields that came later are in the digest only where they are not the default."""
    fields = plan_of().model_dump(mode="json")
    for name in ("repair", "reweight", "trust", "target_accept"):
        del fields[name]
    old = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    assert plan_of().digest() == old
    assert plan_of(repair=True).digest() != old
    assert plan_of(trust=False).digest() != old
    assert plan_of(target_accept=0.9).digest() != old


def test_without_a_guide_that_has_a_spread_there_is_no_row():
    with pytest.raises(FitError, match="begins from a guide with a spread, and this run has none"):
        estimates.estimated(METHOD, [], {"compile": "off"}, seed=0)


def test_only_what_smc_made_is_taken_for_it(done):
    _, result = done
    fit = result.report.entries[0].comparisons[0].fit
    reference = Reference(kind="none", posterior=None)
    with pytest.raises(UsageError, match="accepted: True, False, or a reference made by tempered"):
        assess(fit, smc=reference)
