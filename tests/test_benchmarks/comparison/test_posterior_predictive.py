"""Replicated data come from the posterior they are attributed to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import zoo
from benchmarks.comparison.posterior_predictive import (
    observed_values,
    predictive_checks,
    replicate,
)
from zoo.types import Posterior


def exact_posterior(entry, data, n=2000, seed=3):
    return Posterior(
        entry=entry,
        data=data,
        method="analytic",
        draws=entry.exact(data).sample(n, seed),
        sample_dims=("sample",),
    )


def test_replicates_of_a_conjugate_regression_have_its_predictive_mean_and_spread():
    entry = zoo.load("linear_regression")
    data = entry.load_data(0)
    posterior = exact_posterior(entry, data)
    # [draw, patient]
    rep = replicate(entry, data, entry.program(data), posterior, number=400)["y"]
    x, draws = data.train["x"], posterior.draws
    level = (x @ draws["weight"].mean(0)).numpy()
    sd = float(draws["noise_variance"].mean().sqrt())
    assert rep.shape == (400, len(level))
    # Mean over 400 replicates: its standard error is sd / 20 per patient, so the mean square of z
    # over 442 patients is 1 up to the posterior spread of the level (about 2 %) and a Monte Carlo
    # error of sqrt(2 / 442) = 0.07.
    z = (rep.mean(0) - level) / (sd / 20)
    assert abs((z**2).mean() - 1.02) < 5 * 0.07
    assert abs(rep.std(0).mean() / sd - 1) < 5 * 0.05


def test_checks_use_the_observed_values_and_differ_between_posteriors():
    entry = zoo.load("eight_schools")
    data = entry.load_data(0)
    program = entry.program(data)
    n = 200
    wide = {
        "mu": torch.zeros(n).double(),
        "tau": torch.ones(n).double(),
        "theta_raw": torch.zeros(n, 8).double(),
    }
    a = Posterior(entry=entry, data=data, method="a", draws=wide, sample_dims=("sample",))
    b = replace(a, method="b", draws={**wide, "mu": wide["mu"] + 100})
    (check,) = predictive_checks(entry, data, program, {"a": a, "b": b})
    assert np.array_equal(np.sort(check.observed), np.sort([28, 8, -3, 7, -1, 1, 18, 12]))
    assert check.replicated["b"].mean() - check.replicated["a"].mean() > 80
    again = predictive_checks(entry, data, program, {"a": a})[0]
    assert np.array_equal(again.replicated["a"], check.replicated["a"])


def test_enumerated_classes_are_simulated_and_programs_without_data_have_no_check():
    entry = zoo.load("gaussian_mixture")
    data = entry.load_data(0)
    draws = {
        "weight": torch.tensor([0.5, 0.5]).expand(400, 2),
        "location": torch.tensor([0.0, 100.0]).expand(400, 2),
        "scale": torch.ones(2).expand(400, 2),
    }
    posterior = Posterior(
        entry=entry,
        data=data,
        method="x",
        draws={k: v.double() for k, v in draws.items()},
        sample_dims=("sample",),
    )
    rep = replicate(entry, data, entry.program(data), posterior, number=50)["petal"]
    assert rep.shape == (50, 150)
    assert abs((rep > 50).mean() - 0.5) < 5 * 0.5 / np.sqrt(50 * 150)
    assert set(observed_values(entry, data, entry.program(data))) == {"petal"}
    gaussian = zoo.load("correlated_gaussian")
    nothing = gaussian.load_data(0)
    assert predictive_checks(gaussian, nothing, gaussian.program(nothing), {}) == []
