"""Where no posterior exists a notice says so, and no reference of it is usable."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.short_runs import short_fits
from torch.distributions import constraints

import benchmarks
import zoo
from benchmarks.reference.coerce import as_reference
from benchmarks.reference.find import find
from benchmarks.trust.climbs import climb_for, judged
from benchmarks.trust.existence import EXISTS, growth, why_none
from zoo.density import propriety
from zoo.density.log_density import LogDensity
from zoo.density.propriety import endless_coordinates, may_not_exist
from zoo.types import Posterior

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
    "law",
    [
        dist.Beta(1e5, 1.0),
        dist.Beta(1.0, 1e5),
        dist.Beta(1e9, 2.0),
        dist.Pareto(1.0, 1e5),
        dist.Dirichlet(torch.tensor([1e5, 1.0])),
        dist.LogNormal(500.0, 1.0),
    ],
    ids=["beta at 1", "beta at 0", "sharp beta", "pareto", "dirichlet", "log-normal"],
)
def test_no_notice_where_the_mass_is_at_the_edge_of_a_range(law):
    """Between zero and the last point that floats represent the density still rises there."""

    def program(y):
        p = pyro.sample("p", law)
        pyro.sample("y", dist.Normal(torch.as_tensor(p).sum().log(), 1.0), obs=y[0])

    assert notices(program, Y) == []


def test_a_program_that_fails_far_out_has_no_density_there():
    """Errors of any kind: a table ends, and so does the line."""
    table = torch.linspace(0.0, 1.0, 50, dtype=torch.float64)

    def program(y):
        a, b = flat("a"), pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a + table[int(b.detach().abs())], 1.0), obs=y[0])

    with pytest.raises(IndexError):
        program_at(program, 99.0)
    assert notices(program, Y) == []
    entry = zoo.from_program(program, {"y": Y})
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    rng = np.random.default_rng(5)
    assert why_none(density, torch.from_numpy(rng.standard_normal((4, 200, 2)))) == ""


def program_at(program, b):
    return poutine.condition(program, data={"a": torch.tensor(0.0), "b": torch.tensor(b)})(Y)


QUICK = ("eight_schools", "funnel_centered", "coin", "robust_regression", "change_point")
SEEDS, WIDE = 20, 200


def signs_of(entry, monkeypatch):
    """Everything that may raise the notice: axes from 3 points of 20 seeds, directions, chains.

    Above 200 coordinates 10 of them are looked at from each further seed.
    """
    made = entry.load_data()
    density = LogDensity(entry.program(made), made, dtype=entry.dtype)
    found, ones = [may_not_exist(density)], torch.ones(density.dim, dtype=density.dtype)
    for seed in range(SEEDS):
        monkeypatch.setattr(propriety, "MOST", 10 if seed and density.dim > WIDE else WIDE)
        generator = torch.Generator().manual_seed(seed)
        points = torch.randn(3, density.dim, generator=generator, dtype=density.dtype)
        found += endless_coordinates(density, points, ones)
    own = not entry.learns and entry.reference_of is None
    truth = find(entry, made) if own else None
    if truth is not None and truth.usable and truth.posterior is not None:
        u = density.unconstrain(truth.posterior.draws)
        found.append(why_none(density, u))
        found.append("" if growth(u) == 1 else "the reference draws grow")
    return [f for f in found if f]


@pytest.mark.parametrize("name", QUICK)
def test_no_notice_on_a_proper_entry(name, load_entry, monkeypatch):
    assert signs_of(load_entry(name), monkeypatch) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in zoo.names() if n not in QUICK])
def test_no_notice_on_any_entry(name, load_entry, monkeypatch):
    assert signs_of(load_entry(name), monkeypatch) == []


def test_draws_at_the_end_of_the_range_are_counted():
    entry = zoo.from_program(unit_interval, {"y": Y})
    made = entry.load_data()
    density = LogDensity(entry.program(made), made)
    u = torch.linspace(0.0, 60.0, 400, dtype=torch.float64)[:, None]
    assert "the draws of site 'a' are at the end" in may_not_exist(density, u)


def test_no_reference_of_it_is_usable(monkeypatch):
    short_fits(monkeypatch)
    card = benchmarks.compare_program(
        unit_interval, {"y": Y}, families=["full_rank"], quick=True, jobs=1
    )
    reference = card.result.report.entries[0].reference
    assert not reference.usable
    assert card.verdicts["full_rank"] == "reference_unusable"
    assert "may not exist" in reference.reason or "disagree" in reference.reason


# -- no axis shows it ----------------------------------------------------------------------------

SCHOOLS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)
COLUMNS = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
APART = (COLUMNS @ torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64) > 0).double()
MIXED = torch.cat([1 - APART[:4], APART[4:]])


def bounded(y):
    """The likelihood stays above a bound as a runs off to either side."""
    a = flat("a")
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(torch.sigmoid(a), 1.0), obs=y)


def summed(y):
    """Of a and b the data know the sum alone."""
    a, b = flat("a"), flat("b")
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


def schools(power, standard):
    """A hierarchy with prior tau ** -power and flat mean: proper for 0, improper for 1."""

    def program(y):
        mu, tau = flat("mu"), flat("tau", constraints.positive)
        if power:
            pyro.factor("prior", -power * tau.log())
        with pyro.plate("school", 8):
            if standard:
                theta = mu + tau * pyro.sample("z", dist.Normal(0.0, 1.0))
            else:
                theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, ERRORS), obs=y)

    return program


def logistic(y):
    w = pyro.sample("w", dist.ImproperUniform(constraints.real_vector, (), (3,)))
    with pyro.plate("n", 20):
        pyro.sample("y", dist.Bernoulli(logits=COLUMNS @ w), obs=y)


def weakly(y):
    w = pyro.sample("w", dist.Cauchy(0.0, 2.5).expand([3]).to_event(1))
    with pyro.plate("n", 20):
        pyro.sample("y", dist.Bernoulli(logits=COLUMNS @ w), obs=y)


def vague_sum(y):
    a, b = pyro.sample("a", dist.Normal(0.0, 1e4)), pyro.sample("b", dist.Normal(0.0, 1e4))
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


def horseshoe(y):
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    with pyro.plate("n", 5):
        width = pyro.sample("width", dist.HalfCauchy(1.0))
        pyro.sample("y", dist.Normal(pyro.sample("b", dist.Normal(0.0, tau * width)), 1.0), obs=y)


def neal(y):
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("n", 5):
        x = pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))
        pyro.sample("y", dist.Normal(0.0 * x, 1.0), obs=y)


def two_modes(y):
    m = flat("m")
    pyro.factor("two", torch.logaddexp(-0.5 * (m - 20.0) ** 2, -0.5 * (m + 20.0) ** 2))


def notices(program, y):
    return [n for n in zoo.from_program(program, {"y": y}).notices if "may not exist" in n]


@pytest.mark.parametrize(
    ("program", "y", "where"),
    [
        (bounded, Y, "site 'a' upwards"),
        (summed, Y, "1 b"),
        (schools(1, standard=True), SCHOOLS, "site 'tau' downwards"),
        (schools(1, standard=False), SCHOOLS, "in standard form"),
        (logistic, APART, "the direction"),
    ],
)
def test_flat_priors_that_the_likelihood_does_not_bound(program, y, where):
    """A bounded likelihood, an unidentified sum, a flat log scale in both forms, separation."""
    (notice,) = notices(program, y)
    assert where in notice


@pytest.mark.parametrize(
    ("program", "y"),
    [
        (schools(0, standard=True), SCHOOLS),
        (schools(0, standard=False), SCHOOLS),
        (logistic, MIXED),
        (weakly, APART),
        (vague_sum, Y),
        (horseshoe, Y),
        (neal, Y),
        (two_modes, Y),
    ],
)
def test_no_notice_of_directions_where_one_exists(program, y):
    """Their neighbors with a posterior, and shapes that samplers find hard."""
    assert notices(program, y) == []


# -- a spread that grows -------------------------------------------------------------------------


def metropolis(log_density, step, rng, chains=4, draws=1000, warm=800):
    """Chains of a random-walk sampler from draws near zero, `[chain, draw, 1]`."""
    x, out = rng.standard_normal(chains), np.empty((chains, warm + draws))
    for t in range(warm + draws):
        y = x + step * rng.standard_normal(chains)
        x = np.where(np.log(rng.random(chains)) < log_density(y) - log_density(x), y, x)
        out[:, t] = x
    return torch.from_numpy(out[:, warm:, None].copy())


def t_density(nu):
    return lambda x: -(nu + 1) / 2 * np.log1p(x * x / nu)


def apart(x):
    return np.logaddexp(-0.5 * (x - 4) ** 2, -0.5 * (x + 4) ** 2)


def funnel_chains(rng):
    """An autoregression of v with time 50, and x given v: a funnel that mixes slowly."""
    v = np.empty((4, 1000))
    v[:, 0] = 3 * rng.standard_normal(4)
    for t in range(1, 1000):
        v[:, t] = 0.98 * v[:, t - 1] + 3 * (1 - 0.98**2) ** 0.5 * rng.standard_normal(4)
    x = np.exp(v / 2)[..., None] * rng.standard_normal((4, 1000, 3))
    return torch.from_numpy(np.concatenate([v[..., None], x], -1))


@pytest.mark.parametrize(
    "chains",
    [
        lambda rng: metropolis(t_density(1.0), 3.0, rng),
        lambda rng: metropolis(t_density(0.5), 3.0, rng),
        lambda rng: metropolis(apart, 2.4, rng),
        funnel_chains,
        lambda rng: torch.from_numpy(rng.standard_cauchy((4, 1000, 5))),
    ],
    ids=["t(1)", "t(0.5)", "two modes", "funnel", "independent t(1)"],
)
def test_the_spread_of_stationary_chains_does_not_grow(chains):
    """Heavy tails, few jumps between modes, a funnel: none of 20 raises it (0 of 400 measured)."""
    rng = np.random.default_rng(11)
    assert sum(growth(chains(rng)) > 1 for _ in range(20)) == 0


def test_the_spread_of_wandering_chains_grows():
    """Walks whose steps lengthen, as those of an adapting sampler do: half are seen."""
    rng = np.random.default_rng(12)
    ramp = np.linspace(0.1, 3.0, 1000)
    seen = sum(
        growth(torch.from_numpy((rng.standard_normal((4, 1000)) * ramp).cumsum(1)[..., None])) > 1
        for _ in range(40)
    )
    assert 10 <= seen <= 32  # 20 expected, with a standard error of 3


def reference_of(program, u):
    """Chains of a program that disagree by R-hat."""
    entry = zoo.from_program(program, {"y": Y})
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    chains = Posterior(
        entry=entry,
        data=data,
        method="nuts",
        draws={k: v.detach() for k, v in density.constrain(u).items()},
        sample_dims=("chain", "draw"),
        unconstrained=u,
    )
    found = as_reference(chains)
    assert not found.usable
    return found, density


def curved(y):
    """The posterior of a product: the integral diverges along no line."""
    a, b = flat("a"), flat("b")
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(a * b, 1.0), obs=y)


def proper_product(y):
    a, b = pyro.sample("a", dist.Normal(0.0, 1.0)), pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(a * b, 1.0), obs=y)


def test_growth_counts_where_a_prior_is_flat():
    rng = np.random.default_rng(3)
    scale = np.linspace(0.1, 10.0, 1000)[:, None]
    u = torch.from_numpy(scale * rng.standard_normal((4, 1000, 2)))
    for program, found in ((curved, True), (proper_product, False)):
        entry = zoo.from_program(program, {"y": Y})
        data = entry.load_data()
        sentence = why_none(LogDensity(entry.program(data), data), u)
        assert ("grows along every chain" in sentence) is found


def test_failed_chains_say_that_no_posterior_may_exist():
    """Chains that disagree are asked as well; the word comes before what they failed."""
    rng = np.random.default_rng(4)
    u = torch.from_numpy(rng.standard_normal((4, 400, 2)))
    u[..., 1] = 100 * torch.arange(4.0, dtype=u.dtype)[:, None] - u[..., 0]
    found, _ = reference_of(summed, u)
    climbs = climb_for(found, None, (), 0)
    now = judged(found, climbs.gate, climbs.sentence)
    assert now.gates[EXISTS] is False
    assert now.reason.startswith("the posterior may not exist")
    assert "disagree" in now.reason
    other, _ = reference_of(proper_product, u)
    climbs = climb_for(other, None, (), 0)
    assert judged(other, climbs.gate, climbs.sentence) == other
