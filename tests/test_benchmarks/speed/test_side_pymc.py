"""PyMC's models with Pyro behind PyMC's names: their densities are those of the entries."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

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
from zoo.errors import UsageError

FORMS = {t.form: t for t in reversed(TARGETS.values())}
SMALL = sides.Settings(draws=2)


def tensor(value):
    return torch.as_tensor(value, dtype=torch.float64)


def stand_in():
    """The names of PyMC that the models use, as sites of Pyro."""
    pm = ModuleType("pymc")

    def kind(make):
        def sampled(name, *values, shape=(), observed=None, **named):
            law = make(*map(tensor, values), **{k: tensor(v) for k, v in named.items()})
            law = law.expand([shape]) if shape else law
            if observed is not None:
                observed = tensor(observed)
                law = law.expand(observed.shape)
            return pyro.sample(name, law.to_event(len(law.batch_shape)), obs=observed)

        return sampled

    def mixed(name, *, w, mu, sigma, observed):
        law = dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(mu, sigma))
        observed = tensor(observed)
        return pyro.sample(name, law.expand(observed.shape).to_event(1), obs=observed)

    for name in ("Beta", "Normal", "LogNormal", "HalfCauchy", "HalfNormal", "InverseGamma"):
        setattr(pm, name, kind(getattr(dist, name)))
    pm.Bernoulli = kind(lambda *, logit_p: dist.Bernoulli(logits=logit_p))
    pm.Dirichlet = lambda name, value: pyro.sample(name, dist.Dirichlet(tensor(value)))
    pm.NormalMixture = mixed
    pm.math = SimpleNamespace(
        stack=torch.stack, sqrt=torch.sqrt, dot=lambda a, b: tensor(a) @ tensor(b)
    )
    pm.Model = poutine.trace
    return pm


@pytest.fixture
def module(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymc", stand_in())
    monkeypatch.setitem(sys.modules, "nutpie", ModuleType("nutpie"))
    path = Path(sides.__file__).with_name("side_pymc.py")
    spec = importlib.util.spec_from_file_location("side_pymc_of_the_test", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("form", FORMS)
def test_a_model_has_the_density_of_the_entry_up_to_a_constant(form, module):
    """Differences of log densities between three points, where the constants cancel."""
    target = FORMS[form]
    data = target.entry.load_data()
    density = LogDensity(target.entry.program(data), data)
    u = 0.3 * torch.randn(3, density.dim, dtype=torch.float64)
    points = {k: v.numpy() for k, v in density.constrain(u).items()}
    given = {k: v if k == "malignant" else torch.as_tensor(v) for k, v in arrays(target).items()}
    theirs = []
    for i in range(3):
        at = {k: tensor(v[i]) for k, v in points.items()}
        model = poutine.condition(module.FORMS[form], data=at)
        theirs.append(float(poutine.trace(model).get_trace(**given).log_prob_sum()))
    ours = log_joint(density, points)
    assert np.diff(theirs) == pytest.approx(np.diff(ours), rel=1e-9)


class Trace(SimpleNamespace):
    def __init__(self, draws):
        values = {k: SimpleNamespace(values=np.array(v)) for k, v in draws.items()}
        steps = {"n_steps": [[3, 4]], "diverging": [[True, False]]}
        warm = {"n_steps": [[10, 20]]}
        super().__init__(
            posterior=values,
            sample_stats={k: SimpleNamespace(values=np.array(v)) for k, v in steps.items()},
            warmup_sample_stats={k: SimpleNamespace(values=np.array(v)) for k, v in warm.items()},
        )


@pytest.fixture
def side(module, monkeypatch):
    """A side with one site on a log scale and one as it is, and a sampler that answers."""
    made = module.build("eight_schools", {"se": torch.ones(2), "y": torch.zeros(2)}, SMALL)
    log = SimpleNamespace(
        forward=lambda value, *inputs: SimpleNamespace(eval=lambda: np.log(value) + inputs[0])
    )
    tau = SimpleNamespace(name="tau", owner=SimpleNamespace(inputs=(100.0,)), key="a")
    mu = SimpleNamespace(name="mu", key="b")

    class By(dict):
        def __getitem__(self, rv):
            return super().__getitem__(rv.key)

    def compiled(*, jacobian, mode):
        assert (jacobian, mode) == (False, "FAST_COMPILE")
        return lambda values: 10 * values["tau_log"] + values["mu_"]

    made.model = SimpleNamespace(
        free_RVs=[tau, mu],
        rvs_to_transforms=By(a=log, b=None),
        rvs_to_values=By(a=SimpleNamespace(name="tau_log"), b=SimpleNamespace(name="mu_")),
        compile_logp=compiled,
    )
    nutpie = module.nutpie
    nutpie.calls = []
    nutpie.compile_pymc_model = lambda model, backend: (model, backend)

    def sample(compiled, **options):
        nutpie.calls.append((compiled, options))
        return Trace({"tau": [[1.0, 2.0]], "mu": [[3.0, 4.0]]})

    nutpie.sample = sample
    clock = iter([1.0, 4.0])
    cpu = iter([10.0, 10.5])
    made.settings = SMALL
    monkeypatch.setattr(
        module,
        "time",
        SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(cpu)),
    )
    return made


def test_the_density_is_of_transformed_values(side):
    """10 (log tau + 100) + mu at two points."""
    points = {"tau": np.array([1.0, np.e]), "mu": np.array([0.5, 0.25])}
    assert side.log_joint(points).tolist() == pytest.approx([1000.5, 1010.25])


def test_a_chain_counts_gradients_of_both_stages_and_divergences_of_draws(side, module):
    assert side.measures == ("nuts",)
    assert side.prepare("nuts") == {"used": True, "reason": "numba"}
    ((compiled, options),) = module.nutpie.calls
    assert compiled == (side.model, "numba")
    assert options == {
        "draws": 2,
        "tune": 800,
        "chains": 1,
        "cores": 1,
        "seed": 10_007,
        "progress_bar": False,
        "low_rank_modified_mass_matrix": True,
    }


def test_a_run_has_its_draws_times_and_counts(side):
    run = side.nuts(3)
    assert {k: v.tolist() for k, v in run.draws.items()} == {"tau": [1.0, 2.0], "mu": [3.0, 4.0]}
    assert (run.wall, run.cpu, run.warmup) == (3.0, 0.5, 800)
    assert (run.gradients, run.divergences) == (37, 1)


def test_the_warm_up_is_that_of_this_projects_side(module):
    from benchmarks.mcmc.nuts import TUNE

    assert TUNE["nutpie"] == module.TUNE


def test_only_nuts_is_timed(side):
    with pytest.raises(UsageError) as caught:
        side.time("batch")
    assert str(caught.value) == (
        "Only nuts is timed on this side, not 'batch'; ask for it with nuts(seed)."
    )
