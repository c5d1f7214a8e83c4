"""The best q of a guide's family for every datum, and its ELBO by Gauss-Hermite quadrature.

Every head maps standard normal noise to the local values. With nodes e_k and weights c_k,

    ELBO_i(q) = sum_k c_k [log p(x_i, z_i(e_k)) - log q(z_i(e_k))]       [nats]

is exact up to the smoothness of the integrand. It uses the head's own `draw` and `log_prob`, so a
density that does not match the draws disagrees with the grid, which takes no draws.

The best q is optimized from several starts in coordinates relative to the start, m = m0 + T0 a, T
= T0 R. The family of a flow is every chain of couplings of its shape, whichever weights the guide
shares between data: `OwnFlowHead` gives each datum its own weights (as in Cremer, Li and Duvenaud
2018, Inference suboptimality in variational autoencoders).
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

WEIGHT_PACE = 0.6  # learning-rate scale of coupling weights, relative to locations and log scales
OWN_STEPS, OWN_POINTS, OWN_RATE = 1000, 128, 0.05  # of the optimization of couplings

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
    """A model whose only latents are the codes of images.

    It offers the likelihood that `zoo.truth.grid` needs, and log p(z).
    """

    likelihood: Any
    log_prior: Any

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x_i, z_i), `[node, row]`, for `x` `[row, pixel]`, `z` `[node, row, d]`."""
        prior: Tensor = self.log_prior(z.reshape(-1, z.shape[-1])).reshape(z.shape[:-1])
        value: Tensor = self.likelihood.paired(x, z) + prior
        return value


@dataclass(frozen=True)
class LocalQ:
    """One q per row: a head with its parameters `[row, numbers]`; values are center + spread w."""

    head: Head
    numbers: Tensor
    center: Tensor
    spread: Tensor

    @classmethod
    def of(cls, guide: LocalGuide) -> LocalQ:
        """Return the q of every unit of a fitted guide."""
        with torch.no_grad():
            return cls(
                guide.head, guide.numbers(None).clone(), guide.center.clone(), guide.spread.clone()
            )

    def take(self, rows: Tensor) -> LocalQ:
        """Return the q of the given rows."""
        return LocalQ(self.head, self.numbers[rows], self.center, self.spread)

    def replaced(self, numbers: Tensor) -> LocalQ:
        """Return the same family with other parameters."""
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
    """A flow whose coupling weights are separate for each row.

    They follow the parameters of the normal, layer after layer. A layer with k kept and m moved
    coordinates has an inner weight `[hidden, k]`, an inner bias `[hidden]` (which includes the
    contribution of h), an outer weight `[2 m, hidden]` and an outer bias `[2 m]`.
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
        """Parameters per row: those of the normal, and every coupling weight."""
        return self.normal.numbers + sum(
            math.prod(shape) for layer in self.shapes for shape in layer
        )

    @classmethod
    def numbers_of(cls, like: FlowHead, numbers: Tensor) -> Tensor:
        """Return the parameters `[row, numbers]` that make this head equal to the q of `like`."""
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
    """Return Gauss-Hermite nodes `[number^d, d]` and weights `[number^d]` of standard normals.

    The weights sum to 1.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(number)
    axis, weight = torch.as_tensor(points), torch.as_tensor(weights / weights.sum())
    grid = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    product = torch.cartesian_prod(*[weight] * d).reshape(-1, d).prod(-1)
    keep = product > 1e-18
    return grid[keep], product[keep] / product[keep].sum()


def elbo_nats(target: Target, q: LocalQ, x: Tensor, number: int | None = None) -> Tensor:
    """Return the ELBO of each row by quadrature with `number` nodes per axis, `[row]` in nats.

    The default is 48 nodes (24 from three dimensions on): 24 were off by 1.5e-3 nats for a decoder
    with steep units.
    """
    noise, weight = nodes(number or (48 if q.head.width < 3 else 24), q.head.width)
    z = q.draw(noise[:, None, :].expand(-1, len(x), -1))
    return weight @ (target.log_joint(x, z) - q.log_prob(z))


def gaussian_numbers(
    head: Head, mean: Tensor, covariance: Tensor, center: Tensor, spread: Tensor, like: Tensor
) -> Tensor:
    """Return the parameters of the head whose normal has these moments.

    `mean` is `[row, d]`, `covariance` `[row, d, d]`; other parameters are copied from `like`.
    """
    d, out = head.width, like.clone()
    out[:, :d] = (mean - center) / spread
    if isinstance(head, DiagonalHead):
        # The KL-optimal normal with independent components has the inverse diagonal of the
        # precision as its variances.
        variance = torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1).reciprocal()
        out[:, d:] = 0.5 * variance.log() - spread.log()
        return out
    factor = torch.linalg.cholesky(covariance) / spread[:, None]
    out[:, d : 2 * d] = factor.diagonal(dim1=-2, dim2=-1).log()
    rows, columns = torch.tril_indices(d, d, -1)
    out[:, 2 * d : 2 * d + len(rows)] = factor[:, rows, columns]
    return out


class _Moves:
    """Changes of a normal relative to its start; zero is no change."""

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
        """Parameters to optimize."""
        if isinstance(self.head, DiagonalHead):
            return [self.shift, self.log_scale]
        return [
            self.shift,
            self.log_scale,
            self.lower,
            *([self.rest] if self.rest.numel() else []),
        ]

    def numbers(self) -> Tensor:
        """Return m = m0 + T0 a and T = T0 R as parameters of the head."""
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
    """Return q after Adam steps on the ELBO of each row, starting from q itself.

    Changes are relative to the scale of q. The learning rate follows a cosine down to 1 % of its
    initial value. The couplings of a flow stay fixed.
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
    """Return the best q of the family for each row over several starts, and its ELBO.

    Starts are the encoder's q, the normal with the exact moments, and that normal at a third of
    its scale, centered on either side along its longest axis and at the posterior mode, so that
    each mode of a multimodal posterior is tried; for a full covariance also the best normal with
    independent components. A flow continues with separate couplings per row from the best of
    these, from the exact moments and, if draws are given, from the flow with a high likelihood of
    them. The starts, the encoder's q included, are candidates themselves, and all values come from
    the same quadrature, so the best is never below the encoder. The ELBO is `[row]` in nats.

    Args:
        target: the model.
        q: the guide's q of these rows.
        x: `[row, pixel]`.
        mean: exact posterior means `[row, d]`.
        covariance: exact posterior covariances `[row, d, d]`.
        mode: modes of the exact posteriors `[row, d]`, if known.
        draws: draws of the exact posteriors `[n, row, d]`, if known.
        steps: optimizer steps of each start.
        number: nodes per axis during the optimization.
        final: nodes per axis of the returned values, see `elbo_nats`.
    """
    values, vectors = torch.linalg.eigh(covariance)
    long = vectors[..., -1] * values[..., -1:].sqrt()
    moments = [(mean, covariance), (mean + long, covariance / 9), (mean - long, covariance / 9)]
    moments += [] if mode is None else [(mode, covariance / 9)]
    starts = [
        q.numbers,
        *(gaussian_numbers(q.head, m, c, q.center, q.spread, q.numbers) for m, c in moments),
    ]
    # A full covariance includes normals with independent components: start at the best too.
    if isinstance(q.head, TriangularHead):
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
    """Return for each row the candidate of largest ELBO, and that ELBO."""
    with torch.no_grad():
        elbos = torch.stack([elbo_nats(target, q.replaced(c), x, final) for c in candidates])
        elbos = torch.nan_to_num(elbos, nan=-math.inf)
        numbers = torch.stack(candidates)[elbos.argmax(0), torch.arange(len(x))]
    return q.replaced(numbers), elbos.max(0).values


def _search_couplings(target: Target, q: LocalQ, x: Tensor) -> LocalQ:
    """Return flows after optimizing separate coupling weights for each row.

    Hundreds of weights per row would overfit any fixed nodes (an optimization on 16 nodes per axis
    ended 30 nats below its own values). Each step therefore uses new points: a Sobol sequence with
    a random shift per row. The path derivative of Roeder, Wu and Duvenaud (2017) has no variance
    where q is the posterior.
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
    """Return the parameters of flows after maximizing the likelihood of the draws.

    This spreads the flows over every mode.
    """
    moves = _Moves(q.head, q.numbers)
    return _descend(
        moves,
        lambda: -q.replaced(moves.numbers()).log_prob(draws).mean(0).sum(),
        OWN_RATE,
        OWN_STEPS // 2,
    )


def _descend(moves: _Moves, loss: Callable[[], Tensor], rate: float, steps: int) -> Tensor:
    """Return the parameters after Adam steps; the rate follows a cosine down to 1 %."""
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
    """Return the best independent normals of each row as parameters of a full-covariance head."""
    d = q.head.width
    own = LocalQ(DiagonalHead(d), q.numbers[:, : 2 * d], q.center, q.spread)
    best = best_numbers(target, own, x, mean, covariance, **search)[0]
    return torch.cat([best.numbers, torch.zeros_like(q.numbers[:, 2 * d :])], -1)


def family_of(q: LocalQ) -> str:
    """Return a phrase for the family of a head."""
    names = {
        DiagonalHead: "independent normals",
        TriangularHead: "normals with full covariance",
        FlowHead: "flows",
    }
    return names.get(type(q.head), type(q.head).__name__)
