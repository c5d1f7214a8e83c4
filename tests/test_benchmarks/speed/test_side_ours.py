"""This project's side: fits that pause between slices, and what each measure calls."""

import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.speed import side_ours
from benchmarks.speed.side_ours import FOREVER, Ours, PausedFit, build, log_joint
from benchmarks.speed.sides import BATCH, Settings, Timing
from benchmarks.speed.targets import find
from zoo.density.log_density import LogDensity

SETTINGS = Settings(slice_seconds=0.0, particles=3, draws=20, compile="off")
TARGET = find("eight_schools")


@pytest.fixture
def side():
    return build("eight_schools", SETTINGS)


def test_the_joint_density_has_no_jacobian():
    """Normal(0, 5) for mu, half Cauchy(5) for tau, normal rows and unit normals."""
    data = TARGET.entry.load_data()
    density = LogDensity(TARGET.entry.program(data), data)
    y, se = (data.train[k].double() for k in ("y", "se"))
    theta = torch.linspace(-1, 1, 8, dtype=torch.float64)
    normal = torch.distributions.Normal
    expected = (
        normal(0.0, 5.0).log_prob(torch.tensor(1.5, dtype=torch.float64))
        + math.log(2 / (5 * math.pi * (1 + (2.5 / 5) ** 2)))
        + normal(0.0, 1.0).log_prob(theta).sum()
        + normal(1.5 + 2.5 * theta, se).log_prob(y).sum()
    )
    points = {"mu": np.array([1.5]), "tau": np.array([2.5]), "theta_raw": theta[None].numpy()}
    assert log_joint(density, points) == pytest.approx([float(expected)], rel=1e-6)
    made = Ours(TARGET, SETTINGS)
    assert made.log_joint(points) == pytest.approx([float(expected)], rel=1e-6)


@pytest.fixture
def fit(monkeypatch):
    """A paused fit whose steps take one second of a clock that only they move."""
    seen = SimpleNamespace(now=0.0, cpu=0.0, options=None, steps=10**6, left=threading.Event())

    def steps(entry, family, *, progress, **options):
        seen.options = {"entry": entry.name, "family": family, **options}
        try:
            for i in range(seen.steps):
                seen.now += 1.0
                seen.cpu += 0.25
                progress(i, FOREVER, 0.0)
        finally:
            seen.left.set()

    monkeypatch.setattr(side_ours.guides, "fit", steps)
    clock = SimpleNamespace(perf_counter=lambda: seen.now, thread_time=lambda: seen.cpu)
    monkeypatch.setattr(side_ours, "time", clock)
    seen.paused = PausedFit(TARGET, "data", "mean_field", SETTINGS, device="cpu", compile="on")
    yield seen
    seen.paused.close()


def test_a_slice_counts_the_steps_since_the_last_pause(fit):
    """Steps 1 to 4 end at 2, 3, 4, 5 s: step 0 is none yet. The next slice starts at step 4."""
    assert fit.paused.slice(5.0) == Timing(count=4, wall=5.0, cpu=1.25)
    assert fit.paused.slice(2.0) == Timing(count=2, wall=2.0, cpu=0.5)
    assert fit.paused.slice(0.0) == Timing(count=1, wall=1.0, cpu=0.25)
    fit.paused.close()
    assert fit.left.is_set()
    assert not fit.paused._thread.is_alive()


def test_a_fit_never_ends_by_itself_and_takes_further_options(fit):
    fit.paused.slice(1.0)
    assert fit.options == {
        "entry": TARGET.entry.name,
        "family": "mean_field",
        "seed": 0,
        "data": "data",
        "steps": 10**8,
        "patience": 25_000_000,
        "num_particles": 3,
        "optimizer": "adam",
        "compile": "on",
        "device": "cpu",
    }


def test_a_fit_that_ends_or_fails_says_so_in_the_slice(fit, monkeypatch):
    fit.steps = 1
    with pytest.raises(RuntimeError, match="the fit ended early"):
        fit.paused.slice(100.0)

    def fail(*a, **k):
        raise ValueError("no such family")

    monkeypatch.setattr(side_ours.guides, "fit", fail)
    with pytest.raises(ValueError, match="no such family"):
        PausedFit(TARGET, None, "x", SETTINGS).slice(0.1)


def test_a_fit_that_never_started_is_closed_at_once(fit):
    fit.paused.close()
    assert fit.options is None


def test_points_are_a_tenth_of_unit_normals_from_fixed_seeds(side):
    point = 0.1 * np.random.default_rng(0).standard_normal(10)
    assert side.point.tolist() == point.tolist()
    noise = torch.randn(BATCH, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(side.batch_points, 0.1 * noise)


def test_gradients_and_batches_are_compiled_once_and_then_timed(side, monkeypatch):
    asked, compiled = [], side.density.compile
    monkeypatch.setattr(side.density, "compile", lambda mode: asked.append(mode) or compiled(mode))
    record = side.prepare("gradient")
    assert record["used"] is False
    assert side.prepare("batch") == record
    assert asked == ["off"]
    assert side.time("gradient").count == 1
    assert side.time("batch").count == BATCH


def test_svi_is_fitted_once_to_its_end_and_then_paused(side, monkeypatch):
    calls = []

    def whole(entry, family, **options):
        calls.append((entry.name, family, options))
        return SimpleNamespace(compiled={"used": True}, cost=SimpleNamespace(compile_seconds=1.5))

    class Paused:
        def __init__(self, target, data, family, settings):
            calls.append(("paused", target.name, family, settings))

        def slice(self, seconds):
            calls.append(seconds)
            return "timing"

    monkeypatch.setattr(side_ours.guides, "fit", whole)
    monkeypatch.setattr(side_ours, "PausedFit", Paused)
    assert side.prepare("svi_full_rank") == {"used": True, "compile_seconds": 1.5}
    assert side.time("svi_full_rank") == "timing"
    options = {"steps": 60, "patience": 10, "anneal": 20, "num_particles": 3, "compile": "off"}
    assert calls == [
        ("eight_schools", "full_rank", {"data": side.data, **options}),
        ("paused", "eight_schools", "full_rank", SETTINGS),
        0.05,
        0.0,
    ]
    grown = Ours(find("growth_100"), SETTINGS)
    assert grown.prepare("svi_mean_field") == {}
    assert len(calls) == 6  # no whole fit for an entry that may be large


def test_a_chain_is_one_of_nutpie_on_the_density_of_the_side(side, monkeypatch):
    calls = []
    posterior = SimpleNamespace(
        draws={"mu": torch.tensor([[1.0, 2.0]]), "tau": torch.tensor([[3.0, 4.0]])},
        cost=SimpleNamespace(gradient_evaluations=77),
        stats={"diverging": torch.tensor([[True, True]])},
    )
    monkeypatch.setattr(
        side_ours, "run_nuts", lambda entry, **options: calls.append(options) or posterior
    )
    clock, cpu = iter([1.0, 3.5]), iter([1.0, 2.25])
    monkeypatch.setattr(
        side_ours,
        "time",
        SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(cpu)),
    )
    run = side.nuts(9)
    assert calls == [
        {
            "seed": 9,
            "data": side.data,
            "chains": 1,
            "draws": 20,
            "jobs": 1,
            "min_ess": 0,
            "log_density": side.density,
            "in_process": True,
        }
    ]
    assert {k: v.tolist() for k, v in run.draws.items()} == {"mu": [1.0, 2.0], "tau": [3.0, 4.0]}
    assert run.draws["mu"].dtype == np.float64
    assert (run.wall, run.cpu, run.gradients, run.divergences) == (2.5, 1.25, 77, 2)
    assert run.warmup == side_ours.TUNE["nutpie"]


def test_preparing_nuts_runs_a_chain_of_its_own_seed(side, monkeypatch):
    seeds = []
    monkeypatch.setattr(side, "nuts", seeds.append)
    assert side.prepare("nuts")["used"] is False
    assert seeds == [10_007]
