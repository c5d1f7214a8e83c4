"""Whitening maps: both forms are one linear map, its transpose, its inverses and determinant."""

import pytest
import torch

from benchmarks.mcmc.metric import Metric


def factor_draws(n, dim, seed=0):
    """Draws with sds from 0.1 to 10 and one direction in which all of them move together."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-1, 1, dim, dtype=torch.float64)
    common = torch.randn(n, 1, dtype=torch.float64, generator=g)
    own = torch.randn(n, dim, dtype=torch.float64, generator=g)
    covariance = scale[:, None] * (torch.eye(dim, dtype=torch.float64) + 4.0) * scale
    return 3.0 + scale * (own + 2.0 * common), covariance


DENSE, LOW = (2000, 6), (300, 60)


@pytest.fixture(params=[DENSE, LOW, "diagonal"], ids=["dense", "low rank", "diagonal"])
def metric(request):
    if request.param == "diagonal":
        return Metric.diagonal(torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64))
    return Metric.of(factor_draws(*request.param)[0])


def matrix(metric):
    return metric.push(torch.eye(metric.dim, dtype=torch.float64)).T


def test_forms_follow_the_number_of_draws():
    assert Metric.of(factor_draws(*DENSE)[0]).factor is not None
    assert Metric.of(factor_draws(*LOW)[0]).basis.shape[1] >= 1


def test_maps_are_transposed_inverse_and_have_their_determinant(metric):
    eye, dense = torch.eye(metric.dim, dtype=torch.float64), matrix(metric)
    torch.testing.assert_close(metric.pull(eye), dense)  # rows of I times L
    torch.testing.assert_close(metric.whiten(metric.push(eye)), eye)
    torch.testing.assert_close(metric.unpull(metric.pull(eye)), eye)
    sign, log_det = torch.linalg.slogdet(dense)
    assert sign > 0
    torch.testing.assert_close(metric.log_det, log_det)


@pytest.mark.parametrize(("n", "dim"), [DENSE, LOW])
def test_whitened_draws_of_the_same_law_are_white(n, dim):
    """Within a factor of two in every direction; the raw variances differ by 1e4 and more."""
    draws, covariance = factor_draws(n, dim)
    metric = Metric.of(draws)
    inverse = metric.whiten(torch.eye(dim, dtype=torch.float64)).T
    values = torch.linalg.eigvalsh(inverse @ covariance @ inverse.T)
    assert values.min() > 0.5
    assert values.max() < 2.0
    assert torch.linalg.cond(covariance) > 1e4


def test_directions_far_thinner_than_any_coordinate_are_whitened():
    """Correlations 0.999: shrinking towards the diagonal by d / n would widen 19 of 20 by 4.6."""
    g = torch.Generator().manual_seed(0)
    covariance = 0.001 * torch.eye(20, dtype=torch.float64) + 0.999
    factor = torch.linalg.cholesky(covariance)
    metric = Metric.of(torch.randn(1024, 20, dtype=torch.float64, generator=g) @ factor.T)
    inverse = metric.whiten(torch.eye(20, dtype=torch.float64)).T
    values = torch.linalg.eigvalsh(inverse @ covariance @ inverse.T)
    assert values.min() > 0.5
    assert values.max() < 2.0


def test_widened_multiplies_every_sd(metric):
    torch.testing.assert_close(matrix(metric.widened(2.0)), 2.0 * matrix(metric))


def test_a_constant_coordinate_keeps_the_map_invertible():
    draws = torch.cat([factor_draws(200, 3)[0], torch.zeros(200, 1, dtype=torch.float64)], 1)
    metric = Metric.of(draws)
    assert torch.isfinite(metric.whiten(draws)).all()
    assert torch.isfinite(metric.log_det)
