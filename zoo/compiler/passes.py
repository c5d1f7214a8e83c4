"""Graph rewrites for broadcast copies, tiny axes, small systems and fixed matrices.

* *Broadcast copies.* `log(scale.expand(rows, 2))` takes a logarithm per row of a number that is
  the same in every row. Elementwise operations are done on one copy, and the result is expanded.
* *Tiny last axes.* A tensor `[rows, 2]` (a row per observation, a column per class) cannot fill a
  vector register along its last axis, and the compiler keeps that layout. Such tensors are carried
  as a list of columns `[rows]`.
* *Small systems*: triangular solves are unrolled instead of calling a library
  (`zoo.compiler.triangular`), and so are short cumulative sums and products.
* *Products of a fixed matrix with a vector*, such as `X b` and `X' r` in a regression: the matrix
  is stored with its long axis last, so that both products read contiguous memory in whole vector
  registers. This is four times faster than along short rows, and than a library call on small
  data. Products with a single row or column, which `einsum` creates from sums over a few classes,
  are written out.

All rewrites are exact up to the order of summation, and every graph is compared with the program
afterwards.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from zoo.compiler import triangular
from zoo.compiler.torch_private import OpOverload

__all__ = ["Simplifier"]

aten: Any = torch.ops.aten
WIDEST = 4  # columns
LEAST = 64  # entries of a column
LONGEST = 16  # entries of an unrolled cumulative sum
LEAST_FIXED = 512  # entries of a matrix that is worth storing in another order


@dataclass(frozen=True)
class _Columns:
    """A tensor `[*shape, len(parts)]` as its columns, each `shape`."""

    parts: tuple[Tensor, ...]

    def whole(self) -> Tensor:
        return torch.stack(self.parts, -1)

    def map(self, function: Callable[[Tensor], Tensor]) -> _Columns:
        return _Columns(tuple(map(function, self.parts)))


class Simplifier(fx.Interpreter):
    """Interpreter that applies the rewrites above; trace it to get the rewritten graph.

    Args:
        graph: a functional graph.
        number: how many of its inputs vary between calls; the remaining ones are fixed.
    """

    def __init__(self, graph: fx.GraphModule, number: int) -> None:
        super().__init__(graph)
        places = [n for n in graph.graph.nodes if n.op == "placeholder"]
        self._fixed = set(places[number:])
        for node in graph.graph.nodes:
            if (
                node.op == "call_function"
                and node.all_input_nodes
                and self._fixed.issuperset(node.all_input_nodes)
            ):
                self._fixed.add(node)
        self._node: fx.Node | None = None
        # status codes of unrolled Cholesky factors, which need no check
        self._factored: list[Tensor] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and remember it."""
        self._node = n
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call, rewritten if a rule applies."""
        if isinstance(target, OpOverload):
            name = target.overloadpacket.__name__
            own = _OWN.get(name)
            if name in ("mv", "mm") and not kwargs:
                out = self._product(*_whole(args))
                if out is not None:
                    return out
            if name == "linalg_cholesky_ex" and not kwargs and len(args) == 1:
                return self._factor(_whole(args[0]), target)
            if name == "_linalg_check_errors" and any(args[0] is info for info in self._factored):
                return None
            if own is not None:
                out = own(*args, **kwargs)
                if out is not None:
                    return out
            elif (
                torch.Tag.pointwise in target.tags
                and torch.Tag.nondeterministic_seeded not in target.tags
            ):
                return _pointwise(functools.partial(target), args, kwargs)
        return super().call_function(target, *_whole((args, kwargs)))

    def _product(self, left: Tensor, right: Tensor) -> Tensor | None:
        """Multiply a fixed matrix and a vector, or matrices with a single row or column.

        Other products return None.
        """
        assert self._node is not None
        fixed = [isinstance(n, fx.Node) and n in self._fixed for n in self._node.args]
        if right.ndim == 1:
            return (
                _fixed_product(left, right) if fixed[0] and left.numel() >= LEAST_FIXED else None
            )
        if left.shape[1] == 1:
            return left * right
        if right.shape[1] == 1:
            return _vector_product(left, right[:, 0], fixed[0]).unsqueeze(1)
        return (
            _vector_product(right.t(), left[0], fixed[1]).unsqueeze(0)
            if left.shape[0] == 1
            else None
        )

    def _factor(self, matrix: Tensor, target: Any) -> Any:
        if matrix.shape[-1] > triangular.FACTORED:
            return target(matrix)
        self._factored.append(matrix.new_zeros(matrix.shape[:-2], dtype=torch.int32))
        return triangular.cholesky(matrix), self._factored[-1]

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the outputs as whole tensors."""
        return _whole(args[0])


def _whole(values: Any) -> Any:
    return tree_map(lambda x: x.whole() if isinstance(x, _Columns) else x, values)


def _pointwise(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply an elementwise operation to one copy along broadcast axes, and by column if tiny."""
    leaves = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor | _Columns)]
    if not leaves or any(isinstance(x, list | tuple) for x in (*args, *kwargs.values())):
        return target(*_whole(args), **_whole(kwargs))
    shape = torch.broadcast_shapes(*[_shape(x) for x in leaves])
    wide = shape[-1] if shape else 0
    if 2 <= wide <= WIDEST and (
        any(isinstance(x, _Columns) for x in leaves) or _work(leaves, shape) >= LEAST * wide
    ):
        picked = [[_column(x, j) for x in args] for j in range(wide)]
        named = [{k: _column(x, j) for k, x in kwargs.items()} for j in range(wide)]
        return _Columns(
            tuple(_once(target, a, k, shape[:-1]) for a, k in zip(picked, named, strict=True))
        )
    return _once(target, _whole(args), _whole(kwargs), shape)


def _shape(x: Tensor | _Columns) -> tuple[int, ...]:
    return tuple(x.shape) if isinstance(x, Tensor) else (*x.parts[0].shape, len(x.parts))


def _work(leaves: Sequence[Tensor | _Columns], shape: tuple[int, ...]) -> int:
    """Return the number of distinct entries of the result."""
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    size = 1
    for axis, length in enumerate(shape):
        size *= 1 if all(_repeats(x, axis - len(shape)) for x in tensors) else length
    return size


def _column(x: Any, j: int) -> Any:
    if isinstance(x, _Columns):
        return x.parts[j]
    if not isinstance(x, Tensor) or x.ndim == 0:
        return x
    return x.select(-1, j if x.shape[-1] > 1 else 0)


def _repeats(x: Tensor, axis: int) -> bool:
    """Whether a tensor is constant along an axis, counted from the end."""
    return x.ndim < -axis or x.shape[axis] == 1 or x.stride(axis) == 0


def _once(
    target: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], shape: tuple[int, ...]
) -> Tensor:
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    axes = [
        a - len(shape)
        for a in range(len(shape))
        if shape[a] > 1 and all(_repeats(x, a - len(shape)) for x in tensors)
    ]

    def one(x: Any) -> Any:
        if isinstance(x, Tensor):
            for axis in axes:
                x = x.narrow(axis, 0, 1) if x.ndim >= -axis and x.shape[axis] > 1 else x
        return x

    out: Tensor = target(*map(one, args), **{k: one(v) for k, v in kwargs.items()})
    return out.expand(shape) if axes else out


# -- operations along an axis ------------------------------------------------------------------


def _axes(x: Tensor | _Columns, dims: Any) -> list[int]:
    number = len(_shape(x))
    dims = range(number) if dims is None or dims == [] else dims
    return [d - number if d >= 0 else d for d in ([dims] if isinstance(dims, int) else dims)]


def _add(parts: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


def _sum(
    x: Tensor | _Columns,
    dims: Any = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Any:
    if not isinstance(x, _Columns) or dtype is not None:
        return None
    axes = _axes(x, dims)
    rest = [a + 1 for a in axes if a != -1]  # a column lacks the last axis
    if -1 not in axes:
        out = x.map(lambda part: part.sum(rest, keepdim=keepdim))
        return out if out.parts[0].numel() >= LEAST else out.whole()
    total = _add(x.parts)
    total = total.sum(rest, keepdim=keepdim) if rest else total
    return total.unsqueeze(-1) if keepdim else total


def _logsumexp(x: Tensor | _Columns, dims: Any, keepdim: bool = False) -> Any:
    if not isinstance(x, _Columns) or _axes(x, dims) != [-1]:
        return None
    largest = functools.reduce(torch.maximum, x.parts)
    largest = torch.where(largest.abs() == float("inf"), 0.0, largest)
    out = _add([(part - largest).exp() for part in x.parts]).log() + largest
    return out.unsqueeze(-1) if keepdim else out


def _log_softmax(x: Tensor | _Columns, dim: int, half: bool) -> Any:
    if half:
        return None
    if isinstance(x, _Columns):
        total = _logsumexp(x, dim)
        return None if total is None else x.map(lambda part: part - total)
    axis = _axes(x, dim)[0]
    if x.stride(axis) == 0 or not any(s == 0 for s in x.stride()):
        return None
    small = x
    for a in range(-x.ndim, 0):
        small = small.narrow(a, 0, 1) if small.stride(a) == 0 and small.shape[a] > 1 else small
    return aten._log_softmax.default(small, axis, False).expand(x.shape)


def _log_softmax_backward(grad: Any, out: Any, dim: int, dtype: torch.dtype) -> Any:
    """Return grad - exp(out) sum(grad), taking the exponential once per broadcast copy."""
    if (
        isinstance(grad, Tensor)
        and isinstance(out, Tensor)
        and not any(s == 0 for s in out.stride())
    ):
        return None
    total = _sum(grad, [dim], True) if isinstance(grad, _Columns) else grad.sum(dim, keepdim=True)
    if total is None:
        return None
    weight = _pointwise(torch.exp, (out,), {})
    return _pointwise(torch.sub, (grad, _pointwise(torch.mul, (weight, total), {})), {})


def _vector_product(matrix: Tensor, vector: Tensor, fixed: bool) -> Tensor:
    """Return matrix times vector as a sum of products, along the contiguous axis."""
    if fixed and matrix.numel() >= LEAST_FIXED:
        return _fixed_product(matrix, vector)
    return (
        (matrix * vector).sum(1)
        if matrix.is_contiguous()
        else (matrix.t() * vector.unsqueeze(1)).sum(0)
    )


def _fixed_product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return matrix times vector, with the longer axis of the matrix contiguous.

    The copy is made once, when constants are folded.
    """
    if matrix.shape[0] >= matrix.shape[1]:
        return (matrix.t().contiguous() * vector.unsqueeze(1)).sum(0)
    return (matrix.contiguous() * vector).sum(1)


def _batched_product(left: Any, right: Any) -> Any:
    """Write out products `[batch, n, k] [batch, k, m]` with one of n, k, m equal to one.

    `einsum` creates such products. Others return None.
    """
    left, right = _whole((left, right))
    (_, n, k), m = left.shape, right.shape[2]
    if k == 1:
        return _pointwise(torch.mul, (left, right), {})
    if m == 1:
        return (left * right.transpose(1, 2)).sum(2, keepdim=True)
    return (left.transpose(1, 2) * right).sum(1, keepdim=True) if n == 1 else None


def _solve_triangular(
    matrix: Any, right: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    matrix, right = _whole((matrix, right))
    if not left:
        matrix, right, upper = matrix.mT, right.mT, not upper
    if not triangular.small(matrix, right):
        return None
    out = triangular.solve(matrix, right, upper=upper, unitriangular=unitriangular)
    return out if left else out.mT


def _running(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """Unroll a cumulative sum or product along a short axis, as in the simplex transform.

    The alternative is a library call.
    """

    def run(x: Any, dim: int, *, dtype: torch.dtype | None = None) -> Any:
        x = _whole(x)
        if dtype is not None or x.ndim == 0 or not 0 < x.shape[dim] <= LONGEST:
            return None
        return torch.stack(
            list(itertools.accumulate((x.select(dim, i) for i in range(x.shape[dim])), operation)),
            dim,
        )

    return run


def _through(name: str) -> Callable[..., Any]:
    target = getattr(aten, name).default
    return lambda x, **kwargs: (
        x.map(lambda part: target(part, **kwargs)) if isinstance(x, _Columns) else None
    )


_OWN: dict[str, Callable[..., Any]] = {
    "sum": _sum,
    "logsumexp": _logsumexp,
    "_log_softmax": _log_softmax,
    "_log_softmax_backward_data": _log_softmax_backward,
    "bmm": _batched_product,
    "linalg_solve_triangular": _solve_triangular,
    "cumsum": _running(torch.add),
    "cumprod": _running(torch.mul),
    "detach": _through("detach"),
    "alias": _through("alias"),
    "clone": _through("clone"),
}
