"""Rows side by side: their coordinates, base, particles and modes, on rows of closed form."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t

from benchmarks.mcmc.batched_hmc import Streams
from benchmarks.mcmc.paired import memory_of
from benchmarks.mcmc.unit_density import UnitDensity
from benchmarks.mcmc.unit_modes import modes_of
from benchmarks.mcmc.unit_smc import GUIDE, PRIOR, RowBase, UnitSmc, unit_smc

MEANS = torch.tensor([[0.0, 1.0], [5.0, -2.0], [-3.0, 0.5]], dtype=torch.float64)
SDS = torch.tensor([[1.0, 0.1], [2.0, 0.5], [0.3, 0.3]], dtype=torch.float64)
HEIGHTS = torch.tensor([-1.0, 2.0, -7.0], dtype=torch.float64)  # log Z of the rows


def log_joint(values):
    """Three independent normals of two values each, times exp(height)."""
    normal = torch.distributions.Normal(MEANS, SDS)
    return normal.log_prob(values).sum(-1) + HEIGHTS


def drawn(n=400, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return MEANS + scale * SDS * torch.randn(n, 3, 2, dtype=torch.float64, generator=g)


@pytest.fixture(scope="module")
def rows():
    return UnitDensity(log_joint, drawn())


def test_values_and_points_are_inverse(rows):
    values = drawn(7, seed=3)
    points = rows.points(values)
    assert points.shape == (21, 2)
    torch.testing.assert_close(rows.values(points), values)
    # seven points of the first row come first, whitened by its own draws
    assert points[:7].mean(0).abs().max() < 1.5


def test_densities_have_the_determinant_of_their_coordinates(rows):
    """log p(x_i, m_i + L_i z) + log det L_i: e^value integrates over z to Z_i."""
    values = drawn(5, seed=4)
    found, slope = rows.batch_gradient(rows.points(values))
    factors = [np.linalg.cholesky(np.cov(drawn()[:, i].numpy().T)) for i in range(3)]
    dets = torch.tensor([np.linalg.slogdet(f)[1] for f in factors])
    torch.testing.assert_close(
        found.reshape(3, 5), log_joint(values).T + dets[:, None], atol=1e-6, rtol=0
    )
    # the chain rule: slope in z is L' times the slope in the values
    outer = ((MEANS - values) / SDS**2).transpose(0, 1)
    expected = torch.stack([outer[i] @ torch.as_tensor(factors[i]) for i in range(3)])
    torch.testing.assert_close(slope.reshape(3, 5, 2), expected, rtol=1e-6, atol=1e-6)


def test_evaluations_are_counted_and_parts_change_nothing(rows, monkeypatch):
    points, before = rows.points(drawn(50, seed=5)), rows.gradient_evaluations
    whole = rows.batch_gradient(points)
    assert rows.gradient_evaluations == before + 150
    monkeypatch.setattr("benchmarks.mcmc.unit_density.AT_ONCE", 21)
    for a, b in zip(whole, rows.batch_gradient(points), strict=True):
        torch.testing.assert_close(a, b)


def test_the_base_is_a_mixture_of_two_t_densities_of_the_row(rows):
    prior = 10.0 * torch.randn(
        300, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    base = RowBase(rows, prior, 100)
    assert base.counts == (70, 30)
    x = rows.points(drawn(4, scale=3.0, seed=6)).requires_grad_()
    value, slope = base.value_and_gradient(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope, gradient)
    at = rows.points(prior).reshape(3, -1, 2).numpy()
    for i in range(3):
        guide = multivariate_t(np.zeros(2), GUIDE[1] ** 2 * np.eye(2), df=GUIDE[2])
        wide = multivariate_t(at[i].mean(0), PRIOR[1] ** 2 * np.cov(at[i].T), df=PRIOR[2])
        own = x.detach().reshape(3, 4, 2)[i].numpy()
        expected = np.log(0.7 * guide.pdf(own) + 0.3 * wide.pdf(own))
        np.testing.assert_allclose(value.detach().reshape(3, 4)[i].numpy(), expected, rtol=1e-6)


def test_draws_of_the_base_follow_it(rows):
    """The mean of f / q over draws of q is the integral of f: here a normal density, so 1."""
    prior = 10.0 * torch.randn(
        300, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    base = RowBase(rows, prior, 4000)
    x = base.draw(Streams([1, 2, 3]))
    value, _ = base.value_and_gradient(x)
    normal = (
        torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 1.0).log_prob(x).sum(1)
    )
    means = torch.exp(normal - value).reshape(3, -1).mean(1)
    torch.testing.assert_close(means, torch.ones(3, dtype=torch.float64), atol=0.06, rtol=0)


@pytest.fixture(scope="module")
def found(rows):
    g = torch.Generator().manual_seed(2)
    prior = 4.0 * torch.randn(400, 3, 2, dtype=torch.float64, generator=g)
    return unit_smc(UnitDensity(log_joint, drawn(scale=0.5)), prior, islands=8, particles=256)


def test_every_row_has_its_evidence_and_moments(found):
    value, se = found.evidence
    assert ((value - HEIGHTS).abs() <= 4 * se + 1e-3).all()
    assert (se < 0.1).all()
    assert ((found.direct - HEIGHTS).abs() < 4 / found.direct_ess.sqrt() + 0.01).all()
    mean, error = found.mean(found.values)
    assert ((mean - MEANS).abs() < 5 * error + 1e-3).all()
    square, _ = found.mean((found.values - mean[:, None, None]).square())
    torch.testing.assert_close(square.sqrt(), SDS, rtol=0.1, atol=0)
    assert found.confirmed.all()
    assert not found.apart.any()


def test_draws_of_a_row_follow_the_weights_of_its_islands():
    """Two islands at 0 and 1 with Z-hats 1 and 3: three quarters of the draws are 1."""
    values = torch.zeros(1, 2, 10, 1, dtype=torch.float64)
    values[0, 1] = 1.0
    smc = made(values, [[0.0, math.log(3.0)]])
    drawn = smc.draws(4000, 0)
    assert drawn.shape == (4000, 1, 1)
    assert drawn.mean().item() == pytest.approx(0.75, abs=0.03)
    mean, error = smc.mean(values)
    assert mean.item() == pytest.approx(0.75)
    # shares 1/4 and 3/4: sqrt(((3/4 / 4)^2 + (3/4 / 4)^2) * 2)
    assert error.item() == pytest.approx(0.375)


def made(values, log_z, direct=0.0, ess=1000.0):
    number = len(log_z)
    return UnitSmc(
        values=values,
        log_z=torch.tensor(log_z, dtype=torch.float64),
        direct=torch.full((number,), direct, dtype=torch.float64),
        direct_ess=torch.full((number,), ess, dtype=torch.float64),
        acceptance=0.8,
        gradients=0,
        depth=0,
    )


def test_the_logarithm_of_an_evidence_is_corrected():
    """Z-hats 1 and 3: log 2, relative error 0.5, and half of its square."""
    value, se = made(torch.zeros(1, 2, 1, 1), [[0.0, math.log(3.0)]]).evidence
    assert se.item() == pytest.approx(0.5)
    assert value.item() == pytest.approx(math.log(2.0) + 0.125)


def test_rows_are_confirmed_by_points_of_the_base():
    zeros = torch.zeros(1, 2, 1, 1)
    near = [[0.0, 0.02]]
    assert made(zeros, near).confirmed.item()
    assert not made(zeros, near, direct=0.5).confirmed.item()
    assert not made(zeros, near, ess=99.0).confirmed.item()
    assert made(zeros, near, ess=100.0).confirmed.item()


def test_islands_a_nat_apart_are_told_row_by_row():
    smc = made(torch.zeros(3, 2, 1, 1), [[0.0, 0.9], [0.0, 1.1], [0.0, math.nan]])
    assert smc.apart.tolist() == [False, True, True]
    few = smc.take(torch.tensor([0, 2]))
    assert few.apart.tolist() == [False, True]
    assert few.values.shape[0] == len(few.direct) == len(few.direct_ess) == 2


def test_a_point_belongs_to_the_mode_where_its_climb_ends():
    """Rows with one and with two modes, at +-3 sds."""

    def two(values):
        far = torch.distributions.Normal(0.0, 1.0)
        first = far.log_prob(values[:, 0, 0])
        second = torch.logaddexp(
            far.log_prob(values[:, 1, 0] - 6), far.log_prob(values[:, 1, 0] + 6)
        )
        return torch.stack([first, second], 1)

    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, 1, dtype=torch.float64, generator=g)
    sides = torch.where(torch.arange(60) % 3 == 0, 6.0, -6.0)
    x[:, 1, 0] += sides
    density = UnitDensity(two, x)
    modes = modes_of(density, density.points(x))
    assert modes.shape == (60, 2)
    assert set(modes[:, 0]) == {0}
    assert (modes[:, 1] == (sides < 0).numpy().astype(int)).all()


def test_memory_of_rows_is_within_the_modes_of_each():
    g = np.random.default_rng(0)
    start, noise = g.normal(size=(2000, 2)), g.normal(size=(2000, 2))
    modes = np.stack([np.zeros(2000, dtype=int), np.arange(2000) % 2], 1)
    far = 30.0 * modes
    found = memory_of(far + start, far + noise, modes)
    assert np.abs(found).max() < 0.1
    assert memory_of(far + start, far + noise)[1] > 0.99
    assert memory_of(far + start, far + 0.6 * start + 0.8 * noise, modes) == pytest.approx(
        [0.6, 0.6], abs=0.05
    )
