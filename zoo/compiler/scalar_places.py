"""Places of numbers in one array, and the statements that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["ZERO", "NotScalar", "Placed", "Places"]

UNROLLED = 64  # numbers of one operation written out; more are a loop
ZERO = 0  # the place of the number 0


class NotScalar(Exception):
    """The graph has an operation that is not written as C."""


class Placed:
    """Places in the role of an argument."""

    def __init__(self, places: Tensor) -> None:
        self.places = places


class Places:
    """The places of every number of a graph.

    Attributes:
        statements: C, in order.
        tables: lists of places that loops read, by their text.
        known: the place of a statement that exists already.
        filled: where fixed numbers lie.
        size: numbers in the array.
        spent: numbers handled so far.
        places: of the nodes that depend on the inputs.
        fixed: values of all other nodes.
    """

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.tables: dict[str, str] = {}
        self.known: dict[Any, int] = {}
        self.filled: list[tuple[int, Tensor]] = []  # where fixed numbers lie
        self.size = 1
        self.spent = 0
        self.places: dict[fx.Node, Any] = {}
        self.fixed: dict[fx.Node, Any] = {}
        self.fixed_places: dict[fx.Node, Tensor] = {}

    def new(self, number: int) -> int:
        """Return the first of so many new places."""
        first = self.size
        self.size += number
        return first

    def of(self, x: Any) -> Tensor:
        """Return the places of an argument: a node, or a number."""
        if isinstance(x, Placed):
            return x.places
        if isinstance(x, fx.Node):
            if x in self.places:
                found: Tensor = self.places[x]
                return found
            if x not in self.fixed_places:
                value = self.fixed[x]
                if not isinstance(value, Tensor) or value.dtype.is_complex:
                    raise NotScalar("a fixed value of another kind")
                first = self.new(value.numel())
                self.filled.append((first, value.detach().reshape(-1).double()))
                self.fixed_places[x] = torch.arange(first, self.size).reshape(value.shape)
            return self.fixed_places[x]
        key = ("number", float(x))
        if float(x) == 0:
            return torch.tensor(ZERO)
        if key not in self.known:
            self.known[key] = self.new(1)
            self.filled.append((self.known[key], torch.tensor([float(x)], dtype=torch.float64)))
        return torch.tensor(self.known[key])

    def each(self, form: str, *operands: Any) -> Tensor:
        """One statement per number."""
        spread = torch.broadcast_tensors(*[self.of(x) for x in operands])
        shape = spread[0].shape
        columns = [s.reshape(-1).tolist() for s in spread]
        number = len(columns[0])
        if number > UNROLLED and len(set(zip(*columns, strict=True))) > UNROLLED:
            return self.loop(form, columns).reshape(shape)
        return torch.tensor(
            [self.one(form, row) for row in zip(*columns, strict=True)], dtype=torch.long
        ).reshape(shape)

    def one(self, form: str, row: Sequence[int]) -> int:
        """Return the place of a statement on single numbers, written once."""
        key = (form, *row)
        place = self.known.get(key)
        if place is None:
            place = self.known[key] = self.new(1)
            text = form.format(*(f"w[{i}]" for i in row))
            self.statements.append(f"w[{place}] = {text};")
        return place

    def loop(self, form: str, columns: Sequence[Sequence[int]]) -> Tensor:
        """Write the statement as a loop over many numbers and return their places."""
        number = len(columns[0])
        first = self.new(number)
        text = form.format(*(f"w[{self.table(c)}]" for c in columns))
        self.statements.append(f"for (int i = 0; i < {number}; i++) w[{first} + i] = {text};")
        return torch.arange(first, first + number)

    def table(self, column: Sequence[int]) -> str:
        """Return how a loop finds the places of an operand."""
        start = column[0]
        if all(v == start for v in column):
            return str(start)
        if all(v == start + i for i, v in enumerate(column)):
            return f"{start} + i"
        text = ",".join(map(str, column))
        name = self.tables.setdefault(text, f"t{len(self.tables)}")
        return f"{name}[i]"

    def running(self, form: str, row: Sequence[int]) -> list[int]:
        """Return the places of running sums or products."""
        out = [row[0]]
        for place in row[1:]:
            out.append(self.one(form, (out[-1], place)))
        return out

    def chain(self, row: Sequence[int], sign: str) -> int:
        """Return the place of a sum or product, written in pieces."""
        if not row:
            return ZERO
        parts = list(row)
        while len(parts) > 1:
            parts = [
                self.one(sign.join(f"{{{k}}}" for k in range(len(piece))), piece)
                if len(piece) > 1
                else piece[0]
                for piece in (parts[i : i + 8] for i in range(0, len(parts), 8))
            ]
        return parts[0]
