"""The low-rank guide: log q and the exported autoguide are those of its pieces."""

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal

import guides
from guides.base.flat import Start
from guides.families.low_rank import flat
from guides.session import session
from zoo.density.log_density import LogDensity

SCALES = torch.tensor([1e-3, 0.2, 30.0, 5.0], dtype=torch.float64)  # far from 1


@pytest.fixture
def pieces(tiny):
    """A guide in four dimensions, its autoguide, and location, factor and scale by hand."""
    entry, _ = tiny.gaussian(d=4)
    data = entry.load_data()
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    with session(entry.dtype):
        density = LogDensity(entry.program(data), data, dtype=entry.dtype)
        auto = guides.build("low_rank", entry.program(data), data, entry, rank=2)
        factor = torch.diag(SCALES) @ (torch.eye(4).double() + 0.4 * normal(4, 4).tril(-1))
        guide = flat(auto, Start(loc=normal(4), scale=SCALES, factor=factor))
        with torch.no_grad():
            guide.shift.copy_(normal(4))
            guide.factor.copy_(normal(4, 2))
            guide.log_scale.copy_(0.3 * normal(4))
    width = (factor @ factor.T).diagonal().sqrt()
    loc = guide.origin + factor @ guide.shift.detach()
    return (
        density,
        guide,
        auto,
        LowRankMultivariateNormal(
            loc,
            width[:, None] * guide.factor.detach(),
            (width * guide.log_scale.detach().exp()).square(),
        ),
    )


def test_log_q_is_the_density_of_torch(pieces):
    _, guide, _, known = pieces
    noise = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u, log_q = guide.sample(noise)
    torch.testing.assert_close(log_q, known.log_prob(u), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(guide.log_prob_flat(u), known.log_prob(u), rtol=1e-9, atol=1e-9)


def test_draws_have_the_covariance_of_the_pieces(pieces):
    _, guide, _, known = pieces
    number = 20_000
    noise = torch.randn(number, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        z = (guide.sample(noise)[0] - known.mean) / known.stddev
    expected = known.covariance_matrix / known.stddev / known.stddev[:, None]
    found = z.T @ z / number
    assert ((found - expected).abs() < 5 * (2 / number) ** 0.5).all()


def test_the_filled_autoguide_is_the_same_normal(pieces):
    _, guide, auto, known = pieces
    guide.finish()
    filled = auto.get_posterior()
    torch.testing.assert_close(filled.mean, known.mean)
    torch.testing.assert_close(
        filled.covariance_matrix, known.covariance_matrix, rtol=1e-8, atol=0
    )
