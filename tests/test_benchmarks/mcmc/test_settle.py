"""Chains from points of SMC: they stay where they are right, and say what they had to change."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from benchmarks.mcmc.paired import HalfTime, memory_of
from benchmarks.mcmc.settle import settle
from benchmarks.thresholds import multiplier
from zoo.density.log_density import LogDensity
from zoo.types import Data

GAP = 20.0


def normal():
    pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))


def modes():
    """Two normals of equal mass, 20 sds apart in the first coordinate."""
    ends = torch.tensor([[0.0, 0.0], [GAP, 0.0]], dtype=torch.float64)
    mix = dist.Categorical(torch.ones(2, dtype=torch.float64))
    pyro.sample("x", dist.MixtureSameFamily(mix, dist.Normal(ends, 1.0).to_event(1)))


def points(n, seed=0, gap=0.0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(n, 2, dtype=torch.float64, generator=g)
    x[:, 0] += gap * (torch.arange(n) % 2)
    return x


def run(program, x, **options):
    density = LogDensity(program, Data(train={}))
    return settle(density, x, lambda u: u.numpy(), pilot=x[::2], **options)


def test_right_points_stay_right_and_are_forgotten():
    found = run(normal, points(1024))
    assert found.doubt == ""
    assert found.transitions in (16, 24)  # the second look at the earliest
    assert found.changed == found.moved == 0
    assert found.memory < found.allowed
    assert found.stuck == 0.0
    assert found.acceptance > 0.5


def test_wrong_points_are_moved_and_that_is_said():
    """Sds of 0.6 become 1 within 5 %; both components changed."""
    found = run(normal, points(2048, scale=0.6))
    assert found.doubt == ""
    assert found.changed == 2
    assert found.points.std(0).tolist() == pytest.approx([1.0, 1.0], rel=0.06)


def test_modes_are_judged_one_by_one():
    """No chain crosses 20 sds: over all the start is known, within the modes it is not."""
    x = points(1024, gap=GAP)
    alone = run(modes, x, most=24)
    assert "still know their starts" in alone.doubt
    assert alone.memory > 0.9
    within = run(modes, x, modes=(np.arange(1024) % 2), most=24)
    assert within.doubt == ""
    assert within.memory < 0.15
    torch.testing.assert_close(within.points, alone.points)


def test_chains_that_run_out_of_gradients_are_in_doubt():
    """Sds of 0.02 need more than 16 transitions of a kernel of their own size."""
    density = LogDensity(normal, Data(train={}))
    near = points(512, scale=0.02)
    found = settle(density, near, lambda u: u.numpy(), pilot=near[:32], gradients=0)
    assert found.transitions == 16
    early = settle(density, near, lambda u: u.numpy(), pilot=near[:32])
    assert early.gradients > found.gradients
    assert bool(found.doubt) == (found.memory > found.allowed or found.moved > 0)


def test_memory_is_the_correlation_within_modes():
    g = np.random.default_rng(0)
    start, noise = g.normal(size=(4000, 1)), g.normal(size=(4000, 1))
    end = 0.6 * start + 0.8 * noise
    assert memory_of(start, end)[0] == pytest.approx(0.6, abs=0.03)
    mode = np.arange(4000) % 2
    far = 50.0 * mode[:, None]
    assert memory_of(far + start, far + noise)[0] > 0.99
    assert memory_of(far + start, far + end, mode)[0] == pytest.approx(0.6, abs=0.03)
    assert memory_of(np.ones((9, 1)), np.ones((9, 1)))[0] == 0.0


def test_what_is_allowed_follows_noise():
    assert run(normal, points(64)).allowed == pytest.approx(multiplier(2) / 8.0)
    assert run(normal, points(2048)).allowed == 0.1


def test_half_time_is_the_latest_doubling_that_is_half_as_old():
    """Looks every 8: kept are 8, 16, 32, 64; at 24 half is 8, at 40 it is 16, at 64 it is 32."""
    half, found = HalfTime(), {}
    for t in range(8, 72, 8):
        half.add(t, np.full((2, 1), t))
        if t >= 16:
            found[t] = int(half.before(t)[0, 0])
    assert found == {16: 8, 24: 8, 32: 16, 40: 16, 48: 16, 56: 16, 64: 32}
