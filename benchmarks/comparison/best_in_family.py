"""Expectations under a guide's q by Gauss-Hermite quadrature of its noise, and the best q of its family for every datum.

All heads map standard normal noise to the local values, so that for nodes e_k with weights c_k

    ELBO_i(q) = sum_k c_k [log p(x_i, z_i(e_k)) - log q(z_i(e_k))]       [nats]

is exact but for the smoothness of the integrand. It runs through the head's own `draw` and
`log_prob`: a density that does not belong to the draws shows against the grid, which never draws.

The best q is searched from several starts in coordinates relative to the start, m = m0 + T0 a, T =
T0 R. The family of a flow is every chain of couplings of its shape, whatever weights the guide
shares between data: `OwnFlowHead` gives each datum weights of its own (as in Cremer, Li and
Duvenaud 2018, Inference suboptimality in variational autoencoders).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guides.base.heads import DiagonalHead, FlowHead, Head, TriangularHead
from guides.base.local import LocalGuide

WEIGHT_PACE = 0.6  # of a coupling's weights beside locations and log scales
OWN_STEPS, OWN_POINTS, OWN_RATE = 1000, 128, 0.05  # of the search over couplings

__all__ = [
    "LocalQ",
    "OwnFlowHead",
    "Target",
    "best_numbers",
    "elbo_nats",
    "gaussian_numbers",
    "nodes",
    "refine",
]


@dataclass(frozen=True)
class Target:
    """A model with the codes of images as its only latent values: a likelihood of `zoo.truth.grid` and log p(z)."""

    likelihood: Any
    log_prior: Any

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x_i, z_i) for rows `[row, pixel]` and their own points `[node, row, d]`, `[node, row]`."""
        prior: Tensor = self.log_prior(z.reshape(-1, z.shape[-1])).reshape(z.shape[:-1])
        value: Tensor = self.likelihood.paired(x, z) + prior
        return value


@dataclass(frozen=True)
class LocalQ:
    """One q per row: a head with its numbers `[row, numbers]`; values are center + spread w."""

    head: Head
    numbers: Tensor
    center: Tensor
    spread: Tensor

    @classmethod
    def of(cls, guide: LocalGuide) -> LocalQ:
        """Take the q of every unit of a fitted guide."""
        with torch.no_grad():
            return cls(
                guide.head, guide.numbers(None).clone(), guide.center.clone(), guide.spread.clone()
            )

    def take(self, rows: Tensor) -> LocalQ:
        """Return the q of some rows."""
        return LocalQ(self.head, self.numbers[rows], self.center, self.spread)

    def replaced(self, numbers: Tensor) -> LocalQ:
        """Return the same family with other numbers."""
        return LocalQ(self.head, numbers, self.center, self.spread)

    def draw(self, noise: Tensor) -> Tensor:
        """Map noise `[node, row, d]` to values."""
        return self.center + self.spread * self.head.draw(self.numbers, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q `[node, row]` in nats."""
        return (
            self.head.log_prob(self.numbers, (z - self.center) / self.spread)
            - self.spread.log().sum()
        )


class OwnFlowHead(FlowHead):
    """The flow with couplings of each row's own: their weights follow the numbers of the normal, layer after layer.

    Of layer l with k kept and m moved coordinates: inner weight `[hidden, k]`, inner bias
    `[hidden]`, into which h went, outer weight `[2 m, hidden]`, outer bias `[2 m]`.
    """

    def __init__(self, like: FlowHead) -> None:
        super().__init__(like.width, layers=len(like.couplings), hidden=like.hidden, context=0)
        self.shapes = [
            [
                (like.hidden, len(kept)),
                (like.hidden,),
                (2 * len(moved), like.hidden),
                (2 * len(moved),),
            ]
            for kept, moved in zip(self.kept, self.moved, strict=True)
        ]

    @property
    def numbers(self) -> int:
        """Those of the normal, and every weight."""
        return self.normal.numbers + sum(
            math.prod(shape) for layer in self.shapes for shape in layer
        )

    @classmethod
    def numbers_of(cls, like: FlowHead, numbers: Tensor) -> Tensor:
        """Return the numbers `[row, numbers]` under which this head is the q that `like` has with its own."""
        h, parts = numbers[:, like.normal.numbers :], [numbers[:, : like.normal.numbers]]
        for kept, coupling in zip(like.kept, like.couplings, strict=True):
            inner, outer = coupling[0], coupling[2]  # type: ignore[index]
            bias = inner.bias + h @ inner.weight[:, len(kept) :].T
            shared = (inner.weight[:, : len(kept)], None, outer.weight, outer.bias)
            parts += [bias if v is None else v.reshape(1, -1).expand(len(h), -1) for v in shared]
        return torch.cat(parts, -1).detach()

    def _change(self, layer: int, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        begin = sum(math.prod(shape) for earlier in self.shapes[:layer] for shape in earlier)
        values = []
        for shape in self.shapes[layer]:
            values.append(h[:, begin : begin + math.prod(shape)].reshape(-1, *shape))
            begin += math.prod(shape)
        inner, inner_bias, outer, outer_bias = values
        hidden = torch.tanh(
            torch.einsum("...rk,rhk->...rh", v[..., self.kept[layer]], inner) + inner_bias
        )
        a, c = (torch.einsum("...rh,roh->...ro", hidden, outer) + outer_bias).chunk(2, -1)
        return self.bounded(a), c


def nodes(number: int, d: int) -> tuple[Tensor, Tensor]:
    """Return Gauss-Hermite nodes `[number^d, d]` for standard normals and their weights `[number^d]`, which sum to 1."""
    points, weights = np.polynomial.hermite_e.hermegauss(number)
    axis, weight = torch.as_tensor(points), torch.as_tensor(weights / weights.sum())
    grid = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    product = torch.cartesian_prod(*[weight] * d).reshape(-1, d).prod(-1)
    keep = product > 1e-18
    return grid[keep], product[keep] / product[keep].sum()


def elbo_nats(target: Target, q: LocalQ, x: Tensor, number: int | None = None) -> Tensor:
    """Return the ELBO of each row by quadrature with `number` nodes per axis, `[row]` in nats.

    By default there are 48 of them (24 from three dimensions on): 24 were off by 1.5e-3 nats for a
    decoder of steep units.
    """
    noise, weight = nodes(number or (48 if q.head.width < 3 else 24), q.head.width)
    z = q.draw(noise[:, None, :].expand(-1, len(x), -1))
    return weight @ (target.log_joint(x, z) - q.log_prob(z))


def gaussian_numbers(
    head: Head, mean: Tensor, covariance: Tensor, center: Tensor, spread: Tensor, like: Tensor
) -> Tensor:
    """Return the numbers of the head whose normal has these moments (`[row, d]`, `[row, d, d]`); the rest is taken from `like`."""
    d, out = head.width, like.clone()
    out[:, :d] = (mean - center) / spread
    if isinstance(head, DiagonalHead):
        # The KL-optimal independent normal has the inverse diagonal of the precision as its
        # variances.
        variance = torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1).reciprocal()
        out[:, d:] = 0.5 * variance.log() - spread.log()
        return out
    factor = torch.linalg.cholesky(covariance) / spread[:, None]
    out[:, d : 2 * d] = factor.diagonal(dim1=-2, dim2=-1).log()
    rows, columns = torch.tril_indices(d, d, -1)
    out[:, 2 * d : 2 * d + len(rows)] = factor[:, rows, columns]
    return out


class _Moves:
    """Changes of a normal relative to where it starts; zero changes nothing."""

    def __init__(self, head: Head, numbers: Tensor) -> None:
        self.head, self.start, d = head, numbers.detach(), head.width
        self.shift = torch.zeros_like(numbers[:, :d]).requires_grad_(True)
        self.log_scale = torch.zeros_like(numbers[:, :d]).requires_grad_(True)
        self.rows, self.columns = torch.tril_indices(d, d, -1)
        self.lower = numbers.new_zeros(len(numbers), len(self.rows)).requires_grad_(True)
        first = 2 * d + len(self.rows)
        self.pace = WEIGHT_PACE if isinstance(head, OwnFlowHead) else 1.0
        self.rest = torch.zeros_like(numbers[:, first:]).requires_grad_(True)

    @property
    def parameters(self) -> list[Tensor]:
        """What is searched over."""
        if isinstance(self.head, DiagonalHead):
            return [self.shift, self.log_scale]
        return [
            self.shift,
            self.log_scale,
            self.lower,
            *([self.rest] if self.rest.numel() else []),
        ]

    def numbers(self) -> Tensor:
        """Return m = m0 + T0 a and T = T0 R as numbers of the head."""
        d, start = self.head.width, self.start
        if isinstance(self.head, DiagonalHead):
            return torch.cat(
                [start[:, :d] + start[:, d:].exp() * self.shift, start[:, d:] + self.log_scale], -1
            )
        base, change = (
            self._matrix(start[:, d : 2 * d], start[:, 2 * d : 2 * d + len(self.rows)]),
            self._matrix(self.log_scale, self.lower),
        )
        factor = base @ change
        moved = start[:, :d] + (base @ self.shift[:, :, None])[..., 0]
        parts = [moved, start[:, d : 2 * d] + self.log_scale, factor[:, self.rows, self.columns]]
        return torch.cat([*parts, start[:, 2 * d + len(self.rows) :] + self.pace * self.rest], -1)

    def _matrix(self, log_diagonal: Tensor, lower: Tensor) -> Tensor:
        matrix = torch.diag_embed(log_diagonal.exp())
        return matrix.index_put(
            (torch.arange(len(lower))[:, None], self.rows[None], self.columns[None]), lower
        )


def refine(
    target: Target, q: LocalQ, x: Tensor, *, steps: int = 50, lr: float = 0.1, number: int = 7
) -> LocalQ:
    """Return q after Adam steps on the ELBO of each row by itself, from where it is; what moves is relative to its own scale.

    The learning rate falls along a cosine to a hundredth. The couplings of a flow stay as they
    are.
    """
    moves = _Moves(q.head, q.numbers)
    return q.replaced(
        _descend(
            moves,
            lambda: -elbo_nats(target, q.replaced(moves.numbers()), x, number).sum(),
            lr,
            steps,
        )
    )


def best_numbers(
    target: Target,
    q: LocalQ,
    x: Tensor,
    mean: Tensor,
    covariance: Tensor,
    *,
    mode: Tensor | None = None,
    draws: Tensor | None = None,
    steps: int = 120,
    number: int = 7,
    final: int | None = None,
) -> tuple[LocalQ, Tensor]:
    """Return the best q of the family for each row over several starts, and its ELBO `[row]` in nats.

    Starts: the encoder's q, the normal with the exact moments, that normal at a third of its scale
    to each side of its longest axis and at the posterior's mode, so that a posterior with several
    modes is tried at each; for a full covariance also the best independent normals. A flow goes on
    with couplings of each row's own from the best of these, from the exact moments and, where
    draws are given, from the flow under which these are likely. The starts, the encoder's own q
    among them, are candidates and no value is used that was not computed by the same quadrature,
    so that the best is never below the encoder.

    Args:
        target: the model.
        q: the guide's q of these rows.
        x: `[row, pixel]`.
        mean: exact posterior means `[row, d]`.
        covariance: exact posterior covariances `[row, d, d]`.
        mode: highest points of the exact posteriors `[row, d]`, where known.
        draws: draws of the exact posteriors `[n, row, d]`, where known.
        steps: optimizer steps of each start.
        number: nodes per axis during the search.
        final: nodes per axis of the values returned, see `elbo_nats`.
    """
    values, vectors = torch.linalg.eigh(covariance)
    long = vectors[..., -1] * values[..., -1:].sqrt()
    moments = [(mean, covariance), (mean + long, covariance / 9), (mean - long, covariance / 9)]
    moments += [] if mode is None else [(mode, covariance / 9)]
    starts = [
        q.numbers,
        *(gaussian_numbers(q.head, m, c, q.center, q.spread, q.numbers) for m, c in moments),
    ]
    if isinstance(
        q.head, TriangularHead
    ):  # independent normals are among its members: the best of them is a start as well
        starts.append(
            _embedded(
                target, q, x, mean, covariance, mode=mode, steps=steps, number=number, final=final
            )
        )
    found = refine(
        target, q.replaced(torch.cat(starts)), x.repeat(len(starts), 1), steps=steps, number=number
    )
    best, elbos = _highest(target, q, [*starts, *found.numbers.split(len(x))], x, final)
    if not isinstance(q.head, FlowHead) or not q.head.couplings:
        return best, elbos
    own = LocalQ(OwnFlowHead(q.head).to(x.dtype), torch.empty(0), q.center, q.spread)
    normal = gaussian_numbers(q.head, mean, covariance, q.center, q.spread, q.numbers)
    starts = [OwnFlowHead.numbers_of(q.head, numbers) for numbers in (best.numbers, normal)]
    starts += [] if draws is None else [_likely(own.replaced(starts[1]), draws)]
    found = _search_couplings(target, own.replaced(torch.cat(starts)), x.repeat(len(starts), 1))
    return _highest(target, own, [*starts, *found.numbers.split(len(x))], x, final)


def _highest(
    target: Target, q: LocalQ, candidates: list[Tensor], x: Tensor, final: int | None
) -> tuple[LocalQ, Tensor]:
    """Return for each row the candidate of the largest ELBO, and that ELBO."""
    with torch.no_grad():
        elbos = torch.stack([elbo_nats(target, q.replaced(c), x, final) for c in candidates])
        elbos = torch.nan_to_num(elbos, nan=-math.inf)
        numbers = torch.stack(candidates)[elbos.argmax(0), torch.arange(len(x))]
    return q.replaced(numbers), elbos.max(0).values


def _search_couplings(target: Target, q: LocalQ, x: Tensor) -> LocalQ:
    """Return flows after steps over every weight of their own.

    Hundreds of weights per row would fit any fixed nodes themselves (a search on 16 nodes per axis
    ended 30 nats below its own values), so that each step has new points: a Sobol sequence shifted
    at random per row. The path derivative of Roeder, Wu and Duvenaud (2017) leaves no noise where
    q is the posterior.
    """
    moves, points = (
        _Moves(q.head, q.numbers),
        torch.quasirandom.SobolEngine(q.head.width, scramble=True, seed=0),
    )
    sequence, stream = (
        points.draw(OWN_POINTS, dtype=x.dtype)[:, None, :],
        torch.Generator().manual_seed(0),
    )

    def loss() -> Tensor:
        uniform = (
            sequence + torch.rand(1, len(x), q.head.width, dtype=x.dtype, generator=stream)
        ) % 1
        now = q.replaced(moves.numbers())
        z = now.draw(torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)))
        return (
            (now.replaced(now.numbers.detach()).log_prob(z) - target.log_joint(x, z)).mean(0).sum()
        )

    return q.replaced(_descend(moves, loss, OWN_RATE, OWN_STEPS))


def _likely(q: LocalQ, draws: Tensor) -> Tensor:
    """Return the numbers of the flows after steps up the likelihood of the draws, which spreads them over every mode."""
    moves = _Moves(q.head, q.numbers)
    return _descend(
        moves,
        lambda: -q.replaced(moves.numbers()).log_prob(draws).mean(0).sum(),
        OWN_RATE,
        OWN_STEPS // 2,
    )


def _descend(moves: _Moves, loss: Callable[[], Tensor], rate: float, steps: int) -> Tensor:
    """Return the numbers after steps of Adam with a rate that falls along a cosine to a hundredth."""
    optimizer = torch.optim.Adam(moves.parameters, lr=rate, betas=(0.9, 0.95))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (
            0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        for parameter, gradient in zip(
            moves.parameters, torch.autograd.grad(loss(), moves.parameters), strict=True
        ):
            parameter.grad = gradient
        optimizer.step()
    return moves.numbers().detach()


def _embedded(
    target: Target, q: LocalQ, x: Tensor, mean: Tensor, covariance: Tensor, **search: Any
) -> Tensor:
    """Return the best independent normals of each row as numbers of a head with full covariance."""
    d = q.head.width
    own = LocalQ(DiagonalHead(d), q.numbers[:, : 2 * d], q.center, q.spread)
    best = best_numbers(target, own, x, mean, covariance, **search)[0]
    return torch.cat([best.numbers, torch.zeros_like(q.numbers[:, 2 * d :])], -1)


def family_of(q: LocalQ) -> str:
    """Return the words for the family of a head."""
    names = {
        DiagonalHead: "independent normals",
        TriangularHead: "normals with full covariance",
        FlowHead: "flows",
    }
    return names.get(type(q.head), type(q.head).__name__)
