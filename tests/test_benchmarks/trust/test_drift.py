"""Drift on a normal posterior: planted errors are measured, exact draws stay, errors are right."""

import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from benchmarks.mcmc.paired import changes
from benchmarks.trust import drift
from benchmarks.trust.drift import drift_of
from zoo.density.log_density import LogDensity
from zoo.types import Data

SDS = torch.tensor([1.0, 3.0], dtype=torch.float64)


def program():
    pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), SDS).to_event(1))


@pytest.fixture(scope="module")
def density():
    return LogDensity(program, Data(train={}))


def run(density, shift=0.0, scale=1.0, seed=0, n=1024, **options):
    g = torch.Generator().manual_seed(1000 + seed)
    draws = shift + scale * SDS * torch.randn(n + 256, 2, dtype=torch.float64, generator=g)
    return drift_of(density, draws[:n], lambda u: u.numpy(), pilot=draws[n:], seed=seed, **options)


def test_planted_errors_are_measured(density):
    """q = N(0.5, (0.6 s)^2): e = 0.5 / s and r = log 0.6, within 4 standard errors and arrived."""
    found = run(density, shift=0.5, scale=0.6)
    truth = 0.5 / SDS.numpy()
    assert np.abs((found.mean_error - truth) / found.mean_error_se).max() < 4
    assert np.abs((found.log_sd_ratio - math.log(0.6)) / found.log_sd_ratio_se).max() < 4
    assert found.mean_error_se.max() < 0.05
    assert found.found
    assert not found.moving.any()
    assert np.abs(found.memory).max() < 0.1


def test_exact_draws_raise_no_finding(density):
    """And the mean square of their z values over 24 seeds is one."""
    z = []
    for seed in range(24):
        found = run(density, seed=seed, n=512, transitions=2, leapfrogs=1)
        z += [found.mean_error / found.mean_error_se, found.log_sd_ratio / found.log_sd_ratio_se]
        assert not found.found
    assert 0.6 < float(np.mean(np.square(z))) < 1.5


def test_errors_are_paired():
    """Ends that remember their starts (0.95) differ by less than independent draws would."""
    g, z = np.random.default_rng(0), []
    for _ in range(200):
        before = g.normal(size=(400, 1))
        after = 0.95 * before + (1 - 0.95**2) ** 0.5 * g.normal(size=(400, 1))
        e, e_se, r, r_se = changes(before, after)
        z += [e / e_se, r / r_se]
    assert 0.8 < float(np.mean(np.square(z))) < 1.25


def test_chains_that_have_not_arrived_say_so(density):
    """Starts 200 sds away with one leapfrog each: the estimate is a lower bound."""
    found = run(density, shift=200.0, transitions=4, leapfrogs=1)
    assert found.found
    assert found.moving.any()


def test_chains_that_cannot_move_are_counted():
    """Where every trajectory leaves the support nothing moves, and nothing is claimed of it."""

    def spike():
        x = pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), SDS).to_event(1))
        with torch.no_grad():
            inside = (x.abs() < 1e-300).all()
        pyro.factor("support", torch.where(inside, 0.0, -math.inf))

    density = LogDensity(spike, Data(train={}))
    nowhere = torch.zeros(512, 2, dtype=torch.float64)
    nowhere[:, 0] = torch.linspace(-1e-301, 1e-301, 512, dtype=torch.float64)
    nowhere[:, 1] = nowhere[:, 0].flip(0)
    found = drift_of(density, nowhere, lambda u: u.numpy(), pilot=nowhere, transitions=2)
    assert found.stuck == 1.0


def test_the_cost_is_counted(density):
    """The pilot ends between 12 and 24 transitions, with one more that compares lengths."""
    before = density.gradient_evaluations
    found = run(density, n=256, transitions=4, leapfrogs=3)
    assert found.gradients == density.gradient_evaluations - before
    assert found.gradients == 256 * found.depth
    pilot = {1 + (rounds + 1) * 3 for rounds in range(12, 25)}
    measured = {1 + 4 * length for length in (1, 2, 3)}
    assert found.depth in {p + m for p in pilot for m in measured}


@pytest.fixture
def moves(monkeypatch):
    """Lengths of the measured transitions of a run, one per transition."""
    made, true = [], drift.move

    def counting(path, state, kernel, streams, **options):
        if len(state.x) == 1024:
            made.append(kernel.leapfrogs)
        return true(path, state, kernel, streams, **options)

    monkeypatch.setattr(drift, "move", counting)
    return made


def test_trajectories_are_as_long_as_it_takes(density, moves, monkeypatch):
    """A normal needs few leapfrogs of the six; a density that is remembered gets all of them."""
    for seed in range(3):
        assert not run(density, seed=seed).doubt
        assert len(moves) == 16
        assert len(set(moves)) == 1
        assert moves[0] <= 2
        moves.clear()
    monkeypatch.setattr("benchmarks.mcmc.lengths._correlation", lambda a, *_: torch.ones(1))
    run(density)
    assert moves == [6] * 16


def test_pilots_stop_once_the_acceptance_is_as_wanted(density, moves):
    """At most 24 transitions of its points, and at least 12."""
    sizes, true = [], drift.move

    def counting(path, state, kernel, streams, **options):
        sizes.append(len(state.x))
        return true(path, state, kernel, streams, **options)

    drift.move = counting
    try:
        run(density)
        assert 12 <= sizes.count(256) < 24
        sizes.clear()
        # one leapfrog of a step that is tuned from far too small
        wide = torch.randn(
            1280, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        drift_of(density, 1e-3 * wide[:1024], lambda u: u.numpy(), pilot=1e-3 * wide[1024:])
        assert sizes.count(256) == 24
    finally:
        drift.move = true


@pytest.mark.parametrize(("acceptance", "rounds"), [(0.75, 12), (0.84, 12), (0.95, 24), (0.6, 24)])
def test_a_pilot_has_twelve_to_twenty_four_transitions(density, monkeypatch, acceptance, rounds):
    """And the length is to leave 0.03 after four of sixteen transitions of six leapfrogs."""
    asked, made = [], []

    def moved(path, state, kernel, streams):
        made.append(len(state.x))
        shares = torch.full((len(state.x),), acceptance, dtype=torch.float64)
        return state, SimpleNamespace(acceptance=shares, divergent=shares > 1)

    def explored(path, state, kernel, streams, **options):
        asked.append(options)
        return state, None, 2

    monkeypatch.setattr(drift, "move", moved)
    monkeypatch.setattr(drift, "explored", explored)
    run(density)
    assert made.count(256) == rounds
    assert made.count(1024) == 16
    assert asked == [{"least": 8, "gradients": 48, "left": 0.03**2, "targets": 1}]
