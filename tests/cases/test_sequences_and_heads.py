"""A user's sequence model and Bayesian head on a frozen backbone, against their closed forms.

Sequences: z_1 ~ N(0, 1), z_t ~ N(0.9 z_(t-1), 0.5), y_t ~ N(z_t, 0.4): jointly normal, of unequal
length, padded and masked. Head: y ~ N(w' phi(x), 0.3) with w ~ N(0, 1) and phi a float32 network
that is not trained.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.short_runs import short_fits, small_islands
from torch import nn

import benchmarks
import guides
import zoo
from zoo.density.log_density import LogDensity

F = torch.float64
SETTLED = {"steps": 400, "patience": 40, "anneal": 150, "num_particles": 16}
KEEP, MOVE, SEEN = 0.9, 0.5, 0.4
LENGTHS = torch.tensor([5, 3, 4])
LONGEST = int(LENGTHS.max())
Y = torch.tensor(
    [[0.3, 0.9, 1.4, 0.8, 0.1], [-0.5, -0.2, 0.4, 0.0, 0.0], [1.1, 0.2, 0.6, 1.9, 0.0]], dtype=F
)


def sequences(y, lengths):
    with pyro.plate("series", len(y)):
        z = torch.zeros(len(y), dtype=y.dtype)
        for t in range(LONGEST):
            there = t < lengths
            with poutine.mask(mask=there):
                scale = MOVE if t else 1.0
                z = pyro.sample(f"z{t}", dist.Normal(KEEP * z, scale))
                pyro.sample(f"y{t}", dist.Normal(z, SEEN), obs=y[:, t])


def prior_covariance(length):
    """Covariance of z_1 .. z_length."""
    forward = np.zeros((length, length))
    for t in range(length):
        forward[t, : t + 1] = KEEP ** np.arange(t, -1, -1)
    noise = np.diag([1.0] + [MOVE**2] * (length - 1))
    return forward @ noise @ forward.T


def exact_series(i):
    """Mean and covariance of the states of one series, and its log evidence."""
    n = int(LENGTHS[i])
    prior, y = prior_covariance(n), Y[i, :n].numpy()
    marginal = prior + SEEN**2 * np.eye(n)
    gain = prior @ np.linalg.inv(marginal)
    law = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=F), torch.tensor(marginal))
    return gain @ y, prior - gain @ prior, float(law.log_prob(Y[i, :n]))


EVIDENCE = sum(exact_series(i)[2] for i in range(3))


@pytest.fixture(scope="module")
def series():
    return zoo.from_program(sequences, {"y": Y, "lengths": LENGTHS}, name="series")


def test_padded_states_integrate_to_one(series):
    """The normal over all coordinates has the evidence of the true lengths as its integral."""
    density = LogDensity(series.program(series.load_data()), series.load_data())
    assert density.dim == 3 * LONGEST
    at = torch.zeros(density.dim, dtype=F)
    hessian = density.eager_hessian(at)
    height, slope = density.eager_gradient(at)
    mode = torch.linalg.solve(-hessian, slope)
    integral = (
        float(density.evaluate(mode))
        + 0.5 * density.dim * math.log(2 * math.pi)
        - 0.5 * float(torch.logdet(-hessian))
    )
    assert integral == pytest.approx(EVIDENCE, abs=1e-8)
    assert float(height) < float(density.evaluate(mode))


def test_states_of_every_series_have_the_smoothed_moments(series):
    """A full-rank normal is exact here, and its ELBO is the evidence."""
    fit = guides.fit(series, "laplace", seed=0)
    assert fit.elbo.value_nats == pytest.approx(EVIDENCE, abs=1e-6)
    draws = guides.draw(fit, 4000, seed=1).draws
    for i in range(3):
        mean, covariance, _ = exact_series(i)
        for t in range(int(LENGTHS[i])):
            x, sd = draws[f"z{t}"][:, i], math.sqrt(covariance[t, t])
            assert abs(float(x.mean()) - mean[t]) < 5 * sd / 4000**0.5
            assert abs(float(x.std()) / sd - 1) < 5 / 8000**0.5


def test_mean_field_loses_the_nats_of_the_chains(series):
    """KL of independent normals with the right precisions: half the log of det over product."""
    fit = guides.fit(series, "mean_field", seed=0, compile="off", **SETTLED)
    lost = 0.0
    for i in range(3):
        precision = np.linalg.inv(exact_series(i)[1])
        lost += 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert EVIDENCE - fit.elbo.value_nats == pytest.approx(lost, abs=0.1 + 4 * fit.elbo.se)


# -- a Bayesian head on a frozen backbone -----------------------------------------------------

ROWS, FEATURES, NOISE = 60, 4, 0.3
generator = torch.Generator().manual_seed(3)
X = torch.randn(ROWS, 7, generator=generator)  # float32, as a backbone's input is
TRUE = torch.randn(FEATURES, generator=generator, dtype=F)


def backbone():
    """A float32 network whose weights need no gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        net = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, FEATURES), nn.Tanh())
    return net.eval().requires_grad_(False)


NET = backbone()
PHI = NET(X).double()
TARGET = PHI @ TRUE + NOISE * torch.randn(ROWS, generator=generator, dtype=F)


def head(x, y):
    features = NET(x.to(torch.float32)).to(y.dtype)
    w = pyro.sample("w", dist.Normal(torch.zeros(FEATURES, dtype=y.dtype), 1.0).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(features @ w, NOISE), obs=y)


def exact_head():
    precision = torch.eye(FEATURES, dtype=F) + PHI.T @ PHI / NOISE**2
    covariance = torch.linalg.inv(precision)
    law = torch.distributions.MultivariateNormal(
        torch.zeros(ROWS, dtype=F), PHI @ PHI.T + NOISE**2 * torch.eye(ROWS, dtype=F)
    )
    return covariance @ PHI.T @ TARGET / NOISE**2, covariance, float(law.log_prob(TARGET))


@pytest.fixture(scope="module")
def card(eager):
    with pytest.MonkeyPatch.context() as patch:
        short_fits(patch, 500, 50)
        small_islands(patch)
        return benchmarks.compare_program(
            head,
            {"x": X, "y": TARGET},
            families=["mean_field", "laplace"],
            nuts=False,
            quick=True,
            progress=False,
        )


def test_the_head_has_the_posterior_of_the_linear_model(card):
    mean, covariance, _ = exact_head()
    found = card.comparisons["laplace"]
    assert found.verdict == "agrees"
    w = found.posterior.draws["w"]
    sd = covariance.diagonal().sqrt()
    assert ((w.mean(0) - mean).abs() / sd).max() < 0.15
    assert (w.std(0) / sd - 1).abs().max() < 0.12
    assert found.posterior.entry.learns is False  # nothing of the backbone is trained


def test_mean_field_is_too_narrow_by_the_correlation_of_its_features(card):
    _, covariance, evidence = exact_head()
    precision = torch.linalg.inv(covariance)
    ratio = float((1 / precision.diagonal() / covariance.diagonal()).sqrt().min())
    found = card.comparisons["mean_field"]
    assert found.verdict == "too_narrow"
    worst = min(s.sd_ratio for s in found.scores if s.judged)
    assert worst == pytest.approx(ratio, abs=0.06)
    assert found.log_evidence["estimate"] == pytest.approx(
        evidence, abs=5 * found.log_evidence["estimate_se"] + 0.02
    )
    lost = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    assert found.lost[0] == pytest.approx(lost, abs=5 * found.lost[1] + 0.05)
