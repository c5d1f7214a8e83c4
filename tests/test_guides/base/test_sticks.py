"""Coordinates of a simplex by breaking a stick."""

import torch
from pyro.distributions.transforms import StickBreakingTransform

from guides.base.sticks import later, offset


def test_later_is_what_follows_an_entry():
    found = later(torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.5, 0.0, 1.0, 0.0]]))
    assert found.tolist() == [[14.0, 12.0, 8.0], [1.0, 1.0, 0.0]]


def test_zero_plus_the_offset_is_an_even_simplex():
    """The first of K pieces is 1/K of the stick, the logit of which is -log(K - 1)."""
    found = offset(torch.zeros(4, dtype=torch.float64))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64).log())
    even = StickBreakingTransform()(torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(even, torch.full((4,), 0.25, dtype=torch.float64))
    shares = torch.sigmoid(-found)
    torch.testing.assert_close(shares, torch.tensor([1 / 4, 1 / 3, 1 / 2]).double())
