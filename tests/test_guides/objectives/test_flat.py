"""Minibatches: an epoch holds every unit once, and epochs differ."""

import torch

from guides.objectives.flat import Minibatches
from zoo.density.log_density import LogDensity


def batches(tiny, size, number):
    entry, *_ = tiny.intercepts(groups=12)
    data = entry.load_data()
    made = Minibatches(LogDensity(entry.program(data), data), size)
    generator = torch.Generator().manual_seed(0)
    return [made.draw(generator) for _ in range(number)]


def test_batches_of_an_epoch_are_disjoint_and_hold_every_unit(tiny):
    found = batches(tiny, 3, 8)
    for epoch in (found[:4], found[4:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))


def test_every_unit_meets_others_in_another_epoch(tiny):
    found = [frozenset(b.tolist()) for b in batches(tiny, 3, 40)]
    assert len(set(found)) > 30  # of 40 batches, in 10 epochs; 220 triples are possible
    neighbors = {u: set().union(*(b for b in found if u in b)) - {u} for u in range(12)}
    assert all(len(seen) >= 8 for seen in neighbors.values())


def test_an_incomplete_remainder_is_dropped(tiny):
    found = batches(tiny, 5, 6)
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert len(set(first.tolist()) | set(second.tolist())) == 10


def test_a_batch_as_large_as_the_data_is_all_of_them(tiny):
    assert batches(tiny, 12, 1) == [None]
