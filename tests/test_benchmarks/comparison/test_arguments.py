"""A fit of something else, and records in each other's place, are refused in one sentence."""

from dataclasses import replace

import pytest
import torch

import benchmarks
import guides
import zoo
from zoo.errors import UsageError

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def fit(eager):
    return guides.fit(zoo.load("coin"), "laplace", progress=False)


@pytest.fixture(scope="module")
def posterior(fit):
    return guides.draw(fit, 200)


def test_a_fit_that_the_draws_are_not_from_is_refused(fit, posterior):
    """Its ELBO and its convergence stood in a row that said `agrees`."""
    cure = r"; accepted: the fit that was drawn from, as in posterior = guides.draw\(fit\)\.$"
    other = guides.fit(zoo.load("funnel"), "laplace", progress=False)
    rows = replace(fit.data, train={k: torch.zeros_like(v) for k, v in fit.data.train.items()})
    same = replace(fit.data, train={k: v.clone() for k, v in fit.data.train.items()})
    for wrong, words in (
        (other, "draws of coin and a fit of funnel"),
        (replace(fit, data=rows), "draws of coin and a fit to other data"),
        (replace(fit, family="mean_field"), "draws of laplace and a fit of mean_field"),
        (replace(fit, seed=3), "draws of seed 0 and a fit of seed 3"),
    ):
        with pytest.raises(UsageError, match=f"^compare got {words}{cure}"):
            benchmarks.compare(posterior, "certified", fit=wrong)
    for right in (fit, replace(fit, data=same)):
        assert benchmarks.compare(posterior, "certified", fit=right).fit is right


def test_records_in_each_others_place_are_named_with_what_is_accepted(fit, posterior, tmp_path):
    """They were AttributeErrors from deep inside."""
    draws = "accepted: draws, from guides.draw"
    entry, density = fit.entry, fit.density
    calls = {
        "compare got posterior=Fit(": lambda: benchmarks.compare(fit, "certified"),
        "compare got posterior=": lambda: benchmarks.compare(entry, "stored"),
        "compare got posterior=a Tensor of shape": lambda: benchmarks.compare(torch.ones(3), None),
        "diagnose got posterior=Fit(": lambda: benchmarks.diagnose(fit),
        "to_arviz got posterior=Fit(": lambda: benchmarks.to_arviz(fit),
        "to_arviz got posterior='x' (str)": lambda: benchmarks.to_arviz("x"),
    }
    others = {
        "compare got fit=Posterior(": (
            lambda: benchmarks.compare(posterior, "certified", fit=posterior),
            "a fit, from guides.fit",
        ),
        "compare got distances='some'": (
            lambda: benchmarks.compare(posterior, None, distances="some"),
            "all, if_needed, none",
        ),
        "compare got log_density=Fit(": (
            lambda: benchmarks.compare(posterior, None, log_density=fit),
            "zoo.LogDensity(program, data)",
        ),
        "entry_sentence got comparisons=Posterior(": (
            lambda: benchmarks.entry_sentence(posterior),
            "a list of comparisons, from benchmarks.compare",
        ),
        "results_frame got path=3": (lambda: benchmarks.results_frame(3), "the folder of a run"),
        "run_nuts got data=": (
            lambda: benchmarks.run_nuts(entry, data={"x": 1}),
            "data of the entry",
        ),
        "run_nuts got init=Posterior(": (
            lambda: benchmarks.run_nuts(entry, init=posterior),
            "a fit, from guides.fit",
        ),
        "gap_report got fit=Posterior(": (lambda: benchmarks.gap_report(posterior), "a fit"),
        "repair got fit=Posterior(": (lambda: benchmarks.repair(posterior), "a fit"),
        "reweight got fit=Posterior(": (lambda: benchmarks.reweight(posterior), "a fit"),
        "assess got fit=Posterior(": (lambda: benchmarks.assess(posterior), "a fit"),
        "guides.draw got fit=": (lambda: guides.draw(entry), "a fit"),
        "guides.elbo got fit=Posterior(": (lambda: guides.elbo(posterior), "a fit"),
        "guides.elbo got n='x'": (lambda: guides.elbo(fit, "x"), "an integer of at least 1"),
        "guides.transfer got fit=": (lambda: guides.transfer(entry, fit.data), "a fit"),
        "guides.save got fit=": (lambda: guides.save(entry, tmp_path / "fit.pt"), "a fit"),
        "guides.family_of got entry=": (
            lambda: guides.family_of("laplace", fit),
            "an entry, such as",
        ),
        "guides.build got data=": (
            lambda: guides.build("laplace", fit.program, entry, entry),
            "data of the entry",
        ),
        "zoo.LogDensity got program=": (lambda: zoo.LogDensity(entry, fit.data), "a function"),
        "zoo.LogDensity got data=": (
            lambda: zoo.LogDensity(fit.program, entry),
            "data of the entry",
        ),
        "zoo.finite_sum got data=": (
            lambda: zoo.finite_sum(fit.program, entry),
            "data of the entry",
        ),
    }
    assert density is not None
    for got, call in calls.items():
        said(call, got, draws)
    for got, (call, accepted) in others.items():
        said(call, got, f"accepted: {accepted}")


def said(call, got, accepted):
    """Assert the one sentence of a call that is refused."""
    with pytest.raises(UsageError) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(got), text
    assert accepted in text, text


@pytest.mark.parametrize("wrong", ["x", 3, [1]])
def test_a_sentence_needs_comparisons(wrong):
    with pytest.raises(UsageError, match=r"^entry_sentence got comparisons="):
        benchmarks.entry_sentence(wrong)
    assert benchmarks.entry_sentence([]) == "Nothing was compared."
