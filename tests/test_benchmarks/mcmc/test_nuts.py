"""NUTS: two engines agree, draws do not depend on cores, faulty programs raise errors."""

import ctypes
import dataclasses
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS

import guides
import zoo
from benchmarks.arviz_bridge import ess_bulk, mcse_mean, mcse_sd
from benchmarks.mcmc import engine_nutpie as nuts_nutpie
from benchmarks.mcmc.diagnostics import components
from benchmarks.mcmc.engine_nutpie import Density, nutpie_chain, starting_point
from benchmarks.mcmc.engine_pyro import RecordingNUTS, potential
from benchmarks.mcmc.nuts import STATS, _wanted, run_nuts
from benchmarks.workers import Task, run_tasks
from zoo.density.log_density import LogDensity
from zoo.errors import ProgramError, UnknownNameError, UsageError

SHORT = {"chains": 2, "tune": 120, "draws": 250, "min_ess": 0, "compile": "on"}
EAGER = {**SHORT, "compile": "off"}  # for programs that run once


def gaussian(d: int = 2):
    def program(y):
        x = pyro.sample("x", dist.Normal(torch.zeros(d), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    return zoo.from_program(program, {"y": torch.tensor(1.0, dtype=torch.float64)}, name="tiny")


@pytest.fixture(scope="module")
def tiny():
    return gaussian()


@pytest.fixture(scope="module")
def chains(tiny):
    return run_nuts(tiny, jobs=1, **SHORT)


@pytest.mark.parametrize("name", ["coin", "correlated_gaussian"])
def test_engines_agree(name):
    """Means and sds of every quantity and lp within 5 combined Monte Carlo standard errors."""
    entry = zoo.load(name)
    options = {"chains": 2, "tune": 150, "draws": 300, "min_ess": 0, "compile": "on"}
    first, second = (run_nuts(entry, engine=engine, **options) for engine in ("nutpie", "pyro"))
    (a, labels), (b, _) = components(first), components(second)
    assert ess_bulk(a).min() > 120
    assert ess_bulk(b).min() > 120
    for summary, error in ((np.mean, mcse_mean), (np.std, mcse_sd)):
        gap = np.abs(summary(a, (0, 1)) - summary(b, (0, 1))) / np.hypot(error(a), error(b))
        assert gap.max() < 5, (labels[int(gap.argmax())], gap.max())
    assert set(first.stats) == set(second.stats) == set(STATS)


def test_every_statistic_is_there_and_has_its_type(chains):
    for name, kind in STATS.items():
        assert chains.stats[name].shape == (2, 250)
        assert chains.stats[name].dtype == kind
        assert torch.isfinite(chains.stats[name].double()).all()
    assert chains.unconstrained.shape == (2, 250, 2)
    assert chains.draws["x"].shape == (2, 250, 2)
    density = LogDensity(chains.entry.program(chains.data), chains.data)
    assert float(density(chains.unconstrained[1, 7])) == pytest.approx(
        float(chains.stats["lp"][1, 7]), abs=1e-9
    )
    # at least the leaves of the trees, and less than what the longest warm-up could take
    assert chains.cost.gradient_evaluations >= int(chains.stats["n_steps"].sum())
    assert chains.cost.sequential_depth < chains.cost.gradient_evaluations
    assert chains.cost.steps == 2 * 370


def test_energy_is_that_of_the_hamiltonian(chains):
    """Mean energy = mean potential + dim / 2, since kinetic energy is chi-square(dim) / 2."""
    for posterior in (chains, run_nuts(chains.entry, engine="pyro", **SHORT)):
        kinetic = (posterior.stats["energy"] + posterior.stats["lp"]).numpy()
        assert abs(kinetic.mean() - 1.0) < 5 * mcse_mean(kinetic)


def test_draws_do_not_depend_on_jobs(tiny, chains):
    two = run_nuts(tiny, jobs=2, **SHORT)
    here = run_nuts(tiny, in_process=True, **SHORT)
    assert torch.equal(chains.unconstrained, two.unconstrained)
    assert torch.equal(chains.unconstrained, here.unconstrained)
    assert torch.equal(chains.stats["energy"], two.stats["energy"])
    assert not torch.equal(chains.unconstrained[0], chains.unconstrained[1])
    assert not torch.equal(chains.unconstrained, run_nuts(tiny, seed=1, **SHORT).unconstrained)


@pytest.fixture(scope="module")
def fast(tiny):
    data = tiny.load_data()
    density = LogDensity(tiny.program(data), data)
    assert density.compile("on")["used"]
    return density


class Broken:
    """A graph that fails at its fortieth point."""

    def __init__(self, graph):
        inner, nan = (
            ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)(
                graph.gradient
            ),
            ctypes.c_double(np.nan),
        )

        def call(dim, x, gradient, value, data):
            self.calls += 1
            self.failed = self.calls == 40 or self.failed
            code = inner(dim, x, gradient, value, data)
            if self.failed:
                ctypes.memmove(value, ctypes.addressof(nan), 8)
            return code

        self.dim, self.copy, self.data, self.calls, self.failed = (
            graph.dim,
            graph.copy,
            graph.data,
            0,
            False,
        )
        self.keep = (
            graph,
            ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)(call),
        )
        self.gradient = ctypes.cast(self.keep[1], ctypes.c_void_p).value

    def stop(self):
        """Nothing to stop."""


@pytest.mark.parametrize("route", ["python", "broken"])
def test_without_python_in_the_loop_the_draws_are_the_same(tiny, fast, route, monkeypatch):
    """Also if the C function fails midway: the chain restarts on the Python callback."""
    options = {**SHORT, "in_process": True, "log_density": fast}
    native = run_nuts(tiny, **options)
    before = fast.gradient_evaluations
    graph = fast.native_gradient()
    assert graph is not None
    monkeypatch.setattr(
        fast, "native_gradient", lambda: None if route == "python" else Broken(graph)
    )
    other = run_nuts(tiny, **options)
    assert torch.equal(native.unconstrained, other.unconstrained)
    assert torch.equal(native.stats["energy"], other.stats["energy"])
    assert (other.cost.gradient_evaluations > native.cost.gradient_evaluations) == (
        route == "broken"
    )
    assert fast.gradient_evaluations == before + other.cost.gradient_evaluations


@pytest.mark.parametrize("engine", ["nutpie", "pyro"])
def test_extension_keeps_the_first_draws_bit_for_bit(tiny, engine):
    options = {"engine": engine, "chains": 2, "tune": 60, "draws": 50, "compile": "on"}
    lines: list[str] = []
    short = run_nuts(tiny, **options, min_ess=0)
    long = run_nuts(tiny, **options, min_ess=120, progress=lines.append)
    assert long.sample_shape[1] > 50
    assert torch.equal(short.unconstrained, long.unconstrained[:, :50])
    assert any("extending" in line for line in lines)
    assert long.cost.gradient_evaluations > short.cost.gradient_evaluations + int(
        long.stats["n_steps"].sum()
    )


def test_extension_that_cannot_be_afforded_is_a_note(tiny):
    options = {"chains": 2, "tune": 150, "draws": 100, "compile": "on"}
    assert "limit of 500 draws" in run_nuts(tiny, **options, min_ess=100_000).notes[0]
    late = run_nuts(tiny, **options, min_ess=250, budget=0.0)
    assert late.sample_shape == (2, 100)
    assert "budget of 0 s" in late.notes[0]


@pytest.mark.parametrize(
    ("ess", "wanted"),
    [
        (3000.0, 1000),
        (float("nan"), 1000),
        (1500.0, 1750),
        (500.0, 4750),
        (450.0, 5000),
        (100.0, 1000),
    ],
)
def test_number_of_draws_wanted(ess, wanted):
    assert _wanted(ess, 2000.0, 1000, 5000, spent=10**6) == wanted


def test_hopeless_chains_are_extended_to_the_limit_only_where_that_is_cheap():
    assert _wanted(100.0, 2000.0, 1000, 5000, spent=80_000) == 5000
    assert _wanted(100.0, 2000.0, 1000, 5000, spent=800_000) == 1000


def test_recording_does_not_change_a_draw(fast):
    def sample(kernel):
        torch.manual_seed(3)
        start = {"u": torch.full((2,), 0.5, dtype=torch.float64)}
        options = {
            "num_samples": 60,
            "warmup_steps": 40,
            "initial_params": start,
            "disable_progbar": True,
        }
        mcmc = MCMC(kernel(potential_fn=potential(Density(fast))), **options)
        mcmc.run()
        return mcmc.get_samples()["u"]

    assert torch.equal(sample(NUTS), sample(RecordingNUTS))


def test_a_trained_program_is_used_as_given(tiny):
    def shifted(y):
        x = pyro.sample("x", dist.Normal(torch.full((2,), 50.0), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    fit = guides.fit(tiny, "mean_field", steps=2, compile="off", progress=False)
    given = dataclasses.replace(fit, program=shifted)
    posterior = run_nuts(tiny, given=given, **{**EAGER, "tune": 60, "draws": 50})
    assert posterior.draws["x"].mean() > 10


def closed_form(log_density, function):
    """The same density by hand: fast enough for the deep trees of a funnel."""
    log_density.numpy_gradient = lambda: function
    return log_density


def test_divergences_of_a_funnel_are_counted():
    def funnel(y):
        v = pyro.sample("v", dist.Normal(0.0, 3.0))
        with pyro.plate("unit", 9):
            pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))
        pyro.sample("y", dist.Normal(v, 1e6), obs=y)

    def by_hand(u):
        v, x = u[0], u[1:]
        scaled = x * np.exp(-v)
        return -(v**2) / 18 - 4.5 * v - scaled @ x / 2, np.concatenate(
            [[-v / 9 - 4.5 + scaled @ x / 2], -scaled]
        )

    entry = zoo.from_program(funnel, {"y": torch.tensor(0.0, dtype=torch.float64)}, name="funnel")
    data = entry.load_data()
    log_density = LogDensity(entry.program(data), data)
    point = torch.linspace(-0.8, 0.9, 10, dtype=torch.float64)
    assert by_hand(point.numpy())[1] == pytest.approx(
        log_density.gradient(point)[1].numpy(), abs=1e-9
    )
    for engine, accept, draws in (("nutpie", 0.6, 1000), ("pyro", 0.4, 80)):
        options = {
            "chains": 2,
            "tune": 200,
            "draws": draws,
            "min_ess": 0,
            "engine": engine,
            "target_accept": accept,
        }
        found = run_nuts(entry, log_density=closed_form(log_density, by_hand), **options)
        assert int(found.stats["diverging"].sum()) > 0
    assert int(run_nuts(gaussian(), **SHORT).stats["diverging"].sum()) == 0


@pytest.mark.parametrize("engine", ["nutpie", "pyro"])
@pytest.mark.parametrize("jobs", [{"in_process": True}, {"jobs": 2}], ids=["here", "workers"])
def test_a_program_that_raises_is_an_error_not_a_trace(engine, jobs):
    calls = [0]

    def program(y):
        calls[0] += 1
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        if calls[0] > 60:
            raise KeyError("the table has no such row")
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    entry = zoo.from_program(program, {"y": torch.tensor(0.0, dtype=torch.float64)}, name="broken")
    with pytest.raises(ProgramError, match="no such row"):
        run_nuts(entry, engine=engine, **jobs, **EAGER)


def without_bound(point):
    """One observation y = 1 with flat priors on its mean m and log sd u.

    The log density is -(1 - m)^2 exp(-2u) / 2, constant for u -> inf.
    """
    m, u = point
    precision = np.exp(-2 * u)
    return -((1 - m) ** 2) * precision / 2, np.array(
        [(1 - m) * precision, (1 - m) ** 2 * precision]
    )


def chain_of(entry, function, seed=1):
    data = entry.load_data()
    density = Density(LogDensity(entry.program(data), data))
    density.function = function
    return nutpie_chain(density, seed, 300, 100, 0.8)


def test_a_sampler_that_panics_is_one_sentence_with_its_reason(tiny):
    """There is no posterior: the chain diverges until nutpie panics on overflow.

    The next chain works as usual.
    """
    sentence = (
        "nutpie stopped: Could not initialize state because of bad initial gradient: Invalid"
        " initial point; check that there is a posterior: under a flat prior, or if the density"
        " grows without bound, the chain diverges until it overflows."
    )
    before = chain_of(tiny, lambda x: (-float(x @ x) / 2, -x))
    with pytest.raises(ProgramError) as caught:
        chain_of(tiny, without_bound)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert np.array_equal(
        chain_of(tiny, lambda x: (-float(x @ x) / 2, -x)).unconstrained, before.unconstrained
    )
    (result,) = run_tasks([Task("chain", lambda: chain_of(tiny, without_bound))])
    assert result.error == str(caught.value)
    with pytest.raises(ProgramError, match="check that there is a posterior"):
        result.unwrap()


class Ending:
    """A sampler that raises an exception, and another one at every later call.

    Poisoned samplers do so.
    """

    def __init__(self, error):
        self.error, self._sampler = error, self

    def wait(self, timeout):
        raise self.error

    def cancel(self):
        raise type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})(
            "Poisoned mutex"
        )


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            RuntimeError("All initialization points failed"),
            ProgramError,
            "nutpie stopped: All initialization points failed; check",
        ),
        (ValueError(), ProgramError, "nutpie stopped: ValueError; check"),
        (KeyboardInterrupt("by hand"), KeyboardInterrupt, "by hand"),
        (GeneratorExit("of a handler"), GeneratorExit, "of a handler"),
    ],
)
def test_what_the_sampler_raises_is_told_from_interruptions(tiny, monkeypatch, error, kind, words):
    sampler = Ending(error)
    monkeypatch.setattr(nuts_nutpie, "_sampler", lambda model, settings: sampler)
    with pytest.raises(kind, match=words):
        chain_of(tiny, without_bound)
    # its destructor would panic again
    assert not hasattr(sampler, "_sampler")


def test_the_reason_of_a_program_goes_before_that_of_the_sampler(tiny, monkeypatch):
    calls = [0]

    def function(x):
        calls[0] += 1
        if calls[0] > 1:
            raise KeyError("the table has no such row")
        return 0.0, x

    def wait(timeout):
        density(np.zeros(2))
        raise RuntimeError("a worker stopped")

    data = tiny.load_data()
    density = Density(LogDensity(tiny.program(data), data))
    density.function = function
    sampler = SimpleNamespace(wait=wait, cancel=lambda: None)
    monkeypatch.setattr(nuts_nutpie, "_sampler", lambda model, settings: sampler)
    with pytest.raises(ProgramError, match="no such row"):
        nutpie_chain(density, 0, 10, 10, 0.8)


def test_a_matrix_that_fails_to_factor_is_a_rejection(tiny):
    data = tiny.load_data()
    density = Density(LogDensity(tiny.program(data), data))
    density.function = lambda x: torch.linalg.cholesky(-torch.eye(2))
    value, gradient = density(np.zeros(2))
    assert np.isnan(value)
    assert (gradient == 0).all()
    density.raise_failure()


def test_a_density_finite_nowhere_is_refused(tiny):
    data = tiny.load_data()
    density = Density(LogDensity(tiny.program(data), data))
    density.function = lambda x: (float("-inf"), np.zeros(2))
    with pytest.raises(ProgramError, match="not finite at any of 400 points"):
        starting_point(density, 0)


def test_no_chain_starts_where_energies_have_no_digits_left(tiny):
    """ARMA(1, 1): half of all starts explode; chains that start below -1e70 nats never move."""
    data = tiny.load_data()
    density = Density(LogDensity(tiny.program(data), data))
    explosive = [0]

    def function(x):
        explosive[0] += abs(x[0]) > 1
        return (-1e70 if abs(x[0]) > 1 else -0.5 * float(x @ x)), -x

    density.function = function
    starts = np.array([starting_point(density, seed) for seed in range(40)])
    assert explosive[0] > 10
    assert np.abs(starts[:, 0]).max() <= 1
    # such a start is used if there is no other
    density.function = lambda x: (-1e70, -x)
    assert np.abs(starting_point(density, 0)).max() < 2


def test_starts_are_over_dispersed_and_differ(tiny):
    data = tiny.load_data()
    density = Density(LogDensity(tiny.program(data), data))
    starts = np.array([starting_point(density, seed) for seed in range(60)])
    assert np.abs(starts).max() < 2
    assert starts.std() == pytest.approx(2 / 3**0.5, abs=5 * 0.06)


def test_bad_requests_are_refused(tiny):
    with pytest.raises(UnknownNameError, match="did you mean 'nutpie'"):
        run_nuts(tiny, engine="nutpy")
    with pytest.raises(UsageError, match="draws=2"):
        run_nuts(tiny, draws=2)


SCRIPT = """
import torch, time, pyro, pyro.distributions as dist, zoo, sys
from benchmarks.mcmc.nuts import run_nuts
torch.set_num_threads(1)
def program(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    time.sleep(0.01)
    print("at work", flush=True)
    pyro.sample("y", dist.Normal(x, 1.0), obs=y)
entry = zoo.from_program(program, {"y": torch.tensor(0.0, dtype=torch.float64)}, name="slow")
print("loaded", flush=True)
try:
    run_nuts(entry, min_ess=0, compile="off", in_process=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_raises_instead_of_returning_a_partial_trace():
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline() not in ("loaded\n", ""):
        pass
    for _ in range(40):  # after the traces of the density and the start, inside the sampler
        process.stdout.readline()
    process.send_signal(2)
    assert "interrupted" in process.communicate(timeout=60)[0]


# -- starts from a fit ---------------------------------------------------------------------------


def bimodal():
    def program():
        parts = dist.Normal(torch.tensor([0.0, 30.0]).double(), 1.0)
        weights = torch.tensor([0.4, 0.6]).double()
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts))

    size = {"x": zoo.Quantity(fn=lambda draws, data: draws["x"])}
    return zoo.from_program(program, {}, name="bimodal", quantities=size)


@pytest.fixture(scope="module")
def of_both_modes():
    entry = bimodal()
    return entry, guides.fit(entry, "pathfinder", seed=0, paths=20)


@pytest.mark.parametrize("engine", ["nutpie", "pyro"])
def test_chains_begin_at_draws_of_a_fit(engine, of_both_modes):
    """Without a fit all chains begin, and stay, in the mode near the origin."""
    entry, fit = of_both_modes
    assert len(fit.guide.normals) == 2
    settings = {"engine": engine, "chains": 6, "tune": 30, "draws": 10, "min_ess": 0}
    settings |= {"in_process": True, "compile": "off"}
    posterior = run_nuts(entry, init=fit, **settings)
    ends = posterior.draws["x"][:, -1]
    assert 0 < int((ends > 15).sum()) < 6
    assert len(set(ends.tolist())) == 6
    spent = f"{fit.cost.gradient_evaluations:,}"
    assert posterior.notes == (
        f"The chains began at draws of a fit of pathfinder (seed 0, {spent} gradients, not part of"
        " the cost).",
    )
    again = run_nuts(entry, init=fit, **settings)
    assert torch.equal(again.unconstrained, posterior.unconstrained)
    alone = run_nuts(entry, **settings)
    assert not bool((alone.draws["x"] > 15).any())
    assert alone.notes == ()


def test_a_fit_of_another_vector_gives_no_starts(tiny):
    other = guides.fit(tiny, "laplace")
    with pytest.raises(UsageError, match="of 2 unconstrained values for 1; give a fit of the"):
        run_nuts(bimodal(), init=other, in_process=True, compile="off")
