"""No compiled graph reads or writes a byte outside its arrays.

Inductor's masked loads read up to fifteen numbers past the end of an array, and booleans before
it; a sampler's point at the end of a page raised signal 11.
"""

import ctypes
import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.guard import SIDES, guarded, outside_reads, survives

import guides
import zoo
from guides.optimize import step
from zoo.compiler import standalone, torch_private
from zoo.compiler.compile import Function, compile_function
from zoo.compiler.policy import BACKEND_VARIABLE, backend
from zoo.density.log_density import LogDensity

LENGTHS = (3, 8, 13, 16, 21, 40)  # whole vectors, tails of one and of two vectors
SOME = (3, 13, 21)  # where a second compilation is not about the lengths


def pieces(*arrays):
    """Shifted slices of flat vectors, padded: summands of the gradient of vector sites."""
    out = []
    count = len(arrays) // 3
    for number, x in enumerate(arrays[:count]):
        held, place = arrays[count + number], arrays[2 * count + number]
        tail, chosen = torch.nn.functional.pad(x, (2, 0)), torch.nn.functional.pad(held, (2, 0))
        head = torch.nn.functional.pad(x[1:], (0, 3))
        out.append(torch.where(chosen, tail.sin(), 2.0 * tail) + head)
        out.append(torch.cat([x[:1].exp(), x[2:] - x[:-2], torch.where(held, 1.0, x), x[place]]))
    return out


def arrays(seed, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(seed)
    floats = [torch.randn(n, dtype=torch.float64, generator=generator) for n in lengths]
    masks = [torch.rand(n, generator=generator) > 0.5 for n in lengths]
    places = [torch.randint(0, n, (n,), generator=generator) for n in lengths]
    return [*floats, *masks, *places]


@pytest.fixture(scope="module")
def compiled():
    return compile_function(pieces, arrays(0), [arrays(s) for s in (1, 2, 3)], mode="on")


def test_shifted_pieces_of_any_length_stay_inside_their_arrays(compiled):
    assert compiled.record["used"], compiled.record
    assert outside_reads(compiled) == {}
    assert outside_reads(compiled, arrays(5)) == {}


def test_the_harness_sees_one_number_too_far():
    """A read of one number before or after the array ends the child."""
    x = torch.arange(5.0, dtype=torch.float64)

    def read(side, steps):
        place = guarded(x, side).data_ptr() + 8 * steps
        return survives(lambda: ctypes.c_double.from_address(place).value >= 0)

    assert [read("end", 4), read("end", 5), read("begin", 0), read("begin", -1)] == [
        "",
        "SIGSEGV",
        "",
        "SIGSEGV",
    ]


def test_without_the_correction_they_do_not(monkeypatch, own_cache):
    """Inductor's own method is at fault: with it, the same graphs raise a signal on both sides."""
    from torch._inductor.codegen.cpp import CppVecKernel

    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX"):
        pytest.skip("no vector instructions here")
    original = CppVecKernel._get_vec_load_line
    monkeypatch.setattr(
        torch_private, "_line", lambda kernel, method, *rest: original(kernel, *rest)
    )
    faulty = compile_function(pieces, arrays(0, SOME), [arrays(1, SOME)], mode="on")
    assert outside_reads(faulty) == dict.fromkeys(SIDES, "SIGSEGV")


def test_another_torch_compiles_without_vectors(monkeypatch, own_cache, caplog):
    from torch._inductor.codegen.cpp import CppVecKernel

    caplog.set_level("INFO", logger="zoo")
    monkeypatch.setattr(CppVecKernel, "_get_vec_load_line", lambda self, var, index, dtype: "")
    monkeypatch.setattr(standalone, "_header", lambda *compiler: "")  # one graph needs none
    scalar = compile_function(pieces, arrays(0, SOME), [arrays(1, SOME)], mode="on")
    assert "graphs are compiled without vector instructions" in caplog.text
    assert outside_reads(scalar) == {}


def hierarchy(y=None):
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 1.0)), pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("g", 3):
        th = pyro.sample("th", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(th, 1.0), obs=y)


TOTALS = torch.tensor([3.0, 5, 10, 15, 20, 100, 200, 300, 500, 1000, 1200, 1300, 1500, 2000, 3000])
COUNTS = torch.tensor([2.0, 5, 9, 10, 19, 77, 192, 276, 476, 724, 1182, 999, 1045, 1760, 1884])


def binomials(n, k=None):
    """Fifteen binomials with a common beta, where one in seven NUTS runs died."""
    mu = pyro.sample("mu", dist.Beta(1.0, 1.0))
    kappa = pyro.sample("kappa", dist.HalfCauchy(10.0))
    with pyro.plate("g", 15):
        p = pyro.sample("p", dist.Beta(mu * kappa, (1 - mu) * kappa))
        pyro.sample("k", dist.Binomial(n, p), obs=k)


def density_of(model, data):
    entry = zoo.from_program(model, data)
    made = entry.load_data()
    density = LogDensity(entry.program(made), made)
    assert density.compile("on")["used"]
    return density


def test_a_graph_behind_torchs_loader_stays_inside_its_arrays_too(own_cache, monkeypatch):
    """Its operations have no C function: the sampler calls Python and torch's loader.

    Building a package takes ten seconds. The one of `ZOO_BACKEND=aoti` serves the usual backend
    as well, which asks for a package of the same graph with the same options.
    """
    asked, write = [], torch_private.write_package

    def once(graph, inputs, path, options):
        asked.append((graph.code, [(t.dtype, t.shape, t.stride()) for t in inputs], options))
        if len(asked) == 1:
            return write(graph, inputs, path, options)
        return shutil.copy(made[0].package, path)

    monkeypatch.setattr(torch_private, "write_package", once)
    made = []
    for name in ("aoti", "standalone"):  # each beside the files of the other
        monkeypatch.setenv(BACKEND_VARIABLE, name)
        density = density_of(binomials, {"n": TOTALS, "k": COUNTS})
        made.append(density._compiled._forms["gradient"])
        assert made[-1].package.suffix == ".pt2"
        assert not made[-1].record["cached"]
        point = torch.linspace(-1.0, 1.0, density.dim, dtype=torch.float64)
        for a, b in zip(density.gradient(point), density.eager_gradient(point), strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    assert len(asked) == 2
    assert asked[0] == asked[1]
    assert made[0].package != made[1].package
    assert outside_reads(made[0]) == {}


@pytest.mark.skipif(backend() != "standalone", reason="packages are called by torch's loader")
@pytest.mark.parametrize("side", SIDES)
def test_a_samplers_point_may_end_at_a_page(side):
    """The C function that nutpie calls, with point and gradient in the caller's memory."""
    density = density_of(hierarchy, {"y": torch.arange(3.0)})
    graph = density.native_gradient()
    point = torch.full((density.dim,), 0.1, dtype=torch.float64)
    value, gradient = density.eager_gradient(point)
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)(
        graph.gradient
    )

    def run():
        x, slope, height = (
            guarded(t, side)
            for t in (point, torch.zeros_like(point), torch.zeros(1, dtype=point.dtype))
        )
        code = call(density.dim, x.data_ptr(), slope.data_ptr(), height.data_ptr(), graph.data)
        return (
            code == 0
            and torch.allclose(height[0], value, rtol=1e-12)
            and torch.allclose(slope, gradient, rtol=1e-9)
        )

    assert survives(run) == ""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", zoo.names())
def test_guard_pages_hold_for_the_density_of_every_entry(name, load_entry):
    """A point, a batch of points, and a batch with gradients; learned weights as initialized."""
    entry = load_entry(name)
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    with pyro.settings.context(module_local_params=True):
        density.compile("on")
        compiled = density._compiled
        made = {"gradient": compiled._forms["gradient"]}
        made |= {
            form: f
            for form in (() if compiled.by_points else ("batch", "batch_gradient"))
            if (f := compiled._form(form)) is not None
        }
    looked = {what: outside_reads(f) for what, f in made.items() if f.run is not None}
    assert "gradient" in looked, made["gradient"].record
    assert not any(looked.values()), looked


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", zoo.names())
def test_guard_pages_hold_for_the_steps_of_every_entry(name, load_entry, monkeypatch):
    """The optimization step of every family the entry lists."""
    entry = load_entry(name)
    made: dict[str, Function] = {}
    first = None

    def record(family):
        def compile_and_keep(*arguments, **options):
            made[family] = compile_function(*arguments, **options)
            return made[family]

        return compile_and_keep

    for family in entry.families:
        monkeypatch.setattr(step, "compile_function", record(family))
        given = {} if not entry.learns or first is None else {"given": first}
        first = guides.fit(entry, family, compile="on", steps=24, patience=8, anneal=8, **given)
    looked = {family: outside_reads(f) for family, f in made.items() if f.run is not None}
    assert looked or (not first.compiled["used"] and first.compiled["reason"])
    assert not any(looked.values()), looked
