"""Everything of ours that leans on parts of torch that torch does not promise to keep, in one place.

What is here was tested with the versions in `TESTED`. With another one `untested` says so, graphs
are compiled by torch's public route (`zoo.compiler.compile.backend`), and each function below
falls back by itself where its part is missing: tracing takes longer, loops are not vectorized, or
a graph is called through torch's loader.

Inductor's masked vector loads are corrected here. Inductor turns `cat`, `pad` and slices into
loads under a mask: lane i reads `x[i - shift]` where the mask holds. Two of the loads it writes
look at memory that belongs to somebody else:

* in the last, shorter vector of a loop the mask says nothing of the lanes beyond the end, so they
  are read as well, up to fifteen numbers past the array;
* arrays of booleans are read whole, whatever the mask, also in front of their first element.

What is read there is never used, and torch's own tensors have room behind them. A sampler's point
has none: where it ends at a page, the process ends with signal 11. `bounded_loads` corrects the
generated code at its source.
"""

from __future__ import annotations

import copy
import functools
import gc
import importlib
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch import _guards as guards
from torch import _inductor as inductor
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import export
from torch.fx import _lazy_graph_module
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "LOADS_VERSION",
    "TESTED",
    "OpOverload",
    "TorchDispatchMode",
    "bounded_loads",
    "fast_tracing",
    "fused",
    "is_traced",
    "light_notes",
    "load_package",
    "needs_loader",
    "sources",
    "untested",
    "write_package",
]

TESTED = ("2.13",)
SILENT = "do_not_emit_stack_traces"
LOADS_VERSION = 1  # of the code `bounded_loads` writes; part of the key of every compiled graph
_PARAMETERS = ("self", "var", "index", "dtype", "load_mask")
_BOOLEANS = """[&]
{{
    __at_align__ std::array<bool, {lanes}> zoo_lanes{{}};
    for (int64_t zoo_lane = 0; zoo_lane < {count}; zoo_lane++)
        if ({held}) zoo_lanes[zoo_lane] = ({pointer})[zoo_lane];
    return {load};
}}
()"""


_log = logging.getLogger("zoo")


def untested() -> str:
    """Return a sentence on the version of torch where it is none of the tested ones, else nothing."""
    if ".".join(torch.__version__.split(".")[:2]) in TESTED:
        return ""
    return (
        f"torch {torch.__version__} was not tried with what compiles standalone libraries (tried:"
        f" {', '.join(TESTED)})"
    )


# -- tracing -----------------------------------------------------------------------------------


def is_traced(u: Tensor) -> bool:
    """Whether `u` is being traced or mapped, where only the eager function may be called."""
    return get_proxy_mode() is not None or torch._C._functorch.is_functorch_wrapped_tensor(u)


@contextmanager
def fast_tracing() -> Iterator[None]:
    """Trace or compile without what only costs time.

    Noting which line of Python asked for an operation takes a tenth of it and nobody reads it;
    looking for garbage among millions of objects that are all in use takes a quarter.
    """
    settings: Any = getattr(fx, "config", None)
    before, collecting = getattr(settings, SILENT, None), gc.isenabled()
    if before is not None:  # torch before 2.13 has no such switch
        setattr(settings, SILENT, True)
    gc.disable()
    try:
        yield
    finally:
        if before is not None:
            setattr(settings, SILENT, before)
        if collecting:
            gc.enable()


@contextmanager
def light_notes() -> Iterator[None]:
    """Trace without what nobody reads: half of the time.

    Of every result torch notes a fake tensor and a tuple of the same facts; here it is a tensor
    without memory (where torch's own notes are taken, in one mode for all, since making one for
    each takes longer still). And the Python text of a graph is written when it is to be run, not
    after every change of it.
    """
    torch_notes: Any = proxy_tensor
    noted: Any = getattr(torch_notes, "set_meta", None)

    def note(proxy: Any, value: Any) -> Any:
        if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided:
            return noted(proxy, value)
        proxy.node.meta["val"] = torch.empty_strided(
            value.shape, value.stride(), dtype=value.dtype, device="meta"
        )
        return proxy

    lazily = getattr(_lazy_graph_module, "_use_lazy_graph_module", lambda wanted: nullcontext())
    with (
        guards.tracing(guards.TracingContext(FakeTensorMode(allow_fallback_kernels=True))),
        lazily(True),
    ):
        if noted is None:  # another torch may have it otherwise; its notes serve as well
            yield
            return
        torch_notes.set_meta = note
        try:
            yield
        finally:
            torch_notes.set_meta = noted


# -- Inductor: sources -------------------------------------------------------------------------


def sources(
    graph: fx.GraphModule, inputs: Sequence[Tensor], outputs: int, options: dict[str, Any]
) -> list[str]:
    """Return the files Inductor writes for a pure graph of tensors.

    Args:
        graph: tensors -> tensors; mutates nothing.
        inputs: tensors like those it takes.
        outputs: how many it returns.
        options: settings of Inductor.
    """
    _register_wrapper()
    try:
        return _short(graph, inputs, outputs, options)
    except (
        Exception
    ) as error:  # what is called there is private to torch: another version may have it otherwise
        _log.info("A graph takes Inductor's long way: %s", str(error)[:300])
    module = copy.deepcopy(graph)
    for node in module.graph.nodes:
        # the shapes noted there come from several traces; the compiler must take its own
        node.meta.clear()
    return _names(inductor.aot_compile(module, tuple(inputs), options=options))


def _short(
    graph: fx.GraphModule, inputs: Sequence[Tensor], outputs: int, options: dict[str, Any]
) -> list[str]:
    from torch._inductor import compile_fx as stages
    from torch._inductor import config
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V

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
            stages.compile_fx_inner,
            cpp_wrapper=True,
            fx_wrapper=False,
            extern_node_serializer=None,
            get_decomp_fn=select_decomp_table,
        )
        with V.set_fake_mode(fake):
            done = stages.compile_fx_forward(
                lowered,
                shapes,
                num_orig_model_outputs=outputs,
                num_example_inputs=len(inputs),
                compiler_config_extra=stages.create_compiler_config_extra(lowered),
                inner_compile=finish,
                is_inference=True,
            )
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


# -- Inductor: what it can carry ---------------------------------------------------------------


def needs_loader(graph: fx.GraphModule) -> str:
    """Return the operation that Inductor's interface of arrays cannot carry, so that compiling for it would be lost time; else nothing.

    It has neither code of its own nor a C function for some operations, and hands no input of the
    graph to a library's product of matrices.
    """
    try:
        from torch._inductor import decomposition, lowering
        from torchgen.aoti.fallback_ops import inductor_fallback_ops as callable_ones  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return ""
    own = lowering.lowerings.keys() - lowering.fallbacks
    for node in graph.graph.nodes:
        if not isinstance(node.target, OpOverload):
            continue
        name = node.target.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            left = node.args[-2].meta.get("val")
            small = left is not None and 1 in left.shape[-2:]  # a sum of products, written out
            if not small and any(_is_input(n) for n in node.all_input_nodes):
                return str(node.target)
        elif node.target in decomposition.decompositions or node.target in own:
            continue
        elif str(node.target) not in callable_ones or any(
            _is_input(n) for n in node.all_input_nodes
        ):
            return str(node.target)
    return ""


def _register_wrapper() -> None:
    """Make Inductor write its C++ for the interface of arrays.

    It chooses the class that writes it once per process, by the options of the first graph
    compiled there: after one without this interface, a graph that asks for it is compiled without
    it, silently.
    """
    try:
        from torch._inductor.codegen import common
        from torch._inductor.codegen.cpp_wrapper_cpu_array_ref import CppWrapperCpuArrayRef

        common.init_backend_registration()
        common.device_codegens["cpu"].cpp_wrapper_codegen = CppWrapperCpuArrayRef
    except (
        ImportError,
        AttributeError,
    ):  # another version of torch: graphs are called through the loader
        return


def _is_input(node: fx.Node) -> bool:
    """Whether a node is an input of the graph or a view of one."""
    while node.op == "call_function" and getattr(node.target, "is_view", False):
        node = node.all_input_nodes[0]
    return node.op == "placeholder"


# -- Inductor: vector loads --------------------------------------------------------------------


@contextmanager
def bounded_loads() -> Iterator[None]:
    """Let Inductor write masked loads that read no byte outside their array.

    The method replaced is private to torch. Where it is not as expected, nothing is vectorized:
    scalar loops test the mask before each load.
    """
    from torch._inductor import config

    kernel_type: Any = _inductor().CppVecKernel
    original = getattr(kernel_type, "_get_vec_load_line", None)
    if original is None or tuple(inspect.signature(original).parameters) != _PARAMETERS:
        _log.info(
            "This torch writes vector loads in another way; graphs are compiled without vector"
            " instructions."
        )
        with config.patch({"cpp.simdlen": 1}):
            yield
        return

    def line(kernel: Any, var: str, index: Any, dtype: torch.dtype, load_mask: Any = None) -> str:
        return _line(kernel, original, var, index, dtype, load_mask)

    kernel_type._get_vec_load_line = line
    try:
        yield
    finally:
        kernel_type._get_vec_load_line = original


def _inductor() -> Any:
    return importlib.import_module("torch._inductor.codegen.cpp")


def _line(
    kernel: Any, original: Callable[..., str], var: str, index: Any, dtype: torch.dtype, mask: Any
) -> str:
    """Return the C++ of one vector load from `var + index`, of the lanes where `mask` holds."""
    cpp = _inductor()
    whole = kernel.num_elems == kernel.tiling_factor
    if mask is None or (whole and dtype != torch.bool):
        return original(kernel, var, index, dtype, mask)
    count: str = cpp.cexpr_index(kernel.num_elems)
    pointer = f"{var} + {cpp.cexpr_index(index)}" if index != 0 else var
    if dtype == torch.bool:
        held = f"{mask}.is_masked(zoo_lane)" if mask.is_vec else f"{mask}"
        load = original(kernel, "zoo_lanes.data()", 0, dtype)
        return _BOOLEANS.format(
            lanes=kernel.tiling_factor, count=count, held=held, pointer=pointer, load=load
        )
    kind, lanes = kernel._get_mask_type(torch.float), kernel._get_vec_type(torch.float)
    asked = kernel._get_mask_cast(mask, torch.float) if mask.is_vec else f"{kind}::from({mask})"
    within = f"{kind}({lanes}::arange(0, 1) < {lanes}(static_cast<float>({count})))"
    return (
        f"({asked} & {within}).template"
        f" loadu<{cpp.DTYPE_TO_CPP[dtype]},{kernel._get_num_vectors(dtype)}>({pointer})"
    )


# -- packages for torch's loader ---------------------------------------------------------------


def write_package(
    graph: fx.GraphModule, inputs: Sequence[Tensor], path: str, options: dict[str, Any]
) -> str:
    """Write the package of a graph to `path` by `torch.export` and AOTInductor, and return where it is."""
    _register_wrapper()
    program = export(graph, tuple(inputs), strict=False)
    return str(
        inductor.aoti_compile_and_package(
            program, package_path=path, inductor_configs=dict(options)
        )
    )


def fused(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Return a graph compiled by Inductor for the device of its inputs."""
    out: Callable[..., Sequence[Tensor]] = inductor.compile(graph, list(inputs))
    return out


def load_package(path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """Return the graph of a package; torch's loader is called directly because the public wrapper imports Inductor (seconds)."""
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    run: Callable[[list[Tensor]], list[Tensor]] = loader.run
    return run
