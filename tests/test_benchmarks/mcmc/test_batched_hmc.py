"""The batched kernel: exact draws stay exact, energy errors are of second order."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from benchmarks.mcmc.batched_hmc import Kernel, Path, Streams, move, tuned
from benchmarks.mcmc.metric import Metric
from zoo.density.log_density import LogDensity
from zoo.types import Data

COVARIANCE = torch.tensor([[1.0, 1.8], [1.8, 4.0]], dtype=torch.float64)
SHAPE = 0.7


def program():
    pyro.sample("x", dist.MultivariateNormal(torch.ones(2, dtype=torch.float64), COVARIANCE))
    pyro.sample("g", dist.Gamma(torch.tensor(SHAPE, dtype=torch.float64), 2.0))


def exact(n, seed=0):
    """Independent draws in the unconstrained coordinates: x, and the log of a gamma variable."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = dist.MultivariateNormal(torch.ones(2, dtype=torch.float64), COVARIANCE).sample((n,))
        g = dist.Gamma(torch.tensor(SHAPE, dtype=torch.float64), 2.0).sample((n,))
    return torch.cat([x, g.log()[:, None]], 1)


@pytest.fixture(scope="module")
def density():
    return LogDensity(program, Data(train={}))


def kernel(step=0.5, leapfrogs=6, **options):
    scale = torch.tensor([1.0, 2.0, 1.5], dtype=torch.float64)
    return Kernel(metric=Metric.diagonal(scale), step=step, leapfrogs=leapfrogs, **options)


def moments(u):
    """Numbers with known expectation whose sum over draws is nearly normal: `[draw, 6]`."""
    x, g = u[:, :2] - 1, u[:, 2]
    cross = (x[:, 0] * x[:, 1])[:, None]
    return torch.cat([x, x.square(), cross, torch.tanh(g + 1)[:, None]], 1)


def test_exact_draws_stay_exact(density):
    """Every paired change has mean zero: within 4.5 standard errors after eight transitions."""
    start = exact(8192)
    path, streams = Path(density), Streams([1])
    state = path(start)
    for _ in range(8):
        state, moved = move(path, state, kernel(), streams)
    change = moments(state.x) - moments(start)
    z = change.mean(0) / (change.std(0) / len(start) ** 0.5)
    assert z.abs().max() < 4.5
    assert (state.x - start).std(0).min() > 0.5  # they have moved
    assert moved.acceptance.mean() > 0.6


def test_draws_off_the_target_are_moved_towards_it(density):
    start = exact(8192) * 0.8 + 0.3
    path, streams = Path(density), Streams([1])
    state = path(start)
    for _ in range(8):
        state, _ = move(path, state, kernel(), streams)
    truth = moments(exact(8192, seed=5))
    error = (moments(state.x).mean(0) - truth.mean(0)).abs() / truth.std(0)
    before = (moments(start).mean(0) - truth.mean(0)).abs() / truth.std(0)
    assert before.max() > 0.2
    assert error.max() < 0.06


def test_energy_error_is_of_second_order(density):
    """Half the step over twice the leapfrogs leaves a quarter of the energy error.

    A gradient that is not that of the value leaves an error that no step removes.
    """

    def error(step, leapfrogs):
        path, state = Path(density), None
        state = path(exact(2048))
        options = {"step": step, "leapfrogs": leapfrogs, "spread": 1.0}
        _, moved = move(path, state, kernel(**options), Streams([4]))
        return float((1 - moved.acceptance).mean())

    coarse, fine = error(0.1, 8), error(0.05, 16)
    assert 3.0 < coarse / fine < 5.0


def test_islands_do_not_depend_on_each_other(density):
    def run(seeds):
        path, state = Path(density), None
        state = path(exact(64).repeat(len(seeds), 1))
        for _ in range(3):
            state, _ = move(path, state, kernel(), Streams(seeds))
        return state.x.reshape(len(seeds), 64, -1)

    three, two = run([5, 6, 7]), run([5, 6])
    torch.testing.assert_close(three[:2], two, rtol=0, atol=1e-12)
    assert not torch.equal(three[0], three[1])


def test_points_without_density_stay_or_are_left(density):
    """A trajectory that overflows is refused; a start without density is left at once."""
    start = exact(64)
    start[0, 2] = 800.0  # exp(800) overflows: log p = -inf
    path = Path(density)
    state = path(start)
    assert state.log_p[0] == -math.inf
    wild, moved = move(path, state, kernel(step=1e6, spread=1.0), Streams([0]))
    assert torch.equal(wild.x, start)
    assert moved.divergent.all()
    assert torch.isfinite(wild.x).all()


def test_gradients_are_counted(density):
    path = Path(density)
    before = density.gradient_evaluations
    state = path(exact(64))
    move(path, state, kernel(leapfrogs=5), Streams([0]))
    assert path.gradients == density.gradient_evaluations - before == 64 * 6
    assert path.calls == 6


def test_steps_go_to_the_wanted_acceptance(density):
    path, streams, current = Path(density), Streams([2]), kernel(step=8.0)
    state = path(exact(512))
    seen = []
    for _ in range(60):
        state, moved = move(path, state, current, streams)
        seen.append(float(moved.acceptance.mean()))
        current = tuned(current, moved)
    assert seen[0] < 0.6
    assert abs(sum(seen[-20:]) / 20 - 0.75) < 0.03


def test_a_point_where_the_program_raises_has_no_density_and_stops_no_other():
    """A kernel matrix that is not positive definite at wide points raises for the whole batch."""

    def program():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        matrix = torch.stack([torch.stack([x + 2, x * 0]), torch.stack([x * 0, x * 0 + 1])])
        torch.linalg.cholesky(matrix)

    density = LogDensity(program, Data(train={}))
    x = torch.tensor([[0.0], [-3.0], [1.0], [-5.0], [2.0]], dtype=torch.float64)
    with pytest.raises(Exception, match="positive-definite"):
        density.batch_gradient(x)
    state = Path(density)(x)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 0])
    good = torch.tensor([0, 2, 4])
    torch.testing.assert_close(state.log_p[good], expected[good])
    torch.testing.assert_close(state.slope_p[good], -x[good])
    assert torch.isinf(state.log_p[[1, 3]]).all()
    assert (state.log_p[[1, 3]] < 0).all()


def test_a_kernel_matrix_of_an_entry_that_fails_at_one_point_stops_no_other():
    """A trajectory that has run off to NaN; the program belongs to this package."""
    entry = zoo.load("gp_regression")
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    x = 0.1 * torch.randn(
        4, density.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    expected = Path(density)(x).log_p
    x[2] = math.nan
    with pytest.raises(torch.linalg.LinAlgError):
        density.batch_gradient(x)
    found = Path(density)(x).log_p
    good = torch.tensor([0, 1, 3])
    torch.testing.assert_close(found[good], expected[good])
    assert found[2] == -math.inf
