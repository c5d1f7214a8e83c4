"""Traceable, vectorizable ODE solvers on a fixed grid: Runge-Kutta, symplectic splitting."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["refined", "rk4", "split"]

# Blanes and Moan (2002), table 2, S10: weights of the kicks of x and of y, up to the middle of the
# symmetric step
_X = (
    0.0502627644003922,
    0.413514300428344,
    0.0450798897943977,
    -0.188054853819569,
    0.541960678450780,
)
_Y = (0.148816447901042, -0.132385865767784, 0.067307604692185, 0.432666402578175)


def rk4(
    slope: Callable[[int, Tensor], Tensor],
    state: Tensor,
    grid: Sequence[float],
    keep: Sequence[int],
) -> Tensor:
    r"""Solve dz/dt = slope from grid[0] on; return the states at chosen nodes, `[node, *state]`.

    \[ z_{n+1} = z_n + \tfrac h6 (k_1 + 2 k_2 + 2 k_3 + k_4), \qquad h = t_{n+1} - t_n, \]

    of error O(h^4). The grid is data, never latent: every evaluation runs the same operations.

    Args:
        slope: `slope(i, z)` at half-step i: time t_n for i = 2 n, the middle of t_n and t_{n+1}
            for i = 2 n + 1.
        state: z at grid[0].
        grid: increasing times.
        keep: increasing indices of the nodes to return.

    Source: Hairer, Norsett and Wanner (1993), Solving Ordinary Differential Equations I, section
        II.1.
    """
    wanted = set(keep)
    kept = [state] if 0 in wanted else []
    for n in range(len(grid) - 1):
        h = grid[n + 1] - grid[n]
        k1 = slope(2 * n, state)
        k2 = slope(2 * n + 1, state + (h / 2) * k1)
        k3 = slope(2 * n + 1, state + (h / 2) * k2)
        k4 = slope(2 * n + 2, state + h * k3)
        state = state + (h / 6) * (k1 + 2 * (k2 + k3) + k4)
        if n + 1 in wanted:
            kept.append(state)
    return torch.stack(kept)


def split(
    kick_x: Callable[[float, Tensor, Tensor], Tensor],
    kick_y: Callable[[float, Tensor, Tensor], Tensor],
    state: tuple[Tensor, Tensor],
    grid: Sequence[float],
    keep: Sequence[int],
) -> Tensor:
    r"""Solve dx/dt = f(y), dy/dt = g(x) from grid[0] on; return the states at chosen nodes.

    With y fixed, x moves along a straight line, and vice versa; a step consists of 21 such exact
    kicks,

    \[ x \leftarrow x + a_1 h f(y),\; y \leftarrow y + b_1 h g(x),\; \dots,\; x \leftarrow x + a_1
    h f(y), \]

    of error O(h^6). The method is symplectic, and each kick evaluates only one of the two slopes.

    Args:
        kick_x: `kick_x(w, x, y)` returns x + w f(y).
        kick_y: `kick_y(w, y, x)` returns y + w g(x).
        state: x and y at grid[0].
        grid: increasing times.
        keep: increasing indices of the nodes to return.

    Returns:
        The states `[node, 2, *state]`.

    Source: Blanes and Moan (2002), Practical symplectic partitioned Runge-Kutta and
        Runge-Kutta-Nystrom methods, J. Comput. Appl. Math. 142, 313-330, method S10.
    """
    half_x, half_y = (*_X, 1.0 - 2.0 * sum(_X)), (*_Y, 0.5 - sum(_Y))
    weights_x, weights_y = half_x + half_x[-2::-1], half_y + half_y[::-1]
    wanted = set(keep)
    x, y = state
    kept = [torch.stack([x, y])] if 0 in wanted else []
    for n in range(len(grid) - 1):
        h = grid[n + 1] - grid[n]
        for w, v in zip(weights_x, weights_y, strict=False):
            x = kick_x(w * h, x, y)
            y = kick_y(v * h, y, x)
        x = kick_x(weights_x[-1] * h, x, y)
        if n + 1 in wanted:
            kept.append(torch.stack([x, y]))
    return torch.stack(kept)


def refined(
    times: Sequence[float], steps: int, *, first: int | None = None, power: float = 1.0
) -> tuple[list[float], list[int]]:
    """Subdivide the intervals between times; return the grid and the times' indices in it.

    Args:
        times: increasing, the start first.
        steps: steps per interval.
        first: steps in the first interval, default `steps`.
        power: in the first interval node j is at (j / first)^power of its length; above 1 the
            first steps are short.
    """
    grid, keep = [float(times[0])], [0]
    for i, (a, b) in enumerate(itertools.pairwise(times)):
        number = first if i == 0 and first is not None else steps
        grid += [
            a + (b - a) * (j / number) ** (power if i == 0 else 1.0) for j in range(1, number + 1)
        ]
        keep.append(len(grid) - 1)
    return grid, keep
