"""Small triangular systems, unrolled: library calls cost more than the arithmetic.

    L x = b:    x_i = r_i / L_ii,    r <- r - L_{., i} x_i,    i = 1, ..., n

With ten unknowns a library solve spends forty microseconds on calls and one on arithmetic. Each
step here is one short loop over the remaining rows (and all right-hand sides), which a compiler
fuses and vectorizes, and a graph without library calls runs through the C ABI
(`zoo.compiler.c_abi`). Each step also adds code to compile, so above `WIDEST` unknowns the library
is called.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FACTORED", "LARGEST", "WIDEST", "cholesky", "small", "solve"]

WIDEST = 64  # unknowns
FACTORED = 16  # rows of a matrix whose Cholesky factor is unrolled
LARGEST = 4096  # entries of the right-hand sides of one system


def small(matrix: Tensor, right: Tensor) -> bool:
    """Whether to unroll a system `matrix [..., n, n] X = right [..., n, k]`."""
    return matrix.shape[-1] <= WIDEST and right.shape[-2] * right.shape[-1] <= LARGEST


def solve(matrix: Tensor, right: Tensor, *, upper: bool, unitriangular: bool = False) -> Tensor:
    """Solve `matrix X = right` by substitution.

    Args:
        matrix: triangular `[..., n, n]`; its other triangle is not read.
        right: `[..., n, k]`.
        upper: whether the matrix is upper triangular.
        unitriangular: take the diagonal as ones.
    """
    n = matrix.shape[-1]
    shape = torch.broadcast_shapes(matrix.shape[:-2], right.shape[:-2])
    rest = right.expand(*shape, *right.shape[-2:])
    matrix = matrix.expand(*shape, n, n)
    found: list[Tensor] = []
    for step in range(n):
        i = n - 1 - step if upper else step
        at = i if upper else 0  # the remaining rows are 0..i, or i..n-1
        x = rest[..., at : at + 1, :]
        x = x if unitriangular else x / matrix[..., i : i + 1, i : i + 1]
        found.append(x)
        column = matrix[..., :i, i : i + 1] if upper else matrix[..., i + 1 :, i : i + 1]
        rest = (rest[..., :i, :] if upper else rest[..., 1:, :]) - column * x
    return torch.cat(found[::-1] if upper else found, -2)


def cholesky(matrix: Tensor) -> Tensor:
    """Return the lower L of `L L^T = matrix [..., n, n]`, column by column.

    L_jj = sqrt(A_jj),    L_ij = A_ij / L_jj,    A <- A - L_{., j} L_{., j}^T,    j = 1, ..., n

    The result is NaN if the matrix is not positive definite.
    """
    rest, columns = matrix, []
    for j in range(matrix.shape[-1]):
        root = rest[..., :1, :1].sqrt()
        below = rest[..., 1:, :1] / root
        above = root.new_zeros(*root.shape[:-2], j, 1)
        columns.append(torch.cat([above, root, below], -2))
        rest = rest[..., 1:, 1:] - below * below.transpose(-1, -2)
    return torch.cat(columns, -1)
