"""Numbers of a schedule are means over images, of the exact evidence on a grid."""

import re

import pytest
import torch

from benchmarks.studies.vae_collapse import measure
from benchmarks.studies.vae_collapse.render import ROWS
from zoo.truth.grid import LatentGrid


def test_the_score_is_the_mean_of_the_exact_evidence_of_held_out_images(monkeypatch):
    monkeypatch.setattr(measure, "POINTS", 41)
    fit = measure.train("no schedule", 20, 0, rows=60, hidden=4, layers=1)
    found = measure.numbers(fit)
    program, x = fit.program, fit.data.test["x"]
    grid = LatentGrid(program.likelihood, program.latent, log_prior=program.log_prior, points=61)
    with torch.no_grad():
        evidence = grid.log_evidence(x)
    assert abs(float(evidence.mean() - evidence.median())) > 0.1  # they would be told apart
    assert found["nll_held_out"] == pytest.approx(-float(evidence.mean()), abs=0.01)
    assert found["nll_held_out_se"] == pytest.approx(
        float(evidence.std()) / len(x) ** 0.5, rel=1e-3
    )
    assert found["minus_elbo_held_out"] > found["nll_held_out"]


def test_variances_are_those_of_each_code_over_images(monkeypatch):
    """Over the codes of an image there would be one per image."""
    monkeypatch.setattr(measure, "POINTS", 41)
    fit = measure.train("no schedule", 20, 0, rows=60, hidden=4, layers=1)
    found = measure.numbers(fit)
    program, x = fit.program, fit.data.train["x"]
    grid = LatentGrid(program.likelihood, program.latent, log_prior=program.log_prior, points=41)
    with torch.no_grad():
        _, mean, _ = grid.moments(x)
    assert found["variances"] == pytest.approx(mean.var(0).tolist(), rel=0.05, abs=1e-4)
    assert found["active_exact"] == sum(v > measure.ACTIVE for v in found["variances"])


def test_the_warm_up_of_a_schedule_is_the_share_that_its_name_says():
    for name, (_, share, _) in ROWS.items():
        told = re.search(r"(\d+) % of the steps", name)
        if told:
            assert share == int(told[1]) / 100
        else:
            assert 0 <= share <= 1
