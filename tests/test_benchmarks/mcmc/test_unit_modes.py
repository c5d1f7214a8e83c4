"""Modes of rows whose densities are written down: how points are grouped by where they climb."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.mcmc.unit_modes import NEAR, _grouped, modes_of


def quadratic(centers):
    """Return rows, each a maximum of unit parabolas around its centers `[row][mode]`."""
    rows = [torch.tensor(c, dtype=torch.float64) for c in centers]

    def batch_gradient(x):
        number = len(x) // len(rows)
        value, slope = [], []
        for i, row in enumerate(rows):
            away = row[None] - x[i * number : (i + 1) * number]  # [n, mode], in one dimension
            nearest = away.abs().argmin(1, keepdim=True)
            to = away.gather(1, nearest)
            value.append(-0.5 * to[:, 0] ** 2)
            slope.append(to)
        return torch.cat(value), torch.cat(slope)

    return SimpleNamespace(targets=len(rows), dim=1, batch_gradient=batch_gradient)


def test_points_of_one_mode_have_one_number_in_every_row():
    density = quadratic([[0.0], [-3.0, 3.0], [0.0, 5.0, 10.0]])
    x = torch.tensor([[-9.0, 1.0, 30.0], [-4.0, 2.0, -0.5], [11.0, 0.3, 4.0]])
    found = modes_of(density, x.double().reshape(-1, 1))
    assert found.T.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 2]]


def test_points_are_left_where_they_were():
    x = torch.tensor([[2.0], [4.0]], dtype=torch.float64)
    before = x.clone()
    modes_of(quadratic([[0.0]]), x)
    assert torch.equal(x, before)


def test_a_climb_from_the_mode_itself_stays():
    assert modes_of(quadratic([[1.0]]), torch.full((3, 1), 1.0).double()).tolist() == [[0]] * 3


@pytest.mark.parametrize(("apart", "groups"), [(0.49, 1), (0.5, 1), (0.51, 2)])
def test_ends_within_half_an_sd_are_one_mode(apart, groups):
    assert NEAR == 0.5
    found = _grouped(torch.tensor([[0.0, 0.0], [0.0, apart]]).double())
    assert found.max() + 1 == groups


def test_the_distance_of_ends_is_euclidean():
    ends = torch.tensor([[0.0, 0.0], [0.4, 0.4], [0.3, 0.3]])  # 0.57 and 0.42 from the first
    assert _grouped(ends).tolist() == [0, 1, 0]


def test_groups_are_numbered_by_their_first_points():
    ends = torch.tensor([[5.0], [0.0], [5.1], [0.2], [9.0], [5.4]])
    found = _grouped(ends)
    assert found.tolist() == [0, 1, 0, 1, 2, 0]
    assert isinstance(found, np.ndarray)
