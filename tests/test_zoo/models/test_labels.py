"""Names of axes: of every built-in program, as many as the axis has places."""

import pyro
import pytest
import torch

import zoo
from zoo.density.log_density import LogDensity, default_dtype

# The programs of posteriordb need its files.
NAMES = [n for n in zoo.names() if not n.startswith("posteriordb/")]


def named(entry, data):
    """Yield what has named axes: name, shape, and the names."""
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    for name, tensor in data.train.items():
        if name in data.dims and hasattr(tensor, "shape"):
            yield name, tensor.shape, data.dims[name]
    for site in density.sites:
        if site.name in data.dims:
            yield site.name, site.shape, data.dims[site.name]
    generator = torch.Generator().manual_seed(0)
    u = 0.1 * torch.randn(3, density.dim, dtype=density.dtype, generator=generator)
    draws = density.constrain(u)
    with default_dtype(entry.dtype), torch.no_grad(), pyro.validation_enabled(False):
        for name, quantity in entry.quantities.items():
            value = quantity.fn(draws, data)
            assert value.shape[0] == 3
            yield name, value.shape[1:], quantity.dims


@pytest.mark.parametrize("name", NAMES)
def test_an_axis_has_as_many_names_as_places(name):
    entry = zoo.load(name)
    data = entry.load_data()
    for what, shape, dims in named(entry, data):
        assert len(dims) <= len(shape), what
        for dim, size in zip(dims, shape, strict=False):
            if dim in data.coords:
                assert len(data.coords[dim]) == size, f"{what}: {dim}"
                assert len({str(c) for c in data.coords[dim]}) == size, f"{what}: {dim}"
