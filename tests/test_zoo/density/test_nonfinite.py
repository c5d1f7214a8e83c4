"""Which sites have no finite value or density at a point."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of


def named(program, u, **train):
    train = train or {"y": torch.zeros((), dtype=torch.float64)}
    return density_of(program, **train).nonfinite_sites(torch.tensor(u, dtype=torch.float64))


def test_a_site_of_infinite_density_is_named():
    def program(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, torch.where(z > 5, torch.nan, 1.0)), obs=y)
        pyro.factor("f", torch.where(z > 6, torch.inf, 0.0))

    assert named(program, [1.0]) == "a Jacobian or a gradient"
    assert named(program, [5.5]) == "site 'y'"
    assert named(program, [6.5]) == "site 'y', 'f'"
    assert named(program, [torch.inf]) == "site 'z', 'y', 'f'"


def test_three_sites_are_named_and_sites_before_values():
    """exp(800) overflows; the improper prior of it has the density 0 everywhere."""

    def program(y):
        for name in "abcd":
            pyro.sample(name, dist.Normal(0.0, 1.0))
        flat = pyro.sample("flat", dist.ImproperUniform(dist.constraints.positive, (), ()))
        pyro.sample("y", dist.Normal(flat.clamp(max=1.0), 1.0), obs=y)

    assert named(program, [0.0, 0.0, 0.0, 0.0, 800.0]) == "site 'flat'"
    assert named(program, [torch.nan] * 4 + [0.0]) == "site 'a', 'b', 'c'"
    assert named(program, [0.0, torch.nan, 0.0, 0.0, 800.0]) == "site 'b', 'flat'"


def test_a_program_that_fails_there_is_named_itself():
    def program(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if float(z) > 5:
            raise ValueError("too large")
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    assert named(program, [6.0]) == "the program itself (too large)"


def test_a_program_run_value_by_value_names_no_site():
    def program(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(z + (1.0 if k > 0 else 0.0), 1.0), obs=y)

    found = density_of(program, y=torch.zeros((), dtype=torch.float64))
    assert found.per_value is not None
    assert found.nonfinite_sites(torch.tensor([torch.nan]).double()) == "a site of the program"


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (float("nan"), False)])
def test_numbers_are_looked_at_like_tensors(value, finite):
    from zoo.density.nonfinite import _finite

    assert _finite(value) is finite
    assert _finite(torch.tensor([0.0, value])) is finite
