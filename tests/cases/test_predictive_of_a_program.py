"""Predictive checks of a program given as it is: its observed arguments have no default."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import benchmarks
import zoo
from benchmarks.comparison.posterior_predictive import predictive_checks, replicate
from zoo.types import Posterior

N = 40
X = torch.linspace(-2, 2, N, dtype=torch.float64)
Y = 1 + 2 * X + 0.5 * torch.cos(7 * X)


def regression(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("obs", dist.Normal(1 + slope * x, scale), obs=y)


def autoregression(y):
    rho = pyro.sample("rho", dist.Uniform(-1.0, 1.0))
    with pyro.plate("step", len(y) - 1):
        pyro.sample("next", dist.Normal(rho * y[:-1], 1.0), obs=y[1:])


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("obs", dist.Poisson(rate), obs=y)


def centered_by_its_data(y):
    mean = pyro.sample("mean", dist.Normal(y.mean(), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)


def posterior_of(entry, **draws):
    return Posterior(
        entry=entry,
        data=entry.load_data(),
        method="planted",
        draws={k: v.double() for k, v in draws.items()},
        sample_dims=("sample",),
    )


def checks_of(entry, posterior):
    data = entry.load_data()
    return predictive_checks(entry, data, entry.program(data), {"planted": posterior})


def test_replicates_come_from_the_posterior_and_not_from_the_data():
    """A posterior planted at slope 3 and scale 0.1, where the data have slope 2."""
    entry = zoo.from_program(regression, {"x": X, "y": Y})
    planted = posterior_of(entry, slope=torch.full((400,), 3.0), scale=torch.full((400,), 0.1))
    (check,) = checks_of(entry, planted)
    assert check.label == "obs"
    assert np.array_equal(check.observed, Y.numpy())
    data = entry.load_data()
    rep = replicate(entry, data, entry.program(data), planted, number=400)["obs"]
    # mean of 400 replicates: its standard error is 0.1 / 20; 40 of them
    z = (rep.mean(0) - (1 + 3 * X).numpy()) / (0.1 / 20)
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / N)
    assert abs(rep.std(0).mean() / 0.1 - 1) < 5 / np.sqrt(2 * 400 * N)


def test_a_method_without_draws_costs_the_others_nothing():
    entry = zoo.from_program(regression, {"x": X, "y": Y})
    data = entry.load_data()
    failed = posterior_of(entry, none=torch.empty(0))
    planted = posterior_of(entry, slope=torch.full((9,), 3.0), scale=torch.full((9,), 0.1))
    rows = {"failed": failed, "planted": planted}
    (check,) = predictive_checks(entry, data, entry.program(data), rows)
    assert set(check.replicated) == {"planted"}
    assert predictive_checks(entry, data, entry.program(data), {"failed": failed}) == []


def test_counts_are_replicated_as_counts():
    y = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0], dtype=torch.float64)
    entry = zoo.from_program(counts, {"y": y})
    (check,) = checks_of(entry, posterior_of(entry, rate=torch.full((400,), 9.0)))
    rep = check.replicated["planted"]
    assert np.array_equal(rep, np.round(rep))
    assert abs(rep.mean() - 9) < 5 * 3 / np.sqrt(rep.size)


@pytest.mark.parametrize("program", [autoregression, centered_by_its_data])
def test_where_other_sites_read_the_data_there_is_no_check(program):
    """Drawing y_t given the observed y_(t-1) is no draw of the predictive distribution."""
    entry = zoo.from_program(program, {"y": torch.sin(torch.arange(30.0).double())})
    (site,) = posterior_sites(entry)
    assert checks_of(entry, posterior_of(entry, **{site: torch.full((50,), 0.5)})) == []


def posterior_sites(entry):
    data = entry.load_data()
    trace = poutine.trace(entry.program(data)).get_trace(**data.train)
    return [
        name
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not node["is_observed"] and name not in ("row", "step")
    ]


def test_both_ways_of_simulating_agree_where_both_are_possible():
    """Eight schools can also be run without its data: same program, same posterior, same law."""
    entry = zoo.load("eight_schools")
    data = entry.load_data()
    program = entry.program(data)
    draws = {"mu": torch.zeros(2000), "tau": torch.ones(2000), "theta_raw": torch.zeros(2000, 8)}
    planted = posterior_of(entry, **draws)
    kept = zoo.from_program(lambda y, se: program(y=y, se=se), dict(data.train))
    options = {"number": 2000}
    one = replicate(entry, data, program, planted, **options)["y"]
    other = replicate(
        kept, kept.load_data(), kept.program(data), replace(planted, entry=kept), **options
    )["y"]
    se = data.train["se"].numpy()
    assert np.abs((one.mean(0) - other.mean(0)) / (se * np.sqrt(2 / 2000))).max() < 5
    assert np.abs(one.std(0) / other.std(0) - 1).max() < 5 / np.sqrt(2000)


def test_the_report_of_a_program_shows_the_check(tmp_path):
    out = tmp_path / "run"
    options = {
        "families": ["laplace"],
        "nuts": False,
        "trust": False,
        "quick": True,
        "jobs": 1,
        "out": out,
    }
    card = benchmarks.compare_program(regression, {"x": X, "y": Y}, **options)
    (check,) = card.result.report.entries[0].ppc
    assert set(check.replicated) == {"laplace"}
    assert "Predictive check: obs" in (out / "report.html").read_text()
