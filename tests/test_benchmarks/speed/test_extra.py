"""The measurements beside the table, with processes and clocks replaced."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from benchmarks.speed import extra
from benchmarks.speed.extra import commands, empty_caches, growth, load_average, machine
from benchmarks.speed.sides import Settings, Timing
from benchmarks.speed.worker import SINGLE_THREAD, PeerError


def test_the_processor_is_named_by_its_first_model_name(monkeypatch):
    text = "vendor_id : x\nmodel name\t: Model 7: fast\nmodel name : other\n"
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    monkeypatch.setattr(extra.platform, "system", lambda: "Linux")
    monkeypatch.setattr(extra.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(extra.platform, "processor", lambda: "plain")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine() == {"processor": "Model 7: fast", "cores": 6, "system": "Linux x86_64"}
    text = "vendor_id : x\n"
    assert machine()["processor"] == "plain"
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert machine()["processor"] == "plain"


def test_load_averages_have_two_digits_and_are_none_where_there_are_none(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.126, 1.0, 2.345), raising=False)
    assert load_average() == [0.13, 1.0, 2.35] or load_average() == [0.13, 1.0, 2.34]
    monkeypatch.delattr(os, "getloadavg")
    assert load_average() is None


def test_every_cache_is_in_the_empty_folder(tmp_path):
    assert empty_caches(tmp_path) == {
        "ZOO_CACHE_DIR": str(tmp_path / "zoo"),
        "XDG_CACHE_HOME": str(tmp_path / "xdg"),
        "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
        "PYTENSOR_FLAGS": f"base_compiledir={tmp_path / 'pytensor'}",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
    }


class Worker:
    """A side whose k-th slice takes k seconds times its rows; 100 rows cannot be prepared."""

    log: ClassVar[list] = []

    def __init__(self, side, target, settings, folder):
        assert (side, target[1:]) == ("ours", ("growth", None))
        self.name, self.calls = target[0], 0
        Worker.log.append(("made", self.name))

    def prepare(self, measure):
        if (self.name, measure) == ("growth_100", "gradient"):
            raise PeerError("ours: too large")

    def ask(self, name, measure):
        assert name == "time"
        self.calls += 1
        Worker.log.append((self.name, measure))
        rows = int(self.name.removeprefix("growth_"))
        return Timing(count=2, wall=2.0 * rows * self.calls, cpu=0.0)

    def close(self):
        Worker.log.append(("closed", self.name))


def test_growth_interleaves_sizes_and_reports_the_one_that_fails(monkeypatch, tmp_path):
    """The median of 1, 2 and 3 times the rows is twice the rows."""
    monkeypatch.setattr(extra, "Worker", Worker)
    monkeypatch.setattr(Worker, "log", [])
    said = []
    rows = growth([10, 100], 3, Settings(), tmp_path, said.append)
    assert rows == [
        {"rows": 10, "gradient": 20.0, "svi_mean_field": 20.0},
        {"rows": 100, "gradient_error": "ours: too large", "svi_mean_field": 200.0},
    ]
    made = [("made", "growth_10"), ("made", "growth_100")]
    closed = [("closed", "growth_10"), ("closed", "growth_100")]
    steps = [("growth_10", "svi_mean_field"), ("growth_100", "svi_mean_field")]
    assert Worker.log == [
        *made,
        *[("growth_10", "gradient")] * 3,
        *closed,
        *made,
        *steps * 3,
        *closed,
    ]
    assert said == ["growth: gradient done", "growth: svi_mean_field done"]


def test_whole_commands_run_cold_again_and_warm_with_one_cache(monkeypatch):
    calls, said = [], []

    def timed(entries, out, cache):
        calls.append((entries, out.parent, out.name, cache))
        return float(len(calls))

    monkeypatch.setattr(extra, "_timed", timed)
    monkeypatch.setattr(extra, "_chains", lambda: 1.875)
    assert commands(("chains", "report"), said.append) == {
        "chains_gain": 1.875,
        "report_cold": 1.0,
        "report_second": 2.0,
        "report_warm": 3.0,
    }
    assert [c[0] for c in calls] == [extra.REPORT] * 3
    assert [c[2] for c in calls] == ["cold", "second", "warm"]
    assert {c[3] for c in calls} == {calls[0][1] / "cache"}
    assert calls[0][1].name == "report"
    assert not calls[0][1].parent.exists()
    assert said[0] == "four chains on two cores: 1.88 times one chain"
    assert said[1] == f"zoo compare {' '.join(extra.REPORT)}, cold: 1.0 s"
    assert list(commands(("compare",), said.append)) == [
        "compare_cold",
        "compare_second",
        "compare_warm",
    ]
    assert calls[-1][0] == ("eight_schools",)
    assert commands((), said.append) == {}


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_is_timed_in_a_process_with_one_thread_and_its_caches(
    monkeypatch, tmp_path, code
):
    seen = {}

    def run(call, **options):
        seen.update(options, call=call)
        return SimpleNamespace(returncode=code, stderr="")

    clock = iter([10.0, 12.5])
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(extra.time, "perf_counter", lambda: next(clock))
    assert extra._timed(("a", "b"), tmp_path / "out", tmp_path / "cache") == 2.5
    assert seen["call"][0] == sys.executable
    assert seen["call"][3:] == [
        *("compare", "a", "b", "--guides", "all", "--jobs", "2", "--out", str(tmp_path / "out"))
    ]
    expected = {**SINGLE_THREAD, **empty_caches(tmp_path / "cache")}
    assert {k: seen["env"][k] for k in expected} == expected
    assert seen["env"]["PATH"] == os.environ["PATH"]
    assert (seen["capture_output"], seen["text"], seen["check"]) == (True, True, False)


def test_a_command_that_fails_is_told_by_its_last_line(monkeypatch, tmp_path):
    done = SimpleNamespace(returncode=2, stderr="first\nzoo: no such entry\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: done)
    with pytest.raises(PeerError) as caught:
        extra._timed(("a",), tmp_path, tmp_path)
    assert str(caught.value) == ("zoo compare ended with exit code 2: ['zoo: no such entry']")


def test_the_gain_is_four_times_the_time_of_one_chain_over_that_of_four(monkeypatch):
    """Three runs with ratios 4 (1 / 2) = 2, 4 (2 / 2) = 4 and 4 (1 / 4) = 1: the median is 2."""
    calls = []
    density = SimpleNamespace(compile=lambda mode: calls.append(mode))
    monkeypatch.setattr(extra, "LogDensity", lambda program, data: density)
    monkeypatch.setattr(extra, "run_nuts", lambda entry, **options: calls.append(options))
    clock = iter([0.0, 1.0, 3.0, 3.0, 5.0, 7.0, 7.0, 8.0, 12.0])
    monkeypatch.setattr(extra.time, "perf_counter", lambda: next(clock))
    assert extra._chains() == 2.0
    assert calls[0] == "on"
    chosen = [(c["seed"], c["chains"], c["jobs"], c["draws"], c["min_ess"]) for c in calls[1:]]
    assert chosen == [
        (seed, chains, jobs, 4000, 0) for seed in range(3) for chains, jobs in ((1, 1), (4, 2))
    ]
    assert all(c["log_density"] is density for c in calls[1:])
