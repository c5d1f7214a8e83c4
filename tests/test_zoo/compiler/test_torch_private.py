"""Private and public access to Inductor's sources give equal libraries.

Impure graphs use the public one.
"""

import ast
import sys
from pathlib import Path

import pytest
import torch

from zoo.compiler import compile as compiled
from zoo.compiler import policy, standalone, torch_private
from zoo.compiler.trace import trace
from zoo.errors import UnknownNameError

ROOT = Path(__file__).parents[3]


def curve(x, y):
    z = torch.logsumexp(torch.nn.functional.softplus(x) + y.cumsum(-1), -1)
    return [z.sum(), torch.lgamma(x.exp()).mean(0), y[..., [1, 0]].tril()]


def line(x, y):
    return [(x.exp() + y).sum(-1)]


@pytest.fixture
def example():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(5, 4, dtype=torch.float64, generator=generator) for _ in range(2)]


def built(graph, path):
    with compiled._quiet(), torch.no_grad():
        compiled._alone(graph, str(path))
    return standalone.load(Path(path), graph.constants, graph.outputs)


def test_both_ways_give_the_eager_numbers(example, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="zoo")
    graph = trace(curve, example)
    short = built(graph, tmp_path / "short.so")(example)
    assert not caplog.messages

    def refuse(*arguments):
        raise AttributeError("no such stage")

    monkeypatch.setattr(torch_private, "_short", refuse)
    long = built(graph, tmp_path / "long.so")(example)
    assert caplog.messages == ["A graph takes Inductor's long way: no such stage"]
    for a, b, c in zip(short, long, curve(*example), strict=True):
        assert torch.equal(a, b)
        assert torch.allclose(a, c, rtol=1e-12, atol=1e-12)


def test_a_graph_that_writes_into_its_arguments_is_refused(example, tmp_path):
    def write(x, y):
        return (x.clone().add_(y),)

    module = torch.fx.symbolic_trace(write)
    options = {**compiled.OPTIONS, **standalone.SOURCES, "aot_inductor.output_path": str(tmp_path)}
    with (
        pytest.raises(ValueError, match=r"aten.add_.Tensor writes into its arguments"),
        torch.no_grad(),
    ):
        torch_private._short(module, example, 1, options)


def test_the_compiler_can_be_loaded_ahead(caplog, monkeypatch):
    caplog.set_level("INFO", logger="zoo")
    compiled.load_compiler()
    assert not caplog.messages
    assert "torch._inductor.codegen.cpp" in sys.modules

    def refuse(*arguments):
        raise OSError("no compiler")

    monkeypatch.setattr(torch_private, "sources", refuse)
    compiled.load_compiler()
    assert caplog.messages == ["The compiler could not be loaded in advance: no compiler"]


def test_private_names_of_torch_stand_in_one_module():
    """Names that torch may change are used only in `torch_private`."""
    for path in sorted(
        p
        for room in ("zoo", "guides", "benchmarks")
        for p in (ROOT / room).rglob("*.py")
        if p.stem != "torch_private"
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            private = set()
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch."):
                private = {
                    part
                    for part in ast.unparse(node).split(".")[1:]
                    if part.startswith("_") and not part.startswith("__")
                }
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
                names = {*node.module.split("."), *(a.name for a in node.names)}
                # utils._pytree is what torch.export documents
                private = {n for n in names if n.startswith("_")} - {"_pytree"}
            assert not private, f"{path}: {private}"


def test_the_gradient_of_gamma_variables_has_a_fallback(monkeypatch):
    shape = torch.tensor([0.3, 1.0, 4.0, 60.0], dtype=torch.float64)
    value = torch.tensor([0.2, 0.7, 6.0, 55.0], dtype=torch.float64)
    own = torch_private.standard_gamma_gradient(shape, value)
    monkeypatch.delattr(torch, "_standard_gamma_grad")
    assert torch.allclose(torch_private.standard_gamma_gradient(shape, value), own, rtol=1e-4)


@pytest.mark.parametrize(
    ("version", "doubted"),
    [("2.13.0+cpu", False), ("2.13.4", False), ("2.12.1", True), ("2.130.0", True)],
)
def test_another_version_is_said_once_and_takes_the_public_route(
    monkeypatch, caplog, version, doubted
):
    monkeypatch.delenv(policy.BACKEND_VARIABLE, raising=False)
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(policy, "_said", set())
    caplog.set_level("WARNING", logger="zoo")
    assert [policy.backend(), policy.backend()] == ["aoti" if doubted else "standalone"] * 2
    assert [version in m for m in caplog.messages] == [True] * doubted


def test_the_variable_decides_and_refuses_other_words(monkeypatch):
    monkeypatch.setenv(policy.BACKEND_VARIABLE, "aoti")
    assert policy.backend() == "aoti"
    monkeypatch.setenv(policy.BACKEND_VARIABLE, "standalon")
    with pytest.raises(UnknownNameError, match="did you mean 'standalone'"):
        policy.backend()


def test_every_backend_gives_the_eager_numbers_and_keeps_its_own_files(
    example, own_cache, monkeypatch
):
    """The numbers of a package of torch's own are those of `test_vector_loads`: here it is empty.

    It is asked for as usual, and its graph is run node by node in its place.
    """
    written = []

    def write(graph, inputs, path, options):
        written.append(graph)
        Path(path).touch()
        return path

    monkeypatch.setattr(torch_private, "write_package", write)
    monkeypatch.setattr(
        torch_private, "load_package", lambda package: lambda tensors: written[-1](*tensors)
    )
    for backend in ("aoti", "standalone", "eager"):  # each beside the files of the others
        monkeypatch.setenv(policy.BACKEND_VARIABLE, backend)
        own = compiled.compile_function(line, example, [example], mode="on")
        assert own.record["used"] == (backend != "eager")
        if backend == "eager":
            assert own.record["reason"] == "ZOO_BACKEND=eager"
        else:
            assert own.package.suffix == {"standalone": ".so", "aoti": ".pt2"}[backend]
            assert not own.record["cached"]
        for a, b in zip(own(*example), line(*example), strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    assert len(written) == 1
    assert set(policy.BACKENDS) == {"aoti", "standalone", "eager"}


class InstructionSet:
    def __init__(self, name, works, tried):
        self.name, self.works, self.tried = name, works, tried

    def __str__(self):
        return self.name

    def __bool__(self):
        self.tried.append(self.name)
        return self.works


@pytest.mark.parametrize("asked", [False, True])
def test_instruction_sets_are_tried_until_one_works(monkeypatch, asked):
    """Each try takes a second or two; torch takes the first of its list unless asked for one."""
    from torch._inductor import cpu_vec_isa as isas

    tried, whole = [], isas.valid_vec_isa_list
    known = [("avx512 amx_tile", True), ("avx512", False), ("avx2", True), ("avx2", True)]
    sets = [InstructionSet(name, works, tried) for name, works in known]
    monkeypatch.setattr(isas, "supported_vec_isa_list", sets)
    monkeypatch.setattr(isas, "x86_isa_checker", lambda: ["avx2", "avx512"])
    monkeypatch.setattr(isas, "valid_vec_isa_list", whole)
    if asked:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    else:
        monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    torch_private._look_for_one_isa.__wrapped__()
    if asked:
        assert isas.valid_vec_isa_list is whole
        return
    assert isas.valid_vec_isa_list() == isas.valid_vec_isa_list() == [sets[2]]
    assert tried == ["avx512", "avx2"]
