"""Tempered SMC against closed forms: evidence, moments, masses of modes, and their errors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from benchmarks.mcmc import tempered_smc
from benchmarks.mcmc.base_mixture import Component, Mixture
from benchmarks.mcmc.islands import evidence
from benchmarks.mcmc.metric import Metric
from benchmarks.mcmc.tempered_smc import _systematic, counted, pilot, tempered
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.types import Data


def normal(dim):
    def program():
        pyro.sample("x", dist.Normal(torch.zeros(dim, dtype=torch.float64), 1.0).to_event(1))

    return LogDensity(program, Data(train={}))


def base(dim, at=0.3, sd=2.0, particles=256, **further):
    parts = [
        Component(
            name=name,
            share=share,
            center=torch.full((dim,), center, dtype=torch.float64),
            metric=Metric.diagonal(torch.full((dim,), width, dtype=torch.float64)),
        )
        for name, (share, center, width) in {"guide": (0.7, at, sd), **further}.items()
    ]
    return Mixture(parts, particles)


def test_evidence_of_a_normal_is_one_for_small_islands_too():
    """E[Z-hat] = Z = 1 whatever the number of particles: within 4 standard errors."""
    found = tempered(normal(2), base(2, particles=64), islands=200).evidence
    assert abs(found.value) < 4 * found.se
    assert found.se < 0.03


def test_evidence_is_unbiased_in_many_dimensions():
    """A metric taken from the very points that it moves adds 0.07 d^2 / N = 0.26 nats here."""
    start = base(31, particles=256)
    found = tempered(normal(31), start, islands=24)
    assert abs(found.evidence.value) < min(4 * found.evidence.se, 0.15)
    assert found.points.shape == (24, 256, 31)  # each island is of full size


def test_moments_and_their_errors():
    found = tempered(normal(3), base(3, at=2.0), islands=16)
    mean, se = found.mean(found.points)
    square, square_se = found.mean(found.points.square())
    assert ((mean / se).abs() < 4.5).all()
    assert (((square - 1) / square_se).abs() < 4.5).all()
    assert (se < 0.05).all()
    drawn = found.draws(4000, seed=0)
    assert abs(float(drawn.std()) - 1) < 0.05


def test_evidence_of_an_entry_is_the_closed_form():
    entry = zoo.load("linear_regression")
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    truth = entry.analytic(data)
    sites = truth.sample(2000, 0)
    u = density.unconstrain(sites)
    start = Component(name="guide", share=1.0, center=u.mean(0), metric=Metric.of(u).widened(2.0))
    found = tempered(density, Mixture([start], 128), islands=8).evidence
    assert abs(found.value - truth.log_evidence) < 5 * found.se + 0.02
    assert found.se < 0.1


def two_modes():
    """0.8 N(0, 1) + 0.2 N(30, 0.5^2), times e^5 in all."""

    def program():
        mixture = dist.Categorical(torch.tensor([0.8, 0.2], dtype=torch.float64))
        means = torch.tensor([0.0, 30.0], dtype=torch.float64)
        sds = torch.tensor([1.0, 0.5], dtype=torch.float64)
        pyro.sample("x", dist.MixtureSameFamily(mixture, dist.Normal(means, sds)))
        pyro.factor("constant", torch.tensor(5.0, dtype=torch.float64))

    return LogDensity(program, Data(train={}))


def test_a_mode_that_the_base_knows_gets_its_mass():
    found = tempered(two_modes(), base(1, at=0.0, mode=(0.3, 30.0, 1.0)), islands=16)
    assert abs(found.evidence.value - 5.0) < 4 * found.evidence.se + 0.01
    far = (found.points > 15).double()
    mass, se = found.mean(far[..., 0])
    assert abs(float(mass) - 0.2) < 4 * float(se)
    names, masses, ancestors = zip(*found.modes, strict=True)
    assert names == ("guide", "mode")
    assert abs(masses[1] - 0.2) < 0.1
    assert min(ancestors) > 100
    assert found.starved == ()


def test_a_mode_on_few_ancestors_is_named():
    """One point in 300 of the base stands at the far mode, and the islands are two."""
    found = tempered(two_modes(), base(1, at=0.0, mode=(0.002, 30.0, 1.0)), islands=2)
    assert found.starved == ("mode",)


def test_islands_do_not_depend_on_their_number():
    density, start = normal(2), base(2, particles=64)
    plan = pilot(density, start)
    few, many = (counted(density, start, plan, islands=n) for n in (2, 4))
    torch.testing.assert_close(many.points[:2], few.points)
    assert many.evidence.islands[:2] == pytest.approx(few.evidence.islands)
    again = counted(density, start, plan, islands=2, seed=1)
    assert not torch.equal(again.points, few.points)


def gradients_of(plan):
    return [sum(k.leapfrogs for k in stage.kernels) for stage in plan.stages]


def test_stages_end_when_their_points_have_forgotten():
    """A normal takes less than half of the gradients that are allowed, 24 and 72 in the end."""
    plan = pilot(normal(3), base(3, particles=512))
    *stages, last = gradients_of(plan)
    assert sum(stages) <= 18 * len(stages)
    assert last <= 30
    assert len(plan.stages[-1].kernels) >= 3
    assert max(k.leapfrogs for stage in plan.stages for k in stage.kernels) <= 8


def test_points_that_cannot_forget_get_the_gradients_that_are_allowed():
    """Nothing crosses between modes 30 sds apart, so every stage is as long as it may be."""
    start = base(1, at=0.0, mode=(0.3, 30.0, 1.0))
    for allowed, options in (((24, 72), {}), ((8, 16), {"moves": 2, "extra": 2, "leapfrogs": 4})):
        *stages, last = gradients_of(pilot(two_modes(), start, **options))
        assert set(stages) <= {allowed[0]}
        assert last == allowed[1]


@pytest.mark.parametrize(("known", "stages_end"), [(0.09, True), (0.2, True), (0.35, False)])
def test_the_last_stage_has_to_forget_more(monkeypatch, known, stages_end):
    """At most 0.3 is left after a stage, and 0.1 after the last one, of 24 and 72 gradients."""
    asked = []

    def explored(path, state, kernel, streams, **options):
        asked.append((options["least"], options["gradients"], options["left"]))
        moved = tempered_smc.move(path, state, kernel, streams, beta=options["beta"])
        return *moved, 8

    monkeypatch.setattr(tempered_smc, "explored", explored)
    monkeypatch.setattr(tempered_smc, "memory", lambda *_: (known, 0.0))
    *stages, last = gradients_of(pilot(normal(2), base(2, at=3.0, particles=64)))
    assert asked == [(1, 24, 0.3)] * len(stages) + [(3, 72, 0.1)]
    assert stages == [8 if stages_end else 24] * len(stages)
    assert len(stages) > 0
    assert last == (24 if known <= 0.1 else 72)


def test_the_plan_is_not_changed_by_counting():
    density, start = normal(2), base(2, particles=64)
    plan = pilot(density, start)
    found = counted(density, start, plan, islands=2)
    assert found.plan is plan
    assert plan.stages[-1].beta == 1.0
    betas = [s.beta for s in plan.stages]
    assert betas == sorted(betas)
    assert found.gradients == plan.gradients + 128 * (found.depth - plan.depth)


def test_resampling_keeps_every_expectation():
    """Systematic resampling draws point i on average n w_i times, and within one of it always."""
    weights = torch.tensor([0.05, 0.23, 0.31, 0.41], dtype=torch.float64)
    islands, n = 4000, 7
    offset = torch.rand(islands, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen = _systematic(weights.expand(islands, 4), offset, n)
    counts = torch.stack([(chosen == i).sum(1) for i in range(4)], 1).double()
    error = counts.mean(0) - n * weights
    se = counts.std(0) / islands**0.5
    assert (error.abs() < 4.5 * se).all()
    assert ((counts - n * weights).abs() < 1).all()


def test_evidence_averages_z_and_not_its_logarithm():
    found = evidence([0.0, math.log(3.0)])
    assert found.value == pytest.approx(math.log(2.0))
    assert found.se == pytest.approx(0.5)  # sd of (1, 3) over sqrt 2 and over their mean
    half = stats.t.ppf(0.975, 1) * 0.5
    assert found.low == -math.inf
    assert found.high == pytest.approx(math.log(2.0) + math.log1p(half))
    close = evidence([0.0, 0.01, -0.01, 0.02])
    assert close.low < close.value < close.high
    assert close.known
    assert not evidence([0.0, 1.2]).known


def test_a_density_that_is_zero_around_the_start_is_refused():
    density = LogDensity.__new__(LogDensity)
    density.dim, density.dtype = 1, torch.float64
    density.batch_gradient = lambda u: (torch.full((len(u),), -math.inf), torch.zeros_like(u))
    with pytest.raises(FitError, match="finite at none of 64 points around the start; begin with"):
        tempered(density, base(1, particles=64))
