"""Random numbers of a function as inputs of its graph.

A program that draws inside its own code cannot be traced as it is: a graph would repeat the
numbers of its trace, or draw from another stream. `recorded` notes the calls of torch that fill a
tensor with numbers of a fixed distribution. `Draw.fresh` makes the numbers of such a call from a
seeded generator without running the program, and `replayed` gives them to the program in place of
new ones, also in a trace. Draws whose distribution depends on a tensor (`torch.bernoulli(p)`,
gamma variates) are not among these calls; `refuse_draws` refuses a graph in which one is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from zoo.errors import ZooError

__all__ = ["Draw", "NoiseError", "recorded", "refuse_draws", "replayed"]

# methods that fill a tensor in place, and factories that fill a new one with the same numbers
METHODS = {
    getattr(Tensor, name): name
    for name in ("normal_", "uniform_", "exponential_", "cauchy_", "log_normal_")
}
FACTORIES: dict[Any, tuple[str, Callable[..., Tensor]]] = {
    torch.randn: ("normal_", torch.empty),
    torch.randn_like: ("normal_", torch.empty_like),
    torch.rand: ("uniform_", torch.empty),
    torch.rand_like: ("uniform_", torch.empty_like),
}


class NoiseError(ZooError):
    """The draws of a function differ from the recorded ones; the message says how."""


@dataclass(frozen=True)
class Draw:
    """One call that fills a tensor: method, its numbers, shape and dtype of the tensor."""

    method: str
    arguments: tuple[float, ...]
    named: tuple[tuple[str, float], ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    def fresh(self, generator: torch.Generator) -> Tensor:
        """Return the numbers that the call gives if `generator` stands in for torch's own."""
        empty = torch.empty(self.shape, dtype=self.dtype)
        filled: Tensor = getattr(empty, self.method)(
            *self.arguments, **dict(self.named), generator=generator
        )
        return filled


class _Calls(TorchFunctionMode):
    """Hands every call that fills a tensor to `fill(draw, empty)`, and all others to torch."""

    def __init__(self, fill: Callable[[Draw, Tensor], Tensor]) -> None:
        super().__init__()
        self._fill = fill

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func in METHODS:
            method, empty, numbers = METHODS[func], args[0], args[1:]
        elif func in FACTORIES and named.get("out") is None:
            method, make = FACTORIES[func]
            sizes = {k: v for k, v in named.items() if k not in ("generator", "out")}
            numbers, empty = (), make(*args, **sizes)
        else:
            return func(*args, **named)
        own = named if func in METHODS else {}
        fixed = not any(isinstance(x, Tensor) for x in (*numbers, *own.values()))
        if not fixed or named.get("generator") is not None or not empty.is_contiguous():
            return func(*args, **named)
        draw = Draw(
            method,
            tuple(numbers),
            tuple((k, v) for k, v in own.items() if k != "generator"),
            tuple(empty.shape),
            empty.dtype,
        )
        return self._fill(draw, empty)


@contextmanager
def recorded() -> Iterator[list[Draw]]:
    """Yield a list to which every draw inside the block is added; the numbers stay torch's own."""
    draws: list[Draw] = []

    def fill(draw: Draw, empty: Tensor) -> Tensor:
        draws.append(draw)
        out: Tensor = getattr(empty, draw.method)(*draw.arguments, **dict(draw.named))
        return out

    with _Calls(fill):
        yield draws


@contextmanager
def replayed(draws: Sequence[Draw], numbers: Sequence[Tensor]) -> Iterator[None]:
    """Give the draws inside the block these numbers, in the order of the calls.

    Raises:
        NoiseError: a call differs from the recorded one, or there are more or fewer of them.
    """
    left = list(zip(draws, numbers, strict=True))[::-1]

    def fill(draw: Draw, empty: Tensor) -> Tensor:
        if not left:
            raise NoiseError("it draws more random numbers than before")
        known, values = left.pop()
        if draw != known:
            raise NoiseError("it draws other random numbers than before")
        empty.fill_(math.nan)  # who uses it and not what is returned does not go unnoticed
        return values

    with _Calls(fill):
        yield
    if left:
        raise NoiseError("it draws fewer random numbers than before")


def refuse_draws(graph: fx.GraphModule) -> None:
    """Refuse a graph that draws by itself: it would draw from another stream, or be a constant.

    Raises:
        NoiseError: the first such operation.
    """
    for node in graph.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise NoiseError(
                f"the random numbers that {node.target} draws cannot be an input of a graph"
            )
