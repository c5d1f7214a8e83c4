"""Lengths of trajectories: correlations beside closed forms, choices beside counts by hand."""

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from benchmarks.mcmc import lengths
from benchmarks.mcmc.batched_hmc import Kernel, Path, Streams, move
from benchmarks.mcmc.lengths import cheapest, coordinates, explored, memory
from benchmarks.mcmc.metric import Metric
from benchmarks.thresholds import multiplier
from zoo.density.log_density import LogDensity
from zoo.types import Data

SDS = torch.tensor([1.0, 5.0], dtype=torch.float64)
N, STEP = 4096, 0.3


def program():
    pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), SDS).to_event(1))


@pytest.fixture(scope="module")
def density():
    return LogDensity(program, Data(train={}))


@pytest.fixture(scope="module")
def start():
    return SDS * torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def kernel(leapfrogs=8, spread=1.0):
    return Kernel(metric=Metric.diagonal(SDS), step=STEP, leapfrogs=leapfrogs, spread=spread)


def test_correlations_are_those_of_a_rotation(monkeypatch, density, start):
    """On a normal l leapfrogs of step e turn by l arccos(1 - e^2 / 2): rho is that cosine."""
    given = []
    monkeypatch.setattr(lengths, "cheapest", lambda rho, *rest: given.append((rho, rest)) or 5)
    path = Path(density)
    _, moved, length = explored(
        path, path(start), kernel(), Streams([0]), least=2, gradients=40, left=0.2
    )
    (rho, rest), angle = given[0], math.acos(1 - STEP**2 / 2)
    assert rest == (2, 40, 0.2)
    assert length == 5
    assert float(moved.acceptance.mean()) > 0.98
    # cos^2, the correlation of log densities, is never larger; two coordinates of one value
    expected = [abs(math.cos(i * angle)) for i in range(1, 9)]
    assert rho == pytest.approx(expected, abs=4 * N**-0.5)
    assert rho[0] > 0.9
    assert rho[4] < 0.15


def test_a_rejected_trajectory_counts_as_its_start(monkeypatch, density, start):
    """With every chance at a half the correlation is (1 + cos) / 2."""
    given = []
    monkeypatch.setattr(lengths, "cheapest", lambda rho, *_: given.append(rho) or 1)
    true = lengths.move

    def halved(path, state, kernel, streams, *, beta, seen):
        return true(
            path,
            state,
            kernel,
            streams,
            beta=beta,
            seen=lambda at, chance: seen(at, torch.full_like(chance, 0.5)),
        )

    monkeypatch.setattr(lengths, "move", halved)
    path = Path(density)
    explored(path, path(start), kernel(5), Streams([0]), least=1, gradients=9, left=0.2)
    angle = math.acos(1 - STEP**2 / 2)
    expected = [0.5 * (1 + math.cos(i * angle)) for i in range(1, 6)]
    assert given[0] == pytest.approx(expected, abs=4 * N**-0.5)


def test_looking_does_not_change_a_transition(density, start):
    path, chances = Path(density), []
    state = path(start)
    plain, moved = move(path, state, kernel(4), Streams([1]))
    seen, also = move(
        path, state, kernel(4), Streams([1]), seen=lambda _, chance: chances.append(chance)
    )
    assert torch.equal(plain.x, seen.x)
    assert torch.equal(moved.acceptance, also.acceptance)
    assert torch.equal(chances[-1], moved.acceptance)
    # the chance after two leapfrogs is that of a trajectory of two
    _, short = move(path, state, kernel(2), Streams([1]))
    torch.testing.assert_close(chances[1], short.acceptance)


@pytest.mark.parametrize(
    ("least", "gradients", "length"),
    [
        (1, 24, 3),  # 12, 2 x 2 or 1 x 3 gradients
        (2, 24, 2),  # 12, 2 x 2 or 2 x 3
        (1, 3, 3),
        (1, 2, 4),  # none is enough: the longest
    ],
)
def test_the_length_that_forgets_with_the_fewest_gradients(least, gradients, length):
    """0.9^12, 0.5^2 and 0.1 are at most 0.3; the fourth turns back."""
    assert cheapest([0.9, 0.5, 0.1, 0.8], least, gradients, 0.3) == length


def test_of_equal_costs_the_longest_is_taken():
    """0.5^2 and 0.2: two transitions of two, or one of four."""
    assert cheapest([0.99, 0.5, 0.4, 0.2], 1, 24, 0.3) == 4


def test_many_transitions_are_no_forecast():
    """0.9^12 is below 0.3, 0.91^13 too."""
    assert cheapest([0.9, 0.99], 1, 24, 0.3) == 1
    assert cheapest([0.91, 0.99], 1, 24, 0.3) == 2


def test_points_that_never_move_get_the_longest():
    assert cheapest([1.0, 1.0, 1.0], 1, 24, 0.3) == 3
    assert cheapest([0.0, 0.0, 0.0], 1, 24, 0.3) == 1


def test_memory_is_within_targets():
    """Targets stand far apart: together their points would look as if they remembered."""
    g = torch.Generator().manual_seed(0)
    far = torch.tensor([0.0, 100.0], dtype=torch.float64).repeat_interleave(500)[:, None]
    before, after = (
        far + torch.randn(1000, 3, dtype=torch.float64, generator=g) for _ in range(2)
    )
    assert memory(before, after)[0] > 0.99
    known, noise = memory(before, after, targets=2)
    assert noise == pytest.approx(multiplier(6) / 500**0.5)
    assert known < noise
    mixed = before.clone()
    mixed[500:, 1] = after[500:, 1]
    assert memory(mixed, after, targets=2)[0] == pytest.approx(1.0)


def test_a_backward_turn_is_remembered_too():
    before = torch.randn(200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert memory(before, -before)[0] == pytest.approx(1.0)


def test_points_without_a_number_are_left_out():
    before = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    after = -before
    after[3, 0], before[7, 1] = math.nan, -math.inf
    known, _ = memory(before, after)
    assert known == pytest.approx(1.0, abs=0.1)  # the one of them counts as its start
    assert memory(torch.ones(9, 1), torch.ones(9, 1))[0] == 0.0  # nothing varies


def test_coordinates_are_whitened_and_end_with_the_log_density(density, start):
    path = Path(density)
    found = coordinates(path(start), kernel(), 1.0)
    torch.testing.assert_close(found[:, :2], start / SDS)
    expected = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), SDS)
    torch.testing.assert_close(found[:, 2], expected.log_prob(start).sum(1))
    wide = dataclasses.replace(kernel(), metric=Metric.diagonal(2 * SDS))
    torch.testing.assert_close(coordinates(path(start), wide, 1.0)[:, :2], start / SDS / 2)


def test_a_gradient_less_is_cheaper():
    """0.8^6 and 0.2 are below 0.3: six transitions of one, or one of seven."""
    assert cheapest([0.8, 0.99, 0.99, 0.99, 0.99, 0.99, 0.2], 1, 24, 0.3) == 1
