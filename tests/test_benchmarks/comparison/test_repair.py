"""Repaired draws: those of the posterior, with what is known of their convergence."""

import math

import pytest
import torch

import benchmarks
import guides
import zoo
from benchmarks.comparison import repair as module
from benchmarks.comparison.assess import assess
from zoo.errors import FitError

pytestmark = pytest.mark.usefixtures("eager")
RHO = 0.9
SMALL = {"islands": 4, "particles": 256, "draws": 1024}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "assess", lambda fit, **given: assess(fit, **SMALL, **given))


def fitted(family):
    entry = zoo.load("correlated_gaussian", d=2, rho=RHO)
    return guides.fit(entry, family, seed=0, compile="off", steps=500, patience=50)


def test_mean_field_becomes_the_correlated_posterior(small):
    fit = fitted("mean_field")
    found = benchmarks.repair(fit)
    x = found.draws["x"]
    assert found.method == "smc"
    assert found.doubt == ""
    assert abs(float(torch.corrcoef(x.T)[0, 1]) - RHO) < 0.03
    assert (x.std(0) - 1).abs().max() < 0.1
    assert found.notes[0] == "Begun from the draws of mean_field."
    assert "4 islands of tempered SMC give a log normalizer of" in found.notes[1]
    assert float(guides.draw(fit, 2000).draws["x"].std()) < 1.5 * math.sqrt(1 - RHO**2)


def test_without_smc_the_chains_say_what_they_miss(monkeypatch):
    monkeypatch.setattr(
        module, "assess", lambda fit, **given: assess(fit, smc=False, draws=1024, **given)
    )
    found = benchmarks.repair(fitted("laplace"))
    assert found.method == "short_chains"
    assert found.notes[0] == "Begun from the draws of laplace."
    assert "nested R-hat 1.0" in found.notes[1]
    assert found.notes[1].endswith("Modes that no chain reached are missing.")
    assert found.doubt == ""


def test_chains_that_have_not_arrived_say_so(monkeypatch):
    """The centered schools: a few short chains do not reach the neck."""
    monkeypatch.setattr(
        module, "assess", lambda fit, **given: assess(fit, smc=False, draws=1024, **given)
    )
    monkeypatch.setattr("benchmarks.comparison.assess_steps.MOST_GRADIENTS", 1)
    monkeypatch.setattr("benchmarks.mcmc.short_chains.LENGTHS", (4, 8))
    monkeypatch.delenv("ZOO_BACKEND")  # thousands of steps: compiled, as in `test_assess`
    fit = guides.fit(zoo.load("eight_schools_centered"), "mean_field", steps=150, compile="off")
    found = benchmarks.repair(fit)
    assert found.method == "short_chains"
    assert found.doubt.startswith("The chains have not arrived: ")
    assert found.doubt.endswith(".")


def test_nothing_better_is_an_error_with_the_reason(small):
    with pytest.raises(FitError, match="cannot be repaired: Tempered SMC was not run: about"):
        benchmarks.repair(fitted("laplace"), budget=1e-6)
