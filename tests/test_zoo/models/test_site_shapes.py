"""Axes of the sites of every built-in program: what Pyro takes as independent is in a plate."""

import pyro
import pytest
import torch
from pyro import poutine

import zoo
from zoo.density.log_density import default_dtype

# The programs of posteriordb need its files.
NAMES = [n for n in zoo.names() if not n.startswith("posteriordb/")]


@pytest.mark.parametrize("name", NAMES)
def test_every_batch_axis_of_a_site_belongs_to_a_plate(name):
    """Otherwise a guide or a vectorized estimator of Pyro mistakes the axis for a sample axis."""
    entry = zoo.load(name)
    data = entry.load_data()
    with default_dtype(entry.dtype), torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(entry.program(data)).get_trace(**data.train)
    for node in trace.nodes.values():
        if node["type"] != "sample" or type(node["fn"]).__name__ == "_Subsample":
            continue
        plates = {frame.dim for frame in node["cond_indep_stack"] if frame.vectorized}
        shape = node["fn"].batch_shape
        free = {d for d in range(-len(shape), 0) if shape[d] > 1} - plates
        assert not free, f"{node['name']}: {tuple(shape)} with plates at {sorted(plates)}"
