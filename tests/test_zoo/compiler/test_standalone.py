"""Graphs compiled as standalone libraries: operations, layouts, threads, fallbacks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from zoo.compiler import c_abi, standalone, torch_private
from zoo.compiler import compile as compiled
from zoo.compiler.compile import compile_function

GENERATOR = torch.Generator().manual_seed(5)
FLAGS = torch.tensor([True, False, True, True])
PLACES = torch.tensor([2, 0, 3, 1])


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


WIDE, TALL, FACTOR = (
    draw(6, 4),
    draw(40, 30),
    torch.linalg.cholesky(draw(70, 70).pow(2).sum(0).diag() + 2.0),
)


def everything(x, y):
    """Outputs without axes, transposed or empty; matrix products, cumulative sums, solves.

    Some buffers exceed the stack.
    """
    outer = x[:, None] * y.sin()[None, :]  # [4, 70]
    wide = (outer @ FACTOR.exp().mul(0.01)).t()  # [70, 4], a product into a buffer
    table = torch.addmm(wide.t(), outer, FACTOR) + torch.bmm(
        outer.expand(2, 4, 70), (FACTOR * x[0]).expand(2, 70, 70)
    ).sum(0)
    runs = torch.cumsum(outer, 1) + torch.cumprod(1 + 0.01 * outer, 1)
    solved = torch.cholesky_solve(outer.t().contiguous(), FACTOR)
    big = (TALL.reshape(-1, 1, 1) * outer.exp()).cumsum(0)  # 2.7 MB
    chosen = torch.where(FLAGS[:, None], outer, -outer)[PLACES]
    return [
        outer.sum(),
        wide.sin(),
        table.cos(),
        runs.exp(),
        solved * 2,
        big.sin().sum(0),
        chosen.t() + 1,
        (chosen > 0).to(torch.int64),
        runs.exp().t(),
    ]


@pytest.fixture(scope="module")
def graph():
    torch.set_num_threads(1)
    inputs = [[draw(4), draw(70)] for _ in range(4)]
    out = compile_function(everything, inputs[0], inputs[1:], mode="on")
    assert out.record["used"], out.record
    return out, inputs


def test_every_operation_and_layout(graph):
    out, inputs = graph
    assert out.package.suffix == ".so"
    for x in (*inputs, *inputs):
        for got, truth in zip(out(*x), everything(*x), strict=True):
            assert got.shape == truth.shape
            assert got.dtype == truth.dtype
            assert (got - truth).abs().max() <= 1e-11 * (1 + truth.abs().max())


def test_threads_do_not_share_buffers(graph):
    out, inputs = graph
    truths, wrong = [everything(*x) for x in inputs], []

    def work(i):
        for _ in range(60):
            wrong.extend(
                k
                for k, (a, b) in enumerate(zip(out(*inputs[i]), truths[i], strict=True))
                if not torch.allclose(a, b, rtol=1e-10)
            )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_integers_are_not_handed_to_samplers(graph):
    out, inputs = graph
    assert out.native([inputs[1]]) is None
    with pytest.raises(OSError, match="float64"):
        c_abi.load(out.package, out.examples, out.traced.constants, out(*inputs[0]))


def test_constants_are_read_as_they_lie(graph):
    """A noncontiguous constant keeps its strides: a contiguous copy would be misread."""
    out, inputs = graph
    strided = tuple(t.t().contiguous().t() if t.ndim == 2 else t for t in out.traced.constants)
    assert any(not t.is_contiguous() for t in strided)
    run = standalone.load(out.package, strided, out(*inputs[0]))
    assert all(a is b for a, b in zip(run.kept, strided, strict=True))


@pytest.mark.parametrize(
    ("operation", "taken"),
    [
        ("aten.addmm.default", True),
        ("aten.cumsum.default", True),
        ("aten.linalg_cholesky_ex.default", False),
        ("aten.sort.default", False),
    ],
)
def test_what_only_a_loader_can_call_is_known_before_sources_are_written(operation, taken):
    assert standalone.takes(operation) == taken


def wrapped(body):
    return (
        f"{standalone._BODY}\n    const X* c_inputs) {{\n{body}}} // end\nvoid"
        " AOTInductorModel::run_impl("
    )


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("    f(aoti_torch_cpu_sort(x));\n", "aoti_torch_cpu_sort"),
        ("    auto c = this->constants_->at(0);\n", "this->constants_"),
        ("    g(c_outputs[0]);\n", "c_outputs"),
        (
            "    auto a = torch::aot_inductor::c_to_arrayref_tensor<double>(c_inputs[0]);\n",
            "1 inputs",
        ),
    ],
)
def test_what_the_definitions_lack_is_refused_by_name(body, named):
    with pytest.raises(standalone.Unsupported, match=named):
        standalone.translate(wrapped(body), [], 0)


def test_a_source_of_another_form_is_refused():
    with pytest.raises(standalone.Unsupported, match="no ArrayRef interface"):
        standalone.translate("int main() {}", [], 0)


@pytest.mark.parametrize("fault", ["refused", "raises when run", "not compiled"])
def test_the_longer_way_is_open(monkeypatch, own_cache, fault):
    called = []
    monkeypatch.setattr(
        torch_private,
        "write_package",
        lambda graph, inputs, path, options: (
            called.append(path) or str(Path(path).touch() or path)
        ),
    )
    monkeypatch.setattr(compiled, "_load", lambda package, graph: lambda tensors: graph(*tensors))
    if fault == "refused":
        monkeypatch.setattr(standalone, "KNOWN", set())
        monkeypatch.setattr(standalone, "_INPUT", standalone._OUTPUT)
    elif fault == "raises when run":
        monkeypatch.setattr(
            standalone, "_ENTRY", standalone._ENTRY.replace("return 0", "return 1")
        )
    else:
        monkeypatch.setattr(standalone, "_ENTRY", "no C++")
    out = compile_function(lambda u: [u.sin().sum()], [draw(3)], [[draw(3)]], mode="on")
    assert out.record["used"], out.record
    assert called
    assert out.package.suffix == ".pt2"
    assert not list((own_cache / "compiled").glob("build-*"))


def test_another_compiler_reads_the_header_as_text(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    compiler = tmp_path / "clang++"
    compiler.write_text("#!/bin/sh\necho clang version 17\n")
    compiler.chmod(0o755)
    assert standalone._prefix(str(compiler), ()) == [
        "-include",
        "torch/csrc/inductor/cpp_prefix.h",
    ]
    assert not (tmp_path / "compiled").exists()


def test_processes_that_need_the_header_together_compile_it_once_and_wait_for_nobody(
    monkeypatch, tmp_path
):
    """Processes that arrive during compilation read the text.

    A folder left by a stopped process is removed.
    """
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    log = tmp_path / "calls"
    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo Free Software Foundation && exit 0\n'
        f'echo call >> {log}\nsleep 0.5\nfor last in "$@"; do :; done\ntouch "$last"\n'
    )
    compiler.chmod(0o755)
    header = f"header-{standalone._header(str(compiler), ('-w',))}"
    left, *others = (
        tmp_path / "compiled" / name
        for name in (
            f"{header}-build-abcdefg_",
            f"{header}-build-notes",
            "header-build-abcdefgh",
            "header-0-build-abcdefgh",
        )
    )
    for folder in (left, *others):
        folder.mkdir(parents=True)
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(standalone._prefix(str(compiler), ("-w",))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.read_text() == "call\n"
    text = ["-include", "torch/csrc/inductor/cpp_prefix.h"]
    assert got[:2] == [text, text]  # they arrive first
    later = standalone._prefix(str(compiler), ("-w",))
    assert got[2] == later
    assert Path(f"{later[1]}.gch").exists()
    assert log.read_text() == "call\n"
    assert not left.exists()
    # foreign folders, or those of another header
    assert all(folder.is_dir() for folder in others)


def test_a_header_that_cannot_be_compiled_is_read_as_text(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    compiler = tmp_path / "g++"
    log = tmp_path / "calls"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo Free Software Foundation && exit 0\necho call >>'
        f" {log}\nexit 1\n"
    )
    compiler.chmod(0o755)
    for _ in range(2):
        assert standalone._prefix(str(compiler), ("-w",)) == [
            "-include",
            "torch/csrc/inductor/cpp_prefix.h",
        ]
    assert log.read_text() == "call\n"  # one process tries it once
