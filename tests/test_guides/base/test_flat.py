"""What a flat guide is made of: starts, factors, normal densities, and Pyro's autoguides."""

import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoLowRankMultivariateNormal
from support.densities import density_of
from torch import nn

from guides.base import flat as module
from guides.base.flat import (
    FlatGuide,
    Start,
    build_autoguide,
    fill,
    lower_product,
    standard_normal_log_prob,
    triangular,
)
from guides.session import session
from zoo.errors import ProgramError

SCALE = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
FACTOR = torch.tensor([[2.0, 0, 0], [1.0, 3.0, 0], [-1.0, 0.5, 4.0]], dtype=torch.float64)


def test_a_start_costs_nothing_and_says_nothing_by_default():
    start = Start(loc=SCALE, scale=SCALE)
    assert start.factor is None
    assert (start.gradients, start.sentence) == (0, "")


def test_the_factor_of_a_start_is_the_diagonal_of_its_scales_if_none_is_given():
    assert torch.equal(Start(loc=SCALE, scale=SCALE).tril, torch.diag(SCALE))
    assert Start(loc=SCALE, scale=SCALE, factor=FACTOR).tril is FACTOR


def test_the_covariance_of_a_start_at_places():
    places = torch.tensor([2, 0])
    diagonal = Start(loc=SCALE, scale=SCALE).covariance(places)
    assert diagonal.tolist() == [[25.0, 0.0], [0.0, 4.0]]
    full = Start(loc=SCALE, scale=SCALE, factor=FACTOR).covariance(places)
    assert full.tolist() == [[1 + 0.25 + 16, -2.0], [-2.0, 4.0]]


class Shifted(FlatGuide):
    dim = noise_dim = 3

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.ones(3))

    def sample(self, noise, *, index=None, stl=False):
        return noise + self.shift, torch.full((len(noise),), 7.0 if stl else 1.0)

    def log_prob_flat(self, u):
        return u.sum(-1)


def test_a_flat_guide_needs_all_its_noise_and_watches_nothing_by_default():
    guide = Shifted()
    assert guide.noise_for(2) == 3
    assert guide.watched() is None
    assert guide.finish() is None


def test_calling_a_flat_guide_samples_it_with_its_options():
    u, log_q = Shifted()(torch.zeros(2, 3), stl=True)
    assert u.tolist() == [[1.0] * 3] * 2
    assert log_q.tolist() == [7.0, 7.0]


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 2, 5)])
def test_the_standard_normal_density_is_that_of_the_last_axis(shape):
    z = torch.linspace(-2, 3, math.prod(shape), dtype=torch.float64).reshape(shape)
    expected = scipy.stats.norm.logpdf(z.numpy()).sum(-1)
    np.testing.assert_allclose(standard_normal_log_prob(z), expected, rtol=1e-12)


@pytest.mark.parametrize("dim", [1, 7, 127, 128, 130, 200])
def test_a_lower_triangular_product_is_that_of_the_dense_matrix(dim):
    generator = torch.Generator().manual_seed(0)
    tril = torch.randn(dim, dim, generator=generator, dtype=torch.float64).tril()
    x = torch.randn(dim, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(lower_product(tril, x), tril @ x)


def test_a_large_product_does_not_read_above_its_bands_of_rows():
    """128 rows are 8 bands of 16; the first reads 16 columns, the last all."""
    tril = torch.ones(128, 128)
    for band in range(8):
        tril[16 * band : 16 * (band + 1), 16 * (band + 1) :] = torch.nan
    found = lower_product(tril, torch.ones(128))
    assert found.tolist() == [16.0 * (band + 1) for band in range(8) for _ in range(16)]


def test_triangular_takes_the_strict_lower_part_and_the_exponential_of_the_diagonal():
    lower = torch.tensor([[9.0, 9.0], [0.5, 9.0]])
    found = triangular(lower, torch.tensor([0.0, math.log(3.0)]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [0.5, 3.0]]))


@pytest.fixture
def in_session():
    with session(torch.float64):
        yield


def program(y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", 2):
        z = pyro.sample("z", dist.Normal(1.0, scale))
        kind = pyro.sample("kind", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(z + kind, 1.0), obs=y)


Y = torch.tensor([0.5, 1.5], dtype=torch.float64)


@pytest.mark.usefixtures("in_session")
def test_an_autoguide_begins_at_unconstrained_zero_without_the_discrete_sites():
    density = density_of(program, y=Y)
    guide = build_autoguide(
        AutoLowRankMultivariateNormal, program, density.data, density, rank=2, init_scale=0.3
    )
    assert guide.loc.dtype == torch.float64
    assert guide.loc.tolist() == [0.0, 0.0, 0.0]
    assert guide.cov_factor.shape == (3, 2)
    assert list(guide._unconstrained_shapes) == ["scale", "z"]


@pytest.mark.usefixtures("in_session")
def test_an_autoguide_of_a_program_without_discrete_sites_has_all_its_sites():
    def smooth(y):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

    density = density_of(smooth, y=Y)
    guide = build_autoguide(AutoDiagonalNormal, smooth, density.data, density)
    assert guide.loc.tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("in_session")
def test_another_layout_than_that_of_the_density_is_refused():
    density = density_of(program, y=Y)
    other = SimpleNamespace(
        **{
            k: getattr(density, k) for k in ("dtype", "dim", "constrain", "discrete", "completion")
        },
        sites=density.sites[::-1],
    )
    with pytest.raises(ProgramError) as caught:
        build_autoguide(AutoDiagonalNormal, program, density.data, other)
    assert str(caught.value) == (
        "The autoguide lays its sites out as [('scale', ()), ('z', (2,))], the log density as"
        " [('z', (2,)), ('scale', ())]; give every site a fixed place and shape."
    )


@pytest.mark.usefixtures("in_session")
def test_an_autoguide_is_filled_with_constrained_values():
    density = density_of(program, y=Y)
    guide = build_autoguide(AutoLowRankMultivariateNormal, program, density.data, density, rank=1)
    loc, factor = guide.loc, torch.arange(3.0, dtype=torch.float64)[:, None]
    fill(guide, loc=SCALE, cov_factor=factor, scale=SCALE)
    assert guide.loc is loc, "the parameter itself, which an optimizer may hold"
    assert guide.loc.tolist() == SCALE.tolist()
    assert torch.equal(guide.cov_factor.detach(), factor)
    torch.testing.assert_close(guide.scale.detach(), SCALE)
    fill(guide, scale=2 * SCALE)
    torch.testing.assert_close(guide.scale.detach(), 2 * SCALE)


def test_bands_are_for_large_matrices_only(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 4)
    tril = torch.ones(8, 8)
    tril[0, 1:] = torch.nan
    assert lower_product(tril, torch.ones(8))[0] == 1.0
    assert torch.isnan(lower_product(tril[:3, :3], torch.ones(3))[0])
