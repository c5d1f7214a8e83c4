"""Stock Pyro's side on small entries: its density, its steps, and how long its chains are."""

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from benchmarks.speed import side_pyro
from benchmarks.speed.side_ours import log_joint
from benchmarks.speed.side_pyro import build
from benchmarks.speed.sides import Settings, Timing

SHORT = Settings(slice_seconds=0.0, particles=2, slow_draws=3, slow_seconds=100.0)


@pytest.fixture(autouse=True)
def float64_by_default():
    yield
    torch.set_default_dtype(torch.float32)
    pyro.enable_validation(True)
    pyro.get_param_store().clear()


def test_minus_the_potential_without_the_jacobian_is_our_density():
    side = build("eight_schools", SHORT)
    density = side.density
    u = torch.linspace(-1, 1, 2 * density.dim, dtype=torch.float64).reshape(2, -1)
    points = {k: v.numpy() for k, v in density.constrain(u).items()}
    assert side.log_joint(points) == pytest.approx(log_joint(density, points), rel=1e-9)
    assert side.measures == ("gradient", "svi_mean_field", "svi_full_rank", "nuts")


@pytest.mark.parametrize(
    ("entry", "family", "guide", "elbo", "particles"),
    [
        ("eight_schools", "mean_field", AutoNormal, Trace_ELBO, 2),
        ("enumerated", "full_rank", AutoMultivariateNormal, TraceEnum_ELBO, 1),
    ],
)
def test_svi_is_pyros_own_with_discrete_sites_summed_out(entry, family, guide, elbo, particles):
    side = build(entry, Settings(slice_seconds=0.0, particles=particles))
    eager = {"used": False, "reason": "stock Pyro runs eagerly"}
    assert side.prepare(f"svi_{family}") == eager
    svi = side.steps[f"svi_{family}"]
    assert type(svi.guide) is guide
    assert type(svi.loss.__self__) is elbo
    assert svi.loss.__self__.num_particles == particles
    assert svi.loss.__self__.vectorize_particles is (particles > 1)
    assert svi.optim.pt_optim_args == {"lr": 0.01}
    names = {n for n in pyro.get_param_store() if n.startswith("Auto")}
    before = {n: pyro.param(n).detach().clone() for n in names}
    assert before
    assert side.time(f"svi_{family}").count == 1
    assert any(not torch.equal(before[n], pyro.param(n)) for n in names)


def test_a_gradient_is_of_the_potential_at_the_start(monkeypatch):
    side = build("eight_schools", SHORT)
    seen = []
    monkeypatch.setattr(side_pyro, "potential_grad", lambda f, z: seen.append((f, z)))
    side.prepare("gradient")
    side.prepare("nuts")
    assert side.time("gradient").count == 1
    assert seen == [(side.potential, side.initial)] * 3


@pytest.mark.parametrize(
    ("gradient", "most", "number"),
    [
        (1e-9, 4, 4),  # never more than the limit
        (1.0, 4, 4),  # at least the limit where that is below 50
        (1.0, 60, 50),  # at least 50
        (0.01, 500, 416),  # 100 s / (2 x 12 x 0.01 s)
    ],
)
def test_the_length_of_a_chain_fits_the_time(monkeypatch, gradient, most, number):
    side = build("eight_schools", Settings(slow_draws=most, slow_seconds=100.0))
    made = []

    class Chain:
        def __init__(self, kernel, **options):
            made.append(options)

        def run(self, **data):
            made.append(set(data))

    monkeypatch.setattr(side_pyro, "repeat", lambda *a: Timing(count=1, wall=gradient, cpu=0.0))
    monkeypatch.setattr(side_pyro, "MCMC", Chain)
    run = side.nuts(1)
    options, names = made
    assert (options["num_samples"], options["warmup_steps"]) == (number, number)
    assert options["disable_progbar"] is True
    assert names == {"se", "y"}
    assert run.warmup == number
    assert run.note == f"{number} + {number} iterations"
    assert {k: v.shape for k, v in run.draws.items()} == {
        "mu": (0,),
        "tau": (0,),
        "theta_raw": (0, 8),
    }


def test_only_draws_are_kept_constrained_and_a_slow_chain_is_stopped(monkeypatch):
    """With few draws a chain may take three times its seconds, with twenty once."""
    side = build("eight_schools", Settings(slow_draws=100, slow_seconds=10.0))
    now = [0.0]
    draw = {"mu": torch.tensor(1.0), "tau": torch.tensor(2.0), "theta_raw": torch.zeros(8)}

    def chain(moments):
        class Chain:
            def __init__(self, kernel, *, hook_fn, **options):
                self.hook = hook_fn

            def run(self, **data):
                for stage, at in moments:
                    now[0] = at
                    self.hook(None, draw, stage, 0)

        monkeypatch.setattr(side_pyro, "repeat", lambda *a: Timing(count=1, wall=1e-3, cpu=0.0))
        monkeypatch.setattr(side_pyro, "MCMC", Chain)
        monkeypatch.setattr(side_pyro.time, "perf_counter", lambda: now[0])
        now[0] = 0.0
        return side.nuts(1)

    few = chain([("Warmup", 1.0), *[("Sample", 30.0)] * 3])
    assert few.note == "100 + 100 iterations"
    assert few.wall == 30.0
    assert few.draws["tau"] == pytest.approx([np.exp(2.0)] * 3)
    assert few.draws["mu"].tolist() == [1.0] * 3
    assert few.draws["theta_raw"].shape == (3, 8)
    stopped = chain([*[("Sample", 29.0)] * 19, ("Sample", 10.1), ("Sample", 0.0)])
    assert stopped.note == "100 warm-up iterations, stopped after 20 of 100 draws"
    assert len(stopped.draws["mu"]) == 20
    slow = chain([("Warmup", 30.1), ("Sample", 0.0)])
    assert slow.note == "100 warm-up iterations, stopped after 0 of 100 draws"
    assert chain([("Sample", 10.0)] * 25).note == "100 + 100 iterations"
