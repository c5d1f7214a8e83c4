"""A guide that was trained elsewhere is scored as it is, with no further step."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import affine_autoregressive, spline_autoregressive
from pyro.infer import SVI, Trace_ELBO, config_enumerate
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, AutoNormalizingFlow
from pyro.optim import Adam
from torch import nn
from torch.distributions import constraints

import benchmarks
import guides
import zoo
from zoo.density.sites import default_dtype
from zoo.errors import UsageError

Y = 1 + torch.sin(torch.arange(30.0, dtype=torch.float64))
MEAN, SD = float(Y.sum()) / (30 + 1 / 25), (30 + 1 / 25) ** -0.5  # the conjugate posterior


def model(y):
    mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=y.dtype), 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def by_hand(y):
    loc = pyro.param("loc", torch.zeros((), dtype=y.dtype))
    scale = pyro.param("scale", torch.ones((), dtype=y.dtype), constraint=constraints.positive)
    pyro.sample("mean", dist.Normal(loc, scale))


class Module(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = pyro.nn.PyroParam(torch.tensor(MEAN, dtype=torch.float64))

    def forward(self, y):
        pyro.sample("mean", dist.Normal(self.loc, SD))


@pytest.fixture(autouse=True)
def empty_store(monkeypatch):
    """Leave Pyro's parameter store, which these tests use as its users do, empty."""
    monkeypatch.setattr("guides.fitting.ELBO_DRAWS", 300)
    yield
    pyro.clear_param_store()


def train(guide, steps=120):
    """Train as stock Pyro does, with its parameter store."""
    with pyro.settings.context(module_local_params=False):
        svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO(num_particles=4))
        for _ in range(steps):
            svi.step(Y)
    return guide


def scored(guide, n=1000):
    entry = zoo.from_program(model, {"y": Y}, guide=guide, trained=True)
    fit = guides.fit(entry, "own", seed=0)
    assert (fit.stop.status, fit.stop.step, fit.cost.steps) == ("ok", 0, 0)
    assert "scored as it was given" in fit.stop.sentence
    return fit, guides.draw(fit, n).draws["mean"]


def test_a_function_is_scored_at_the_values_of_the_parameter_store():
    store = pyro.get_param_store()
    by_hand(Y)
    store["loc"], store["scale"] = torch.tensor(0.7).double(), torch.tensor(0.3).double()
    before = {name: store[name].clone() for name in store}
    _, draws = scored(by_hand)
    assert abs(float(draws.mean()) - 0.7) < 5 * 0.3 / 1000**0.5
    assert abs(float(draws.std()) / 0.3 - 1) < 5 / 2000**0.5
    assert {name: bool(store[name] == value) for name, value in before.items()} == {
        "loc": True,
        "scale": True,
    }


def by_network(y, net):
    pyro.module("net", net)
    loc, log_scale = net(torch.ones(1, dtype=y.dtype))
    pyro.sample("mean", dist.Normal(loc, log_scale.exp()))


@pytest.mark.parametrize(
    "wrapped",
    [
        config_enumerate(by_hand),
        poutine.mask(by_hand, mask=torch.tensor(True)),
        poutine.block(by_hand, hide=["nothing"]),
        functools.partial(by_network, net=nn.Linear(1, 2).double()),
    ],
    ids=["config_enumerate", "mask", "block", "partial"],
)
def test_a_guide_inside_a_handler_or_a_partial_is_scored_at_its_values(wrapped):
    train(wrapped)
    store = pyro.get_param_store()
    if "loc" in store:
        loc, sd = (float(store[name].detach()) for name in ("loc", "scale"))
    else:
        net = wrapped.keywords["net"]
        loc, log_sd = net(torch.ones(1).double()).tolist()
        sd = math.exp(log_sd)
    assert loc != 0.0
    fit, draws = scored(wrapped)
    assert abs(float(draws.mean()) - loc) < 5 * sd / 1000**0.5
    assert abs(float(draws.std()) / sd - 1) < 5 / 2000**0.5
    kl = math.log(SD / sd) + (sd**2 + (loc - MEAN) ** 2) / (2 * SD**2) - 0.5
    covariance = torch.eye(30, dtype=Y.dtype) + 25.0
    law = torch.distributions.MultivariateNormal(torch.zeros(30, dtype=Y.dtype), covariance)
    evidence = float(law.log_prob(Y))
    assert abs(fit.elbo.value_nats - (evidence - kl)) < 5 * fit.elbo.se + 1e-6


@pytest.mark.parametrize("kind", [AutoNormal, AutoMultivariateNormal])
def test_a_trained_autoguide_keeps_its_weights(kind):
    guide = train(kind(model))
    with pyro.settings.context(module_local_params=False), torch.no_grad():
        loc = float(guide.median(Y)["mean"])
    fit, draws = scored(guide)
    error = float(draws.std()) / 1000**0.5
    assert abs(float(draws.mean()) - loc) < 5 * error
    assert abs(loc - MEAN) < 0.5 * SD  # it was trained
    exact = -0.5 * float(((Y - MEAN) ** 2).sum())  # up to constants: only its order is checked
    assert fit.elbo is not None
    assert abs(fit.elbo.value_nats - exact) < 60


def two(y):
    with pyro.plate("entry", 2):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2, dtype=y.dtype), 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean.sum(), 1.0), obs=y)


@pytest.mark.parametrize("flow", [affine_autoregressive, spline_autoregressive])
def test_flows_are_loaded_right_after_a_step_of_stock_pyro(flow):
    """Their transforms keep results of the last call, which torch does not copy."""
    guide = AutoNormalizingFlow(two, functools.partial(flow))
    torch.manual_seed(0)
    with pyro.settings.context(module_local_params=False):
        svi = SVI(two, guide, Adam({"lr": 0.05}), Trace_ELBO())
        for _ in range(5):
            svi.step(Y.float())
        stock = poutine.trace(guide).get_trace(Y.float())
    entry = zoo.from_program(two, {"y": Y}, guide=guide, trained=True)
    fit = guides.fit(entry, "own", seed=0)
    (name,) = (n for n in stock.nodes if n.endswith("_latent"))
    held = poutine.condition(fit.guide, data={name: stock.nodes[name]["value"].detach().double()})
    with default_dtype(torch.float64), poutine.block(), torch.no_grad():
        ours = poutine.trace(held).get_trace(y=Y)
        found = float(ours.log_prob_sum())
    right = stock.log_prob_sum().detach()
    assert found == pytest.approx(float(right), abs=1e-3)
    value = stock.nodes["mean"]["value"].detach()
    torch.testing.assert_close(ours.nodes["mean"]["value"].float(), value)


def test_a_module_keeps_its_weights_and_steps_0_says_the_same():
    fit, draws = scored(Module())
    assert abs(float(draws.mean()) - MEAN) < 5 * SD / 1000**0.5
    entry = zoo.from_program(model, {"y": Y}, guide=Module())
    again = guides.fit(entry, "own", seed=0, steps=0)
    assert again.elbo == fit.elbo
    short = {"steps": 60, "patience": 10, "anneal": 20, "compile": "off"}
    assert guides.fit(entry, "own", seed=0, **short).cost.steps > 0


@pytest.mark.usefixtures("undrawn")
def test_a_trained_guide_is_compared_as_it_is(tmp_path):
    """A wrong sd of twice the right one is found, and would be trained away."""
    by_hand(Y)
    store = pyro.get_param_store()
    store["loc"] = torch.tensor(MEAN, dtype=torch.float64)
    store["scale"] = torch.tensor(2 * SD, dtype=torch.float64)
    options = {"guide": by_hand, "trained": True, "families": ["own"], "quick": True, "jobs": 1}
    card = benchmarks.compare_program(model, {"y": Y}, out=tmp_path / "run", **options)
    found = card.comparisons["own"]
    assert found.verdict == "too_wide"
    (score,) = found.scores
    assert abs(score.sd_ratio - 2) < 5 * score.sd_ratio_se
    store["scale"] = torch.tensor(SD, dtype=torch.float64)  # other weights: another guide
    again = benchmarks.compare_program(model, {"y": Y}, out=tmp_path / "run", **options)
    assert again.comparisons["own"].verdict == "agrees"


def test_what_is_not_trained_is_said():
    with pytest.raises(UsageError, match=r"parameter store has no 'loc' \(it has nothing\)"):
        zoo.from_program(model, {"y": Y}, guide=by_hand, trained=True)
    with pytest.raises(UsageError, match="needs a guide that has been trained"):
        zoo.from_program(model, {"y": Y}, guide=AutoNormal, trained=True)
    with pytest.raises(UsageError, match="needs a guide that has been trained"):
        zoo.from_program(
            model, {"y": Y}, guide=functools.partial(AutoNormal, init_scale=0.1), trained=True
        )
    with pytest.raises(UsageError, match="needs a guide that has been trained, and guide is None"):
        zoo.from_program(model, {"y": Y}, trained=True)
    with pytest.raises(UsageError, match="trained=True to score it as it is"):
        zoo.from_program(model, {"y": Y}, guide=AutoNormal(model))
    entry = zoo.from_program(model, {"y": Y})
    with pytest.raises(UsageError, match="steps=0 scores a guide as it is given, but mean_field"):
        guides.fit(entry, "mean_field", steps=0)
    with pytest.raises(UsageError, match="steps is -1"):
        guides.fit(entry, "mean_field", steps=-1)
