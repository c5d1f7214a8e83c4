"""Entries against their stored references: the density at stored points, and every quantity.

Both were computed when the reference was made, from more draws than are stored.
"""

import functools
import json

import pytest
import torch

import zoo
from zoo.density.log_density import LogDensity
from zoo.truth import stored

ALL = [p for p in stored.FOLDER.glob("*.json") if p.stem != "evidence"]
KEYS = sorted(json.loads(p.read_text(encoding="utf-8"))["entry"] for p in ALL)


@functools.cache
def known(key):
    """Return an entry, its data, its density, and what is stored of it."""
    entry = zoo.load(key)
    data = entry.load_data()
    return entry, data, LogDensity(entry.program(data), data, dtype=entry.dtype), stored.read(key)


@pytest.mark.parametrize("key", KEYS)
def test_the_density_is_that_of_the_stored_reference(key):
    _, _, density, kept = known(key)
    assert len(kept.points) == 3
    assert stored.stale(kept, density) is None


@pytest.mark.parametrize("key", KEYS)
def test_every_quantity_of_the_stored_draws_has_the_stored_mean_and_spread(key):
    entry, data, density, kept = known(key)
    draws = density.constrain(kept.unconstrained.to(density.dtype))
    assert set(kept.moments) == set(entry.quantities)
    for name, quantity in entry.quantities.items():
        value = quantity.fn(draws, data).double().flatten(0, 1)
        moments = kept.moments[name]
        sd = moments.sd.double()
        scale = torch.where(sd > 0, sd, 1.0)
        assert value.shape[1:] == sd.shape
        shift = (value.mean(0) - moments.mean) / scale
        assert shift.abs().max() < 0.15, name
        assert (value.std(0) / scale - 1).abs()[sd > 0].max() < 0.15, name
