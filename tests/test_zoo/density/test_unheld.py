"""Latent entries that no term holds: masked ones without another term, and flat priors."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import ImproperUniform, constraints
from support.densities import density_of

from zoo.density import unheld as module
from zoo.errors import ProgramError

Y = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64)
HALF = torch.tensor([True, False, True])


def masked(held, *, event=False, mask=HALF):
    """z of three rows, masked; `held` are the entries that the data depend on."""

    def program(y):
        with pyro.plate("row", 3):
            with pyro.poutine.mask(mask=mask):
                prior = (
                    dist.Normal(torch.zeros(2), 1.0).to_event(1) if event else dist.Normal(0, 1)
                )
                z = pyro.sample("z", prior)
            first = z[..., 0] if event else z
            pyro.sample("y", dist.Normal(torch.where(held, first, 0.0), 1.0), obs=y)

    return program


@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize(
    ("mask", "held", "free"),
    [
        (HALF, HALF, [False, True, False]),
        (HALF, torch.ones(3).bool(), None),
        (torch.zeros(3).bool(), torch.zeros(3).bool(), [True] * 3),
        (False, torch.zeros(3).bool(), [True] * 3),
        (True, torch.zeros(3).bool(), None),
        (torch.ones(3).bool(), torch.zeros(3).bool(), None),
    ],
)
def test_masked_entries_that_nothing_else_depends_on_are_free(event, mask, held, free):
    """Of an event, one of its values is enough to hold the entry."""
    found = density_of(masked(held, event=event, mask=mask), y=Y).free
    assert {k: v.tolist() for k, v in found.items()} == ({} if free is None else {"z": free})


def test_masked_entries_of_both_kinds_are_refused():
    with pytest.raises(ProgramError) as caught:
        density_of(masked(torch.tensor([True, True, False]), mask=torch.zeros(3).bool()), y=Y)
    assert str(caught.value) == (
        "Site 'z' is masked in 3 entries, of which 1 enter no other term and so have no posterior;"
        " leave those out of the site, or give them a prior by unmasking them."
    )


def flat_prior(support, used=True):
    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        a = pyro.sample("a", ImproperUniform(support, (), ()))
        pyro.sample("y", dist.Normal(m + (a if used else 0.0), 1.0), obs=y.sum())

    return program


@pytest.mark.parametrize(
    "support",
    [
        constraints.real,
        constraints.positive,
        constraints.greater_than(1.0),
        constraints.greater_than_eq(1.0),
        constraints.nonnegative,
        constraints.less_than(2.0),
    ],
)
def test_a_flat_prior_on_an_endless_set_needs_the_data(support):
    assert density_of(flat_prior(support), y=Y).free == {}
    with pytest.raises(ProgramError) as caught:
        density_of(flat_prior(support, used=False), y=Y)
    assert str(caught.value) == (
        "Site 'a' has a flat prior and no likelihood term depends on it, so the posterior is"
        " improper; give it a proper prior, or use its value in the likelihood."
    )


def test_a_flat_prior_on_an_interval_is_proper():
    assert density_of(flat_prior(constraints.unit_interval, used=False), y=Y).free == {}


@pytest.mark.parametrize(
    ("fn", "flat"),
    [
        (ImproperUniform(constraints.real, (), ()), True),
        (ImproperUniform(constraints.real, (2,), ()).to_event(1), True),
        (ImproperUniform(constraints.independent(constraints.positive, 1), (), (2,)), True),
        (ImproperUniform(constraints.interval(0.0, 1.0), (), ()), False),
        (dist.Normal(0.0, 1.0), False),
    ],
)
def test_a_prior_is_flat_whatever_it_is_wrapped_in(fn, flat):
    assert module._is_flat(fn) is flat


class Density:
    dim, dtype = 2, torch.float64

    class data:
        train = {}  # noqa: RUF012

    def __init__(self, function):
        self.function, self.points = function, []

    def constrain(self, u):
        self.points.append(u)
        return {"a": u[0], "b": u[1:]}

    def log_joint(self, draws, tensors):
        return self.function(draws)


def test_a_value_is_touched_if_the_density_changes_by_it_anywhere():
    """Of three points, `a` counts at one only; `b` counts at none."""
    density = Density(lambda d: torch.where(d["a"] > seen[1], d["a"], 0 * d["a"]) + 0 * d["b"][0])
    probe = Density(lambda d: 0 * d["a"])
    module._touched(probe, ["a", "b"])
    seen = sorted(float(u[0]) for u in probe.points)
    assert len(probe.points) == 3
    assert len(set(seen)) == 3
    found = module._touched(density, ["a", "b"])
    assert bool(found["a"]) is True
    assert found["b"].tolist() == [False]


def test_a_density_that_depends_on_nothing_touches_nothing():
    found = module._touched(Density(lambda d: torch.zeros(())), ["a", "b"])
    assert bool(found["a"]) is False
    assert found["b"].tolist() == [False]


def test_which_entries_of_a_site_are_masked():
    fn, value = dist.Normal(torch.zeros(3), 1.0), torch.zeros(3)

    def away(fn, mask, value=value):
        found = module.masked_entries({"fn": fn, "mask": mask, "value": value})
        return None if found is None else found.tolist()

    assert away(fn, None) is None
    assert away(fn, torch.ones(3).bool()) is None
    assert away(fn, HALF) == [False, True, False]
    assert away(fn, False) == [True] * 3
    assert away(fn.to_event(1), False, torch.zeros(3)) is True
    assert away(fn.to_event(1), torch.tensor(False), torch.zeros(2, 3)) == [True, True]
