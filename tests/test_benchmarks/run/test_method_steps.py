"""How draws of a cell are made, with stand-ins for fits, chains and densities."""

import dataclasses
import inspect
from types import SimpleNamespace

import pytest
import torch

import benchmarks
import zoo
from benchmarks.cli import commands
from benchmarks.run import estimates, methods
from benchmarks.run.plan import TARGET_ACCEPT, make_plan
from benchmarks.run.prepare import command, nuts_config
from zoo.errors import FitError, UsageError
from zoo.seeds import derive_seed


@dataclasses.dataclass
class Cost:
    seconds: float = 1.0
    compile_seconds: float = 0.0
    gradient_evaluations: int = 0
    sequential_depth: int = 5


@dataclasses.dataclass
class Draws:
    cost: Cost = dataclasses.field(default_factory=Cost)
    notes: tuple = ("a note",)
    unconstrained: object = "points"
    doubt: str = ""


class Density:
    """A density that keeps how it was made and compiled."""

    made: list = None  # set by the fixture
    compiled = {"used": True, "reason": "fast", "other": 1}  # noqa: RUF012
    gradient_evaluations = 99

    def __init__(self, program, data, dtype):
        Density.made.append((program, data, dtype))

    def compile(self, mode, expected_calls, expected_points=0):
        points = (expected_points,) if expected_points else ()
        Density.made.append((mode, expected_calls, *points))
        return {"compile_seconds": 2.5}


@pytest.fixture(autouse=True)
def density(monkeypatch):
    monkeypatch.setattr(Density, "made", [])
    monkeypatch.setattr(methods, "LogDensity", Density)
    monkeypatch.setattr(estimates, "LogDensity", Density)


ENTRY = SimpleNamespace(key="mine", dtype=torch.float64, program=lambda data: f"program of {data}")


# --- NUTS


@pytest.mark.parametrize("jobs", [1, 3])
def test_chains_run_on_one_compiled_density(monkeypatch, jobs):
    calls = []
    monkeypatch.setattr(methods, "run_nuts", lambda *a, **k: calls.append((a, k)) or Draws())
    config = {"compile": "auto", "draws": 200, "chains": 2}
    draws, record = methods.sampled(ENTRY, "data", config, seed=4, given=None, jobs=jobs)
    expected = 4 * 1000 * int(methods.LEAPFROGS)
    assert Density.made == [("program of data", "data", torch.float64), ("auto", expected)]
    ((args, named),) = calls
    assert args == (ENTRY,)
    assert isinstance(named.pop("log_density"), Density)
    assert named == {
        "seed": 4,
        "data": "data",
        "given": None,
        "jobs": jobs,
        "in_process": jobs == 1,
        "progress": print,
        "draws": 200,
        "chains": 2,
    }
    assert draws.cost == Cost(compile_seconds=2.5)
    assert record == {"used": True, "reason": "fast"}
    assert config["compile"] == "auto"


def test_chains_take_the_program_that_was_trained(monkeypatch):
    monkeypatch.setattr(methods, "run_nuts", lambda *a, **k: Draws())
    given = SimpleNamespace(program="trained")
    methods.sampled(ENTRY, "data", {"compile": "off", "draws": 1}, seed=0, given=given, jobs=1)
    assert Density.made[0][0] == "trained"


# --- fits


@pytest.mark.parametrize(
    ("amortized", "trains", "training", "ok", "steps"),
    [
        (False, False, "all", True, [("fit", "few", "given")]),
        (True, True, None, True, [("fit", "few", "given")]),
        (True, False, "all", True, [("fit", "all", "given"), ("transfer", "few")]),
        (False, True, "all", True, [("fit", "all", "given"), ("fit", "few", "fit of all")]),
        (True, True, "all", False, [("fit", "all", "given")]),
    ],
)
def test_encoders_and_trained_programs_are_fitted_to_all_data_first(
    monkeypatch, amortized, trains, training, ok, steps
):
    calls = []

    class Fit(str):
        __slots__ = ("ok",)

    def fit(entry, family, *, data, given, **options):
        assert options == {"seed": 3, "progress": False, "steps": 9}
        calls.append(("fit", data, str(given)))
        made = Fit(f"fit of {data}")
        made.ok = ok
        return made

    monkeypatch.setattr(methods.guides, "fit", fit)
    monkeypatch.setattr(
        methods.guides, "transfer", lambda fit, data: calls.append(("transfer", data)) or "moved"
    )
    monkeypatch.setattr(
        methods, "family_of", lambda family, entry: SimpleNamespace(amortized=amortized)
    )
    found = methods.fitted(
        ENTRY,
        "family",
        "few",
        {"steps": 9},
        seed=3,
        given="given",
        trains=trains,
        training=training,
    )
    assert calls == steps
    last = steps[-1]
    assert found == ("moved" if last[0] == "transfer" else f"fit of {last[1]}")


def test_draws_have_a_seed_of_their_entry_and_family(monkeypatch):
    monkeypatch.setattr(methods.guides, "draw", lambda fit, number, seed: (number, seed))
    fit = SimpleNamespace(entry=ENTRY, family="flow")
    assert methods.drawn(fit, 7, 2) == (7, derive_seed(2, "mine", "flow", "draw"))


def test_a_cell_keeps_its_draws_and_its_guide(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(methods, "save_netcdf", lambda *a: calls.append(a))
    monkeypatch.setattr(methods.guides, "save", lambda *a: calls.append(a))
    methods.save("draws", None, tmp_path)
    methods.save("draws", "fit", tmp_path)
    netcdf = ("draws", tmp_path / "posterior.nc")
    assert calls == [netcdf, netcdf, ("fit", tmp_path / "guide.pt")]


# --- estimates


def start(name, ok=True, points=False):
    return SimpleNamespace(
        ok=ok, points=points, entry=ENTRY, program="trained", data="data", family=name
    )


def test_smc_begins_from_the_first_usable_guide_with_a_spread(monkeypatch):
    calls = []

    def estimate(fit, density, *, seed):
        calls.append((fit.family, seed))
        return SimpleNamespace(posterior=Draws()), 77

    monkeypatch.setattr(estimates, "estimate_from", estimate)
    starts = [start("failed", ok=False), start("map", points=True), start("flow"), start("last")]
    draws, record = estimates.estimated("smc", starts, {"compile": "on"}, seed=1)
    assert calls == [("flow", derive_seed(1, "mine", "smc"))]
    points = 9 * 1024 * estimates.LEAST_SMC  # of the pilot and eight islands, at least
    assert Density.made == [
        ("trained", "data", torch.float64),
        ("on", estimates.DRAWS * 100, points),
    ]
    assert draws.cost == Cost(compile_seconds=2.5, gradient_evaluations=99, sequential_depth=77)
    assert draws.notes == ("Begun from the draws of flow.", "a note")
    assert record == {"used": True, "reason": "fast"}


def test_short_chains_begin_from_its_draws(monkeypatch):
    calls = []
    monkeypatch.setattr(
        estimates.guides, "draw", lambda fit, n, seed: calls.append((n, seed)) or Draws()
    )
    monkeypatch.setattr(
        estimates, "chained", lambda *a, seed: calls.append((a[1:], seed)) or Draws()
    )
    draws, _ = estimates.estimated("short_chains", [start("flow")], {"compile": "on"}, seed=1)
    seed = derive_seed(1, "mine", "short_chains")
    assert calls == [
        (estimates.STARTS, derive_seed(seed, "draws")),
        ((ENTRY, "data", "points"), seed),
    ]
    assert draws.cost.sequential_depth == 5


def test_without_a_usable_guide_there_is_nothing_to_begin_from():
    with pytest.raises(FitError) as caught:
        estimates.estimated("smc", [start("a", ok=False), start("b", points=True)], {}, seed=1)
    assert str(caught.value) == (
        "The row smc begins from a guide with a spread, and this run has none that is usable; add"
        " a family such as laplace or mean_field."
    )


@pytest.mark.parametrize("flat", [False, True])
def test_smc_is_the_reference_before_short_chains(monkeypatch, flat):
    monkeypatch.setattr(estimates, "flat_sites", lambda density: flat)
    monkeypatch.setattr(estimates, "estimated_reference", lambda p, *, proper: (p, proper))
    monkeypatch.setattr(estimates, "chains_reference", lambda p: p)
    assert estimates.reference_by(["smc", "chains"], "density") == ("smc", not flat)
    assert estimates.reference_by([None, "chains"], None) == "chains"
    assert estimates.reference_by([None, None], None) is None


def test_budgets_of_estimates():
    smc = (estimates.ISLANDS + 1) * estimates.PARTICLES * estimates.SMC_GRADIENTS
    drift = estimates.DRAWS * estimates.DRIFT_GRADIENTS
    assert estimates.GRADIENTS["smc"] == smc + drift
    assert estimates.GRADIENTS["short_chains"] == 1_500_000


def test_the_acceptance_rate_of_nuts_is_a_setting_of_a_run(tmp_path):
    """Advice to take smaller steps had no option to take them with."""
    usual, careful = (
        make_plan(entries=["coin"], guides=["laplace"], quick=True, **given)
        for given in ({}, {"target_accept": 0.95})
    )
    assert "target_accept" not in nuts_config(usual)  # cells keep their names
    assert nuts_config(careful) == {**nuts_config(usual), "target_accept": 0.95}
    assert usual.digest() != careful.digest()
    assert "--target-accept 0.95" in command(careful)
    assert "--target-accept" not in command(usual)
    with pytest.raises(UsageError, match=r"target accept is 0\.8 in the folder and 0\.95 here"):
        usual.extended(careful)
    with pytest.raises(UsageError, match="target_accept"):
        make_plan(entries=["coin"], target_accept=1.0)
    with pytest.raises(UsageError, match=r"target_accept=1\.5; accepted: an acceptance rate"):
        benchmarks.run_nuts(zoo.load("coin"), target_accept=1.5)
    defaults = [
        inspect.signature(f).parameters["target_accept"].default
        for f in (benchmarks.run_nuts, benchmarks.compare_program, commands.compare)
    ]
    assert defaults == [TARGET_ACCEPT] * 3
