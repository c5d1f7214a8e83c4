"""Exact posterior of small adapters against scipy's quadrature, and NUTS against it."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

import benchmarks
import zoo
from benchmarks.audit.targets_adapters import _evidence, _log_likelihood
from benchmarks.comparison.baselines import halves, predictive
from benchmarks.metrics.calibration import total_variation
from benchmarks.run.progress import Events
from benchmarks.studies.lora_head import truth
from benchmarks.studies.lora_head.truth import exact
from benchmarks.studies.record import Work
from zoo.errors import UsageError
from zoo.models.adapters import _baselines as lora_baselines


@pytest.fixture
def subject(monkeypatch):
    monkeypatch.setattr(lora_baselines, "STEPS", 2)  # only `predict` is used

    def make(**options):
        entry = zoo.load("lora_head", **options)
        data = entry.load_data()
        return entry, data, entry.baselines(data, 0, **entry.settings)

    return make


def test_one_number_is_integrated_as_scipy_does(subject):
    entry, data, made = subject(form="core", rank=1)
    found = exact(entry, data, made)
    assert found.log_evidence == pytest.approx(_evidence(1), abs=1e-6)
    assert np.allclose(found.predictive.sum(1), 1)
    # The probability of one class on one test image, by scipy from the numpy likelihood.
    likelihood, row, column = _log_likelihood(1), 5, int(data.test["label"][5])

    def p(t):
        return made.predict({"core": torch.tensor([[[t]]], dtype=torch.float64)})["test"][
            0, row, column
        ].item()

    def joint(t):
        return math.exp(
            likelihood(t) - 0.5 * t * t - 0.5 * math.log(2 * math.pi) - found.log_evidence
        )

    value = integrate.quad(lambda t: p(t) * joint(t), -6, 6, epsabs=1e-7, limit=200)[0]
    assert found.predictive[row, column] == pytest.approx(value, abs=1e-6)
    assert abs(value - p(0.0)) > 1e-3  # the frozen network differs


def test_too_many_numbers_are_refused(subject):
    with pytest.raises(UsageError, match="at most 4"):
        exact(*subject(form="core", rank=3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"form": "core", "rank": 1}, {"form": "subspace", "rank": 2}, {"form": "core", "rank": 2}],
)
def test_nuts_predicts_as_the_exact_posterior_does(subject, options):
    entry, data, made = subject(**options)
    truth = exact(entry, data, made)
    nuts = benchmarks.run_nuts(entry, data=data, draws=1500, min_ess=0)
    first, second = halves(made, nuts)
    floor = total_variation(first["test"], second["test"])
    assert total_variation(predictive(made, nuts)["test"], truth.predictive) < max(
        3 * floor, 0.003
    )
    if options["rank"] == 2 and options["form"] == "subspace":
        assert truth.log_evidence == pytest.approx(_evidence(2), abs=1e-5)


@pytest.mark.parametrize("quick", [True, False])
def test_every_form_is_a_row_and_a_quick_run_has_the_first(quick, monkeypatch, tmp_path):
    asked = []

    def row(case, draws):
        asked.append((case, draws))
        return {**case, "draws": draws}

    monkeypatch.setattr(truth, "_row", row)
    work = Work(quick=quick, jobs=1, out=tmp_path, progress=Events())
    found = truth.measure(work)
    forms = truth.CASES[:1] if quick else truth.CASES
    assert [case for case, _ in asked] == list(forms) != []
    assert {draws for _, draws in asked} == {500 if quick else 2000}
    assert found == [{**case, "draws": draws} for case, draws in asked]
    assert truth.measure(work) == found  # kept: nothing is measured twice
    assert len(asked) == len(forms)
