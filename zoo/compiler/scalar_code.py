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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from zoo.compiler.scalar_forms import BINARY, FILLS, HEAD, MOVES, UNARY
from zoo.compiler.scalar_places import UNROLLED, ZERO, NotScalar, Placed, Places
from zoo.compiler.trace import Traced, default_of

__all__ = ["LEAST_NODES", "NotScalar", "ScalarCode"]

LEAST_NODES = 2_000  # shorter graphs compile fast enough the other way, and run faster
MOST_NUMBERS = 2_000_000  # statements and table entries
CHUNK = 300  # statements of one C function


class ScalarCode(Places):
    """A traced graph as C statements over one array.

    Attributes:
        source: the code.
        size: numbers in the array.
    """

    def __init__(self, traced: Traced) -> None:
        if any(e.dtype != torch.float64 for e in traced.examples):
            raise NotScalar("inputs of another type than double")
        super().__init__()
        with default_of(traced.examples):  # factories follow torch's default type
            self._walk(traced)
        self.source = self._source()

    # -- places --------------------------------------------------------------------------------

    def _walk(self, traced: Traced) -> None:
        inputs = [n for n in traced.graph.graph.nodes if n.op == "placeholder"]
        self.inputs: list[tuple[int, int]] = []
        for node, example in zip(inputs, traced.examples, strict=False):
            first = self.new(example.numel())
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
        if not any(p in self.places for p in node.all_input_nodes) or name in FILLS:
            # no number of it depends on the inputs; a shape may come from one that does
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._example)
            with torch.no_grad():
                target: Any = node.target
                self.fixed[node] = target(*args, **kwargs)
            return
        if name == "getitem":
            given: Any = node.args
            self.places[node] = self.places[given[0]][given[1]]
            return
        out = self._emit(name, node)
        self.places[node] = out
        several = out if isinstance(out, tuple | list) else (out,)  # unbind and split give lists
        self.spent += sum(int(x.numel()) for x in several if x is not None)
        if self.spent > MOST_NUMBERS:
            raise NotScalar("too many numbers")

    def _example(self, node: fx.Node) -> Any:
        if node in self.fixed:
            return self.fixed[node]
        places = self.of(node)
        return torch.zeros(places.shape, dtype=torch.float64)

    # -- operations ----------------------------------------------------------------------------

    def _emit(self, name: str, node: fx.Node) -> Any:
        args: Any = node.args
        kwargs = node.kwargs
        if name in MOVES:
            return self._move(node)
        if name in ("stack", "cat"):
            parts = [self.of(a) for a in args[0]]
            return getattr(torch, name)(parts, *args[1:], **kwargs)
        if name in ("_to_copy", "to"):
            kind = kwargs.get("dtype", torch.float64)
            if kind not in (torch.float64, None):
                raise NotScalar("a change of type")
            return self.of(args[0])
        if name in ("add", "sub", "rsub"):
            return self._sum_of_two(name, node)
        if (
            name == "pow"
            and not isinstance(args[1], fx.Node)
            and not isinstance(args[0], int | float)
        ):
            return self._power(args[0], float(args[1]))
        if name in UNARY:
            return self.each(UNARY[name], args[0])
        if name in BINARY:
            return self.each(BINARY[name], args[0], args[1])
        if name == "where":
            return self.each("{0} != 0 ? {1} : {2}", *args)
        if name == "masked_fill":
            return self.each("{1} != 0 ? {2} : {0}", *args)
        if name in ("clamp", "clamp_min", "clamp_max"):
            return self._clamp(name, node)
        if name in ("softplus", "softplus_backward"):
            rest = args[1:] if name == "softplus" else args[2:]
            if tuple(rest) not in ((), (1, 20), (1.0, 20.0)):
                raise NotScalar("softplus with other settings")
            form = "softplus({0})" if name == "softplus" else "softplus_back({0}, {1})"
            return self.each(form, *args[: 1 if name == "softplus" else 2])
        if name == "log_sigmoid_forward":
            return self.each("logsigmoid({0})", args[0]), torch.tensor(ZERO)
        if name == "index_put":
            return self._index_put(node)
        return self._reduce(name, node)

    def _move(self, node: fx.Node) -> Any:
        """Run a choice of places on the places themselves; what it fills in is zero."""

        def given(a: fx.Node) -> Any:
            if a is node.args[0]:
                return self.of(a)
            if a in self.places:
                raise NotScalar("an index that depends on the inputs")
            return self.fixed[a]

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), given)
        if _name(node) == "constant_pad_nd" and len(args) > 2:
            args = (*args[:2], int(self.of(args[2])))
        target: Any = node.target
        return target(*args, **kwargs)

    def _sum_of_two(self, name: str, node: fx.Node) -> Tensor:
        left, right = node.args[0], node.args[1]
        if name == "rsub":
            left, right, name = right, left, "sub"
        alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        if alpha != 1:
            raise NotScalar("a sum with a factor")
        if name == "sub":
            return self.each("{0} - {1}", left, right)
        a, b = torch.broadcast_tensors(self.of(left), self.of(right))
        if bool((a == ZERO).all()):
            return b
        if bool((b == ZERO).all()):
            return a
        if a.numel() > UNROLLED and not bool(((a == ZERO) | (b == ZERO)).any()):
            return self.each("{0} + {1}", left, right)
        pairs = zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True)
        return torch.tensor(
            [
                j if i == ZERO else i if j == ZERO else self.one("{0} + {1}", (i, j))
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
            return self.of(1.0).expand(self.of(base).shape)
        return self.each(form, base)

    def _clamp(self, name: str, node: fx.Node) -> Tensor:
        args: dict[str, Any] = {
            **dict(zip(("x", "min", "max"), node.args, strict=False)),
            **node.kwargs,
        }
        if name == "clamp_max":
            args["max"], args["min"] = args.get("min", args.get("max")), None
        out = args["x"]
        for bound, form in (("min", "{0} < {1} ? {1} : {0}"), ("max", "{0} > {1} ? {1} : {0}")):
            if args.get(bound) is not None:
                made = self.each(form, out, args[bound])
                out = Placed(made)
        return out.places if isinstance(out, Placed) else self.of(out)

    def _index_put(self, node: fx.Node) -> Tensor:
        """Put values at fixed places; those that meet are added."""
        args: Any = node.args
        base, indices, values = args[:3]
        add = bool(node.args[3]) if len(node.args) > 3 else False
        fixed = [None if i is None else self.fixed.get(i) for i in indices]
        if any(i is not None and f is None for i, f in zip(indices, fixed, strict=True)):
            raise NotScalar("an index that depends on the inputs")
        places = self.of(base).clone() if isinstance(base, fx.Node) else None
        if places is None:
            raise NotScalar("an index of a number")
        if base in self.fixed and not bool(self.fixed[base].any()):
            places = torch.full(places.shape, ZERO)
        order = torch.arange(places.numel()).reshape(places.shape)
        full = tuple(slice(None) if f is None else f for f in fixed)
        where = order[full]
        given = self.of(values).expand(where.shape)
        flat = places.reshape(-1).tolist()
        for spot, value in zip(
            where.reshape(-1).tolist(), given.reshape(-1).tolist(), strict=True
        ):
            if not add or flat[spot] == ZERO:
                flat[spot] = value
            elif value != ZERO:
                flat[spot] = self.one("{0} + {1}", (flat[spot], value))
        return torch.tensor(flat, dtype=torch.long).reshape(places.shape)

    def _reduce(self, name: str, node: fx.Node) -> Any:
        args: Any = node.args
        kwargs = node.kwargs
        if name in ("sum", "mean", "amax", "max", "logsumexp", "prod"):
            x = self.of(args[0])
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
            x, axis = self.of(args[0]), int(args[1])
            rows, form = x.movedim(axis, -1), "{0} + {1}" if name == "cumsum" else "{0} * {1}"
            sums = [self.running(form, row) for row in rows.reshape(-1, rows.shape[-1]).tolist()]
            return torch.tensor(sums, dtype=torch.long).reshape(rows.shape).movedim(-1, axis)
        if name in ("dot", "mv", "mm", "bmm"):
            return self._product(name, self.of(args[0]), self.of(args[1]))
        raise NotScalar(f"the operation {name}")

    def _positions(self, rows: Tensor) -> Tensor:
        """Return the places of the positions of the largest numbers of rows `[..., number]`."""
        out = []
        for row in rows.reshape(-1, rows.shape[-1]).tolist():
            best, at = row[0], int(self.of(0.0))
            for j, other in enumerate(row[1:], start=1):
                at = self.one("{0} > {1} ? {2} : {3}", (other, best, int(self.of(float(j))), at))
                best = self.one("larger({0}, {1})", (best, other))
            out.append(at)
        return torch.tensor(out, dtype=torch.long).reshape(rows.shape[:-1])

    def _by_index(self, name: str, node: fx.Node) -> Tensor:
        """Choose from, or write into, rows at positions that may depend on the inputs."""
        args: Any = node.args
        axis = int(args[1])
        x, index = self.of(node.args[0]), self.of(node.args[2])
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
        value = None
        if name == "scatter":
            value = self.of(args[3])
            if value.ndim and value.shape != index.shape:
                raise NotScalar("a scatter of other shapes")
            value = value.expand(index.shape).movedim(axis, -1).reshape(-1, chosen.shape[-1])
        out = []
        for number, (row, places) in enumerate(pairs):
            numbers = [int(self.of(float(j))) for j in range(len(row))]
            if value is None:
                made = []
                for k in places:
                    place = row[0]
                    for j in range(1, len(row)):
                        place = self.one("{0} == {1} ? {2} : {3}", (k, numbers[j], row[j], place))
                    made.append(place)
            else:
                made = list(row)
                for k, put in zip(places, value[number].tolist(), strict=True):
                    made = [
                        self.one("{0} == {1} ? {2} : {3}", (k, numbers[j], put, m))
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
                    place = self.one("larger({0}, {1})", (place, other))
            elif name == "logsumexp":
                place = row[0]
                for other in row[1:]:
                    place = self.one("larger({0}, {1})", (place, other))
                terms = [self.one("exp({0} - {1})", (r, place)) for r in row]
                place = self.one("{1} + log({0})", (self.chain(terms, " + "), place))
            elif name == "prod":
                place = self.chain(row, " * ")
            else:
                place = self.chain([r for r in row if r != ZERO], " + ")
                if name == "mean":
                    place = self.one("{0} / " + repr(float(number)), (place,))
            out.append(place)
        return torch.tensor(out, dtype=torch.long).reshape(rows.shape[:-1])

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
                self.chain(
                    [
                        self.one("{0} * {1}", (i, j))
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
        listed = list(found) if isinstance(found, list | tuple) else [found]
        self.outputs = [self.of(n) for n in listed]

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


def _axes(dims: Any, rank: int) -> tuple[int, ...]:
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return tuple(range(rank))
    listed = [dims] if isinstance(dims, int) else list(dims)
    return tuple(d % max(rank, 1) for d in listed) if rank else ()


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(getattr(packet or node.target, "__name__", ""))
