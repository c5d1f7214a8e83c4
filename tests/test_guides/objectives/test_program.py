"""Steps of guides that are Pyro programs: the graph gives what Pyro's estimators give."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import constraints

import guides
import zoo
from guides.optimize import loop
from guides.optimize.loop import PROBES
from guides.optimize.step import Step
from guides.session import session
from zoo.compiler.trace import TraceFailure
from zoo.errors import FitError

X = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64).reshape(12, 2)
Y = {"y": torch.tensor([0.3, -0.4, 1.1, 0.8, 2.0], dtype=torch.float64)}


def autoencoder():
    """A decoder and an encoder with local latents, in minibatches of four rows."""
    torch.manual_seed(1)
    decoder, encoder = nn.Linear(1, 2), nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("n", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return zoo.from_program(model, {"x": X}, guide=guide, minibatch=4)


def scales(y):
    """A location and a positive scale."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def bent():
    """Draws from a Laplace distribution, and through exp of a dependent normal."""

    def guide(y):
        loc = pyro.param("loc", torch.tensor(0.1))
        slope = pyro.param("slope", torch.tensor(0.2))
        spread = pyro.param("spread", torch.tensor(0.5), constraint=constraints.positive)
        mean = pyro.sample("mean", dist.Laplace(loc, spread))
        pyro.sample("scale", dist.LogNormal(slope * mean, 0.3))

    return zoo.from_program(scales, Y, guide=guide)


def automatic():
    """An autoguide of Pyro."""
    return zoo.from_program(scales, Y, guide=AutoNormal)


def classes():
    """A discrete site, summed out by Pyro's estimator and by the graph; the program learns."""

    def model(y):
        shift = pyro.param("shift", torch.tensor(0.5))
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        with pyro.plate("n", 5):
            k = pyro.sample("k", dist.Bernoulli(share))
            pyro.sample("y", dist.Normal(2 * k - shift, 1.0), obs=y)

    def guide(y):
        loc = pyro.param("loc", torch.tensor(0.3))
        sigmoid = [torch.distributions.transforms.SigmoidTransform()]
        pyro.sample("share", dist.TransformedDistribution(dist.Normal(loc, 0.4), sigmoid))

    return zoo.from_program(model, Y, guide=guide)


def run(entry, monkeypatch, *, steps=4, backend="eager", **options):
    """Fit by a few steps; return the fit and its last step."""
    seen = []

    class Seen(Step):
        def __init__(self, *args):
            super().__init__(*args)
            seen.append(self)

    monkeypatch.setattr(loop, "Step", Seen)
    if backend:
        monkeypatch.setenv("ZOO_BACKEND", backend)
    else:
        monkeypatch.delenv("ZOO_BACKEND", raising=False)
    fit = guides.fit(entry, "own", seed=0, steps=steps, **options)
    for parameter in seen[-1].parameters:
        parameter.requires_grad_(True)  # a fit leaves them fixed
    return fit, seen[-1]


@pytest.mark.parametrize("make", [autoencoder, bent, automatic, classes])
def test_the_graph_of_a_step_is_pyros_step_with_the_numbers_of_its_seed(make, monkeypatch):
    """Loss, gradient and all moments after a step, at seeds and values other than the traced."""
    entry = make()
    _, step = run(entry, monkeypatch)
    with session(entry.dtype):
        graph = step.trace()
        for inputs in step._checks(torch.Generator().manual_seed(8)):
            for mine, theirs in zip(graph(*inputs), step.eager(*inputs), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
        wrong = [*inputs[:-1], inputs[-1] + 0.1]  # the numbers, not the seed, are what it uses
        assert not torch.allclose(graph(*wrong)[1], graph(*inputs)[1], rtol=1e-6)


def test_particles_that_cannot_be_mapped_are_repeated(monkeypatch):
    entry = bent()
    _, step = run(entry, monkeypatch, num_particles=3)
    with session(entry.dtype):
        mapped = step.trace()
        monkeypatch.setattr(torch.func, "vmap", lambda f: 1 / 0)
        repeated = step.trace()
        inputs = step._checks(torch.Generator().manual_seed(8))[0]
        for mine, theirs in zip(repeated(*inputs), mapped(*inputs), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    assert not step.objective._mapped
    assert repeated.nodes > mapped.nodes


def test_compiled_steps_and_probes_are_those_of_the_program(monkeypatch):
    options = {"steps": 240, "patience": 30, "anneal": 30}
    eager, _ = run(autoencoder(), monkeypatch, compile="off", **options)
    before = loop._Run.probe
    probes = []

    def probed(self):
        found = before(self)
        self.step.write(self._mean)
        truth = [self.objective.evaluated(noise) for noise in self._noises[:PROBES]]
        self.step.write()
        probes.append((found, truth, self._graph))
        return found

    monkeypatch.setattr(loop._Run, "probe", probed)
    fit, _ = run(autoencoder(), monkeypatch, compile="on", backend="", **options)
    assert fit.compiled["used"], fit.compiled
    assert len(fit.losses) == len(eager.losses)
    np.testing.assert_allclose(fit.losses, eager.losses, rtol=1e-6)
    np.testing.assert_allclose(fit.losses[:30], eager.losses[:30], rtol=1e-9)
    assert len(probes) >= 3
    assert all(graph for _, _, graph in probes)
    for found, truth, _ in probes:
        assert len(found) == PROBES
        np.testing.assert_allclose(found, truth, rtol=1e-9)


def gamma(y):
    rate = pyro.param("rate", torch.tensor(1.5), constraint=constraints.positive)
    pyro.sample("mean", dist.Normal(0.0, 0.5))
    pyro.sample("scale", dist.Gamma(2.0, rate))


def sometimes(y):
    loc = pyro.param("loc", torch.tensor(0.1))
    for _ in range(random.randrange(5)):
        torch.randn(2)
    pyro.sample("mean", dist.Normal(loc, 0.5))
    pyro.sample("scale", dist.LogNormal(0.0, 0.3))


def other(y):
    loc = pyro.param("loc", torch.tensor(0.1))
    pyro.sample("mean", dist.Normal(loc, 0.5 + random.random()))
    pyro.sample("scale", dist.LogNormal(0.0, 0.3))


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (gamma, "_standard_gamma.default draws cannot be an input of a graph"),
        (sometimes, "draws other random numbers in every run"),
        (other, "self-check"),
    ],
)
def test_what_cannot_be_a_graph_runs_as_it_is(guide, reason, monkeypatch):
    random.seed(3)
    fit, _ = run(zoo.from_program(scales, Y, guide=guide), monkeypatch, backend="", compile="on")
    assert not fit.compiled["used"]
    assert reason in fit.compiled["reason"]
    assert np.isfinite(fit.losses).all()


def test_the_trace_fails_and_is_not_wrong_where_a_call_is_not_used(monkeypatch):
    def guide(y):
        noise = torch.empty(())
        noise.normal_()
        pyro.sample("mean", dist.Delta(pyro.param("loc", torch.tensor(0.1)) + 0 * noise))
        pyro.sample("scale", dist.LogNormal(pyro.param("size", torch.tensor(0.0)), 0.3))

    entry = zoo.from_program(scales, Y, guide=guide)
    try:
        _, step = run(entry, monkeypatch)
        with session(entry.dtype):
            graph = step.trace()
            inputs = step._checks(torch.Generator().manual_seed(8))[0]
            assert torch.isnan(graph(*inputs)[1]).any()
    except TraceFailure:
        pass


def test_a_program_with_discrete_sites_is_trained_and_probed_eagerly_too(monkeypatch):
    """Pyro's estimator for them refuses to run where no gradient is recorded."""
    fit, step = run(classes(), monkeypatch, steps=60, patience=15, anneal=20)
    assert step.objective.drifts
    assert fit.losses[-10:].mean() < fit.losses[:10].mean()


def test_a_guide_that_draws_a_discrete_site_runs_as_it_is(monkeypatch):
    def model(y):
        with pyro.plate("n", 5):
            k = pyro.sample("k", dist.Bernoulli(0.4))
            z = pyro.sample("z", dist.Normal(2 * k, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(y):
        odds = pyro.param("odds", torch.zeros(5))
        means = pyro.param("means", torch.zeros(2, 5))
        with pyro.plate("n", 5):
            k = pyro.sample("k", dist.Bernoulli(logits=odds))
            pyro.sample("z", dist.Normal(torch.where(k > 0, means[1], means[0]), 0.8))

    fit, step = run(zoo.from_program(model, Y, guide=guide), monkeypatch, backend="", compile="on")
    assert fit.compiled["reason"] == "the guide draws discrete sites"
    assert step.objective.inputs((torch.tensor(3),)) == (torch.tensor(3),)


@pytest.mark.parametrize("layer", ["dropout", "batch normalization"])
def test_layers_that_draw_or_remember_are_trained_as_they_are(layer, monkeypatch):
    """Looking at a step leaves no trace in what a batch normalization remembers."""

    def entry():
        torch.manual_seed(1)
        inside = nn.Dropout(0.5) if layer == "dropout" else nn.BatchNorm1d(3)
        encoder = nn.Sequential(nn.Linear(2, 3), inside, nn.Linear(3, 2)).double()

        def model(x):
            with pyro.plate("n", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.expand_as(x), 0.5).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("n", len(x)):
                loc, log_scale = encoder(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        return zoo.from_program(model, {"x": X}, guide=guide)

    fits = [run(entry(), monkeypatch, backend="", compile=mode)[0] for mode in ("on", "off")]
    assert not fits[0].compiled["used"]
    reason = (
        "a layer remembers" if layer == "batch normalization" else "aten.bernoulli_.float draws"
    )
    assert reason in fits[0].compiled["reason"]
    assert np.array_equal(fits[0].losses, fits[1].losses)
    for mine, theirs in zip(*(list(f.guide.buffers()) for f in fits), strict=True):
        assert torch.equal(mine, theirs)
    if layer == "batch normalization":
        assert any(b.ndim and b.abs().sum() > 0 for b in fits[0].guide.buffers())


def test_a_weighted_kl_is_no_objective_of_a_guide_of_ones_own():
    said = r"beta\[beta=2.0\] needs log q of each row.*amortized.*own is a Pyro program, fitted by"
    with pytest.raises(FitError, match=said):
        guides.fit(autoencoder(), "own", objective="beta[beta=2.0]", steps=20)
