"""Short chains against normals and two modes: they end where they should, or say why not."""

import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import benchmarks
import guides
import zoo
from benchmarks.mcmc.batched_hmc import move
from benchmarks.mcmc.short_chains import (
    CONVERGED,
    ShortChains,
    components_moved,
    nested_r_hat,
    short_chains,
)
from benchmarks.trust.chains import STARTS, chained
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.types import Data

SDS = torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)


def program():
    pyro.sample("x", dist.Normal(torch.zeros(3, dtype=torch.float64), SDS).to_event(1))


@pytest.fixture(scope="module")
def density():
    return LogDensity(program, Data(train={}))


def points(n, at=0.0, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return at + scale * SDS * torch.randn(n, 3, dtype=torch.float64, generator=g)


def run(density, starts, pilot, **options):
    return short_chains(density, starts, lambda u: u.numpy(), pilot=pilot, **options)


def test_nested_r_hat_is_its_formula():
    x = np.random.default_rng(0).normal(size=(5, 40, 2)) + np.arange(5)[:, None, None] * [0.0, 2.0]
    means = [[np.mean(x[k, :, j]) for k in range(5)] for j in range(2)]
    insides = [[np.var(x[k, :, j], ddof=1) for k in range(5)] for j in range(2)]
    expected = [math.sqrt(1 + np.var(means[j], ddof=1) / np.mean(insides[j])) for j in range(2)]
    assert nested_r_hat(x) == pytest.approx(expected, rel=1e-12)


def test_a_constant_component_is_no_alarm_but_one_that_never_leaves_its_start_is():
    x = np.ones((4, 10, 2))
    x[..., 1] = np.arange(4)[:, None]
    assert nested_r_hat(x).tolist() == [1.0, math.inf]


def test_independent_ends_have_a_known_nested_r_hat():
    """sqrt(1 + 1 / M) in the mean: with 128 members below 1.01."""
    x = np.random.default_rng(1).normal(size=(32, 128, 400))
    found = nested_r_hat(x)
    assert float((found**2).mean()) == pytest.approx(1 + 1 / 128, abs=2e-4)
    assert (found < CONVERGED).mean() > 0.999


def test_chains_from_a_bad_guide_end_in_the_posterior(density):
    """Starts 2 sds off and half as wide: the ends have the moments of independent draws."""
    shifted = 2.0 * SDS
    found = run(density, shifted + points(32, scale=0.5), shifted + points(512, scale=0.5, seed=1))
    assert found.doubt == ""
    assert found.points.shape == (32, 128, 3)
    x = found.points.flatten(0, 1) / SDS
    assert (x.mean(0).abs() < 4.5 / 64).all()
    assert ((x.std(0) - 1).abs() < 4.5 / (64 * math.sqrt(2))).all()
    assert found.transitions < 100


def test_the_error_of_a_mean_is_that_of_independent_draws(density):
    """The mean square of z over 6 seeds and 3 components is one."""
    z = []
    for seed in range(6):
        starts = points(8, seed=seed)
        found = run(density, starts, points(128, seed=99), members=100, most=16, seed=seed)
        z.append(found.points.flatten(0, 1).mean(0) / SDS * math.sqrt(800))
    assert 0.3 < float(torch.stack(z).square().mean()) < 2.1


def test_groups_that_cannot_leave_their_mode_disagree():
    """Half of the groups begin at -40, half at 40: chains do not cross, and nested R-hat says so.

    A chain's own variance would be that of one mode.
    """

    def two():
        mixture = dist.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64))
        means = torch.tensor([-40.0, 40.0], dtype=torch.float64)
        pyro.sample("x", dist.MixtureSameFamily(mixture, dist.Normal(means, 1.0)))

    density = LogDensity(two, Data(train={}))
    g = torch.Generator().manual_seed(0)
    side = torch.where(torch.arange(520) % 2 == 0, -40.0, 40.0)[:, None].double()
    x = side + torch.randn(520, 1, dtype=torch.float64, generator=g)
    found = run(density, x[:8], x[8:], members=100, most=24)
    assert "Nested R-hat of the short chains is" in found.doubt
    assert found.transitions == 24
    assert found.r_hat[0] > 1.5


def test_what_changed_since_half_time_is_counted():
    """Groups that began close to each other agree with each other long before they arrive."""
    g = np.random.default_rng(0)
    middle = g.normal(size=(2000, 4))
    end = 0.5 * middle + math.sqrt(0.75) * g.normal(size=(2000, 4))
    assert components_moved(middle, end) == 0
    assert components_moved(middle, end + np.array([0.0, 0.2, 0.0, 0.0])) == 1
    assert components_moved(middle, end * [1.0, 1.0, 1.3, 1.3]) == 2
    found = ShortChains(
        points=torch.zeros(1),
        r_hat=np.array([1.005]),
        transitions=16,
        moved=2,
        leapfrogs=4,
        acceptance=0.8,
        divergent=0.0,
        stuck=0.0,
        gradients=1,
        depth=1,
    )
    assert (
        found.doubt == "2 judged components of the short chains still move after 16 transitions."
    )
    assert dataclasses.replace(found, moved=0).doubt == ""
    assert "Nested R-hat" in dataclasses.replace(found, r_hat=np.array([1.0, math.nan])).doubt
    fine = dataclasses.replace(found, moved=0, r_hat=np.array([1.0, 1.0099]))
    assert fine.doubt == ""
    assert "is 1.010 after 16" in dataclasses.replace(fine, r_hat=np.array([1.0101, 1.0])).doubt
    assert "29% of the last" in dataclasses.replace(fine, acceptance=0.29).doubt
    assert dataclasses.replace(fine, acceptance=0.31, stuck=0.009).doubt == ""
    assert "2% of the short chains" in dataclasses.replace(fine, stuck=0.02).doubt


def test_lines_of_movement():
    """5 % of an sd where the errors are small, 4 standard errors where they are not."""
    g = np.random.default_rng(3)
    for n, line in ((40_000, 0.05), (400, 4 * 0.05)):
        middle = g.normal(size=(n, 1))
        end = g.normal(size=(n, 1))  # independent: the paired error of a mean is sqrt(2 / n)
        end = (end - end.mean()) / end.std(ddof=1)
        middle = (middle - middle.mean()) / middle.std(ddof=1)
        factor = line if n == 40_000 else 4 * math.sqrt(2 / n)
        assert components_moved(middle, end + 0.9 * factor) == 0
        assert components_moved(middle, end + 1.1 * factor) == 1
    assert components_moved(end * math.exp(0.045), end) == 0  # the same chains: without noise
    assert components_moved(end * math.exp(0.055), end) == 1


def test_the_length_is_the_one_that_moves_farthest_per_gradient(density):
    """4 leapfrogs suffice on a whitened normal, not along the arms of the banana."""
    kernels = []
    for seed in range(3):
        found = run(density, points(4), points(256, seed=seed), members=100, most=16, seed=seed)
        kernels.append(found.leapfrogs)
    assert kernels == [4, 4, 4]
    entry = zoo.load("banana")
    data = entry.load_data()
    bent = LogDensity(entry.program(data), data, dtype=entry.dtype)
    u = torch.randn(516, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = run(bent, u[:4], u[4:], members=100, most=16)
    assert found.leapfrogs >= 16


def test_chains_that_cannot_move_are_refused_as_such():
    def spike():
        x = pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        with torch.no_grad():
            inside = (x.abs() < 1e-300).all()
        pyro.factor("support", torch.where(inside, 0.0, -math.inf))

    nowhere = torch.zeros(132, 2, dtype=torch.float64)
    nowhere[:, 0] = torch.linspace(-1e-301, 1e-301, 132, dtype=torch.float64)
    nowhere[:, 1] = nowhere[:, 0].flip(0)
    found = run(LogDensity(spike, Data(train={})), nowhere[:4], nowhere[4:], members=100, most=16)
    assert found.stuck == 1.0
    assert found.doubt.startswith("100% of the short chains never moved")


def test_measured_chains_are_moved_by_a_fixed_kernel(density):
    """More groups leave the chains of the first ones as they were."""
    starts, pilot = points(8), points(128, seed=1)
    few, many = (run(density, starts[:n], pilot, members=100, most=16) for n in (4, 8))
    torch.testing.assert_close(many.points[:4], few.points)


def test_the_cost_is_counted(density):
    before = density.gradient_evaluations
    found = run(density, points(4), points(64, seed=1), members=100, most=16)
    assert found.gradients == density.gradient_evaluations - before
    measured = 400 * (1 + found.transitions // 8 * (6 * found.leapfrogs + 2 * 32))
    pilot = 64 * (1 + 4 * (4 + 8 + 16 + 32) + 24 * (8 + found.leapfrogs))
    assert found.gradients == measured + pilot


def test_chains_stop_at_the_look_that_exceeds_their_gradients(density):
    far = (400.0 * SDS).expand(4, 3).clone()
    found = run(density, far, points(64, seed=1), members=100, gradients=1)
    assert found.transitions == 16


def test_two_of_eight_transitions_have_short_steps(density, monkeypatch):
    kernels = []

    def recorded(path, state, kernel, streams):
        if len(state.x) == 400:  # no pilot
            kernels.append(kernel)
        return move(path, state, kernel, streams)

    monkeypatch.setattr("benchmarks.mcmc.short_chains.move", recorded)
    found = run(density, points(4), points(64, seed=1), members=100, most=16)
    assert len(kernels) == found.transitions == 16
    usual = kernels[2]
    fine = [k for k in kernels if k is not usual]
    assert len(fine) == 4
    for kernel in fine:
        assert kernel.step == usual.step / 4
        assert (kernel.spread, kernel.leapfrogs) == (16.0, 32)
        assert kernel.metric is usual.metric


@pytest.mark.slow
def test_short_steps_enter_the_neck_of_the_centered_schools(monkeypatch):
    """Without them log tau settles 0.23 sd too high, with an sd of 0.70 of the right one."""
    entry = zoo.load("eight_schools_centered")
    data = entry.load_data()
    fit = guides.fit(entry, "mean_field", seed=0)
    u = guides.draw(fit, STARTS, seed=1).unconstrained
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    density.compile("on")
    errors = []
    for moves in (2, 0):
        monkeypatch.setattr("benchmarks.mcmc.short_chains.FINE_MOVES", moves)
        posterior = chained(density, entry, data, u)
        scores = benchmarks.compare(posterior, "certified", distances="none").scores
        errors.append(next(s.log_sd_ratio for s in scores if s.label == "log_tau"))
    assert errors[0] > -0.2
    assert errors[1] < -0.25


def test_too_few_chains_are_refused(density):
    with pytest.raises(UsageError, match="got 4 groups of 20 chains"):
        run(density, points(4), points(64), members=20)
