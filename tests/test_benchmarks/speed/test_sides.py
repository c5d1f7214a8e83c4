"""What every side shares: names, timing by doubling blocks, and the choice of a module."""

import importlib
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.speed import sides
from benchmarks.speed.sides import HOMES, MEASURES, PEERS, Settings, Timing, make, missing, repeat
from zoo.errors import UnknownNameError


def test_the_settings_of_a_full_run():
    assert Settings() == Settings(
        slice_seconds=0.5,
        particles=1,
        draws=1000,
        slow_draws=300,
        slow_seconds=30.0,
        slow_runs=100,
        compile="on",
    )
    assert MEASURES == ("gradient", "batch", "svi_mean_field", "svi_full_rank", "nuts")
    assert sides.BATCH == 256


def test_a_piece_takes_the_wall_time_over_their_number():
    assert Timing(count=8, wall=2.0, cpu=1.0).per == 0.25


@pytest.fixture
def clock(monkeypatch):
    """A clock that only calls move: a second of wall and half a second of CPU each."""
    now = SimpleNamespace(wall=100.0, cpu=7.0, reads=0)

    def tick():
        now.wall += 1.0
        now.cpu += 0.5

    def wall():
        now.reads += 1
        return now.wall

    monkeypatch.setattr(sides.time, "perf_counter", wall)
    monkeypatch.setattr(sides.time, "process_time", lambda: now.cpu)
    now.tick = tick
    return now


def test_blocks_double_and_the_last_one_ends_on_time(clock):
    """Blocks of 1, 2, 4, 8 calls leave 5 of 20 seconds: a block of 5, six readings in all."""
    assert repeat(clock.tick, 20.0, pieces=3) == Timing(count=60, wall=20.0, cpu=10.0)
    assert clock.reads == 6


def test_a_slice_makes_at_least_one_call(clock):
    assert repeat(clock.tick, 0.0) == Timing(count=1, wall=1.0, cpu=0.5)
    assert repeat(clock.tick, 1.0) == Timing(count=1, wall=1.0, cpu=0.5)
    # 1.5 s: one call, then a block of max(1, int(0.5)) calls
    assert repeat(clock.tick, 1.5) == Timing(count=2, wall=2.0, cpu=1.0)


def test_a_call_too_short_for_the_clock_is_repeated_in_longer_blocks(clock, monkeypatch):
    """The wall clock stands still for three readings; blocks still double."""
    readings = iter([0.0, 0.0, 0.0, 5.0])
    monkeypatch.setattr(sides.time, "perf_counter", lambda: next(readings))
    assert repeat(lambda: None, 5.0).count == 1 + 2 + 4


def test_what_is_not_installed_is_named_with_the_cure(monkeypatch):
    asked = []

    def find(name):
        asked.append(name)
        return None if name in absent else object()

    absent = {"pymc", "nutpie", "stan"}
    monkeypatch.setattr(importlib.util, "find_spec", find)
    cure = "not installed; pip install 'posterior-zoo[peers]'"
    assert missing("pymc") == f"pymc and nutpie {cure}"
    assert missing("stan") == f"stan {cure}"
    assert missing("numpyro") == ""
    assert asked == ["pymc", "nutpie", "stan", "numpyro"]
    assert missing("ours") == missing("pyro") == ""
    absent = {"pymc"}
    assert missing("pymc") == f"pymc {cure}"
    assert {"numpyro", "stan", "pymc"} == set(PEERS)


def test_an_unknown_peer_is_refused_with_the_names_of_the_peers():
    with pytest.raises(UnknownNameError) as caught:
        missing("jags")
    for name in HOMES:
        assert (name in str(caught.value)) == (name != "ours")


@pytest.mark.parametrize("side", HOMES)
def test_a_side_is_built_by_its_module_from_what_it_needs(side, monkeypatch):
    """This project and stock Pyro get the entry's name, peers the form and a copy of the data."""
    given = {"y": np.ones(2)}
    built = []
    module = SimpleNamespace(build=lambda *a: built.append(a) or "side")
    monkeypatch.setattr(
        importlib, "import_module", lambda name: module if name == home else pytest.fail(name)
    )
    home = f"benchmarks.speed.side_{side}"
    assert make(side, "linear_20000", "linear", given, Settings()) == "side"
    assert make(side, "linear_20000", "linear", None, Settings()) == "side"
    if side in ("ours", "pyro"):
        assert built == [("linear_20000", Settings())] * 2
    else:
        assert built == [("linear", given, Settings()), ("linear", {}, Settings())]
        assert built[0][1] is not given
