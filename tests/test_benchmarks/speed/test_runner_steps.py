"""Steps of a run with stand-ins for processes: order of slices, rows of chains, starts."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.speed import runner
from benchmarks.speed.runner import Bench, density_error
from benchmarks.speed.sides import NutsRun, Settings, Timing
from benchmarks.speed.targets import find
from benchmarks.speed.worker import PeerError
from zoo.density.log_density import LogDensity

TARGET = find("eight_schools")


@pytest.fixture(scope="module")
def density():
    data = TARGET.entry.load_data()
    return LogDensity(TARGET.entry.program(data), data)


def bench(**changes):
    given = {"targets": ("eight_schools",), "sides": ("ours", "pyro"), "pairs": 2}
    return Bench(**{**given, "settings": Settings(slow_runs=1), "cold": False, **changes})


class Worker:
    """A side with all measures, whose log of requests is shared."""

    def __init__(self, side, log, measures=("gradient", "nuts"), fails=""):
        self.side, self.log, self.measures, self.fails = side, log, measures, fails
        self.seconds = {"start": 1.0}

    def ask(self, name, *arguments):
        self.log.append((self.side, name, *arguments))
        if name == self.fails:
            raise PeerError(f"{self.side} ended")
        return f"chain {arguments[0]}" if name == "nuts" else Timing(count=4, wall=2.0, cpu=0.5)

    def close(self):
        self.log.append((self.side, "closed"))


def pairs(workers, **changes):
    results = {side: {"measures": {}} for side in workers}
    said = []
    given = bench(measures=("gradient", "nuts"), **changes)
    chains = runner._pairs(TARGET, workers, results, given, said.append)
    return chains, results, said


def test_sides_alternate_and_change_their_order_from_pair_to_pair():
    log = []
    workers = {name: Worker(name, log) for name in ("ours", "stan")}
    chains, results, said = pairs(workers)
    assert log == [
        ("ours", "time", "gradient"),
        ("stan", "time", "gradient"),
        ("ours", "nuts", 1),
        ("stan", "nuts", 1),
        ("stan", "time", "gradient"),
        ("ours", "time", "gradient"),
        ("stan", "nuts", 2),
        ("ours", "nuts", 2),
    ]
    assert chains == {name: ["chain 1", "chain 2"] for name in workers}
    row = {"seconds": 0.5, "count": 4, "cpu_share": 0.25}
    assert results["ours"]["measures"] == {"gradient": [row, row]}
    assert said == ["eight_schools: pair 1 of 2", "eight_schools: pair 2 of 2"]


def test_stock_pyro_runs_few_chains_and_a_side_only_its_measures():
    log = []
    workers = {"pyro": Worker("pyro", log), "pymc": Worker("pymc", log, ("nuts",))}
    chains, results, _ = pairs(workers)
    assert chains == {"pyro": ["chain 1"], "pymc": ["chain 1", "chain 2"]}
    assert len(results["pyro"]["measures"]["gradient"]) == 2
    assert results["pymc"]["measures"] == {}


def test_a_side_that_fails_is_closed_and_the_others_go_on():
    log = []
    workers = {name: Worker(name, log) for name in ("ours", "stan")}
    workers["stan"].fails = "nuts"
    chains, results, said = pairs(workers)
    assert results["stan"]["error"] == "stan ended"
    assert said[0] == "eight_schools: stan ended"
    assert log.count(("stan", "closed")) == 1
    assert set(workers) == {"ours"}
    assert chains["ours"] == ["chain 1", "chain 2"]
    assert chains["stan"] == []


def test_without_nuts_there_are_no_chains():
    chains = runner._pairs(
        TARGET,
        {"ours": Worker("ours", [])},
        {"ours": {"measures": {}}},
        bench(measures=("gradient",)),
        lambda line: None,
    )
    assert chains == {}


def chain(number=400, *, seed=0, scale=1.0, shift=0.0, **fields):
    rng = np.random.default_rng(seed)
    draws = {
        "mu": shift + scale * rng.standard_normal(number),
        "tau": np.exp(rng.standard_normal(number)),
        "theta_raw": rng.standard_normal((number, 8)),
    }
    return NutsRun(draws=draws, **{"wall": 2.0, "cpu": 1.0, "warmup": 7, **fields})


def test_a_row_of_a_chain_has_rates_per_second(density):
    run = chain(gradients=500, divergences=3, note="short")
    row = runner._nuts_row(TARGET, density, run)
    ess = runner.ess_of(TARGET, density, run)
    assert row == {
        "ess": ess,
        "ess_per_second": ess / 2,
        "seconds": 2.0,
        "cpu_share": 0.5,
        "warmup": 7,
        "draws": 400,
        "gradients": 500,
        "seconds_per_gradient": 0.004,
        "divergences": 3,
        "note": "short",
    }
    few = runner._nuts_row(TARGET, density, chain(7))
    assert (few["ess"], few["ess_per_second"]) == (None, None)
    assert (few["gradients"], few["seconds_per_gradient"]) == (None, None)


def test_eight_draws_are_enough_for_an_ess_and_a_value_that_is_not_finite_gives_zero(density):
    assert runner.ess_of(TARGET, density, chain(8)) > 0
    assert math.isnan(runner.ess_of(TARGET, density, chain(7)))
    infinite = chain()
    infinite.draws["theta_raw"][0, 0] = math.inf
    assert runner.ess_of(TARGET, density, infinite) == 0.0
    stuck = chain(scale=0.0)
    assert runner.ess_of(TARGET, density, stuck) == 0.0


def test_rhat_is_over_the_runs_of_the_pairs(density):
    alike = [chain(seed=1), chain(seed=2)]
    assert 0.99 < runner._rhat(TARGET, density, alike) < 1.05
    assert runner._rhat(TARGET, density, [chain(seed=1), chain(seed=2, shift=5.0)]) > 1.5
    assert runner._rhat(TARGET, density, [chain(seed=1), chain(7)]) is None
    assert runner._rhat(TARGET, density, [chain(8, seed=1), chain(9, seed=2)]) is not None
    assert runner._rhat(TARGET, density, [chain(scale=0.0), chain(scale=0.0)]) is None
    infinite = chain()
    infinite.draws["mu"][3] = math.inf
    assert runner._rhat(TARGET, density, [chain(seed=1), infinite]) is None


def test_runs_of_different_length_are_cut_to_the_shortest(density):
    made = runner._posterior(TARGET, density, [chain(12, seed=1), chain(9, seed=2)])
    assert {k: tuple(v.shape) for k, v in made.draws.items()} == {
        "mu": (2, 9),
        "tau": (2, 9),
        "theta_raw": (2, 9, 8),
    }
    assert made.sample_dims == ("chain", "draw")
    assert made.method == "nuts"


def test_points_of_comparison_are_near_zero_and_fixed(density):
    points = runner._points(density)
    u = 0.3 * torch.randn(
        4, density.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    expected = density.constrain(u)
    assert {k: v.tolist() for k, v in points.items()} == {
        k: v.tolist() for k, v in expected.items()
    }


def test_the_error_of_a_density_is_relative_to_one_plus_the_largest():
    """Differences (0, 1, -1) against (0, 2, -1): an error of 1 over 1 + 4."""
    assert density_error(np.array([-3.0, -2.0, -4.0]), np.array([5.0, 7.0, 4.0])) == 0.2


class Started(Worker):
    made: list = None  # set by the fixture

    def __init__(self, side, target, settings, folder, environment=None):
        super().__init__(side, Started.made, ("gradient",))
        Started.made.append((side, target[0], target[1], target[2] is None, folder, environment))

    def ask(self, name, *arguments):
        return np.array([0.0, Started.second])

    def prepare(self, measure):
        if Started.broken:
            raise PeerError("cannot compile")
        Started.made.append(("prepared", measure))
        return {"used": True}


@pytest.fixture
def started(monkeypatch):
    monkeypatch.setattr(runner, "Worker", Started)
    monkeypatch.setattr(Started, "made", [])
    monkeypatch.setattr(Started, "second", 1.0, raising=False)
    monkeypatch.setattr(Started, "broken", False, raising=False)
    monkeypatch.setattr(runner, "log_joint", lambda density, points: np.array([0.0, 1.0]))
    return Started


def start(side, tmp_path, check, result):
    plan = bench(measures=("gradient", "nuts"))
    return runner._start(side, TARGET, plan, tmp_path, {"A": "b"}, check, result)


@pytest.mark.parametrize(("side", "named"), [("ours", True), ("pyro", True), ("stan", False)])
def test_a_side_is_started_checked_and_prepared(started, tmp_path, side, named):
    """Peers get arrays; the density of our own side is not compared with itself."""
    result = {}
    start(side, tmp_path, ("density", "points"), result)
    first = (side, "eight_schools", "eight_schools", named, tmp_path, {"A": "b"})
    assert started.made == [first, ("prepared", "gradient")]
    assert result.pop("density_error", None) == (None if side == "ours" else 0.0)
    assert result == {"records": {"gradient": {"used": True}}}


def test_a_cold_start_ends_its_process_and_checks_nothing(started, tmp_path):
    result = {}
    start("stan", tmp_path, None, result)
    assert started.made[-1] == ("stan", "closed")
    assert "density_error" not in result


@pytest.mark.parametrize(("second", "refused"), [(1 + 2e-6, False), (1 + 2.1e-6, True)])
def test_an_error_above_the_tolerance_refuses_a_side(started, tmp_path, second, refused):
    """An error of 2e-6 relative to 1 + 1 is the tolerance of 1e-6."""
    started.second = second - (0 if refused else 1e-9)
    if not refused:
        start("stan", tmp_path, ("density", "points"), {})
        return
    with pytest.raises(PeerError) as caught:
        start("stan", tmp_path, ("density", "points"), {})
    assert str(caught.value) == (
        "stan: its log density differs from ours by 1.1e-06; the row is refused."
    ) or "differs from ours by 1.0e-06" in str(caught.value)
    assert started.made[-1] == ("stan", "closed")


def test_a_nan_density_is_refused_and_a_broken_side_closed(started, tmp_path):
    started.second = math.nan
    with pytest.raises(PeerError, match="differs from ours by nan"):
        start("stan", tmp_path, ("density", "points"), {})
    started.broken = True
    with pytest.raises(PeerError, match="cannot compile"):
        start("ours", tmp_path, ("density", "points"), {})
    assert started.made[-1] == ("ours", "closed")


def test_graphs_are_compiled_ahead_for_every_measure_but_nuts(started, tmp_path):
    said = []
    runner._compile_ahead(bench(measures=("gradient", "nuts")), tmp_path, said.append)
    assert started.made[1:] == [("prepared", "gradient"), ("ours", "closed")]
    assert started.made[0][0] == "ours"
    assert said == ["eight_schools: compiled graphs are in the cache"]
    started.broken = True
    runner._compile_ahead(bench(measures=("gradient",)), tmp_path, said.append)
    assert len(said) == 2
    assert started.made[-1] == ("ours", "closed")


def test_versions_are_of_python_and_installed_packages(monkeypatch):
    def version(name):
        if name == "jax":
            raise runner.metadata.PackageNotFoundError(name)
        return f"{name} 1"

    monkeypatch.setattr(runner, "PACKAGES", ("torch", "jax"))
    monkeypatch.setattr(runner.metadata, "version", version)
    monkeypatch.setattr(runner.platform, "python_version", lambda: "3.x")
    assert runner._versions() == {"python": "3.x", "torch": "torch 1"}


@pytest.mark.parametrize("cold", [False, True])
def test_a_run_keeps_what_it_has_after_every_entry(monkeypatch, tmp_path, cold):
    seen = []

    def run_target(target, sides, plan, folder, caches, say):
        seen.append((target.name, tuple(sides), bool(caches)))
        if target.name == "linear":
            assert '"eight_schools"' in (folder / "partial.json").read_text()
        return {"title": target.title}

    monkeypatch.setattr(runner, "run_target", run_target)
    monkeypatch.setattr(runner, "missing", lambda side: "absent" if side == "stan" else "")
    monkeypatch.setattr(runner, "_compile_ahead", lambda *a: seen.append("compiled"))
    monkeypatch.setattr(runner.extra, "growth", lambda *a: [list(a[0]), a[1]])
    monkeypatch.setattr(runner.extra, "commands", lambda names, say: {"names": list(names)})
    loads = iter([[1.0], [2.0]])
    monkeypatch.setattr(runner.extra, "load_average", lambda: next(loads))
    clock = iter([100.0, 175.0])
    monkeypatch.setattr(runner, "time", SimpleNamespace(time=lambda: next(clock)))
    plan = bench(
        targets=("eight_schools", "linear"),
        sides=("ours", "stan", "pyro"),
        cold=cold,
        growth=(10,),
        commands=("chains",),
    )
    said = []
    document = runner.execute(plan, tmp_path / "logs", said.append)
    ran = [(name, ("ours", "pyro"), cold) for name in ("eight_schools", "linear")]
    assert seen == ran if cold else seen == ["compiled", *ran]
    assert said == ["stan is left out: absent"]
    assert document["left_out"] == {"stan": "absent"}
    assert (document["schema"], document["quick"], document["pairs"]) == (1, False, 2)
    assert document["settings"]["slow_runs"] == 1
    assert document["growth"] == [[10], 2]
    assert document["commands"] == {"names": ["chains"]}
    assert document["load_average"] == {"before": [1.0], "after": [2.0]}
    assert document["seconds"] == 75.0
    assert list(document["targets"]) == ["eight_schools", "linear"]
