"""Advice knows the rows of its run: no method is advised that they reject, and none that failed.

`try full_rank` stood beside a rejected full-rank row, and `run NUTS on it` where NUTS had failed.
"""

import functools
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support import planting

import benchmarks
import guides
import zoo
from benchmarks.comparison.score import compare, failed
from benchmarks.comparison.sentences import advised
from benchmarks.reference.find import find
from benchmarks.run.execute import execute
from benchmarks.run.plan import make_plan
from guides.base.modes import climb
from zoo.errors import FitError


@functools.cache
def row(method, factor, seed=0, chains=False):
    """A row whose draws have `factor` times the sd of the reference."""
    generator = np.random.default_rng(seed)
    draws = factor * generator.standard_normal((2000, 1))
    truth = planting.reference(np.random.default_rng(1).standard_normal((4, 1000, 1)))
    found = compare(planting.guide(draws), truth, distances="none")
    entry = replace(
        found.posterior.entry, families=("mean_field", "full_rank", "low_rank", "laplace")
    )
    return replace(found, posterior=replace(found.posterior, method=method, entry=entry))


def sentence_of(method, rows):
    return next(c.sentence for c in advised(rows) if c.method == method)


def test_the_planted_rows_have_the_verdicts_the_advice_is_about():
    assert row("full_rank", 0.5).verdict == "too_narrow"
    assert row("nuts", 1.0, seed=3).verdict == "agrees"


@pytest.mark.parametrize(
    ("others", "ending"),
    [
        ([], "; try full_rank."),
        ([("full_rank", 1.0, 3)], "; use full_rank, which agrees here."),
        ([("low_rank", 0.5)], "; try full_rank."),
        # what full rank cannot reach, low rank, which it holds, cannot either
        ([("full_rank", 0.5)], "; try nuts."),
        ([("full_rank", 0.5), ("low_rank", 0.5)], "; try nuts."),
        (
            [("full_rank", 0.5), ("low_rank", 0.5), ("laplace", 1.0, 3)],
            "; use laplace, which agrees here.",
        ),
        (
            [("full_rank", 0.5), ("low_rank", 0.5), ("nuts", 0.5)],
            "; no method of this run agrees: reparameterize, or run more and longer chains.",
        ),
        # one seed agrees, another does not: the family is not advised
        ([("full_rank", 1.0, 3), ("full_rank", 0.5)], "; try nuts."),
    ],
)
def test_the_next_step_is_none_that_a_row_rejects(others, ending):
    rows = [row(*given) for given in (("mean_field", 0.5), *others)]
    assert sentence_of("mean_field", rows).endswith(ending)


@pytest.mark.usefixtures("brief", "undrawn")
def test_a_run_stores_and_shows_advice_that_its_rows_do_not_contradict(tmp_path):
    """All families are too narrow on these eight schools, and the stored reference is known."""
    plan = make_plan(
        entries=["eight_schools"],
        guides=["mean_field", "full_rank"],
        nuts=False,
        quick=True,
        compile="off",
    )
    result = execute(plan, out=tmp_path / "run", jobs=1)
    cells = {c["method"]: c for c in result.cells}
    assert {c["verdict"] for c in cells.values()} == {"too_narrow"}
    assert "try nuts" in cells["mean_field"]["sentence"]
    assert "full_rank" not in cells["mean_field"]["sentence"]
    again = execute(plan, out=tmp_path / "run", jobs=1)
    assert again.cells == result.cells
    assert "try full_rank" not in (tmp_path / "run" / "report.html").read_text()


def location(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    with pyro.plate("row", 5):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.usefixtures("eager", "brief", "undrawn")
def test_where_nuts_failed_nobody_is_told_to_run_it(monkeypatch):
    def fails(*args, **kwargs):
        raise FitError("planted: every chain left the support.")

    monkeypatch.setattr("benchmarks.run.methods.run_nuts", fails)
    data = {"y": torch.linspace(-1, 1, 5, dtype=torch.float64)}
    short = {"trust": False, "quick": True, "jobs": 1}
    card = benchmarks.compare_program(location, data, families=["laplace"], **short)
    reason = card.result.report.entries[0].reference.reason
    assert "NUTS failed on it: planted: every chain left" in reason
    assert "run NUTS on it" not in str(card)
    assert "run NUTS on it" not in card.comparisons["laplace"].sentence
    alone = find(zoo.from_program(location, data))  # where it was not run, it is the advice
    assert "run NUTS on it" in alone.reason


def no_mode(others):
    """A Laplace fit that found no mode, beside other rows of one entry."""
    posterior = others[0].posterior
    sentence = "No mode from 4 starts."
    return failed(posterior.entry, posterior.data, "laplace", None, "init_failed", sentence)


@pytest.mark.parametrize(
    ("others", "ending"),
    [
        ([("mean_field", 0.5)], "; try full_rank."),
        ([("full_rank", 1.0, 3)], "; use full_rank, which agrees here."),
        ([("full_rank", 0.5), ("nuts", 1.0, 3)], "; use nuts."),
        ([("full_rank", 0.5), ("mean_field", 1.0, 3)], "; use mean_field, which"),
        (
            [("full_rank", 0.5), ("nuts", 0.5)],
            "; no method of this run agrees: reparameterize, or run more and longer chains.",
        ),
    ],
)
def test_a_laplace_fit_without_a_mode_advises_no_rejected_family(others, ending):
    held = [row(*given) for given in others]
    rows = [*held, no_mode(held)]
    sentence = sentence_of("laplace", rows)
    assert ending in sentence
    if any(c.method == "full_rank" and c.verdict == "too_narrow" for c in held):
        assert "full_rank" not in sentence


def test_the_laplace_family_itself_names_no_other(monkeypatch):
    """Its own sentence is written before any other row is known."""
    short = functools.partial(climb, evaluations=200)  # the ramp has no end
    monkeypatch.setattr("guides.families.laplace.climb", short)

    def ramp():
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.factor("up", x)

    entry = zoo.from_program(ramp, {}, observed=())
    fit = guides.fit(entry, "laplace")
    assert fit.stop.status == "init_failed"
    assert not any(family in fit.stop.sentence for family in ("full_rank", "low_rank"))


def test_the_acceptance_rate_reaches_the_chains(tmp_path, monkeypatch):
    short = {"draws": 60, "tune": 60, "min_ess": 0.0}
    monkeypatch.setattr("benchmarks.run.prepare.QUICK_CHAINS", short)
    plan = make_plan(entries=["coin"], guides=["laplace"], quick=True, target_accept=0.99)
    result = execute(plan, out=tmp_path / "careful", jobs=1, pages=False)
    usual = execute(
        plan.model_copy(update={"target_accept": 0.8}), out=tmp_path / "usual", jobs=1, pages=False
    )

    def gradients(found):
        (cell,) = (c for c in found.cells if c["method"] == "nuts")
        return cell["cost"]["gradient_evaluations"]

    assert gradients(result) > 1.5 * gradients(usual)  # smaller steps, longer paths
