"""A mode that every start misses: a quarter of the data near 0.5, the rest near 30.

By quadrature over the one latent the posterior has mean 30.003 and sd 0.0533; the mode at 0.5, in
the midst of all starts, holds about e^-110 of the mass, and chains, restarts and Laplace agree on
it.
"""

import dataclasses

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.short_runs import short_fits

import benchmarks
import zoo
from benchmarks.reference import write
from benchmarks.reference.coerce import as_reference
from benchmarks.trust.climbs import GATE, needs_climbs, wide_climbs
from zoo.density.log_density import LogDensity
from zoo.errors import ReferenceError

NEAR, FAR = 0.5 + 0.1 * np.sin(np.arange(4)), 30 + 0.1 * np.sin(np.arange(12))
Y = np.r_[NEAR, FAR]


def model(y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 50.0))
    with pyro.plate("n", 16):
        pyro.sample("y", dist.StudentT(2.0, mu, 0.2), obs=y)


def log_mass(low, high):
    """Log integral of the joint density over mu in an interval, by quadrature."""
    grid = torch.linspace(low, high, 200_001, dtype=torch.float64)
    value = dist.Normal(0.0, 50.0).log_prob(grid)
    for y in Y:
        value = value + dist.StudentT(2.0, grid, 0.2).log_prob(torch.tensor(y))
    return float(value.logsumexp(0) + torch.log(grid[1] - grid[0]))


@pytest.fixture(scope="module")
def near():
    """Chains that all found the wrong mode, and the density."""
    entry = zoo.from_program(model, {"y": Y})
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    density.compile("on")
    chains = benchmarks.run_nuts(
        entry, data=data, log_density=density, min_ess=0, draws=1500, in_process=True
    )
    assert float(chains.draws["mu"].mean()) == pytest.approx(0.56, abs=0.05)
    assert as_reference(chains).usable  # every gate of chains passes
    return chains, density


def test_the_mode_is_found_and_weighed(near):
    chains, density = near
    found = wide_climbs(density, chains)
    assert found.better is not None
    assert float(found.better.point) == pytest.approx(30.003, abs=0.05)
    assert "mu at 30" in found.sentence
    gap = log_mass(20.0, 40.0) - log_mass(-10.0, 11.0)
    assert gap == pytest.approx(110, abs=1)
    # Laplace at a mode of t2 data is off by a few tenths of a nat
    assert found.better.log_mass - found.log_mass == pytest.approx(gap, abs=1.0)
    assert found.gradients < 1000


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_sds_find_it_without_the_prior(near, seed, monkeypatch):
    monkeypatch.setattr("benchmarks.trust.climbs.PRIOR", 0)
    chains, density = near
    assert wide_climbs(density, chains, seed=seed).better is not None
    monkeypatch.setattr("benchmarks.trust.climbs.RADII", (10.0, 30.0))
    assert wide_climbs(density, chains, seed=seed).better is None  # too near: nobody starts there


def test_no_climb_begins_after_its_time(near):
    found = wide_climbs(near[1], near[0], seconds=0.0)
    assert (found.starts, found.complete, found.gate) == (0, False, None)
    assert found.sentence.startswith("not climbed to an end: the budget allows 0 climbs, of ")


def test_nothing_at_the_wrong_mode_is_usable_or_agrees(near, monkeypatch):
    short_fits(monkeypatch)
    card = benchmarks.compare_program(
        model, {"y": Y}, families=["full_rank", "laplace"], quick=True, jobs=1
    )
    assert set(card.verdicts.values()) == {"reference_unusable", "no_reference"}
    reference = card.result.report.entries[0].reference
    assert not reference.usable
    assert "mu at 30" in reference.reason
    assert reference.gates[GATE] is False
    assert "a mode is missed" in card.comparisons["laplace"].sentence


def test_agreement_by_hand_asks_for_it_too(near):
    chains, density = near
    again = benchmarks.run_nuts(
        chains.entry, seed=7, log_density=density, min_ess=0, draws=1500, in_process=True
    )
    silent = benchmarks.compare(again, chains, climb=False)
    assert silent.verdict == "agrees"
    assert "not climbed" in silent.sentence
    seen = benchmarks.compare(again, chains)
    assert seen.verdict == "reference_unusable"
    assert "mu at 30" in seen.sentence
    poor, truth = (
        dataclasses.replace(p, cost=dataclasses.replace(p.cost, gradient_evaluations=100))
        for p in (again, chains)
    )
    cheap = benchmarks.compare(poor, truth)  # a tenth of 200 gradients is too little for a climb
    assert cheap.verdict == "agrees"
    assert "not climbed" in cheap.sentence
    assert any(n.startswith("Not climbed") for n in cheap.notes)


def two(width, weight):
    """Return N(0, 1) beside a normal of some width at 400, `weight` times its mass."""

    def program():
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        first = dist.Normal(0.0, 1.0).log_prob(x)
        second = dist.Normal(400.0, width).log_prob(x) + torch.tensor(weight).log()
        pyro.factor("f", torch.logaddexp(first, second))

    return zoo.from_program(program, {})


def normal_draws(entry):
    chains = benchmarks.run_nuts(entry, min_ess=0, draws=250, in_process=True)
    x = torch.randn(4, 250, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return dataclasses.replace(chains, draws={"x": x}, unconstrained=x[..., None])


@pytest.mark.parametrize(
    ("width", "weight", "expected"),
    [
        (0.001, 0.01, False),  # forty times as high, a hundredth of the mass
        (30.0, 20.0, True),  # lower, but twenty times the mass
        (1.0, 1.0, True),  # as much mass again
    ],
)
def test_modes_are_weighed_by_mass_not_by_height(width, weight, expected, monkeypatch):
    if width < 1:  # hardly any climb meets so narrow a mode by itself
        start = ("beside it", torch.full((1,), 400.1, dtype=torch.float64))
        monkeypatch.setattr("benchmarks.trust.climbs._Search._starts", lambda *_: [start])
    entry = two(width, weight)
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    found = wide_climbs(density, normal_draws(entry))
    assert found.improper
    assert "improper" in found.sentence or found.better is not None
    assert [o for o in found.others if abs(float(o.point) - 400) < 1], found
    assert (found.better is not None) is expected


def test_equal_judged_quantities_are_one_mode():
    """Both signs of x have the same |x|: with |x| judged there is one mode, with x two."""

    def program():
        x = pyro.sample("x", dist.Normal(0.0, 30.0))
        pyro.factor("f", torch.logaddexp(-0.5 * (x - 20) ** 2, -0.5 * (x + 20) ** 2))

    plain = zoo.from_program(program, {}, quantities={"x": zoo.Quantity(fn=lambda d, _: d["x"])})
    size = dataclasses.replace(
        plain, quantities={"size": zoo.Quantity(fn=lambda d, _: d["x"].abs())}
    )
    x = 20 + torch.randn(4, 250, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = plain.load_data()
    density = LogDensity(plain.program(data), data)
    chains = benchmarks.run_nuts(plain, min_ess=0, draws=250, in_process=True)
    for entry, alarm in ((plain, True), (size, False)):
        one_side = dataclasses.replace(
            chains, entry=entry, draws={"x": x}, unconstrained=x[..., None]
        )
        assert (wide_climbs(density, one_side).better is not None) is alarm
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    both = dataclasses.replace(chains, draws={"x": x * sign}, unconstrained=(x * sign)[..., None])
    assert wide_climbs(density, both).better is None


def test_known_truths_are_not_climbed_for():
    coin = zoo.load("coin")
    assert not needs_climbs(benchmarks.reference.find.find(coin))


def test_a_reference_that_misses_a_mode_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "TUNE", 300)
    entry = dataclasses.replace(zoo.from_program(model, {"y": Y}), reference="stored")
    with pytest.raises(
        ReferenceError, match="No reference of my_model was written: a mode is missed"
    ):
        write.write(entry, jobs=1, small=True, folder=tmp_path)
    assert not list(tmp_path.iterdir())
