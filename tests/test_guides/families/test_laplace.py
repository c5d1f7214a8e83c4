"""Laplace: of several modes the highest is taken, whatever the start."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
import zoo
from guides.base.modes import climb
from guides.families import laplace
from zoo.errors import UsageError


def two_modes():
    """Modes at 0 and 4 of the same width; the density is 1.5 nats higher at 4."""
    x = pyro.sample("x", dist.Normal(0.0, 100.0))
    pyro.factor(
        "f",
        torch.logaddexp(-0.5 * (x / 0.5) ** 2, 1.5 - 0.5 * ((x - 4) / 0.5) ** 2)
        + 0.5 * (x / 100.0) ** 2,
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_higher_of_two_modes_is_taken_from_any_seed(seed, monkeypatch):
    from guides.families import laplace

    # half of the starts climb to each mode
    starts = iter([0.3, 3.8, -0.2, 4.3] if seed % 2 else [4.2, 0.1, 3.9, -0.4])
    monkeypatch.setattr(
        laplace, "first_point", lambda *given: (torch.tensor([next(starts)]).double(), 1)
    )
    fit = guides.fit(zoo.from_program(two_modes, {}), "laplace", seed=seed)
    assert fit.ok
    posterior = fit.guide.get_posterior()
    assert float(posterior.mean) == pytest.approx(4.0, abs=1e-4)
    assert float(posterior.covariance_matrix.sqrt()) == pytest.approx(0.5, rel=1e-3)
    height = 1.5 - 0.5 * math.log(2 * math.pi) - math.log(100.0)
    assert f"Mode of log density {height:.6g} nats, reached from 2 of 4" in fit.stop.sentence


def test_a_program_that_learns_is_refused_until_its_weights_are_given():
    """A mode trains no weights: it would be that of the first ones."""

    def model(y):
        weight = pyro.param("weight", torch.tensor(0.3, dtype=torch.float64))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
            pyro.sample("y", dist.Normal(weight * z, 0.5), obs=y)

    y = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64)
    entry = zoo.from_program(model, {"y": y})
    with pytest.raises(UsageError, match=r"laplace solves .* trains no weights.*given=fit"):
        guides.fit(entry, "laplace", seed=0)
    trained = guides.fit(entry, "mean_field", seed=0, steps=60, patience=10, anneal=20)
    fit = guides.fit(entry, "laplace", seed=0, given=trained)
    (weight,) = (float(p) for p in fit.program.parameters())
    assert weight != 0.3
    # given the weight the posterior is normal, and Laplace is exact
    posterior = fit.guide.get_posterior()
    precision = 1 + weight**2 / 0.25
    torch.testing.assert_close(posterior.mean, weight * y / 0.25 / precision)
    torch.testing.assert_close(
        posterior.covariance_matrix, torch.eye(6, dtype=torch.float64) / precision
    )


@pytest.mark.parametrize(("stopped", "status"), [(1, "ok"), (2, "init_failed")])
def test_a_climb_that_ends_on_a_slope_is_resumed_once(stopped, status, monkeypatch):
    """A line search of L-BFGS fails now and then; Lotka-Volterra lost its true mode by it."""
    calls = []

    def short(density, point):
        calls.append(point)
        cut = len(calls) <= stopped
        return climb(density, point, **({"evaluations": 2, "rounds": 1} if cut else {}))

    def model(y):
        a = pyro.sample("a", dist.Normal(torch.zeros(3).double(), 3.0).to_event(1))
        scales = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
        pyro.sample("y", dist.Normal(a * scales, 0.5).to_event(1), obs=y)

    monkeypatch.setattr(laplace, "climb", short)
    monkeypatch.setattr(laplace, "STARTS", 1)
    y = torch.tensor([1.0, -2.0, 20.0], dtype=torch.float64)
    fit = guides.fit(zoo.from_program(model, {"y": y}), "laplace", seed=0, compile="off")
    assert fit.stop.status == status
    assert ("keeps rising" in fit.stop.sentence) == (status != "ok")
    assert len(calls) == 2
