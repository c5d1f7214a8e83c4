"""Networks inside programs: random densities, rows that depend on each other, likelihoods."""

import copy
import dataclasses

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

import benchmarks
import guides
import zoo
from guides.objectives.program import ProgramObjective
from guides.optimize.loop import PROBES
from guides.optimize.stopping import Watch
from zoo import Data, ModelEntry, Quantity
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, ProgramError, UsageError
from zoo.quantities import site
from zoo.truth.grid import GaussianLikelihood

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1


def codes(layer):
    def model(x):
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(layer(z), 1.0).to_event(1), obs=x)

    return model


def log_joint(entry, value):
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    return float(density(torch.full((density.dim,), value, dtype=torch.float64)))


def exact(value):
    """The log joint of `codes` with the identity in place of the layer, at z = value."""
    z = torch.full_like(X, value)
    return float((dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X)).sum())


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Sequential(nn.Dropout1d(0.1))])
def test_dropout_in_training_mode_has_no_density(layer):
    layer.train()
    with pytest.raises(ProgramError, match=r"Dropout.*training mode.*\.eval\(\)"):
        zoo.from_program(codes(layer), {"x": X})
    layer.eval()
    assert log_joint(zoo.from_program(codes(layer), {"x": X}), 0.3) == pytest.approx(exact(0.3))


def test_normalization_by_the_batch_ties_the_rows_together():
    layer = nn.BatchNorm1d(2).double()
    with pytest.raises(ProgramError, match=r"BatchNorm1d in training mode.*depend on each other"):
        zoo.from_program(codes(layer), {"x": X})
    layer.eval()  # running mean 0 and variance 1: the identity up to its eps
    found = log_joint(zoo.from_program(codes(layer), {"x": X}), 0.3)
    assert found == pytest.approx(exact(0.3), rel=1e-5)


def test_noise_outside_the_sites_is_noticed():
    noisy = codes(lambda z: z + 0.1 * torch.randn(z.shape, dtype=z.dtype))
    with pytest.raises(ProgramError, match="draws random numbers outside its sites"):
        zoo.from_program(noisy, {"x": X})


def test_a_weighted_latent_site_is_no_posterior():
    """A KL weight written into the program gives ELBOs above the evidence."""

    def model(x):
        with poutine.scale(scale=0.1):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    with pytest.raises(ProgramError, match=r"latent site 'mean' is weighted by 0\.1"):
        zoo.from_program(model, {"x": X[:, 0]})


def test_plates_of_minibatches_are_no_weights():
    def model(x, index=None):
        with pyro.plate("n", 6, subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    entry = zoo.from_program(model, {"x": X[:, 0]}, batched=("x",), minibatch=2)
    z = torch.zeros(6, dtype=torch.float64)
    right = dist.Normal(0.0, 1.0).log_prob(z).sum() + dist.Normal(z, 1.0).log_prob(X[:, 0]).sum()
    assert log_joint(entry, 0.0) == pytest.approx(float(right))


@pytest.mark.parametrize("scale", [lambda s: s.relu(), lambda s: (-2000 * s.abs()).exp()])
def test_a_scale_of_zero_is_the_guides_fault_not_that_of_the_data(scale):
    torch.manual_seed(0)
    encoder = nn.Linear(2, 4)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("n", len(x)):
            m, s = encoder(x.to(encoder.weight.dtype)).chunk(2, -1)
            pyro.sample("z", dist.Normal(m, scale(s)).to_event(1))

    with pytest.raises(ProgramError, match=r"Site 'z' has a scale outside its range.*softplus"):
        zoo.from_program(codes(lambda z: z), {"x": X}, guide=guide)


ROWS, PIXELS, CODES = 60, 4, 2


class Linear(PyroModule):
    def __init__(self, sigma=None):
        super().__init__()
        torch.manual_seed(0)
        self.latent, self.decoder = CODES, nn.Linear(CODES, PIXELS).double()
        if sigma is not None:
            self.likelihood = GaussianLikelihood(self.decoder, sigma)

    def log_prior(self, z):
        return dist.Normal(0.0, 1.0).log_prob(z).sum(-1)

    def forward(self, x=None, index=None):
        rows = ROWS if x is None or index is not None else len(x)
        with pyro.plate("rows", rows, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros(CODES), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


def make_data(seed):
    g = torch.Generator().manual_seed(3)
    z, w = torch.randn(ROWS, CODES, generator=g), torch.randn(CODES, PIXELS, generator=g)
    x = (z @ w + 0.5 * torch.randn(ROWS, PIXELS, generator=g)).double()
    return Data(
        train={"x": x},
        observed=("x",),
        batched=("x",),
        size=ROWS,
        dims={"z": ("row", "latent")},
        source="made here",
        licence="CC0-1.0",
    )


def entry_of(sigma):
    return ModelEntry(
        name="linear_decoder",
        title="A linear decoder",
        make_data=make_data,
        build=lambda data: Linear(sigma),
        reference="nuts",
        learns=True,
        quantities={"z": Quantity(fn=site("z"), dims=("row", "latent"), description="code")},
        minibatch=30,
        amortize=lambda t: t["x"],
        families=("amortized",),
        cites=("Tipping and Bishop, 1999",),
    )


def test_a_gap_report_is_exact_for_the_programs_own_likelihood_or_refused():
    """A decoder without a likelihood was scored as Bernoulli pixels: log p(x) 31 where -6.5."""
    fit = guides.fit(entry_of(0.5), "amortized", seed=0, steps=60, compile="off")
    decoder = fit.program.decoder
    w, b = decoder.weight.detach(), decoder.bias.detach()
    law = dist.MultivariateNormal(b, w @ w.T + 0.25 * torch.eye(PIXELS, dtype=torch.float64))
    report = benchmarks.gap_report(fit, rows=4, points=60)
    for row, datum in zip((0, 19, 39, 59), report.data, strict=True):
        right = float(law.log_prob(fit.data.train["x"][row]))
        assert datum.log_evidence_nats == pytest.approx(right, abs=2e-3)
    for wrong in (None, GaussianLikelihood(decoder, 0.7)):
        program = copy.deepcopy(fit.program)
        program.likelihood = wrong
        with pytest.raises(UsageError, match=r"a `likelihood` that matches its observed site"):
            benchmarks.gap_report(dataclasses.replace(fit, program=program), rows=4)


def shared_weight(kind):
    torch.manual_seed(0)
    net = nn.Linear(1, 1, bias=False).double()

    def weight(x):
        if kind == "param":
            return x * pyro.param("w", torch.tensor(0.7))
        pyro.module("net", net)
        return net(x[:, None])[:, 0]

    def model(x):
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(weight(z), 1.0), obs=x)

    def guide(x):
        scale = pyro.param("s", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("n", len(x)):
            pyro.sample("z", dist.Normal(weight(x), scale))

    return model, guide


@pytest.mark.parametrize("kind", ["param", "network"])
def test_what_program_and_guide_share_is_not_made_two(kind):
    """The two copies reached an ELBO that the pair as written cannot have."""
    model, guide = shared_weight(kind)
    with pytest.raises(ProgramError, match="is trained in the program and in the guide"):
        zoo.from_program(model, {"x": X[:, 0]}, guide=guide)


SIZE, WEIGHTS = 60, torch.tensor([[1.0, -0.5, 0.8]], dtype=torch.float64)


def unit_model(x, index=None):
    with pyro.plate("rows", SIZE, subsample=index):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHTS, 1.0).to_event(1), obs=x)


def unit_sites(x):
    slope = pyro.param("slope", torch.zeros(3, 1, dtype=torch.float64))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))


def paired(x, index=None):
    with pyro.plate("rows", SIZE, subsample=index):
        unit_sites(x)


def plate_of_the_batch(x, index=None):
    with pyro.plate("rows", len(x)):
        unit_sites(x)


def no_plate(x, index=None):
    unit_sites(x)


def minibatch_fit(guide):
    g = torch.Generator().manual_seed(1)
    z = torch.randn(SIZE, 1, generator=g, dtype=torch.float64)
    x = z @ WEIGHTS + torch.randn(SIZE, 3, generator=g, dtype=torch.float64)
    entry = zoo.from_program(unit_model, {"x": x}, guide=guide, batched=("x",), minibatch=20)
    settled = {"steps": 800, "patience": 50, "anneal": 400}
    return guides.fit(entry, "own", seed=0, compile="off", **settled)


@pytest.mark.parametrize("guide", [plate_of_the_batch, no_plate])
def test_a_guide_scaled_otherwise_than_its_program_is_refused(guide):
    """Its entropy counted a third, and the fit settled on a third of the variance."""
    with pytest.raises(FitError, match=r"scales the site 'z' by 1, the program by 3.*subsample"):
        minibatch_fit(guide)


def test_a_guide_with_the_programs_plate_has_the_exact_sd():
    """Precision 1 + |w|^2; the family holds the posterior."""
    fit = minibatch_fit(paired)
    sd = float(guides.draw(fit, 2000).draws["z"].std(0).mean())
    right = float((1 + WEIGHTS.square().sum()) ** -0.5)
    assert sd == pytest.approx(right, rel=0.05)


def test_a_loss_that_explodes_is_never_settled():
    """A change of 1e54 nats within noise of 1e54 was called settled."""
    watch = Watch(window=100)
    stream = np.random.default_rng(0)
    calm = 2e4 + stream.standard_normal(100)
    wild = 1e54 * stream.standard_cauchy(100) ** 2
    assert not watch.extend(calm.tolist(), lambda row: None)
    for _ in range(3):
        assert not watch.extend(wild.tolist(), lambda row: None)
        assert watch.last.unstable
    quiet = Watch(window=100)
    quiet.extend(calm.tolist(), lambda row: None)
    assert quiet.extend(calm.tolist(), lambda row: None)
    assert not quiet.last.unstable


def left(stream, gap_at, windows=160):
    """Return the nats that are left where a search settles, and after how many windows.

    Losses have a noise of 40 nats per step. Those at mean parameters have common random numbers,
    whose differences between windows have a noise of 0.3.
    """
    watch, common = Watch(window=250, pairs=True), 20 * stream.standard_normal(16)
    for k in range(windows):
        gap = gap_at(np.arange(250 * k, 250 * (k + 1)))
        losses = gap + 40 * stream.standard_normal(250)
        probes = gap.mean() + common + 0.3 * stream.standard_normal(16)
        if watch.extend(losses.tolist(), lambda row: None, lambda probes=probes: probes):
            return gap[-1], k + 1
    return gap[-1], windows


def test_weights_that_drift_within_the_noise_have_not_settled():
    """0.5 nats per window in noise of 2.5 per window: losses alone call it the end."""
    stream = np.random.default_rng(1)
    drift = [left(stream, lambda step: 100 - 0.5 * step / 250, 80)[1] for _ in range(20)]
    assert drift == [80] * 20
    still = [left(stream, lambda step: np.zeros(250))[1] for _ in range(20)]
    assert min(still) == 40
    assert np.median(still) <= 41


@pytest.mark.parametrize("tau", [1000.0, 4000.0])
def test_a_slow_approach_is_seen_by_losses_of_the_same_random_numbers(tau):
    """30 nats that decay over thousands of steps: 3 were left by losses that differ."""
    stream = np.random.default_rng(2)
    found = [left(stream, lambda step: 30 * np.exp(-step / tau)) for _ in range(20)]
    assert max(nats for nats, _ in found) < 0.5
    assert (max(windows for _, windows in found) < 160) == (tau == 1000.0)


def test_a_saddle_is_left_that_ends_before_half_of_the_search():
    """3 nats that stay for 4,000 steps, then go within 1,000; once this was called the end."""
    stream = np.random.default_rng(3)

    def saddle(step):
        return 20 * np.exp(-step / 250) + 3 / (1 + np.exp((step - 4000) / 150))

    found = [left(stream, saddle) for _ in range(20)]
    assert max(nats for nats, _ in found) < 0.1


def test_the_probe_is_the_loss_at_the_mean_parameters_of_the_window(monkeypatch):
    """For the same random numbers in every window, and the values that train stay as they were."""
    decoder, encoder = nn.Linear(1, 1).double(), nn.Linear(1, 2).double()
    y = torch.linspace(-2.0, 2.0, 12, dtype=torch.float64)[:, None]

    def model(y):
        pyro.module("decoder", decoder)
        with pyro.plate("n", 12):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(decoder(z), 0.5).to_event(1), obs=y)

    def guide(y):
        pyro.module("encoder", encoder)
        with pyro.plate("n", 12):
            mean, scale = encoder(y).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, scale.exp()).to_event(1))

    steps, probes = [], []
    gradients, evaluated = ProgramObjective.gradients, ProgramObjective.evaluated

    def stepped(self, values, *noise):
        steps.append([v.detach().clone() for v in values])
        return gradients(self, values, *noise)

    def probed(self, noise):
        own = [*self.parameters.values(), *self.weights.values()]
        found = evaluated(self, noise)
        probes.append(([p.detach().clone() for p in own], int(noise[0]), found))
        assert found == pytest.approx(float(self.loss(noise).detach()), rel=1e-12)
        return found

    monkeypatch.setattr(ProgramObjective, "gradients", stepped)
    monkeypatch.setattr(ProgramObjective, "evaluated", probed)
    entry = zoo.from_program(model, {"y": y}, guide=guide)
    options = {"steps": 240, "patience": 40, "anneal": 80, "compile": "off"}
    fit = guides.fit(entry, "own", seed=0, **options)
    assert fit.ok
    searched = 4 * PROBES  # the search takes four windows; what follows looks ahead at its end
    windows = [probes[i : i + PROBES] for i in range(0, searched, PROBES)]
    for number, window in enumerate(windows):
        assert [seed for _, seed, _ in window] == [seed for _, seed, _ in windows[0]]
        after = steps[40 * number + 1 : 40 * (number + 1) + 1]  # values after each of its steps
        for place, value in enumerate(window[0][0]):
            torch.testing.assert_close(value, torch.stack([v[place] for v in after]).mean(0))
    assert len({seed for _, seed, _ in windows[0]}) == PROBES
    first, last = (np.mean([found for _, _, found in w]) for w in (windows[0], windows[-1]))
    assert last < first - 1.0
