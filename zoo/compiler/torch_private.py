"""Everything that depends on private parts of torch, in one module.

It was tested with the versions in `TESTED`. With another version `untested` says so, graphs are
compiled through torch's public interface (`zoo.compiler.policy.backend`), and each function below
falls back separately if what it needs is missing: tracing takes longer, loops are not vectorized,
or a graph is called through torch's loader.

This module also corrects Inductor's masked vector loads. Inductor turns `cat`, `pad` and slices
into loads under a mask: lane i reads `x[i - shift]` where the mask is set. Two of these loads read
memory outside their array:

* in the last, partial vector of a loop the mask does not cover the lanes beyond the end, so they
  are read as well, up to fifteen numbers past the array;
* boolean arrays are read unconditionally, also before their first element.

The values read there are never used, and torch over-allocates its own tensors. A sampler's point
has no such padding: if it ends at a page boundary, the process is killed by signal 11.
`bounded_loads` corrects the generated code.
"""

from __future__ import annotations

import copy
import functools
import gc
import importlib
import inspect
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch import _guards as guards
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
    "load_tracing",
    "needs_loader",
    "shared_folder",
    "sources",
    "standard_gamma_gradient",
    "untested",
    "write_package",
]

TESTED = ("2.13",)
SILENT = "do_not_emit_stack_traces"
LOADS_VERSION = 1  # of the code written by `bounded_loads`; part of the key of every graph
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
    """Return a sentence about the version of torch if it is untested, else an empty string."""
    if ".".join(torch.__version__.split(".")[:2]) in TESTED:
        return ""
    return (
        f"torch {torch.__version__} was not tested with standalone libraries (tested:"
        f" {', '.join(TESTED)})"
    )


# -- tracing -----------------------------------------------------------------------------------


def load_tracing() -> None:
    """Import what torch imports at its first trace or optimizer, so that forks inherit it."""
    importlib.import_module("torch._dynamo")


def is_traced(u: Tensor) -> bool:
    """Whether `u` is being traced or mapped, where only the eager function may be called."""
    return get_proxy_mode() is not None or torch._C._functorch.is_functorch_wrapped_tensor(u)


@contextmanager
def fast_tracing() -> Iterator[None]:
    """Trace or compile without unneeded work.

    Recording the Python line of every operation takes a tenth of the time, and nobody reads it;
    garbage collection among millions of live objects takes a quarter.
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
def silent_fallbacks() -> Iterator[None]:
    """Map operations without a rule of their own without torch's request to report them."""
    functorch: Any = getattr(torch._C, "_functorch", None)
    switch = getattr(functorch, "_set_vmap_fallback_warning_enabled", None)
    if switch is None:
        yield
        return
    switch(False)
    try:
        yield
    finally:
        switch(True)


@contextmanager
def light_notes() -> Iterator[None]:
    """Trace with less metadata, which halves the time.

    For every result torch stores a fake tensor and a tuple of the same facts. Here it stores a
    tensor without memory; where torch's own metadata are needed, one fake mode is shared, since
    creating one for each is slower still. The Python code of a graph is generated when the graph
    is run, not after every change.
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
        if noted is None:  # another version of torch: its own metadata work as well
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
    """Return the files Inductor writes for a functional graph.

    Args:
        graph: tensors -> tensors, without mutation.
        inputs: example inputs.
        outputs: the number of outputs.
        options: Inductor settings.
    """
    _register_wrapper()
    try:
        return _short(graph, inputs, outputs, options)
    except Exception as error:  # `_short` uses private names, which other versions may lack
        _log.info("A graph takes Inductor's long way: %s", str(error)[:300])
    module = copy.deepcopy(graph)
    for node in module.graph.nodes:
        # these shapes come from several traces; the compiler must infer its own
        node.meta.clear()
    inductor: Any = importlib.import_module("torch._inductor")  # late: it takes a second
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
    """Initialize the type propagation rules once per graph, not once per operation."""
    common: Any = importlib.import_module("torch._inductor.codegen.common")
    kind = common.DtypePropagationOpsHandler
    common.DtypePropagationOpsHandler = functools.cache(kind)
    try:
        yield
    finally:
        common.DtypePropagationOpsHandler = kind


def _names(files: Any) -> list[str]:
    return [f for f in files if isinstance(f, str)]


# -- Inductor: supported operations ------------------------------------------------------------


def needs_loader(graph: fx.GraphModule) -> str:
    """Return an operation that the ArrayRef interface does not support; empty if there is none.

    Checking this first saves a compilation that would fail. For some operations the interface has
    neither generated code nor a C function, and it cannot pass a graph input to a library's matrix
    product.
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
    """Make Inductor generate C++ for the ArrayRef interface.

    Inductor chooses the class that generates it once per process, by the options of the first
    graph. After a graph without this interface, one that asks for it would silently lack it.
    """
    try:
        from torch._inductor.codegen import common
        from torch._inductor.codegen.cpp_wrapper_cpu_array_ref import CppWrapperCpuArrayRef

        common.init_backend_registration()
        common.device_codegens["cpu"].cpp_wrapper_codegen = CppWrapperCpuArrayRef
        _look_for_one_isa()
    except (ImportError, AttributeError):  # another version of torch: the loader is used
        return


@functools.cache
def _look_for_one_isa() -> None:
    """Try instruction sets until one works; torch compiles a test of all (8 s) for the first."""
    isas: Any = importlib.import_module("torch._inductor.cpu_vec_isa")
    known, flags = isas.supported_vec_isa_list, isas.x86_isa_checker()
    if flags and "ATEN_CPU_CAPABILITY" not in os.environ:
        fitting = (isa for isa in known if all(f in flags for f in str(isa).split()) and isa)
        isas.valid_vec_isa_list = functools.cache(lambda: list(itertools.islice(fitting, 1)))


def _is_input(node: fx.Node) -> bool:
    """Whether a node is an input of the graph or a view of one."""
    while node.op == "call_function" and getattr(node.target, "is_view", False):
        node = node.all_input_nodes[0]
    return node.op == "placeholder"


# -- Inductor: vector loads --------------------------------------------------------------------


@contextmanager
def bounded_loads() -> Iterator[None]:
    """Make Inductor generate masked loads that read no byte outside their array.

    The replaced method is private to torch. If it is not as expected, nothing is vectorized:
    scalar loops test the mask before each load.
    """
    from torch._inductor import config

    kernel_type: Any = _inductor().CppVecKernel
    original = getattr(kernel_type, "_get_vec_load_line", None)
    if original is None or tuple(inspect.signature(original).parameters) != _PARAMETERS:
        _log.info(
            "This torch generates vector loads differently; graphs are compiled without vector"
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
    """Return the C++ of one vector load from `var + index`, restricted to the lanes in `mask`."""
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


def shared_folder() -> str:
    """Return Inductor's default folder for its own files, which any user of a machine can make."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return str(default_cache_dir())


# -- packages for torch's loader ---------------------------------------------------------------


def write_package(
    graph: fx.GraphModule, inputs: Sequence[Tensor], path: str, options: dict[str, Any]
) -> str:
    """Write the package of a graph with `torch.export` and AOTInductor, and return its path."""
    _register_wrapper()
    inductor: Any = importlib.import_module("torch._inductor")
    program = export(graph, tuple(inputs), strict=False)
    return str(
        inductor.aoti_compile_and_package(
            program, package_path=path, inductor_configs=dict(options)
        )
    )


def fused(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Compile a graph with Inductor for the device of its inputs."""
    inductor: Any = importlib.import_module("torch._inductor")
    out: Callable[..., Sequence[Tensor]] = inductor.compile(graph, list(inputs))
    return out


def load_package(path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """Load the graph of a package.

    torch's loader is called directly because the public wrapper imports Inductor (seconds).
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    run: Callable[[list[Tensor]], list[Tensor]] = loader.run
    return run


def standard_gamma_gradient(shape: Tensor, value: Tensor) -> Tensor:
    """Return d value / d shape of a Gamma(shape, 1) variable at a fixed quantile.

    By implicit differentiation, -(dF / d shape) / density with the distribution function F.
    Without torch's own function dF / d shape is a central difference.
    """
    own = getattr(torch, "_standard_gamma_grad", None)
    if own is not None:
        return own(shape, value)
    step = 1e-5 * shape
    slope = torch.special.gammainc(shape + step, value) - torch.special.gammainc(
        shape - step, value
    )
    log_density = (shape - 1) * value.log() - value - shape.lgamma()
    return -slope / (2 * step) * (-log_density).exp()
