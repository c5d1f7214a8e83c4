"""Heads: from the per-datum parameters of one unit to a distribution over its local values.

A head takes `out` `[unit, numbers]`, from an encoder or from a table, and standard normal noise
`[n, unit, width]`. It works in standardized coordinates; the guide maps them to the scale of the
local values, v = center + spread * w with the common scales of the start, and log q is over v.

    diagonal     w = m + exp(s) eps
    full         w = m + T eps,           T lower triangular with diagonal exp(s)
    flow         w = m + T f(eps; h),     f a chain of affine couplings conditioned on h,
                                          initialized as the identity
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from guides.base.flat import standard_normal_log_prob

__all__ = ["DiagonalHead", "FlowHead", "Head", "TriangularHead", "make_head"]

BOUND = 3.0  # largest log scale of one coupling


class Head(nn.Module, ABC):
    """A distribution over `width` local values per unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @property
    @abstractmethod
    def numbers(self) -> int:
        """Number of per-datum parameters in `out`."""

    @abstractmethod
    def draw(self, out: Tensor, noise: Tensor) -> Tensor:
        """Map noise `[n, unit, width]` to values of the same shape."""

    @abstractmethod
    def log_prob(self, out: Tensor, w: Tensor) -> Tensor:
        """Return log q `[n, unit]` at values `[n, unit, width]`, in nats."""

    def log_prob_stl(self, out: Tensor, w: Tensor) -> Tensor:
        """Return log q with all parameters detached, also those of the head's networks."""
        own = {name: p.detach() for name, p in self.named_parameters()}
        if not own:
            return self.log_prob(out.detach(), w)
        value: Tensor = torch.func.functional_call(self, own, (out.detach(), w))
        return value

    def forward(self, out: Tensor, w: Tensor) -> Tensor:
        """Call `log_prob`, so that `functional_call` can detach the networks."""
        return self.log_prob(out, w)


class DiagonalHead(Head):
    """Independent normals."""

    @property
    def numbers(self) -> int:
        """Number of locations and log scales."""
        return 2 * self.width

    def draw(self, out: Tensor, noise: Tensor) -> Tensor:
        """Return m + exp(s) eps."""
        return out[:, : self.width] + out[:, self.width :].exp() * noise

    def log_prob(self, out: Tensor, w: Tensor) -> Tensor:
        """Return the sum of normal log densities."""
        log_scale = out[:, self.width :]
        return standard_normal_log_prob(
            (w - out[:, : self.width]) * (-log_scale).exp()
        ) - log_scale.sum(-1)


class TriangularHead(Head):
    """A normal with full covariance, parametrized by its Cholesky factor."""

    @property
    def numbers(self) -> int:
        """Number of locations, log diagonal and strict lower triangle (stored row by row)."""
        return 2 * self.width + self.width * (self.width - 1) // 2

    def draw(self, out: Tensor, noise: Tensor) -> Tensor:
        """Return m + T eps."""
        d, rows = self.width, []
        scale, place = out[:, d : 2 * d].exp(), 2 * d
        for i in range(d):
            value = scale[:, i] * noise[..., i]
            for j in range(i):
                value = value + out[:, place] * noise[..., j]
                place += 1
            rows.append(out[:, i] + value)
        return torch.stack(rows, -1)

    def solve(self, out: Tensor, w: Tensor) -> Tensor:
        """Solve m + T eps = w for eps by substitution, without building a matrix per unit."""
        d, place = self.width, 2 * self.width
        rows: list[Tensor] = []
        scale = out[:, d : 2 * d]
        for i in range(d):
            value = w[..., i] - out[:, i]
            for j in range(i):
                value = value - out[:, place] * rows[j]
                place += 1
            rows.append(value * (-scale[:, i]).exp())
        return torch.stack(rows, -1)

    def log_prob(self, out: Tensor, w: Tensor) -> Tensor:
        """Return the normal log density."""
        return standard_normal_log_prob(self.solve(out, w)) - out[
            :, self.width : 2 * self.width
        ].sum(-1)


class FlowHead(Head):
    """A full-covariance normal transformed by affine couplings in standardized coordinates.

    Layer l changes every second coordinate: v_b = v_b exp(a) + c with (a, c) a network of the
    other coordinates and of h, |a| <= 3. In one dimension there is nothing to couple, and the head
    is the normal.
    """

    def __init__(self, width: int, *, layers: int = 4, hidden: int = 24, context: int = 8) -> None:
        super().__init__(width)
        self.normal, self.hidden, self.context = TriangularHead(width), hidden, context
        self.kept = [
            [k for k in range(width) if k % 2 == layer % 2]
            for layer in range(layers if width > 1 else 0)
        ]
        self.moved = [[k for k in range(width) if k not in kept] for kept in self.kept]
        self.couplings = nn.ModuleList(
            _coupling(len(kept) + context, hidden, 2 * len(moved))
            for kept, moved in zip(self.kept, self.moved, strict=True)
        )

    @property
    def numbers(self) -> int:
        """Number of parameters of the normal, plus the size of h."""
        return self.normal.numbers + self.context

    def _change(self, layer: int, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        part = torch.cat([v[..., self.kept[layer]], h.expand(*v.shape[:-1], self.context)], -1)
        a, c = self.couplings[layer](part).chunk(2, -1)
        return self.bounded(a), c

    @staticmethod
    def bounded(a: Tensor) -> Tensor:
        """Bound log scales so that a draw cannot overflow."""
        return BOUND * torch.tanh(a / BOUND)

    def _put(self, layer: int, v: Tensor, moved: Tensor) -> Tensor:
        columns = [
            v[..., k] if k in self.kept[layer] else moved[..., self.moved[layer].index(k)]
            for k in range(self.width)
        ]
        return torch.stack(columns, -1)

    def draw(self, out: Tensor, noise: Tensor) -> Tensor:
        """Return m + T f(eps; h)."""
        h, v = out[:, self.normal.numbers :], noise
        for layer in range(len(self.couplings)):
            a, c = self._change(layer, v, h)
            v = self._put(layer, v, v[..., self.moved[layer]] * a.exp() + c)
        return self.normal.draw(out, v)

    def log_prob(self, out: Tensor, w: Tensor) -> Tensor:
        """Return the log density by inverting the couplings."""
        h, v = out[:, self.normal.numbers :], self.normal.solve(out, w)
        total = -out[:, self.width : 2 * self.width].sum(-1).expand(v.shape[:-1])
        for layer in reversed(range(len(self.couplings))):
            a, c = self._change(layer, v, h)
            v = self._put(layer, v, (v[..., self.moved[layer]] - c) * (-a).exp())
            total = total - a.sum(-1)
        return total + standard_normal_log_prob(v)


def _coupling(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    with torch.no_grad():
        last.weight.mul_(0.01)
        last.bias.zero_()
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), last)


def make_head(kind: str, width: int, dtype: torch.dtype) -> Head:
    """Return a head by name: `diagonal`, `full` or `flow`."""
    heads = {"diagonal": DiagonalHead, "full": TriangularHead, "flow": FlowHead}
    return heads[kind](width).to(dtype)
