"""Long graphs of small tensors as plain C: one statement per number.

A recursion over hundreds of steps, unrolled, is a graph of tens of thousands of operations on
single numbers. Inductor takes 17 milliseconds for each and gains nothing, since there is nothing
to fuse or vectorize. Here every number of every tensor has a place in one array `w`:

    views, selections, stacks     are a choice of places, and cost nothing
    elementwise operations        are one statement per number, written once if they repeat
    sums and small products       are chains

The C compiler sees functions of a few hundred statements and takes a millisecond for each line of
the unrolled program. Graphs with an operation that is not listed here are left to Inductor.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from zoo.compiler.trace import Traced, default_of

__all__ = ["LEAST_NODES", "NotScalar", "ScalarCode", "build_library"]

LEAST_NODES = 2_000  # shorter graphs compile fast enough the other way, and run faster
MOST_NUMBERS = 2_000_000  # statements and table entries
UNROLLED = 64  # numbers of one operation written out; more are a loop
CHUNK = 300  # statements of one C function
ZERO = 0  # the place of the number 0

HEAD = """#include <math.h>
static double relu(double x) { return x > 0 || x != x ? x : 0.0; }
static double softplus(double x) { return x > 20 ? x : log1p(exp(x)); }
static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static double logsigmoid(double x) { return (x < 0 ? x : 0.0) - log1p(exp(-fabs(x))); }
static double xlogy(double x, double y) { return y != y ? y : (x == 0 ? 0.0 : x * log(y)); }
static double larger(double a, double b) { return a > b || a != a ? a : b; }
static double smaller(double a, double b) { return a < b || a != a ? a : b; }
static double softplus_back(double g, double x) {
  double z = exp(x); return x > 20 ? g : g * z / (z + 1.0); }
static double logsigmoid_back(double g, double x) {
  double z = exp(-fabs(x)); return g * ((x < 0 ? 1.0 : 0.0) - (x < 0 ? 1.0 : -1.0) * z / (1.0 + z)); }
static double digamma(double x) {
  double r = 0; if (x <= 0) return NAN;
  while (x < 10) { r -= 1.0 / x; x += 1.0; }
  double f = 1.0 / (x * x);
  return r + log(x) - 0.5 / x - f * (1.0/12 - f * (1.0/120 - f * (1.0/252 - f * (1.0/240
    - f * (1.0/132 - f * (691.0/32760 - f / 12)))))); }
"""
_UNARY = {
    "neg": "-{0}",
    "exp": "exp({0})",
    "log": "log({0})",
    "log1p": "log1p({0})",
    "expm1": "expm1({0})",
    "sqrt": "sqrt({0})",
    "rsqrt": "1.0 / sqrt({0})",
    "reciprocal": "1.0 / {0}",
    "abs": "fabs({0})",
    "sigmoid": "sigmoid({0})",
    "tanh": "tanh({0})",
    "sin": "sin({0})",
    "cos": "cos({0})",
    "lgamma": "lgamma({0})",
    "digamma": "digamma({0})",
    "erf": "erf({0})",
    "relu": "relu({0})",
    "square": "{0} * {0}",
    "sign": "({0} > 0) - ({0} < 0)",
    "sgn": "({0} > 0) - ({0} < 0)",
    "isnan": "{0} != {0}",
    "logical_not": "{0} == 0",
    "bitwise_not": "{0} == 0",
}
_BINARY = {
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "maximum": "larger({0}, {1})",
    "minimum": "smaller({0}, {1})",
    "pow": "pow({0}, {1})",
    "xlogy": "xlogy({0}, {1})",
    "atan2": "atan2({0}, {1})",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "logical_and": "{0} != 0 && {1} != 0",
    "bitwise_and": "{0} != 0 && {1} != 0",
    "logical_or": "{0} != 0 || {1} != 0",
    "bitwise_or": "{0} != 0 || {1} != 0",
    "sigmoid_backward": "{0} * (1.0 - {1}) * {1}",
    "tanh_backward": "{0} * (1.0 - {1} * {1})",
    "log_sigmoid_backward": "logsigmoid_back({0}, {1})",
}
_MOVES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "permute",
        "transpose",
        "t",
        "unsqueeze",
        "squeeze",
        "select",
        "slice",
        "expand",
        "flip",
        "constant_pad_nd",
        "select_backward",
        "slice_backward",
        "clone",
        "detach",
        "alias",
        "diagonal",
        "unbind",
        "split",
        "split_with_sizes",
        "roll",
        "repeat",
        "tril",
        "triu",
        "index_select",
        "index",
        "as_strided",
        "lift_fresh_copy",
        "diagonal_copy",
        "expand_copy",
        "view_copy",
        "diag_embed",
        "diagonal_backward",
    ]
)
_FILLS = frozenset(
    ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "zeros", "ones")
)


class NotScalar(Exception):
    """The graph has an operation that is not written as C."""


class ScalarCode:
    """A traced graph as C statements over one array.

    Attributes:
        source: the code.
        size: numbers in the array.
    """

    def __init__(self, traced: Traced) -> None:
        if any(e.dtype != torch.float64 for e in traced.examples):
            raise NotScalar("inputs of another type than double")
        self.statements: list[str] = []
        self.tables: dict[str, str] = {}
        self.known: dict[Any, int] = {}
        self.filled: list[tuple[int, Tensor]] = []  # where fixed numbers lie
        self.size = 1
        self.spent = 0
        self.places: dict[fx.Node, Any] = {}
        self.fixed: dict[fx.Node, Any] = {}
        self.fixed_places: dict[fx.Node, Tensor] = {}
        with default_of(traced.examples):  # factories follow torch's default type
            self._walk(traced)
        self.source = self._source()

    # -- places --------------------------------------------------------------------------------

    def _new(self, number: int) -> int:
        first = self.size
        self.size += number
        return first

    def _walk(self, traced: Traced) -> None:
        inputs = [n for n in traced.graph.graph.nodes if n.op == "placeholder"]
        self.inputs: list[tuple[int, int]] = []
        for node, example in zip(inputs, traced.examples, strict=False):
            first = self._new(example.numel())
            self.inputs.append((first, example.numel()))
            self.places[node] = torch.arange(first, self.size).reshape(example.shape)
        for node, value in zip(inputs[len(traced.examples) :], traced.constants, strict=True):
            self.fixed[node] = value
        for node in traced.graph.graph.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._finish(node)

    def _call(self, node: fx.Node) -> None:
        name = _name(node)
        if not any(p in self.places for p in node.all_input_nodes) or name in _FILLS:
            # no number of it depends on the inputs; a shape may come from one that does
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._example)
            with torch.no_grad():
                self.fixed[node] = node.target(*args, **kwargs)
            return
        if name == "getitem":
            self.places[node] = self.places[node.args[0]][node.args[1]]
            return
        out = self._emit(name, node)
        self.places[node] = out
        self.spent += sum(
            int(x.numel()) for x in (out if isinstance(out, tuple) else (out,)) if x is not None
        )
        if self.spent > MOST_NUMBERS:
            raise NotScalar("too many numbers")

    def _example(self, node: fx.Node) -> Any:
        if node in self.fixed:
            return self.fixed[node]
        places = self._of(node)
        return torch.zeros(places.shape, dtype=torch.float64)

    def _of(self, x: Any) -> Tensor:
        """Return the places of an argument: a node, or a number."""
        if isinstance(x, _Placed):
            return x.places
        if isinstance(x, fx.Node):
            if x in self.places:
                found: Tensor = self.places[x]
                return found
            if x not in self.fixed_places:
                value = self.fixed[x]
                if not isinstance(value, Tensor) or value.dtype.is_complex:
                    raise NotScalar("a fixed value of another kind")
                first = self._new(value.numel())
                self.filled.append((first, value.detach().reshape(-1).double()))
                self.fixed_places[x] = torch.arange(first, self.size).reshape(value.shape)
            return self.fixed_places[x]
        key = ("number", float(x))
        if float(x) == 0:
            return torch.tensor(ZERO)
        if key not in self.known:
            self.known[key] = self._new(1)
            self.filled.append((self.known[key], torch.tensor([float(x)], dtype=torch.float64)))
        return torch.tensor(self.known[key])

    # -- operations ----------------------------------------------------------------------------

    def _emit(self, name: str, node: fx.Node) -> Any:
        args, kwargs = node.args, node.kwargs
        if name in _MOVES:
            return self._move(node)
        if name in ("stack", "cat"):
            parts = [self._of(a) for a in args[0]]  # type: ignore[union-attr]
            return getattr(torch, name)(parts, *args[1:], **kwargs)
        if name in ("_to_copy", "to"):
            kind = kwargs.get("dtype", torch.float64)
            if kind not in (torch.float64, None):
                raise NotScalar("a change of type")
            return self._of(args[0])
        if name in ("add", "sub", "rsub"):
            return self._sum_of_two(name, node)
        if (
            name == "pow"
            and not isinstance(args[1], fx.Node)
            and not isinstance(args[0], int | float)
        ):
            return self._power(args[0], float(args[1]))  # type: ignore[arg-type]
        if name in _UNARY:
            return self._each(_UNARY[name], args[0])
        if name in _BINARY:
            return self._each(_BINARY[name], args[0], args[1])
        if name == "where":
            return self._each("{0} != 0 ? {1} : {2}", *args)
        if name == "masked_fill":
            return self._each("{1} != 0 ? {2} : {0}", *args)
        if name in ("clamp", "clamp_min", "clamp_max"):
            return self._clamp(name, node)
        if name in ("softplus", "softplus_backward"):
            rest = args[1:] if name == "softplus" else args[2:]
            if tuple(rest) not in ((), (1, 20), (1.0, 20.0)):
                raise NotScalar("softplus with other settings")
            form = "softplus({0})" if name == "softplus" else "softplus_back({0}, {1})"
            return self._each(form, *args[: 1 if name == "softplus" else 2])
        if name == "log_sigmoid_forward":
            return self._each("logsigmoid({0})", args[0]), torch.tensor(ZERO)
        if name == "index_put":
            return self._index_put(node)
        return self._reduce(name, node)

    def _move(self, node: fx.Node) -> Any:
        """Run a choice of places on the places themselves; what is filled in is the number zero."""

        def given(a: fx.Node) -> Any:
            if a is node.args[0]:
                return self._of(a)
            if a in self.places:
                raise NotScalar("an index that depends on the inputs")
            return self.fixed[a]

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), given)
        if _name(node) == "constant_pad_nd" and len(args) > 2:
            args = (*args[:2], int(self._of(args[2])))
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _each(self, form: str, *operands: Any) -> Tensor:
        """One statement per number."""
        spread = torch.broadcast_tensors(*[self._of(x) for x in operands])
        shape = spread[0].shape
        columns = [s.reshape(-1).tolist() for s in spread]
        number = len(columns[0])
        if number > UNROLLED and len(set(zip(*columns, strict=True))) > UNROLLED:
            return self._loop(form, columns).reshape(shape)
        return torch.tensor(
            [self._one(form, row) for row in zip(*columns, strict=True)], dtype=torch.long
        ).reshape(shape)

    def _one(self, form: str, row: Sequence[int]) -> int:
        key = (form, *row)
        place = self.known.get(key)
        if place is None:
            place = self.known[key] = self._new(1)
            text = form.format(*(f"w[{i}]" for i in row))
            self.statements.append(f"w[{place}] = {text};")
        return place

    def _loop(self, form: str, columns: Sequence[Sequence[int]]) -> Tensor:
        number = len(columns[0])
        first = self._new(number)
        text = form.format(*(f"w[{self._table(c)}]" for c in columns))
        self.statements.append(f"for (int i = 0; i < {number}; i++) w[{first} + i] = {text};")
        return torch.arange(first, first + number)

    def _table(self, column: Sequence[int]) -> str:
        start = column[0]
        if all(v == start for v in column):
            return str(start)
        if all(v == start + i for i, v in enumerate(column)):
            return f"{start} + i"
        text = ",".join(map(str, column))
        name = self.tables.setdefault(text, f"t{len(self.tables)}")
        return f"{name}[i]"

    def _sum_of_two(self, name: str, node: fx.Node) -> Tensor:
        left, right = node.args[0], node.args[1]
        if name == "rsub":
            left, right, name = right, left, "sub"
        alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        if alpha != 1:
            raise NotScalar("a sum with a factor")
        if name == "sub":
            return self._each("{0} - {1}", left, right)
        a, b = torch.broadcast_tensors(self._of(left), self._of(right))
        if bool((a == ZERO).all()):
            return b
        if bool((b == ZERO).all()):
            return a
        if a.numel() > UNROLLED and not bool(((a == ZERO) | (b == ZERO)).any()):
            return self._each("{0} + {1}", left, right)
        pairs = zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True)
        return torch.tensor(
            [
                j if i == ZERO else i if j == ZERO else self._one("{0} + {1}", (i, j))
                for i, j in pairs
            ],
            dtype=torch.long,
        ).reshape(a.shape)

    def _power(self, base: Any, exponent: float) -> Tensor:
        forms = {
            0.0: None,
            1.0: "{0}",
            2.0: "{0} * {0}",
            3.0: "{0} * {0} * {0}",
            0.5: "sqrt({0})",
            -0.5: "1.0 / sqrt({0})",
            -1.0: "1.0 / {0}",
            -2.0: "1.0 / ({0} * {0})",
        }
        form = forms.get(exponent, f"pow({{0}}, {exponent!r})")
        if form is None:
            return self._of(1.0).expand(self._of(base).shape)
        return self._each(form, base)

    def _clamp(self, name: str, node: fx.Node) -> Tensor:
        args = dict(zip(("x", "min", "max"), node.args, strict=False)) | dict(node.kwargs)
        if name == "clamp_max":
            args["max"], args["min"] = args.get("min", args.get("max")), None
        out = args["x"]
        for bound, form in (("min", "{0} < {1} ? {1} : {0}"), ("max", "{0} > {1} ? {1} : {0}")):
            if args.get(bound) is not None:
                made = self._each(form, out, args[bound])
                out = _Placed(made)
        return out.places if isinstance(out, _Placed) else self._of(out)

    def _index_put(self, node: fx.Node) -> Tensor:
        """Put values at fixed places; those that meet are added."""
        base, indices, values = node.args[:3]
        add = bool(node.args[3]) if len(node.args) > 3 else False
        fixed = [None if i is None else self.fixed.get(i) for i in indices]  # type: ignore[union-attr, arg-type]
        if any(i is not None and f is None for i, f in zip(indices, fixed, strict=True)):  # type: ignore[arg-type]
            raise NotScalar("an index that depends on the inputs")
        places = self._of(base).clone() if isinstance(base, fx.Node) else None
        if places is None:
            raise NotScalar("an index of a number")
        if base in self.fixed and not bool(self.fixed[base].any()):
            places = torch.full(places.shape, ZERO)
        order = torch.arange(places.numel()).reshape(places.shape)
        full = tuple(slice(None) if f is None else f for f in fixed)
        where = order[full]
        given = self._of(values).expand(where.shape)
        flat = places.reshape(-1).tolist()
        for spot, value in zip(
            where.reshape(-1).tolist(), given.reshape(-1).tolist(), strict=True
        ):
            if not add or flat[spot] == ZERO:
                flat[spot] = value
            elif value != ZERO:
                flat[spot] = self._one("{0} + {1}", (flat[spot], value))
        return torch.tensor(flat, dtype=torch.long).reshape(places.shape)

    def _reduce(self, name: str, node: fx.Node) -> Any:
        args, kwargs = node.args, node.kwargs
        if name in ("sum", "mean", "amax", "max", "logsumexp", "prod"):
            x = self._of(args[0])
            dims = args[1] if len(args) > 1 else kwargs.get("dim")
            keep = bool(args[2] if len(args) > 2 else kwargs.get("keepdim", False))
            axes = _axes(dims, x.ndim)
            rows = x.movedim(axes, tuple(range(-len(axes), 0))) if axes else x[..., None]
            rows = rows.reshape(*[s for d, s in enumerate(x.shape) if d not in axes], -1)
            out = self._rows(name, rows, x.numel() and math.prod(x.shape[d] for d in axes))
            if keep:
                for d in sorted(axes):
                    out = out.unsqueeze(d)
            if name == "max" and dims is not None:
                where = self._positions(rows)
                return out, where.unsqueeze(axes[0]) if keep else where
            return out
        if name in ("gather", "scatter"):
            return self._by_index(name, node)
        if name in ("cumsum", "cumprod"):
            x, axis = self._of(args[0]), int(args[1])  # type: ignore[call-overload]
            rows, form = x.movedim(axis, -1), "{0} + {1}" if name == "cumsum" else "{0} * {1}"
            out = [self._running(form, row) for row in rows.reshape(-1, rows.shape[-1]).tolist()]
            return torch.tensor(out, dtype=torch.long).reshape(rows.shape).movedim(-1, axis)
        if name in ("dot", "mv", "mm", "bmm"):
            return self._product(name, self._of(args[0]), self._of(args[1]))
        raise NotScalar(f"the operation {name}")

    def _positions(self, rows: Tensor) -> Tensor:
        """Return the places of the positions of the largest numbers of rows `[..., number]`."""
        out = []
        for row in rows.reshape(-1, rows.shape[-1]).tolist():
            best, at = row[0], int(self._of(0.0))
            for j, other in enumerate(row[1:], start=1):
                at = self._one("{0} > {1} ? {2} : {3}", (other, best, int(self._of(float(j))), at))
                best = self._one("larger({0}, {1})", (best, other))
            out.append(at)
        return torch.tensor(out, dtype=torch.long).reshape(rows.shape[:-1])

    def _by_index(self, name: str, node: fx.Node) -> Tensor:
        """Choose from, or write into, rows along an axis at positions that may depend on the inputs."""
        axis = int(node.args[1])  # type: ignore[call-overload]
        x, index = self._of(node.args[0]), self._of(node.args[2])
        if not x.ndim or any(
            a != b
            for d, (a, b) in enumerate(zip(x.shape, index.shape, strict=True))
            if d != axis % x.ndim
        ):
            raise NotScalar(f"{name} of other shapes")
        rows, chosen = x.movedim(axis, -1), index.movedim(axis, -1)
        pairs = zip(
            rows.reshape(-1, rows.shape[-1]).tolist(),
            chosen.reshape(-1, chosen.shape[-1]).tolist(),
            strict=True,
        )
        value = self._of(node.args[3]) if name == "scatter" else None
        if value is not None and value.ndim:
            raise NotScalar("a scatter of many values")
        out = []
        for row, places in pairs:
            numbers = [int(self._of(float(j))) for j in range(len(row))]
            if value is None:
                made = []
                for k in places:
                    place = row[0]
                    for j in range(1, len(row)):
                        place = self._one("{0} == {1} ? {2} : {3}", (k, numbers[j], row[j], place))
                    made.append(place)
            else:
                made = list(row)
                for k in places:
                    made = [
                        self._one("{0} == {1} ? {2} : {3}", (k, numbers[j], int(value), m))
                        for j, m in enumerate(made)
                    ]
            out.append(made)
        shape = (chosen if value is None else rows).shape
        return torch.tensor(out, dtype=torch.long).reshape(shape).movedim(-1, axis)

    def _rows(self, name: str, rows: Tensor, number: int) -> Tensor:
        out = []
        for row in rows.reshape(-1, rows.shape[-1]).tolist():
            if name in ("amax", "max"):
                place = row[0]
                for other in row[1:]:
                    place = self._one("larger({0}, {1})", (place, other))
            elif name == "logsumexp":
                place = row[0]
                for other in row[1:]:
                    place = self._one("larger({0}, {1})", (place, other))
                terms = [self._one("exp({0} - {1})", (r, place)) for r in row]
                place = self._one("{1} + log({0})", (self._chain(terms, " + "), place))
            elif name == "prod":
                place = self._chain(row, " * ")
            else:
                place = self._chain([r for r in row if r != ZERO], " + ")
                if name == "mean":
                    place = self._one("{0} / " + repr(float(number)), (place,))
            out.append(place)
        return torch.tensor(out, dtype=torch.long).reshape(rows.shape[:-1])

    def _running(self, form: str, row: Sequence[int]) -> list[int]:
        out = [row[0]]
        for place in row[1:]:
            out.append(self._one(form, (out[-1], place)))
        return out

    def _chain(self, row: Sequence[int], sign: str) -> int:
        """Return the place of a sum or product, written in pieces."""
        if not row:
            return ZERO
        parts = list(row)
        while len(parts) > 1:
            parts = [
                self._one(sign.join(f"{{{k}}}" for k in range(len(piece))), piece)
                if len(piece) > 1
                else piece[0]
                for piece in (parts[i : i + 8] for i in range(0, len(parts), 8))
            ]
        return parts[0]

    def _product(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        if name == "dot":
            return self._product("mm", a[None], b[:, None]).reshape(())
        if name == "mv":
            return self._product("mm", a, b[:, None])[:, 0]
        if name == "bmm":
            return torch.stack([self._product("mm", x, y) for x, y in zip(a, b, strict=True)])
        self.spent += a.shape[0] * a.shape[1] * b.shape[1]
        if self.spent > MOST_NUMBERS:
            raise NotScalar("too many numbers")
        columns = b.T.tolist()
        out = [
            [
                self._chain(
                    [
                        self._one("{0} * {1}", (i, j))
                        for i, j in zip(row, column, strict=True)
                        if i != ZERO and j != ZERO
                    ],
                    " + ",
                )
                for column in columns
            ]
            for row in a.tolist()
        ]
        return torch.tensor(out, dtype=torch.long).reshape(a.shape[0], b.shape[1])

    # -- the code ------------------------------------------------------------------------------

    def _finish(self, node: fx.Node) -> None:
        found = node.args[0]
        listed = list(found) if isinstance(found, list | tuple) else [found]  # type: ignore[arg-type]
        self.outputs = [self._of(n) for n in listed]

    def _source(self) -> str:
        parts = [HEAD]
        for text, name in self.tables.items():
            parts.append(f"static const int {name}[] = {{{text}}};")
        number = 0
        for first in range(0, len(self.statements), CHUNK):
            body = "\n".join(self.statements[first : first + CHUNK])
            parts.append(f"static void f{number}(double *restrict w) {{\n{body}\n}}")
            number += 1
        calls = " ".join(f"f{i}(w);" for i in range(number))
        parts.append(f"long zoo_scalar(double *restrict w) {{ {calls} return {self.size}; }}")
        return "\n".join(parts) + "\n"

    def load(self, path: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        """Return the library as a function of the graph's inputs, for one thread."""
        library = ctypes.CDLL(str(path))
        function = library.zoo_scalar
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_long
        w = np.zeros(self.size)
        for first, numbers in self.filled:
            w[first : first + len(numbers)] = numbers.numpy()
        address = w.ctypes.data
        shapes = [tuple(o.shape) for o in self.outputs]
        chosen = [o.reshape(-1).numpy() for o in self.outputs]
        inputs = self.inputs

        def run(given: Sequence[Tensor]) -> list[Tensor]:
            for (first, number), x in zip(inputs, given, strict=True):
                w[first : first + number] = x.detach().reshape(-1).numpy()
            function(address)
            return [
                torch.from_numpy(w[index]).reshape(shape)
                for index, shape in zip(chosen, shapes, strict=True)
            ]

        return run


class _Placed:
    """Places in the role of an argument."""

    def __init__(self, places: Tensor) -> None:
        self.places = places


def _axes(dims: Any, rank: int) -> tuple[int, ...]:
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return tuple(range(rank))
    listed = [dims] if isinstance(dims, int) else list(dims)
    return tuple(d % max(rank, 1) for d in listed) if rank else ()


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(getattr(packet or node.target, "__name__", ""))


def build_library(source: str, path: str) -> str:
    """Compile C code into a library at `path`.

    Raises:
        OSError: the compiler is missing or fails.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise OSError("no C++ compiler")
    command = [compiler, "-x", "c", "-O1", "-fno-math-errno", "-ffp-contract=off", "-shared"]
    done = subprocess.run(
        [*command, "-fPIC", "-o", path, "-", "-lm"],
        input=source,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"{compiler} failed: {(done.stderr.splitlines() or [''])[0][:200]}")
    return path
