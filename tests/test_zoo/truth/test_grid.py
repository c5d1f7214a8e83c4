"""Grids: mass near any face of the box fails the check."""

import math

import pytest
import torch

from zoo.truth.grid import EDGE, GaussianLikelihood, LatentGrid


def flat(half_width):
    """Return a grid over a likelihood that says nothing: the posterior is the prior."""
    likelihood = GaussianLikelihood(lambda z: torch.zeros(len(z), 1, dtype=z.dtype), 1.0)
    return LatentGrid(
        likelihood, 2, points=401, half_width=torch.tensor(half_width, dtype=torch.float64)
    )


def beyond(width):
    """Return the mass of a standard normal cut off at `width` in the outermost part of the box."""
    near = (1 - 2 * EDGE) * width
    inside = [math.erf(x / math.sqrt(2)) for x in (near, width)]
    return 1 - inside[0] / inside[1]


@pytest.mark.parametrize("half_width", [(1.5, 8.0), (8.0, 1.5)])
def test_mass_at_the_edge_of_one_axis_is_border_mass(half_width):
    grid, x = flat(half_width), torch.zeros(1, 1, dtype=torch.float64)
    assert float(grid.border_mass(x)) == pytest.approx(beyond(1.5), abs=0.005)
    found = grid.check(x)
    assert found.border_mass > 0.05
    assert not found.ok


def test_a_box_that_holds_the_posterior_passes():
    found = flat((8.0, 7.0)).check(torch.zeros(1, 1, dtype=torch.float64))
    assert found.border_mass == pytest.approx(beyond(7.0) + beyond(8.0), rel=0.2)
    assert found.ok
