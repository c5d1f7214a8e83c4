"""Inductor, told what is known of a traced graph: it is pure, differentiated and of fixed shapes already.

The public `torch._inductor.aot_compile` first finds all of that out again, by running the graph twice more under
functionalization: a quarter of its time. `sources` traces once, with Inductor's decompositions, and hands over the result.
"""

from __future__ import annotations

import copy
import functools
import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, fx

from zoo.compiler import c_abi

__all__ = ["sources"]

_log = logging.getLogger("zoo")


def sources(graph: fx.GraphModule, inputs: Sequence[Tensor], outputs: int, options: dict[str, Any]) -> list[str]:
    """Return the files Inductor writes for a pure graph of tensors.

    Args:
        graph: tensors -> tensors; mutates nothing.
        inputs: tensors like those it takes.
        outputs: how many it returns.
        options: settings of Inductor.
    """
    c_abi.register_wrapper()
    try:
        return _short(graph, inputs, outputs, options)
    except Exception as error:  # what is called there is private to torch: another version may have it otherwise
        _log.info("A graph takes Inductor's long way: %s", str(error)[:300])
    from torch import _inductor as inductor

    module = copy.deepcopy(graph)
    for node in module.graph.nodes:
        node.meta.clear()  # the shapes noted there come from several traces; the compiler must take its own
    return _names(inductor.aot_compile(module, tuple(inputs), options=options))


def _short(graph: fx.GraphModule, inputs: Sequence[Tensor], outputs: int, options: dict[str, Any]) -> list[str]:
    from torch._dispatch.python import enable_python_dispatcher
    from torch._inductor import compile_fx as stages
    from torch._inductor import config
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with (
        config.patch({**options, "cpp_wrapper": True}),
        config.patch(stages.get_cpp_wrapper_config()),
        V.set_aot_compilation(True),
        V.set_real_inputs(inputs),
        enable_python_dispatcher(),
        _one_handler(),
    ):
        fake = FakeTensorMode()
        shapes = [fake.from_tensor(x, static_shapes=True) for x in inputs]
        with fake:
            lowered = make_fx(graph, decomposition_table=select_decomp_table())(*shapes)
        for node in lowered.graph.nodes:
            if getattr(getattr(node.target, "_schema", None), "is_mutable", False):
                raise ValueError(f"{node.target} writes into its arguments")
        finish = functools.partial(
            stages.compile_fx_inner, cpp_wrapper=True, fx_wrapper=False, extern_node_serializer=None, get_decomp_fn=select_decomp_table
        )
        with V.set_fake_mode(fake):
            done = stages.compile_fx_forward(
                lowered, shapes, num_orig_model_outputs=outputs, num_example_inputs=len(inputs),
                compiler_config_extra=stages.create_compiler_config_extra(lowered), inner_compile=finish, is_inference=True,
            )  # fmt: skip
    return _names(cast(Any, done).filename)


@contextmanager
def _one_handler() -> Iterator[None]:
    """Initialize the rules for types once per graph: torch keeps one object of them, and sets it up anew for every operation it writes."""
    common: Any = importlib.import_module("torch._inductor.codegen.common")
    kind = common.DtypePropagationOpsHandler
    common.DtypePropagationOpsHandler = functools.cache(kind)
    try:
        yield
    finally:
        common.DtypePropagationOpsHandler = kind


def _names(files: Any) -> list[str]:
    return [f for f in files if isinstance(f, str)]
