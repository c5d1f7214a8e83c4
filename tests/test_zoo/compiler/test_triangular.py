"""Substitution and Cholesky column by column, against the library."""

import pytest
import torch

from zoo.compiler import triangular
from zoo.compiler.triangular import cholesky, small, solve


def rows(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("unitriangular", [False, True])
def test_a_system_is_solved_without_reading_the_other_triangle(n, upper, unitriangular):
    matrix = rows(n, n) + 3 * torch.eye(n, dtype=torch.float64)
    right = rows(n, 3, seed=1)
    half = torch.triu(matrix) if upper else torch.tril(matrix)
    if unitriangular:
        half = half - torch.diag(half.diagonal()) + torch.eye(n, dtype=torch.float64)
    hidden = torch.where(half == 0, torch.nan, matrix)
    found = solve(hidden, right, upper=upper, unitriangular=unitriangular)
    assert torch.allclose(half @ found, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shapes", [((2, 1, 4, 4), (3, 4, 2)), ((4, 4), (5, 4, 1))])
def test_systems_in_batches_are_broadcast(shapes):
    matrix, right = rows(*shapes[0]) + 3 * torch.eye(4, dtype=torch.float64), rows(*shapes[1])
    found = solve(matrix, right, upper=False)
    truth = torch.linalg.solve_triangular(matrix, right, upper=False)
    assert found.shape == truth.shape
    assert torch.allclose(found, truth, rtol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_factor_is_lower_triangular_and_gives_the_matrix(n):
    root = rows(3, n, n)
    matrix = root @ root.mT + torch.eye(n, dtype=torch.float64)
    found = cholesky(matrix)
    assert torch.allclose(found, torch.linalg.cholesky(matrix), rtol=1e-12)
    assert torch.equal(found, torch.tril(found))


def test_a_matrix_without_a_factor_gives_nan():
    assert cholesky(torch.diag(torch.tensor([1.0, -1.0]))).isnan().any()


@pytest.mark.parametrize(
    ("unknowns", "columns", "answer"),
    [(64, 64, True), (64, 65, False), (65, 1, False), (1, 4096, True), (1, 4097, False)],
)
def test_a_system_is_small_up_to_64_unknowns_and_as_many_right_hand_sides(
    unknowns, columns, answer
):
    assert (triangular.WIDEST, triangular.LARGEST) == (64, 64 * 64)
    matrix, right = torch.empty(2, unknowns, unknowns), torch.empty(2, unknowns, columns)
    assert small(matrix, right) is answer
