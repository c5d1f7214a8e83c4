"""From a tensor function to one flat graph of functional operations with folded constants.

`trace` runs the function once under `make_fx` (including gradients taken inside it), turns every
captured tensor into an input, removes mutation, and evaluates each node that depends on captured
tensors only. What remains is what depends on the inputs. The folded tensors become the last inputs
of the graph rather than constants in it, so that the same program on other data of the same shape
gives the same graph.
"""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from zoo.compiler.noise import NoiseError, refuse_draws
from zoo.compiler.passes import Simplifier
from zoo.compiler.torch_private import fast_tracing, light_notes, silent_fallbacks
from zoo.errors import ZooError, one_line

__all__ = ["TraceFailure", "Traced", "trace", "vectorize", "without_detach"]

_log = logging.getLogger("zoo")
_VIEWS = frozenset(
    {
        "expand",
        "view",
        "_unsafe_view",
        "reshape",
        "permute",
        "transpose",
        "unsqueeze",
        "squeeze",
        "slice",
        "select",
        "t",
        "alias",
        "detach",
    }
)
_FACTORS = frozenset({"linalg_solve_triangular", "linalg_cholesky_ex"})
_INDEXED = frozenset({"index", "index_put", "_unsafe_index", "_unsafe_index_put"})
HUGE = 1 << 22  # bytes from which numpy requests huge pages
MAX_NODES = 200_000  # beyond it tracing takes minutes, as for recursions unrolled in time
LONG = 5_000  # above it a second trace costs more than the simplification saves


class TraceFailure(ZooError):
    """The function cannot be traced into one graph; the message says why in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A graph `[*inputs, *constants] -> outputs` with its folded constants and example inputs.

    `watched` are captured trainable tensors, each with its version at the time of the trace.
    """

    graph: fx.GraphModule
    constants: tuple[Tensor, ...]
    examples: tuple[Tensor, ...]
    watched: tuple[tuple[Tensor, int], ...] = ()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the graph node by node, uncompiled."""
        with torch.no_grad(), default_of(self.examples):
            return list(self.graph(*inputs, *self.constants))

    @cached_property
    def outputs(self) -> list[Tensor]:
        """The outputs at the example inputs."""
        return self(*self.examples)

    @property
    def nodes(self) -> int:
        """Number of tensor operations."""
        return sum(n.op == "call_function" for n in self.graph.graph.nodes)

    @property
    def stale(self) -> bool:
        """Whether a captured parameter changed after the trace (constants are then outdated)."""
        return any(t._version != version for t, version in self.watched)


def trace(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Traced:
    """Trace `function` at `inputs` into a functional, folded graph.

    Args:
        function: tensors -> list of tensors, with any gradients taken inside; it may close over
            other tensors.
        inputs: example inputs, which fix shapes, dtypes and strides.

    Raises:
        TraceFailure: control flow that depends on a value, a write into a captured tensor, or a
            graph too long to compile.
    """
    examples = tuple(x.detach().clone(memory_format=torch.contiguous_format) for x in inputs)
    try:
        with default_of(examples), fast_tracing(), light_notes():
            # the lambda is needed: make_fx rejects bound methods
            first = make_fx(lambda *tensors: function(*tensors))(*examples)
            refuse_draws(first)
            lifted, captured = _lift(first, len(examples))
            return _purify(
                lifted, examples, [t.detach().clone() for t in captured], _watch(captured)
            )
    except TraceFailure:
        raise
    except NoiseError as error:
        raise TraceFailure(str(error)) from error
    except Exception as error:
        raise TraceFailure(_sentence(error)) from error


@contextmanager
def default_of(examples: Sequence[Tensor]) -> Iterator[None]:
    """Make the floating dtype of the inputs torch's default.

    Factories and mixed dtypes in a graph silently follow the default.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(next((x.dtype for x in examples if x.dtype.is_floating_point), before))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def vectorize(traced: Traced, number: int, outputs: Sequence[int] = (0,)) -> Traced:
    """Map a graph over `number` points: inputs and the chosen outputs get a leading axis.

    Raises:
        TraceFailure: `torch.func.vmap` cannot map an operation of the graph.
    """
    axes = (0,) * len(traced.examples) + (None,) * len(traced.constants)
    examples = tuple(x.expand(number, *x.shape).contiguous() for x in traced.examples)

    def chosen(*tensors: Tensor) -> list[Tensor]:
        values = traced.graph(*tensors)
        return [values[i] for i in outputs]

    try:
        with default_of(examples), fast_tracing(), light_notes(), silent_fallbacks():
            mapped = make_fx(torch.func.vmap(chosen, in_dims=axes))(*examples, *traced.constants)
            return _purify(mapped, examples, list(traced.constants), traced.watched)
    except TraceFailure:
        raise
    except Exception as error:
        raise TraceFailure(_sentence(error)) from error


def without_detach(traced: Traced) -> fx.GraphModule:
    """Return a differentiable copy of a forward graph.

    The `detach` nodes left by the trace would silently cut derivatives.
    """
    graph = copy.deepcopy(traced.graph)
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and _name(node) in ("detach", "alias"):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _purify(
    graph: fx.GraphModule,
    examples: tuple[Tensor, ...],
    captured: list[Tensor],
    watched: tuple[tuple[Tensor, int], ...],
) -> Traced:
    pure = make_fx(torch.func.functionalize(graph, remove="mutations"))(*examples, *captured)
    # functionalization may capture further scalars
    pure, captured = _lift(pure, len(examples), captured)
    _drop_detach(pure)
    _select_by_masks(pure)
    _join_scatters(pure)
    pure, captured = _simplify(pure, examples, captured)
    graph, constants = _fold(pure, len(examples), captured)
    folded = Traced(graph=graph, constants=constants, examples=examples, watched=watched)
    if folded.nodes > MAX_NODES:
        raise TraceFailure(
            f"{folded.nodes} operations, above {MAX_NODES}; write the recursion as one tensor"
            " operation"
        )
    return folded


def _simplify(
    graph: fx.GraphModule, examples: tuple[Tensor, ...], captured: list[Tensor]
) -> tuple[fx.GraphModule, list[Tensor]]:
    """Rewrite a graph with `Simplifier`, or return it unchanged if that fails or would not pay.

    Small solves and Cholesky factors are unrolled in graphs of any length: with library calls a
    graph needs torch's loader, which takes minutes.
    """
    if len(graph.graph.nodes) > LONG and not any(_name(n) in _FACTORS for n in graph.graph.nodes):
        return graph, captured
    try:
        simple = make_fx(lambda *tensors: Simplifier(graph, len(examples)).run(*tensors))(
            *examples, *captured
        )
    except Exception as error:  # the unsimplified graph gives the same numbers
        _log.info("A graph is not simplified: %s", _sentence(error)[:300])
        return graph, captured
    return _lift(simple, len(examples), captured)


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error) or 'no message'}"


def _watch(captured: Sequence[Tensor]) -> tuple[tuple[Tensor, int], ...]:
    return tuple((t, t._version) for t in captured if t.requires_grad)


def _lift(
    graph: fx.GraphModule, number: int, before: Sequence[Tensor] = ()
) -> tuple[fx.GraphModule, list[Tensor]]:
    """Replace captured tensors (`get_attr` nodes) by placeholders after all existing inputs."""
    captured = list(before)
    known: dict[int, fx.Node] = {}
    last = [n for n in graph.graph.nodes if n.op == "placeholder"][-1]
    for node in [n for n in graph.graph.nodes if n.op == "get_attr"]:
        tensor = operator.attrgetter(str(node.target))(graph)
        if not isinstance(tensor, Tensor):
            raise TraceFailure(f"the graph captured a {type(tensor).__name__}")
        if id(tensor) not in known:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"captured_{len(captured)}")
            known[id(tensor)] = last
            captured.append(tensor)
        node.replace_all_uses_with(known[id(tensor)])
        graph.graph.erase_node(node)
    graph.recompile()
    return graph, captured


def _fold(
    graph: fx.GraphModule, number: int, captured: Sequence[Tensor]
) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """Evaluate every node that depends on captured tensors only; the results become constants."""
    places = [n for n in graph.graph.nodes if n.op == "placeholder"]
    values: dict[fx.Node, Any] = dict(zip(places[number:], captured, strict=True))
    factories: set[fx.Node] = set()
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(
            node.target, "tags", ()
        ):
            continue
        parents = node.all_input_nodes
        if all(p in values for p in parents):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
            if all(p in factories for p in parents):
                factories.add(node)
        elif _name(node) in _INDEXED:
            _number_masks(graph, node, places, values)
    needed = _frontier(graph, values, factories)
    constants: list[Tensor] = []
    last = places[number - 1]
    for node in needed:
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"constant_{len(constants)}")
        constants.append(_placed(values[node].contiguous(), constants))
        node.replace_all_uses_with(last)
    graph.graph.eliminate_dead_code()
    for node in reversed(list(graph.graph.nodes)):
        # checks of fixed matrices have no users and no effect but an error, seen above
        if node.op == "call_function" and node in values and not node.users:
            graph.graph.erase_node(node)
    for place in places[number:]:
        graph.graph.erase_node(place)
    graph.graph.lint()
    graph.recompile()
    return graph, tuple(constants)


def _placed(constant: Tensor, before: Sequence[Tensor]) -> Tensor:
    """Copy a large constant into huge pages, or reuse an equal one that is there already.

    numpy requests huge pages and torch does not. A regression of 20,000 x 50 spends half its time
    on address translation for small pages.
    """
    size = constant.numel() * constant.element_size()
    if size < HUGE or constant.device.type != "cpu":
        return constant
    for other in before:
        if (
            other.shape == constant.shape
            and other.dtype == constant.dtype
            and torch.equal(other, constant)
        ):
            return other
    return (
        torch.from_numpy(np.empty(size, dtype=np.uint8))
        .view(constant.dtype)
        .view(constant.shape)
        .copy_(constant)
    )


def _drop_detach(graph: fx.GraphModule) -> None:
    """Remove `detach`, except before outputs.

    It has no effect in a graph that contains its gradients, and is a tenth of the operations.
    """
    output = next(n for n in graph.graph.nodes if n.op == "output")
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and _name(node) == "detach" and output not in node.users:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()


def _select_by_masks(graph: fx.GraphModule) -> None:
    """Rewrite `x[mask] = scalar` as `where(mask, scalar, x)`, which vmap and Inductor support."""
    for node in list(graph.graph.nodes):
        if (
            node.op != "call_function"
            or _name(node) not in ("index_put", "_unsafe_index_put")
            or len(node.args[1]) != 1
        ):
            continue
        x, (mask,), value = node.args[:3]
        shapes = [_value(n) for n in (x, mask, value)]
        if (
            any(s is None for s in shapes)
            or shapes[1].dtype is not torch.bool
            or shapes[2].numel() != 1
            or node.args[3:] not in ((), (False,))
        ):
            continue
        with graph.graph.inserting_before(node):
            for _ in range(shapes[0].ndim - shapes[1].ndim):
                mask = graph.graph.call_function(torch.ops.aten.unsqueeze.default, (mask, -1))
            node.replace_all_uses_with(
                graph.graph.call_function(torch.ops.aten.where.self, (mask, value, x))
            )
        graph.graph.erase_node(node)
    graph.recompile()


def _join_scatters(graph: fx.GraphModule) -> None:
    """Write `slice_scatter` and `select_scatter` as a `cat` of what is kept and what is put in.

    The rule of vmap for them loses an open end. The numbers are the same.
    """
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        name = _name(node) if node.op == "call_function" else ""
        if name not in ("slice_scatter", "select_scatter") or node.kwargs:
            continue
        x, source, *rest = node.args
        shape = getattr(_value(x), "shape", None)
        if shape is None:
            continue
        axis = (rest[0] if rest else 0) % len(shape)
        size = int(shape[axis])
        if name == "select_scatter":
            first = rest[1] % size
            last, step = first + 1, 1
        else:
            first, last, step = [*rest[1:], None, None, None][:3]
            first, last, step = *slice(first, last).indices(size)[:2], step or 1
        if step != 1 or last < first:
            continue
        with graph.graph.inserting_before(node):
            call = graph.graph.call_function
            middle = source
            if name == "select_scatter":
                middle = call(aten.unsqueeze.default, (source, axis))
            ahead = [call(aten.slice.Tensor, (x, axis, 0, first))] if first else []
            behind = [call(aten.slice.Tensor, (x, axis, last, size))] if last < size else []
            joined = call(aten.cat.default, ([*ahead, middle, *behind], axis))
            joined.meta = dict(node.meta)
            node.replace_all_uses_with(joined)
        graph.graph.erase_node(node)
    graph.recompile()


def _value(node: Any) -> Any:
    """Return the tracer's metadata of a node's tensor (shape and dtype), or None."""
    return node.meta.get("val") if isinstance(node, fx.Node) else None


def _number_masks(
    graph: fx.GraphModule, node: fx.Node, places: list[fx.Node], values: dict[fx.Node, Any]
) -> None:
    """Replace a fixed boolean mask by integer indices.

    Inductor and vmap reject masks because the size of the result depends on the data.
    """
    indices: list[Any] = []
    for index in node.args[1]:  # type: ignore[union-attr]
        mask = values.get(index) if isinstance(index, fx.Node) else None
        if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
            indices.append(index)
            continue
        for column in mask.nonzero(as_tuple=True):
            with graph.graph.inserting_after(places[-1]):
                places.append(graph.graph.placeholder(f"mask_{len(places)}"))
            values[places[-1]] = column
            indices.append(places[-1])
    node.args = (node.args[0], indices, *node.args[2:])


def _frontier(
    graph: fx.GraphModule, values: dict[fx.Node, Any], factories: set[fx.Node]
) -> list[fx.Node]:
    """Return the folded nodes that other nodes need.

    Views and factories are free, so they stay in the graph.
    """
    needed: dict[fx.Node, None] = {}

    def keep(node: fx.Node) -> None:
        if node not in values:
            return
        if node in factories or _name(node) in _VIEWS or not isinstance(values[node], Tensor):
            for parent in node.all_input_nodes:
                keep(parent)
        else:
            needed[node] = None

    for node in graph.graph.nodes:
        if node not in values:
            for parent in node.all_input_nodes:
                keep(parent)
    return list(needed)


def _name(node: fx.Node) -> str:
    return str(getattr(getattr(node.target, "overloadpacket", None), "__name__", ""))
