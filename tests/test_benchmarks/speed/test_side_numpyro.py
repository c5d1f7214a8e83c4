"""NumPyro's models with Pyro behind NumPyro's names, and its loops without a compiler."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from benchmarks.speed import sides
from benchmarks.speed.side_ours import log_joint
from benchmarks.speed.targets import TARGETS, arrays
from zoo.density.log_density import LogDensity

FORMS = {t.form: t for t in reversed(TARGETS.values())}
SETTINGS = sides.Settings(draws=2, slice_seconds=4.0, particles=3)


def tensor(value):
    found = torch.as_tensor(np.asarray(value))
    return found.double() if found.is_floating_point() else found


class Ready:
    """An array that says that it was waited for."""

    def __init__(self, value):
        self.value, self.waited = value, False

    def block_until_ready(self):
        self.waited = True
        return self


def fori_loop(low, high, body, state):
    for i in range(low, high):
        state = body(i, state)
    return state


def log_density(model, args, data, values):
    """As NumPyro's: the log joint density of constrained values, and the trace."""
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(*args, **data)
    return trace.log_prob_sum(), trace


class Chain:
    """NumPyro's MCMC: one chain that ends at once."""

    made: ClassVar[list] = []

    def __init__(self, kernel, **options):
        self.kernel, self.options, self.runs = kernel, options, []
        Chain.made.append(self)

    def run(self, key, extra_fields, **data):
        self.runs.append((key, extra_fields, set(data)))

    def get_samples(self):
        return {"mu": [1.0, 2.0], "theta": [[3.0], [4.0]]}

    def get_extra_fields(self):
        return {"diverging": np.array([True, True])}


class Svi:
    """An SVI whose state counts its updates."""

    def __init__(self, model, guide, optimizer, loss):
        self.parts = (model, guide, optimizer, loss)

    def init(self, key, **data):
        self.key, self.names = key, set(data)
        return 0

    def update(self, state, **data):
        assert set(data) == self.names
        return state + 1, "loss"


def modules():
    """The modules that the side imports, by name."""
    jax, jnp, lax, tree = (ModuleType(f"jax{s}") for s in ("", ".numpy", ".lax", ".flatten_util"))
    numpyro = ModuleType("numpyro")
    numpyro.sample, numpyro.plate, numpyro.distributions = pyro.sample, pyro.plate, dist
    numpyro.optim = SimpleNamespace(Adam=lambda rate: ("adam", rate))
    jnp.asarray, jnp.stack, jnp.sqrt = tensor, torch.stack, torch.sqrt
    jnp.full = lambda shape, value: torch.full(shape, value, dtype=torch.float64)
    lax.fori_loop = fori_loop
    jax.numpy, jax.lax, jax.flatten_util = jnp, lax, tree
    jax.config = SimpleNamespace(update=lambda *a: jax.changed.append(a))
    jax.changed, jax.compiled = [], []
    jax.jit = lambda f: jax.compiled.append(f) or f
    jax.vmap = lambda f: ("batched", f)
    jax.block_until_ready = lambda value: value
    jax.random = SimpleNamespace(
        PRNGKey=lambda seed: ("key", seed), normal=lambda key, shape: np.ones(shape)
    )
    infer, guides, util = (ModuleType(f"numpyro.infer{s}") for s in ("", ".autoguide", ".util"))
    infer.MCMC, infer.NUTS, infer.SVI = Chain, lambda model: ("nuts", model), Svi
    infer.Trace_ELBO = lambda num_particles: ("elbo", num_particles)
    guides.AutoNormal = lambda model: ("normal", model)
    guides.AutoMultivariateNormal = lambda model: ("multivariate", model)
    util.log_density, util.initialize_model = log_density, None
    return {
        "jax": jax,
        "jax.numpy": jnp,
        "jax.lax": lax,
        "jax.flatten_util": tree,
        "numpyro": numpyro,
        "numpyro.distributions": dist,
        "numpyro.infer": infer,
        "numpyro.infer.autoguide": guides,
        "numpyro.infer.util": util,
    }


@pytest.fixture
def module(monkeypatch):
    for name, stand_in in modules().items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.setattr(Chain, "made", [])
    for name, value in (("JAX_PLATFORMS", "cpu"), ("JAX_ENABLE_X64", "true")):
        monkeypatch.setenv(name, value)  # the module sets them if they are not set
    path = Path(sides.__file__).with_name("side_numpyro.py")
    spec = importlib.util.spec_from_file_location("side_numpyro_of_the_test", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("form", FORMS)
def test_a_model_has_the_density_of_the_entry(form, module):
    """Differences of log densities between three points: the entry may drop constants."""
    target = FORMS[form]
    data = target.entry.load_data()
    density = LogDensity(target.entry.program(data), data)
    u = 0.3 * torch.randn(3, density.dim, dtype=torch.float64)
    points = {k: v.numpy() for k, v in density.constrain(u).items()}
    side = module.build(form, arrays(target), SETTINGS)
    theirs = side.log_joint(points)
    assert theirs.shape == (3,)
    assert np.diff(theirs) == pytest.approx(np.diff(log_joint(density, points)), rel=1e-5)
    assert sys.modules["jax"].changed == [("jax_enable_x64", True)]
    assert side.measures == sides.MEASURES


@pytest.fixture
def side(module):
    return module.build("eight_schools", arrays(FORMS["eight_schools"]), SETTINGS)


def test_a_gradient_loop_moves_a_little_against_value_and_gradient(side, monkeypatch):
    """From u = 1 with value 2 and gradient 3, three steps of 1e-12 (2 + 3)."""
    seen = []

    def both(v):
        seen.append(v)
        return 2.0, 3.0

    class Number(float):
        def block_until_ready(self):
            return "waited"

        def __sub__(self, other):
            return Number(float(self) - other)

    monkeypatch.setattr(side, "_flat", lambda: (both, Number(1.0)))
    run = side._gradient_loop()
    assert run(3) == "waited"
    assert seen == pytest.approx([1.0, 1 - 5e-12, 1 - 1e-11], rel=1e-15)
    assert run(0) == "waited"
    assert len(seen) == 3
    assert len(sys.modules["jax"].compiled) == 1


def test_a_batch_is_256_points_around_the_start(side, monkeypatch):
    calls = []
    monkeypatch.setattr(side, "_flat", lambda: ("both", np.array([1.0, 2.0])))
    monkeypatch.setattr(sys.modules["jax"], "vmap", lambda f: lambda u: calls.append((f, u)))
    assert side.prepare("batch") == {"used": True, "reason": "XLA"}
    ((function, u),) = calls
    assert function == "both"
    assert u.shape == (256, 2)
    assert u[255].tolist() == pytest.approx([1.1, 2.1])
    assert side.calls["batch"][1] == 256


@pytest.mark.parametrize(
    ("family", "guide"), [("mean_field", "normal"), ("full_rank", "multivariate")]
)
def test_an_svi_loop_goes_on_from_its_last_state(side, module, monkeypatch, family, guide):
    made, states = [], []

    class Kept(Svi):
        def __init__(self, *parts):
            super().__init__(*parts)
            made.append(self)

        def update(self, state, **data):
            states.append(state)
            return super().update(state, **data)

    monkeypatch.setattr(module, "SVI", Kept)
    run = side._svi_loop(family)
    run(2)
    run(3)
    assert states == [0, 1, 2, 3, 4]
    (svi,) = made
    assert svi.parts == (side.model, (guide, side.model), ("adam", 0.01), ("elbo", 3))
    assert svi.key == ("key", 0)


def test_a_timed_call_is_a_loop_of_a_quarter_slice(side, module, monkeypatch):
    """A step takes 0.1 s: loops of 2, 4, 8 and 16 steps, the first of at least a second."""
    now, loops = [0.0], []

    def run(number):
        loops.append(number)
        now[0] += 0.1 * number

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    call, pieces = side._loop(run)
    assert (loops, pieces) == ([2, 2, 4, 8, 16], 16)
    call()
    assert loops[-1] == 16


def test_a_loop_that_takes_exactly_a_quarter_slice_is_long_enough(side, module, monkeypatch):
    now = [0.0]

    def run(number):
        now[0] += 0.25 * number

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert side._loop(run)[1] == 4


def test_measures_are_prepared_by_name_and_timed_with_their_pieces(side, module, monkeypatch):
    monkeypatch.setattr(side, "_loop", lambda run: (run, 8))
    monkeypatch.setattr(side, "_gradient_loop", lambda: "gradient loop")
    monkeypatch.setattr(side, "_svi_loop", lambda family: f"loop of {family}")
    for measure in ("gradient", "svi_full_rank"):
        assert side.prepare(measure) == {"used": True, "reason": "XLA"}
    assert side.calls == {
        "gradient": ("gradient loop", 8),
        "svi_full_rank": ("loop of full_rank", 8),
    }
    monkeypatch.setattr(module, "repeat", lambda call, seconds, *, pieces: (call, seconds, pieces))
    assert side.time("gradient") == ("gradient loop", 4.0, 8)


def test_all_chains_share_one_compiled_sampler(side, module, monkeypatch):
    clock, cpu = iter([1.0, 3.0, 5.0, 6.0]), iter([1.0, 1.5, 2.0, 2.25])
    monkeypatch.setattr(
        module,
        "time",
        SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(cpu)),
    )
    assert side.prepare("nuts") == {"used": True, "reason": "XLA"}
    run = side.nuts(5)
    (chain,) = Chain.made
    assert chain.kernel == ("nuts", side.model)
    assert chain.options == {
        "num_warmup": 1000,
        "num_samples": 2,
        "num_chains": 1,
        "progress_bar": False,
    }
    assert [r[0] for r in chain.runs] == [("key", 10_007), ("key", 5)]
    assert chain.runs[0][1:] == (("diverging",), {"se", "y"})
    assert {k: v.tolist() for k, v in run.draws.items()} == {"mu": [1, 2], "theta": [[3], [4]]}
    assert (run.wall, run.cpu, run.warmup, run.divergences) == (1.0, 0.25, 1000, 2)
    assert run.gradients is None
