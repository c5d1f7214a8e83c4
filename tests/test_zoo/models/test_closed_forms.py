"""The closed forms against their programs, against quadrature and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

import zoo
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.models.classics import banana, correlated_gaussian, funnel, funnel_centered
from zoo.models.conjugate import coin, linear_regression, pigeon_homing
from zoo.types import Analytic, Data, ModelEntry

ANALYTIC = [m.ENTRY for m in (coin, correlated_gaussian, linear_regression, pigeon_homing)] + [
    correlated_gaussian.ENTRY.with_options(d=5, rho=-0.2)
]
MOMENTS = [
    *ANALYTIC,
    *(m.ENTRY for m in (banana, funnel, funnel_centered)),
    banana.ENTRY.with_options(bend=0.3),
    *(zoo.load(name) for name in ("change_point", "gaussian_mixture_exact")),
    *(
        pytest.param(zoo.load(name), marks=pytest.mark.slow, id=name)  # a grid each
        for name in ("crossed_effects", "gp_regression")
    ),
]


def log_density(entry: ModelEntry) -> tuple[LogDensity, Data]:
    data = entry.load_data()
    return LogDensity(entry.program(data), data), data


@pytest.mark.parametrize("entry", MOMENTS, ids=lambda e: e.key)
def test_exact_draws_have_the_exact_moments(entry: ModelEntry) -> None:
    data = entry.load_data()
    exact = entry.exact(data)
    assert exact is not None
    n = 40_000
    draws = exact.sample(n, 3)
    assert exact.moments
    for name, truth in exact.moments.items():
        value = entry.quantities[name].fn(draws, data)
        centered = value - value.mean(0)
        mean_se = value.std(0) / math.sqrt(n)
        # Delta method: se of the sd is sqrt(kurtosis - 1) sd / (2 sqrt n).
        sd_se = (
            ((centered**4).mean(0) / value.var(0) ** 2 - 1).sqrt()
            * value.std(0)
            / (2 * math.sqrt(n))
        )
        assert ((value.mean(0) - truth.mean).abs() < 5 * mean_se).all(), name
        assert ((value.std(0) - truth.sd).abs() < 5 * sd_se).all(), name
        assert (truth.mean_se == 0).all()
        assert truth.mean.shape == truth.sd_se.shape == value.shape[1:]


def stein_errors(exact: Analytic, density: LogDensity, n: int = 4000) -> Tensor:
    """Return deviations from Stein's identities, in standard errors.

    E[grad] = 0 and E[(u_i - m_i) grad_j] = -delta_ij hold only for the log density of a
    distribution
    and its own draws.
    """
    u = density.unconstrain(exact.sample(n, 11))
    point = u.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(density.batch_function()(point).sum(), point)
    products = (u - u.mean(0)).unsqueeze(-1) * gradient.unsqueeze(-2) + torch.eye(
        density.dim, dtype=torch.float64
    )
    terms = torch.cat([gradient, products.flatten(1)], -1)  # [n, dim + dim^2]
    return terms.mean(0) / (terms.std(0) / math.sqrt(n))


@pytest.mark.parametrize("entry", ANALYTIC, ids=[e.key for e in ANALYTIC])
def test_exact_draws_are_draws_of_the_density(entry: ModelEntry) -> None:
    density, data = log_density(entry)
    exact = entry.exact(data)
    assert exact is not None
    assert stein_errors(exact, density).abs().max() < 5


def test_draws_of_a_slightly_different_posterior_are_noticed() -> None:
    density, data = log_density(linear_regression.ENTRY)
    wider = Data(train={"x": data.train["x"], "y": 1.05 * data.train["y"]}, observed=("y",))
    exact = linear_regression.ENTRY.exact(wider)
    assert exact is not None
    assert stein_errors(exact, density).abs().max() > 8


def test_coin_density_integrates_to_the_evidence() -> None:
    density, data = log_density(coin.ENTRY)
    exact = coin.ENTRY.exact(data)
    assert exact is not None
    assert exact.log_evidence is not None
    area, _ = integrate.quad(
        lambda u: math.exp(density(torch.tensor([u], dtype=torch.float64)).item()),
        -1.5,
        1.0,
        epsabs=0,
        epsrel=1e-10,
        limit=200,
    )
    assert math.log(area) == pytest.approx(exact.log_evidence, abs=1e-6)
    # Under a uniform chance every count is equally probable.
    assert exact.log_evidence == pytest.approx(-math.log(981), abs=1e-9)


def test_pigeon_density_integrates_to_the_evidence() -> None:
    """On the product of the angle's chart and the log concentration; torch's I0 is off by 2e-7."""
    density, data = log_density(pigeon_homing.ENTRY)
    exact = pigeon_homing.ENTRY.exact(data)
    assert exact is not None
    angle = torch.linspace(-6.0, 6.0, 241, dtype=torch.float64)
    log_k = torch.linspace(-3.0, 4.0, 141, dtype=torch.float64)
    heights = density.batch(torch.cartesian_prod(angle, log_k)).detach()
    total = float(heights.logsumexp(0)) + math.log(0.05 * 0.05)
    assert total == pytest.approx(exact.log_evidence, abs=1e-6)


def test_pigeons_fly_to_the_direction_of_their_mean() -> None:
    """168 degrees (Mardia and Jupp): the posterior lies on both sides of 180."""
    data = pigeon_homing.ENTRY.load_data()
    exact = pigeon_homing.ENTRY.exact(data)
    assert exact is not None
    bearings = data.train["bearing"]
    mean = float(torch.atan2(bearings.sin().sum(), bearings.cos().sum()))
    assert math.degrees(mean) == pytest.approx(168.46, abs=0.01)
    sin, cos = (float(exact.moments[f"{f} direction"].mean) for f in ("sin", "cos"))
    assert math.degrees(math.atan2(sin, cos)) == pytest.approx(168.0, abs=0.1)
    beyond = (exact.sample(20_000, 0)["direction"] < 0).double().mean()
    assert float(beyond) == pytest.approx(0.169, abs=0.015)


def test_coin_moments_are_those_of_scipy() -> None:
    exact = coin.ENTRY.exact(coin.ENTRY.load_data())
    assert exact is not None
    beta = stats.beta(438, 544)
    for name, fn in (("chance", lambda p: p), ("log_odds", lambda p: math.log(p / (1 - p)))):
        mean = beta.expect(fn, lb=0.3, ub=0.6)
        sd = math.sqrt(
            beta.expect(lambda p, fn=fn, mean=mean: (fn(p) - mean) ** 2, lb=0.3, ub=0.6)
        )
        assert exact.moments[name].mean.item() == pytest.approx(mean, abs=1e-8)
        assert exact.moments[name].sd.item() == pytest.approx(sd, abs=1e-8)


def test_regression_evidence_is_the_density_of_the_multivariate_t() -> None:
    data = linear_regression.ENTRY.load_data()
    # the t of all 442 rows costs scipy seconds
    x, y = (data.train["x"][:120].numpy(), data.train["y"][:120].numpy())
    exact = linear_regression.ENTRY.exact(
        Data(train={"x": torch.tensor(x), "y": torch.tensor(y)}, observed=("y",))
    )
    assert exact is not None
    # Weights and noise variance integrated out of the prior predictive: t with 4 degrees of
    # freedom, shape (1/2) (I + XX').
    marginal = stats.multivariate_t(
        loc=np.zeros(len(y)), shape=0.5 * (np.eye(len(y)) + x @ x.T), df=4.0
    )
    assert exact.log_evidence == pytest.approx(marginal.logpdf(y), abs=1e-8)


@pytest.mark.parametrize("entry", ANALYTIC, ids=[e.key for e in ANALYTIC])
def test_exact_draws_depend_on_the_seed_only(entry: ModelEntry) -> None:
    exact = entry.exact(entry.load_data())
    assert exact is not None
    first, again, other = exact.sample(5, 1), exact.sample(5, 1), exact.sample(5, 2)
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize(("d", "ratio"), [(2, 0.436), (5, 0.353), (50, 0.319)])
def test_mean_field_ratio_of_the_correlated_gaussian(d: int, ratio: float) -> None:
    sigma = correlated_gaussian.covariance(d, 0.9)
    assert torch.allclose(
        1 / (sigma.diagonal() * torch.linalg.inv(sigma).diagonal()).sqrt(),
        torch.tensor(ratio).double(),
        atol=5e-4,
    )


def test_mean_field_ratios_of_the_regression_are_the_documented_ones() -> None:
    data = linear_regression.ENTRY.load_data()
    precision = torch.eye(10, dtype=torch.float64) + data.train["x"].T @ data.train["x"]
    ratio = dict(
        zip(
            data.coords["feature"],
            (precision.diagonal() * torch.linalg.inv(precision).diagonal()).rsqrt().tolist(),
            strict=True,
        )
    )
    documented = {
        "tc": 0.15,
        "ldl": 0.18,
        "hdl": 0.28,
        "tch": 0.34,
        "ltg": 0.35,
        "bmi": 0.82,
        "glu": 0.82,
        "bp": 0.83,
        "sex": 0.89,
        "age": 0.91,
    }
    assert ratio == pytest.approx(documented, abs=0.006)


@pytest.mark.parametrize(
    ("d", "rho"), [(0, 0.5), (2, 1.0), (2, -1.0), (3, -0.5), (4, float("nan"))]
)
def test_correlated_gaussian_refuses_what_is_no_covariance(d: int, rho: float) -> None:
    with pytest.raises(UsageError, match="correlated_gaussian got"):
        correlated_gaussian.ENTRY.with_options(d=d, rho=rho).load_data()
