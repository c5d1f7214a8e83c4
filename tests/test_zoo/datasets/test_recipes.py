"""Tables have their published figures, and recipes give the same data everywhere."""

from __future__ import annotations

import random
from statistics import NormalDist

import numpy as np
import pytest
import torch

from zoo import datasets
from zoo.datasets.portable_random import Recipe


def test_tables_have_their_published_figures() -> None:
    nile, stack, gdp = datasets.read("nile"), datasets.read("stackloss"), datasets.read("gdp")
    # Cobb 1978; Durbin and Koopman 2001
    assert nile.column("volume").mean().item() == pytest.approx(919.35)
    assert nile.column("year").tolist() == list(range(1871, 1971))
    x = np.column_stack([np.ones(21), stack.values[:, 1:].numpy()])
    fit = np.linalg.lstsq(x, stack.column("loss").numpy(), rcond=None)[0]
    # Brownlee 1965; Dodge 1996
    assert fit == pytest.approx([-39.9197, 0.7156, 1.2953, -0.1521], abs=1e-4)
    assert gdp.column("gdp")[[0, -1]].tolist() == [2710.349, 12990.341]
    sunspots = datasets.read("sunspots")
    assert sunspots.column("number").max().item() == 190.2  # 1957, the largest on record
    strikes = datasets.read("strikes").column("duration")
    assert (len(strikes), strikes.min().item(), strikes.max().item()) == (62, 1.0, 216.0)
    party = datasets.read("anes96").column("party").long()
    assert torch.bincount(party).tolist() == [200, 180, 108, 37, 94, 150, 175]


def test_recipes_are_the_stream_of_python() -> None:
    stream = random.Random(7)
    first = [(stream.getrandbits(52) + 0.5) / 2**52 for _ in range(3)]
    recipe = Recipe(7)
    assert recipe.uniforms(2).tolist() == first[:2]
    assert recipe.normals(1).item() == pytest.approx(NormalDist().inv_cdf(first[2]), abs=1e-15)
