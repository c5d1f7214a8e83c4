"""Where no posterior exists a notice says so, and no reference of it is usable."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import benchmarks
import zoo
from zoo.density.log_density import LogDensity
from zoo.density.propriety import endless_coordinates, may_not_exist

Y = torch.tensor([0.3, -0.2, 1.1, 0.4, -0.9], dtype=torch.float64)


def unit_interval(y=None):
    """Density 1 / (1 - a) on (0, 1): its integral diverges at 1."""
    a = pyro.sample("a", dist.ImproperUniform(constraints.unit_interval, (), ()))
    pyro.factor("f", -torch.log1p(-a))
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(torch.zeros(5, dtype=a.dtype), 1.0), obs=y)


def flat(name, support=constraints.real):
    return pyro.sample(name, dist.ImproperUniform(support, (), ()))


def one_observation(y):
    m, s = flat("m"), flat("s", constraints.positive)
    pyro.sample("y", dist.Normal(m, s), obs=y[0])


def regression(y):
    m, s = flat("m"), flat("s", constraints.positive)
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(m, s), obs=y)


def vague(y):
    m = pyro.sample("m", dist.Normal(0.0, 1e6))
    s = pyro.sample("s", dist.HalfCauchy(1e3))
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(m, s), obs=y)


def cauchy(y):
    z = pyro.sample("z", dist.Cauchy(0.0, 1.0))
    p = pyro.sample("p", dist.Beta(0.5, 0.5))
    pyro.sample("y", dist.Normal(0.0 * z * p, 1.0), obs=y[0])


@pytest.mark.parametrize(
    ("program", "where"),
    [(unit_interval, "site 'a' upwards"), (one_observation, "site 's' upwards")],
)
def test_a_notice_says_where_the_density_has_no_end(program, where):
    (notice,) = [n for n in zoo.from_program(program, {"y": Y}).notices if "may not exist" in n]
    assert where in notice


@pytest.mark.parametrize("program", [regression, vague, cauchy])
def test_no_notice_where_one_exists(program):
    """Flat priors that five data make proper, vague priors, and tails without a mean."""
    entry = zoo.from_program(program, {"y": Y})
    assert not [n for n in entry.notices if "may not exist" in n]
    made = entry.load_data()
    density = LogDensity(entry.program(made), made)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        points = torch.randn(3, density.dim, generator=generator, dtype=torch.float64)
        assert endless_coordinates(density, points, torch.ones(density.dim)) == []


@pytest.mark.parametrize(
    "name", ["eight_schools", "funnel_centered", "coin", "gp_regression", "robust_regression"]
)
def test_no_notice_on_proper_entries(name):
    entry = zoo.load(name)
    made = entry.load_data()
    assert may_not_exist(LogDensity(entry.program(made), made, dtype=entry.dtype)) == ""


def test_draws_at_the_end_of_the_range_are_counted():
    entry = zoo.from_program(unit_interval, {"y": Y})
    made = entry.load_data()
    density = LogDensity(entry.program(made), made)
    u = torch.linspace(0.0, 60.0, 400, dtype=torch.float64)[:, None]
    assert "the draws of site 'a' are at the end" in may_not_exist(density, u)


def test_no_reference_of_it_is_usable():
    card = benchmarks.compare_program(
        unit_interval, {"y": Y}, families=["full_rank"], quick=True, jobs=1
    )
    reference = card.result.report.entries[0].reference
    assert not reference.usable
    assert card.verdicts["full_rank"] == "reference_unusable"
    assert "may not exist" in reference.reason or "disagree" in reference.reason
