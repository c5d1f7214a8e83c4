"""Standalone compiled graphs: Inductor's kernels exposed through one C function.

    int32 zoo_call(void *, const void *const *inputs, void *const *outputs)

For every graph Inductor writes a thousand lines of C++ that serve torch's loader and take ten of
the twelve seconds of compilation. Only two parts are specific to the graph: the kernels, and the
body that allocates buffers and calls them. `translate` extracts these two and provides the few
definitions the body needs (`standalone.h`), which leaves one second of compilation. A source that
needs anything else is rejected with the name of what it needs, and the graph is compiled in full.
Source: the files Inductor writes with `aot_inductor.package_cpp_only`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.compiler import cache

__all__ = ["SOURCES", "Unsupported", "build", "compiler", "load", "takes", "translate"]

SOURCES = {  # generate C++ without compiling it
    "aot_inductor.package": True,
    "aot_inductor.package_cpp_only": True,
    "aot_inductor.precompile_headers": False,
}
DEFINITIONS = Path(__file__).parent / "csrc" / "standalone.h"
PREFIX = "#include <torch/csrc/inductor/cpp_prefix.h>"
KNOWN = {
    f"aoti_torch_{name}"
    for name in (
        "empty_strided",
        "new_tensor_handle",
        "cpu_mm_out",
        "cpu_addmm_out",
        "cpu_bmm_out",
        "cpu_baddbmm_out",
        "cpu_cumsum",
        "cpu_cumprod",
        "cpu_cholesky_solve",
    )
}
_BODY = "void AOTInductorModel::run_impl_minimal_arrayref_interface_v2_raw("
_INPUT = re.compile(r"torch::aot_inductor::c_to_arrayref_tensor<(\w+)>\(c_inputs\[(\d+)\]\)")
_OUTPUT = re.compile(
    r"if constexpr"
    r" \(std::is_same_v<std::decay_t<decltype\((?P<name>[^;{]+?)\)>,RAIIAtenTensorHandle>"
    r" [^{]*\{(?:(?!\n    \}).)*"
    r"\n    \} else \{(?:(?!\n    \}\n).)*arrayref_tensor_to_c\(\w+,"
    r" c_outputs\[(?P<place>\d+)\]\);\n    \}\n",
    re.DOTALL,
)


def takes(operation: str) -> bool:
    """Whether a standalone graph can call a library operation, as in `aten.addmm.default`."""
    name = operation.split(".")[1]
    return not KNOWN.isdisjoint({f"aoti_torch_cpu_{name}", f"aoti_torch_cpu_{name}_out"})


class Unsupported(Exception):
    """The graph needs torch's runtime; the message names what for."""


def translate(source: str, inputs: Sequence[Tensor], outputs: int) -> str:
    """Extract the C++ of `zoo_call` from the C++ that Inductor wrote for a graph.

    Args:
        source: wrapper and kernels in one text.
        inputs: tensors with the layouts of the graph's inputs.
        outputs: the number of outputs.

    Raises:
        Unsupported: the source does not have the expected form, or calls a function outside
            `KNOWN`.
    """
    start, end = source.find(_BODY), source.find("void AOTInductorModel::run_impl(")
    if not 0 <= start < end:
        raise Unsupported("no ArrayRef interface")
    body = source[source.index("{", start) : source.rindex("}", start, end) + 1]
    body = re.sub(r"\n.*auto& kernels = .*", "", body).replace("this->device_idx_", "0")
    body, taken = _INPUT.subn(r"input<\1>(zoo_inputs[\2], layout_\2)", body)
    body, given = _OUTPUT.subn(r"output(\g<name>, zoo_outputs[\g<place>]);\n", body)
    if (taken, given) != (len(inputs), outputs):
        raise Unsupported(
            f"found {taken} inputs and {given} outputs of {len(inputs)} and {outputs}"
        )
    for name, place in re.findall(r"output\((\w+), zoo_outputs\[(\d+)\]\)", body):
        body = re.sub(
            rf"aoti_torch_empty_strided\(([^;]*), &{name}_handle\)",
            rf"given(\1, zoo_outputs[{place}], &{name}_handle)",
            body,
            count=1,
        )
    calls = set(re.findall(r"aoti_torch_\w+", body)) - KNOWN
    strange = sorted(calls) + re.findall(
        r"this->\w+|torch::\w+::\w+|c_inputs|c_outputs|proxy_executor|ConstantHandle", body
    )
    if strange:
        raise Unsupported(strange[0])
    kernels = source[max(source.find(PREFIX, end), 0) :] if PREFIX in source[end:] else ""
    layouts = "".join(
        f"static constexpr int64_t layout_{i}[] = {{{_layout(x)}}};\n"
        for i, x in enumerate(inputs)
    )
    text = (
        f"{layouts}static void body(const void* const* zoo_inputs, void* const* zoo_outputs)"
        f" {body}"
    )
    return (
        f'{kernels.replace(PREFIX, "")}\n#include "{DEFINITIONS.name}"\nnamespace zoo'
        f" {{\n{text}\n}}\n{_ENTRY}"
    )


def _layout(x: Tensor) -> str:
    """Return the number of axes, the sizes and the strides as one list."""
    return ", ".join(map(str, (x.ndim, *x.shape, *x.stride())))


_ENTRY = """
extern "C" int32_t zoo_call(void*, const void* const* inputs, void* const* outputs) {
  zoo::Run run;
  try { zoo::body(inputs, outputs); } catch (...) { return 1; }
  return 0;
}
"""


def build(files: Sequence[str], path: str, inputs: Sequence[Tensor], outputs: int) -> str:
    """Compile the files Inductor wrote (see `SOURCES`) into a library at `path`.

    Raises:
        Unsupported: see `translate`; or the C++ compiler failed on the result.
    """
    by_end = {
        end: next(f for f in files if f.endswith(end))
        for end in (".wrapper.cpp", "_compile_flags.json", "_linker_flags.json")
    }
    source, compiling, linking = (Path(f).read_text(encoding="utf8") for f in by_end.values())
    flags, links = json.loads(compiling), json.loads(linking)
    file = Path(path).with_suffix(".cpp")
    file.write_text(translate(source, inputs, outputs), encoding="utf8")
    arguments = _arguments(flags)
    libraries = [f"-L{d}" for d in links["libraries_dirs"]] + [
        f"-l{n}" for n in links["libraries"]
    ]
    command = [
        flags["compiler"],
        *_prefix(flags["compiler"], tuple(arguments)),
        f"-I{DEFINITIONS.parent}",
        str(file),
        *arguments,
    ]
    done = subprocess.run(
        [*command, "-shared", "-o", path, *libraries], capture_output=True, text=True, check=False
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [
            f"{flags['compiler']} failed"
        ]
        raise Unsupported(errors[0][:300])
    return path


def _arguments(flags: dict[str, Any]) -> list[str]:
    kept = [f for f in flags["cflags"] if f not in ("Wall", "pedantic", "g1")]
    words = [w for text in flags["passthrough_args"] for w in text.split()]
    definitions = [f"-D{d.strip()}" for d in flags["definitions"]]
    return [
        *definitions,
        *[f"-I{d}" for d in flags["include_dirs"]],
        *[f"-{f}" for f in kept],
        *words,
        "-w",
        "-g0",
    ]


def _prefix(compiler: str, arguments: tuple[str, ...]) -> list[str]:
    """Return the arguments that include Inductor's header of vector types.

    It is precompiled where possible, and included as text while another process precompiles it.
    Precompiling takes ten seconds, once per machine, and saves four seconds per graph.
    """
    plain = ["-include", PREFIX.split("<")[1].rstrip(">")]
    key = _header(compiler, arguments)
    folder = cache.directory() / f"header-{key}"
    if not key or folder in _failed:
        return plain
    header = folder / "prefix.h"
    if not header.with_suffix(".h.gch").exists():
        with cache.alone(folder.name) as first:
            if not first:
                return plain
            if not header.with_suffix(".h.gch").exists() and not _precompile(
                compiler, arguments, folder
            ):
                _failed.add(folder)
                return plain
    return ["-include", str(header)]


_failed: set[Path] = set()


@functools.cache
def _header(compiler: str, arguments: tuple[str, ...]) -> str:
    """Return the key of the precompiled header; empty for compilers other than GCC."""
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout
    if "Free Software Foundation" not in version:
        return ""
    return hashlib.sha256(
        repr((compiler, version, arguments, torch.__version__, cache.machine())).encode()
    ).hexdigest()[:24]


def _precompile(compiler: str, arguments: Sequence[str], folder: Path) -> bool:
    """Precompile the header into a folder that appears atomically; return whether that worked."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # leftovers of interrupted processes; the pattern excludes the folders of other headers
        for left in folder.parent.glob(f"{folder.name}-build-" + 8 * "[a-z0-9_]"):
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f"{folder.name}-build-", dir=folder.parent))
    except OSError:
        return False
    (work / "prefix.h").write_text(f"{PREFIX}\n", encoding="utf8")
    command = [
        compiler,
        "-x",
        "c++-header",
        str(work / "prefix.h"),
        *arguments,
        "-o",
        str(work / "prefix.h.gch"),
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        shutil.rmtree(work, ignore_errors=True)
        return False
    try:
        os.rename(work, folder)
    except OSError:  # another process was first
        shutil.rmtree(work, ignore_errors=True)
    return folder.is_dir()


def compiler() -> str | None:
    """Return the C++ compiler on the PATH, or None."""
    return next(
        (c for c in (os.environ.get("CXX"), "g++", "clang++") if c and shutil.which(c)), None
    )


@functools.cache
def library(path: str) -> ctypes.CDLL:
    """Load a library, once per process."""
    return ctypes.CDLL(path)


def load(
    path: Path, constants: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Load the graph in a library as a function of its inputs.

    Args:
        path: a file written by `build`.
        constants: the tensors passed after the inputs.
        outputs: tensors with the shapes of the outputs.

    Raises:
        OSError: the library cannot be loaded.
    """
    call, like = library(str(path)).zoo_call, torch.empty_like
    kept = list(constants)  # not made contiguous: the code was generated for these strides
    fixed = [t.data_ptr() for t in kept]
    made = [x.detach().contiguous() for x in outputs]
    places = struct.Struct(f"{max(1, len(made))}P").pack
    packers: dict[int, Callable[..., bytes]] = {}

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = [x.data_ptr() for x in inputs]
        pack = packers.get(len(given)) or packers.setdefault(
            len(given), struct.Struct(f"{len(given) + len(fixed)}P").pack
        )
        out = [like(x) for x in made]
        if call(None, pack(*given, *fixed), places(*[x.data_ptr() for x in out])):
            raise RuntimeError("a kernel raised")
        return out

    run.kept = kept  # type: ignore[attr-defined]
    return run
