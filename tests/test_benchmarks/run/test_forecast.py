"""The time that is announced before a run, with a clock on which every gradient takes a second."""

import itertools
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from benchmarks.run import forecast as module
from benchmarks.run.estimates import GRADIENTS
from benchmarks.run.forecast import COMPARED, FASTER, FINDING, PER_GRADIENT, STEP, forecast
from guides.optimize.natural import STEPS
from zoo.compiler.policy import BACKEND_VARIABLE, EAGER_SECONDS_PER_OPERATION
from zoo.density.log_density import LogDensity

ROWS = 20_000
CHAINS = {"engine": "nutpie", "draws": 1500}


def slope(x, y=None, index=None):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", ROWS, subsample=index):
        pyro.sample("y", dist.Bernoulli(logits=w * x), obs=y)


def entry(**more):
    x = torch.linspace(-2, 2, ROWS, dtype=torch.float64)
    return zoo.from_program(slope, {"x": x, "y": (x > 0.3).double()}, name="slope", **more)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))


def seconds(made, method="mean_field", compile="off", rows=None, **more):
    data = made.load_data()
    density = LogDensity(made.program(data), data, dtype=made.dtype)
    fits = {"compile": compile, "restarts": 1, "optimizer": "adam", **more}
    chains = {**CHAINS, "compile": compile}
    return forecast(made, rows or [method], density, None, fits, chains)[method]


def test_an_uncompiled_fit_takes_its_steps_of_the_gradients_it_was_timed_with():
    assert seconds(entry()) == pytest.approx(
        COMPARED + FINDING + 1500 * (STEP + PER_GRADIENT), rel=1e-9
    )
    assert seconds(entry(), restarts=3) == pytest.approx(
        COMPARED + 3 * (FINDING + 1500 * (STEP + PER_GRADIENT)), rel=1e-9
    )
    assert seconds(entry(), steps=100, patience=20) < 150


def test_a_fit_by_natural_gradients_takes_its_steps_of_sixteen_points_each(monkeypatch):
    whole = COMPARED + FINDING + STEPS * (STEP + 1.0)
    auto = {"optimizer": "auto"}
    assert seconds(entry(), **auto) == pytest.approx(whole, rel=1e-9)
    twice = COMPARED + 2 * (FINDING + STEPS * (STEP + 1.0))
    assert seconds(entry(), restarts=2, **auto) == pytest.approx(twice, rel=1e-9)
    few = COMPARED + FINDING + 20 * (STEP + 1.0)
    assert seconds(entry(), steps=20, **auto) == pytest.approx(few, rel=1e-9)
    fast = seconds(entry(), compile="on", **auto)
    assert fast < 1.2 * (whole / FASTER + FINDING + COMPARED)
    adam = seconds(entry())
    assert seconds(entry(), lr=0.01, **auto) == adam
    assert seconds(entry(), objective="elbo_plain", **auto) == adam
    assert seconds(entry(), "flow", **auto) == seconds(entry(), "flow")
    assert seconds(entry(batched=["x", "y"], minibatch=1000), **auto) == seconds(
        entry(batched=["x", "y"], minibatch=1000)
    )
    monkeypatch.setattr(module, "LARGEST", 0)
    assert seconds(entry(), **auto) == adam


def test_the_steps_of_a_compiled_fit_are_no_measure_of_an_uncompiled_one(monkeypatch):
    """They were: the forecast of `--compile off` was that of a compiled run."""
    slow, fast = seconds(entry()), seconds(entry(), compile="on")
    assert fast < 1.2 * slow / FASTER
    assert seconds(entry(), compile="auto") == fast
    assert seconds(entry(), "nuts") > 10 * seconds(entry(), "nuts", compile="on")
    monkeypatch.setattr(module, "compiler_missing", lambda: "no C++ compiler")
    assert seconds(entry(), compile="auto") == slow


@pytest.mark.parametrize("compile", ["auto", "on"])
def test_where_nothing_is_compiled_the_forecast_is_that_of_eager_steps(monkeypatch, compile):
    slow = seconds(entry())
    monkeypatch.setenv(BACKEND_VARIABLE, "eager")
    assert seconds(entry(), compile=compile) == slow


def test_a_program_too_small_to_compile_is_not_forecast_as_compiled():
    coin = zoo.load("coin")
    assert seconds(coin, compile="auto") == seconds(coin) > seconds(coin, compile="on")


def test_weights_are_trained_for_all_steps():
    """A search that trains weights seldom settles early; three windows were forecast."""
    learns = replace(entry(), learns=True)
    assert seconds(learns) == pytest.approx(
        COMPARED + FINDING + 6000 * (STEP + PER_GRADIENT), rel=1e-9
    )
    # the weights are trained once, by the first row
    assert seconds(learns, rows=["full_rank", "mean_field"]) == pytest.approx(
        COMPARED + FINDING + 1500 * (STEP + PER_GRADIENT), rel=1e-9
    )


def test_a_minibatch_takes_its_share_of_the_rows():
    made = entry(batched=["x", "y"], minibatch=1000)
    work = LogDensity(made.program(made.load_data()), made.load_data()).work()
    dispatching = EAGER_SECONDS_PER_OPERATION * work.operations / work.seconds
    assert 0.1 < dispatching < 0.9
    each = STEP + PER_GRADIENT * (dispatching + (1 - dispatching) / 20)
    assert seconds(made) == pytest.approx(COMPARED + FINDING + 1500 * each, rel=1e-9)


def test_smc_is_timed_at_many_points():
    """It was timed at 64 and took fifty times less than announced."""
    coin = zoo.load("coin")
    found = seconds(coin, "smc", rows=["mean_field", "smc"])
    assert found == pytest.approx(COMPARED + FINDING + GRADIENTS["smc"] / module.POINTS)
