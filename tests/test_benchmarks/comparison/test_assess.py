"""Assessments without a truth, on posteriors whose truth is known in closed form."""

import dataclasses
import functools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import benchmarks
import guides
import zoo
from benchmarks.comparison.assess import assess
from benchmarks.comparison.assess_steps import _affordable
from benchmarks.comparison.assessment import Nats
from benchmarks.mcmc.settle import settle
from benchmarks.studies.trust.hard_targets import TARGETS
from benchmarks.trust.judged import Judged
from guides.types import Elbo
from tests.cases.test_far_mode import Y
from tests.cases.test_far_mode import model as far_model
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UsageError
from zoo.types import Quantity

pytestmark = pytest.mark.usefixtures("eager")
RHO = 0.9
SMALL = {"islands": 4, "particles": 256, "draws": 1024}
SETTLED = {"steps": 600, "patience": 50, "anneal": 200}


def fitted(family):
    entry = zoo.load("correlated_gaussian", d=2, rho=RHO)
    return guides.fit(entry, family, seed=0, compile="off", **SETTLED)


@pytest.fixture(scope="module")
def narrow():
    """Mean field on a correlated normal: sds sqrt(1 - rho^2) of the right ones."""
    fit = fitted("mean_field")
    return fit, assess(fit, **SMALL)


@pytest.fixture(scope="module")
def right():
    fit = fitted("laplace")  # exact here
    return fit, assess(fit, islands=8, particles=512, draws=2048)


def checks(found):
    return {c.name: c.passed for c in found.checks}


def test_mean_field_is_too_narrow_by_the_known_factor(narrow):
    _, found = narrow
    assert found.verdict == "too_narrow"
    score = found.comparison.worst()
    truth = math.sqrt(1 - RHO**2)
    assert abs(score.sd_ratio - truth) < 4 * score.sd_ratio_se + 0.01
    assert checks(found)["drift"] is False
    assert checks(found)["self_check"] is False
    assert found.gate == 1
    assert found.sentence.startswith("mean_field is too narrow (estimated): x[")


def test_lost_nats_are_those_of_the_closed_form(narrow, right):
    """KL(mean field, normal) = -1/2 log(1 - rho^2) = 0.830 nats; of the exact family 0."""
    _, found = narrow
    assert abs(found.kl.value + 0.5 * math.log(1 - RHO**2)) < 4 * found.kl.se + 0.02
    assert found.kl.se < 0.1
    assert not found.kl.bound
    assert abs(right[1].kl.value) < 4 * right[1].kl.se + 0.02


def test_the_right_family_agrees(right):
    _, found = right
    assert found.verdict == "agrees"
    assert found.gate == 0
    assert all(v for name, v in checks(found).items() if name != "restarts")
    assert found.comparison.reference.kind == "estimated"


def test_repaired_draws_are_those_of_the_posterior(narrow):
    _, found = narrow
    x = found.repaired.draws["x"]
    assert found.repaired.method == "smc"
    assert found.repaired.sample_dims == ("sample",)
    correlation = float(torch.corrcoef(x.T)[0, 1])
    assert abs(correlation - RHO) < 0.03
    assert (x.std(0) - 1).abs().max() < 0.1
    assert x.mean(0).abs().max() < 0.15


def test_a_missed_mode_is_found_and_repaired():
    """The guide sits on a mode of mass e^-110; the posterior has mean 30.003 and sd 0.0533."""
    entry = zoo.from_program(far_model, {"y": Y})
    fit = guides.fit(entry, "full_rank", seed=0, compile="off", **SETTLED)
    assert abs(float(guides.draw(fit, 500).draws["mu"].mean()) - 0.56) < 0.1
    found = assess(fit, **SMALL)
    assert found.verdict == "shifted"
    assert checks(found)["climbs"] is False
    assert checks(found)["drift"] is True  # chains never leave the mode they start in
    assert abs(found.kl.value - 109.83) < 0.3
    mu = found.repaired.draws["mu"]
    assert abs(float(mu.mean()) - 30.003) < 0.01
    assert abs(float(mu.std()) - 0.0533) < 0.005


def test_a_bound_above_the_evidence_is_an_alarm(right):
    """As a mask or a plate's scale that differs between model and guide makes it."""
    fit, _ = right
    high = dataclasses.replace(fit, elbo=Elbo(value_nats=2.0, se=0.01, draws=4000))
    found = assess(high, **SMALL)
    assert checks(found)["bound"] is False
    assert found.verdict == "inconclusive"
    assert "2.0" in next(c.sentence for c in found.checks if c.name == "bound")


def test_without_smc_nothing_agrees_and_a_finding_stays(narrow, right):
    for (fit, _), verdict in ((narrow, "too_narrow"), (right, "inconclusive")):
        found = assess(fit, smc=False, draws=1024)
        assert found.verdict == verdict
        assert found.estimate is None
        assert found.kl is None
        assert found.repaired.method == "short_chains"
    assert found.gate == 4
    assert "a missed mode would not be seen" in found.sentence


def test_few_draws_are_inconclusive_and_say_how_many(right):
    found = assess(right[0], draws=200, islands=4, particles=128)
    assert found.verdict == "inconclusive"
    assert "agreement needs about" in found.sentence
    assert found.next.startswith("More draws settle it")


def test_a_budget_that_is_spent_leaves_smc_out(right):
    found = assess(right[0], budget=1e-6, draws=1024)
    assert checks(found)["smc"] is None
    assert checks(found)["drift"] is None
    assert all("0 s of the budget are left" in c.sentence for c in found.checks[-2:])
    assert found.gate == 4


def test_a_point_is_never_trusted():
    from pyro.infer.autoguide import AutoDelta

    entry = zoo.load("correlated_gaussian", d=2, rho=RHO)
    entry = dataclasses.replace(
        entry, own_guides={"point": lambda program, data, entry: AutoDelta(program)}
    )
    fit = guides.fit(entry, "point", seed=0, compile="off", **SETTLED)
    found = assess(fit, **SMALL)
    assert found.gate == 1
    assert found.verdict == "too_narrow"
    assert "A point, no spread" in found.sentence
    assert found.kl is None
    assert found.drift is None
    assert checks(found)["spread"] is False


def test_json_is_strict_and_whole(narrow):
    document = narrow[1].to_json()
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again["verdict"] == "too_narrow"
    assert again["estimated"] is True
    assert again["kl_nats"]["bound"] is False
    assert {c["name"] for c in again["checks"]} >= {"climbs", "drift", "smc", "self_check"}
    assert again["cost"]["gradient_evaluations"] == narrow[1].gradients > 0
    assert again["worst_log_sd_ratio"]["value"] == pytest.approx(
        0.5 * math.log(1 - RHO**2), abs=0.1
    )


def test_a_second_seed_says_the_same(narrow):
    again = assess(narrow[0], seed=5, **SMALL)
    assert again.verdict == narrow[1].verdict
    assert again.evidence.islands != narrow[1].evidence.islands


def test_nats_below_zero_are_printed_as_none():
    assert Nats(value=-0.01, se=0.02).sentence == "0.00 +- 0.02 nats below the log evidence"
    assert Nats(value=3.0, se=0.1, bound=True).sentence.startswith("at least 3.00 +- 0.10 nats")


def test_points_that_miss_a_narrow_place_are_not_called_settled(monkeypatch):
    """The neck of the centered schools: islands agree with each other, and all of them miss it.

    Chains from their points know their starts for long; 16 transitions are not enough.
    """
    monkeypatch.setattr("benchmarks.trust.estimate.prior_part", lambda *_: None)
    monkeypatch.setattr("benchmarks.trust.estimate.settle", functools.partial(settle, most=16))
    monkeypatch.delenv("ZOO_BACKEND")  # thousands of steps: compiled, as in `test_repair`
    entry = zoo.load("eight_schools_centered")
    fit = guides.fit(entry, "mean_field", seed=0, compile="off", steps=150)
    found = assess(fit, islands=4, particles=128, draws=512, seed=2)
    assert found.gate == 1  # the guide is wrong, that is seen
    assert checks(found)["smc"] is None
    assert "know their starts" in next(c.sentence for c in found.checks if c.name == "smc")
    assert "short_chains" not in checks(found)  # those of SMC have better starts
    assert found.kl.bound
    assert found.repaired.method == "smc"
    assert "not settled" in found.repaired.doubt
    assert "(estimated by chains from the points of SMC, which have not settled)" in found.sentence


def test_a_narrow_place_is_reached_from_the_prior(monkeypatch):
    """The same schools: log Z is -31.28 +- 0.01 by the stored evidence, without the neck -31.5."""
    monkeypatch.delenv("ZOO_BACKEND")
    entry = zoo.load("eight_schools_centered")
    fit = guides.fit(entry, "mean_field", seed=0, compile="off", steps=150)
    found = assess(fit, islands=4, draws=512)
    assert checks(found)["smc"] is True
    evidence = found.estimate.evidence
    assert abs(evidence.value + 31.284) < 4 * evidence.se + 0.02
    assert evidence.se < 0.06
    assert found.reference.log_evidence == evidence.value
    assert not found.estimate.moved_on
    assert found.reference.posterior.notes[0].startswith("Begun from the prior as well")
    said = next(c.sentence for c in found.checks if c.name == "smc")
    assert said.endswith(" nats by 4 islands of SMC, begun from the prior as well.")
    tau = found.reference.moments["log_tau"]
    assert abs(float(tau.mean) - 0.778) < 0.15  # of the stored reference; without the neck 1.2
    assert float(tau.sd) == pytest.approx(1.189, rel=0.15)


def test_points_that_chains_moved_on_are_used_without_their_evidence(monkeypatch):
    """A curved ridge, y = 3 x^2 + N(0, 0.3): sds sqrt(1) and sqrt(18.09), log Z is 0."""
    monkeypatch.setattr("benchmarks.trust.estimate.prior_part", lambda *_: None)
    target = TARGETS["banana"]
    fit = guides.fit(target.entry("banana"), "mean_field", seed=0, compile="off", steps=300)
    found = assess(fit, islands=4, particles=256, draws=512)
    assert checks(found)["smc"] is True
    assert found.estimate.moved_on
    assert found.estimate.smc.points.shape == (4, 128, 2)
    x, y = (found.reference.posterior.draws[name].double() for name in ("x", "y"))
    assert x.std().item() == pytest.approx(1.0, rel=0.15)
    assert y.std().item() == pytest.approx(math.sqrt(18.09), rel=0.25)
    said = next(c.sentence for c in found.checks if c.name == "smc")
    known = found.reference.log_evidence is not None
    assert known == (found.kl is not None) == ("is not known" not in said)


@pytest.mark.parametrize(
    ("left", "chains"),
    [
        (0.0, 0),
        (10.0, 18),  # 0.7 of 10 s are 7,000 gradients: 18 chains with 36 pilot chains
        (200.0, 677),  # 140,000, of which the pilot takes 74,240
        (500.0, 2048),
        (math.inf, 2048),
    ],
)
def test_as_many_chains_are_moved_as_the_budget_allows(left, chains):
    work = SimpleNamespace(left=left)
    assert _affordable(work, 2048, 0.001) == chains
    assert _affordable(work, 2048, 0.0) == 2048


def test_a_small_budget_moves_fewer_chains(narrow, monkeypatch):
    """A third of the chains, evenly from all draws, find the same error."""
    monkeypatch.setattr("benchmarks.comparison.assess_steps._affordable", lambda *a: 300)
    found = assess(narrow[0], seed=3, smc=False, draws=1024)
    assert found.drift.chains == 300
    i = int(np.argmax(found.drift.excess))
    assert found.drift.log_sd_ratio[i] == pytest.approx(0.5 * math.log(1 - RHO**2), abs=0.25)
    monkeypatch.setattr("benchmarks.comparison.assess_steps._affordable", lambda *a: 199)
    found = assess(narrow[0], seed=3, smc=False, draws=1024, budget=60.0)
    assert found.drift is None
    assert checks(found)["drift"] is None


def test_no_chain_stands_in_for_a_mode_elsewhere(monkeypatch):
    """Modes 10 sds apart: where SMC fails, chains from the guide would miss the far one."""

    def fails(*args, **options):
        raise FitError("The path does not end.")

    monkeypatch.setattr("benchmarks.comparison.assess_steps.estimate", fails)
    target = TARGETS["modes10"]
    fit = guides.fit(target.entry("modes10"), "mean_field", seed=0, compile="off", steps=300)
    found = assess(fit, draws=512)
    assert found.verdict == "wrong_shape"
    assert "short_chains" not in checks(found)
    assert found.repaired.doubt == "No chain began in a mode that climbs found elsewhere."


def with_constant(entry):
    """A judged quantity that is one by definition."""
    one = Quantity(fn=lambda draws, data: torch.ones_like(draws["x"][..., 0]))
    return dataclasses.replace(entry, quantities={**entry.quantities, "one": one})


def test_a_quantity_that_is_constant_raises_nothing(right):
    fit = dataclasses.replace(right[0], entry=with_constant(right[0].entry))
    found = assess(fit, draws=2048, islands=8, particles=256)
    assert found.verdict == "agrees"
    constant = [c.label for c in judged_of(found)].index("one")
    assert found.drift.excess[constant] == 0.0


def judged_of(found):
    density = LogDensity(found.fit.program, found.fit.data)
    return Judged(density, found.fit.entry, found.fit.data).components


def test_without_a_judged_quantity_there_is_nothing_to_assess(right):
    entry = right[0].entry
    hidden = {k: dataclasses.replace(q, judged=False) for k, q in entry.quantities.items()}
    fit = dataclasses.replace(right[0], entry=dataclasses.replace(entry, quantities=hidden))
    with pytest.raises(UsageError, match="has no judged quantity; mark one with judged=True"):
        assess(fit, **SMALL)


def test_an_unusable_answer_is_not_called_untrusted(narrow):
    unusable = dataclasses.replace(narrow[1], verdict="reference_unusable")
    assert unusable.gate == 4


def test_errors_of_few_islands_are_widened(narrow):
    """With four islands 1.645 errors hold 90 % where they are 2.353 / 1.645 times as wide."""
    _, found = narrow
    values = found.estimate.smc.points[..., :2]
    mean, se = found.estimate.smc.mean(values)
    moments = found.comparison.reference.moments["x"]
    torch.testing.assert_close(moments.mean, mean)
    torch.testing.assert_close(moments.mean_se, se * 2.3534 / 1.6449, rtol=1e-3, atol=0)


def test_it_is_public_and_refuses_few_draws(right):
    assert benchmarks.assess is assess
    with pytest.raises(UsageError, match="draws=20; accepted: at least 100"):
        assess(right[0], draws=20)


def test_nothing_that_it_holds_fills_a_screen_in_a_notebook(narrow):
    """`estimate` had 28,423 characters."""
    _, found = narrow
    for field in dataclasses.fields(found):
        assert len(repr(getattr(found, field.name))) < 1500, field.name
    assert repr(found.estimate.smc).startswith("Smc(4 islands of 256 points in 2 coordinates; ")
    assert "chains in 2 coordinates; means moved by up to" in repr(found.drift)
