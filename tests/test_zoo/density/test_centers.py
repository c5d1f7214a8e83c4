"""Where circles are cut: found with few runs of the program, and with a cap on them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from zoo.density import centers
from zoo.density.log_density import LogDensity
from zoo.distributions.circular import wrapped
from zoo.types import Data

GRID = math.pi / 32


def of_angles(number):
    """A program of angles with known means, and its data."""
    generator = torch.Generator().manual_seed(number)
    means = wrapped(6 * torch.rand(number, generator=generator, dtype=torch.float64) - 3)

    def program(y):
        with pyro.plate("angle", number):
            theta = pyro.sample("theta", dist.VonMises(means, 2.0))
            ends = torch.stack([theta.cos(), theta.sin()], -1)
            pyro.sample("y", dist.Normal(ends, 0.5).to_event(1), obs=y)

    y = torch.stack([means.cos(), means.sin()], -1)
    return program, Data(train={"y": y}, observed=("y",)), means


@pytest.fixture
def runs(monkeypatch):
    """Count how often a density runs its program."""
    found, real = [], LogDensity.evaluate

    def counted(self, *args):
        found.append(1)
        return real(self, *args)

    monkeypatch.setattr(LogDensity, "evaluate", counted)
    return found


def test_many_angles_are_turned_by_one_run_of_the_program_each(runs, monkeypatch):
    program, data, means = of_angles(30)
    found = LogDensity(program, data).completion.centers["theta"]
    assert wrapped(found - means).abs().max() < GRID
    # two turns per angle, a climb, the self-check of the batch and the looks beside them
    assert len(runs) < 2 * 30 + centers.CLIMB + 20
    monkeypatch.setattr(
        centers,
        "batched",
        lambda function, **_: lambda u: torch.stack([function(row) for row in u]),
    )
    runs.clear()
    assert torch.equal(LogDensity(program, data).completion.centers["theta"], found)
    assert len(runs) > 30 * (centers.COARSE + centers.FINE)


def test_above_the_cap_all_angles_of_a_site_are_turned_together(runs):
    """One turn for all of them, then a climb; means are then modes, which they are here."""
    program, data, means = of_angles(centers.MOST + 1)
    found = LogDensity(program, data).completion.centers["theta"]
    assert wrapped(found - means).abs().max() < GRID
    assert len(runs) < centers.MOST


def test_at_the_cap_angles_are_still_turned_one_by_one(runs):
    program, data, _ = of_angles(centers.MOST)
    LogDensity(program, data)
    assert len(runs) > 2 * centers.MOST


def test_a_program_that_takes_one_point_at_a_time_has_the_same_centers():
    def program(y):
        theta = pyro.sample("theta", dist.VonMises(2.0, 3.0))
        side = 1.0 if float(theta.detach().cos()) > 0 else 0.5  # vmap cannot read a value
        pyro.sample("y", dist.Normal(theta.cos(), side), obs=y)

    def other(y):
        theta = pyro.sample("theta", dist.VonMises(2.0, 3.0))
        side = torch.where(theta.cos() > 0, 1.0, 0.5)
        pyro.sample("y", dist.Normal(theta.cos(), side), obs=y)

    data = Data(train={"y": torch.tensor(-0.5, dtype=torch.float64)}, observed=("y",))
    one, many = (LogDensity(p, data).completion.centers["theta"] for p in (program, other))
    assert torch.equal(one, many)
    assert float(wrapped(one - 2.0).abs()) < 0.5


def test_a_program_that_fails_at_some_angles_keeps_the_center_zero():
    def program(y):
        theta = pyro.sample("theta", dist.VonMises(2.0, 3.0))
        if float(theta.detach()) > 1.0:
            raise RuntimeError("no such angle")
        pyro.sample("y", dist.Normal(theta.cos(), 1.0), obs=y)

    data = Data(train={"y": torch.tensor(-0.5, dtype=torch.float64)}, observed=("y",))
    assert float(LogDensity(program, data).completion.centers["theta"]) == 0.0


def test_without_a_circular_site_of_its_own_nothing_is_turned(runs):
    """An empty list of angles holds none: the first coordinate of another site is no angle."""

    def program(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    density = LogDensity(program, Data(train={"y": torch.tensor(1.0)}, observed=("y",)))
    search = centers._Search(density, lambda u: u.sum(-1), ())
    assert search.groups == []
    assert search.run().tolist() == [0.0]
