"""Seeds depend on what they are made of, and a seeded block leaves no trace."""

import hashlib

import pytest
import torch

from zoo.seeds import derive_seed, seed_torch, seeded


def test_a_seed_is_the_hash_of_its_parts():
    digest = hashlib.sha256(b"0\x1fcoin\x1fdraw").digest()
    expected = int.from_bytes(digest[:8], "big") % 2**31
    assert derive_seed(0, "coin", "draw") == expected
    assert derive_seed("0", "coin", "draw") == expected
    assert 0 <= expected < 2**31


def test_parts_are_told_apart():
    assert derive_seed("ab", "c") != derive_seed("a", "bc")
    seeds = {derive_seed(i) for i in range(1000)}
    assert len(seeds) == 1000
    assert max(seeds) > 2**30


def test_a_seeded_block_draws_its_own_numbers_and_restores_the_stream():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(3):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(3):
        assert torch.equal(torch.rand(2), inside)
    with seeded(4):
        assert not torch.equal(torch.rand(2), inside)


@pytest.mark.parametrize("devices", [False, True], ids=["processor", "devices"])
def test_either_way_of_seeding_gives_torchs_stream(monkeypatch, devices):
    monkeypatch.setattr("zoo.seeds._DEVICES", devices)
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_torch(7)
    assert torch.equal(torch.rand(3), expected)
    assert torch.initial_seed() == 7
