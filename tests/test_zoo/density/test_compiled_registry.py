"""The traced graph of every entry equals its program (fast tier).

So does Inductor's code for it (slow tier).
"""

from __future__ import annotations

import pyro
import pytest
import torch

import zoo
from zoo.density.compiled import CompiledDensity
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError

# ODEs: 11,000 to 15,000 operations, 20 s to trace, minutes to compile
UNROLLED = ("lotka_volterra", "one_comp_mm_elim_abs")
# one program, 25 data sets: the slow tier has them all
ONE_OF_MANY = {"build_of.<locals>.build": "posteriordb/nes1980-nes"}


def quick() -> list[str]:
    """Names with a graph in the fast tier.

    All but the ODEs and further data sets of a program.
    """
    out = []
    for name in zoo.names():
        try:
            build = getattr(zoo.load(name).build, "__qualname__", "")
        except UsageError:  # posteriordb is not on this machine
            build = ""
        if (
            not name.rpartition("-")[2].startswith(UNROLLED)
            and ONE_OF_MANY.get(build, name) == name
        ):
            out.append(name)
    return out


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pyro.settings.context(module_local_params=True):
        yield
    torch.set_num_threads(before)


def points(dim: int) -> torch.Tensor:
    """Points other than those of the tracer and its check."""
    return 0.3 * torch.randn(
        3, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(11)
    )


def density(entry: zoo.ModelEntry) -> LogDensity:
    data = entry.load_data()
    return LogDensity(entry.program(data), data, dtype=entry.dtype)


def assert_equal(
    log_density: LogDensity, got: dict[str, list[torch.Tensor]], u: torch.Tensor
) -> None:
    """Value and gradient within 1e-9, at every point and in every form.

    The tolerance is relative to the value and to the largest gradient entry.
    """
    tolerance = 1e-9 if log_density.dtype == torch.float64 else 1e-4
    for i, row in enumerate(u):
        value, gradient = log_density.eager_gradient(row)
        assert torch.isfinite(value)
        for form, (values, gradients) in got.items():
            assert abs(values[i] - value) <= tolerance * (1 + abs(value)), form
            assert (gradients[i] - gradient).abs().max() <= tolerance * (
                1 + gradient.abs().max()
            ), form


@pytest.mark.parametrize("name", quick())
def test_the_traced_graph_of_every_entry_equals_its_program(name, load_entry):
    log_density = density(load_entry(name))
    u = points(log_density.dim).to(log_density.dtype)
    graph = CompiledDensity(log_density, "off", 1).graph()
    assert_equal(
        log_density,
        {"graph": [torch.stack(column) for column in zip(*map(graph, u), strict=True)]},
        u,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in zoo.names() if not n.rpartition("-")[2].startswith(UNROLLED)]
)
def test_inductor_equals_the_program_on_every_entry(name, load_entry):
    """A point through the loader, through the C function if there is one, and many points."""
    log_density = density(load_entry(name))
    u = points(log_density.dim).to(log_density.dtype)
    record = log_density.compile("on")
    assert record["used"], record
    single = [log_density.gradient(row) for row in u]
    forms = {"one": [torch.stack(column) for column in zip(*single, strict=True)]}
    native = log_density.native_gradient()
    if native is not None:
        forms["native"] = [torch.stack(column) for column in zip(*map(native, u), strict=True)]
    many = u.clone().requires_grad_(True)
    values = log_density.batch_function()(many)
    forms["many"] = [values.detach(), *torch.autograd.grad(values.sum(), many)]
    assert_equal(log_density, forms, u)
