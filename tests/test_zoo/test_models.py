"""Every entry of the house: the densities against independent formulas, the closed forms against each other."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from zoo.datasets import standardize
from zoo.errors import UsageError
from zoo.log_density import LogDensity, default_dtype
from zoo.models import (
    coin,
    correlated_gaussian,
    eight_schools,
    eight_schools_centered,
    gaussian_mixture,
    linear_regression,
    logistic_regression,
    random_intercepts,
)
from zoo.types import Analytic, Data, ModelEntry

MODULES = (
    coin, correlated_gaussian, eight_schools, eight_schools_centered, gaussian_mixture, linear_regression, logistic_regression,
    random_intercepts,
)  # fmt: skip
ENTRIES = [m.ENTRY for m in MODULES] + [
    correlated_gaussian.ENTRY.with_options(d=5, rho=-0.2),
    gaussian_mixture.ENTRY.with_options(K=3),
]
IDS = [e.key for e in ENTRIES]
ANALYTIC = [e for e in ENTRIES if e.reference == "analytic"]


def log_density(entry: ModelEntry) -> tuple[LogDensity, Data]:
    data = entry.load_data()
    return LogDensity(entry.program(data), data), data


def points(n: int, dim: int, *, seed: int = 0, scale: float = 0.5) -> Tensor:
    return scale * torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_normal(x: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    sd = torch.as_tensor(sd, dtype=torch.float64)
    return -0.5 * ((x - mean) / sd) ** 2 - sd.log() - 0.5 * math.log(2 * math.pi)


def log_half_cauchy(x: Tensor, scale: float) -> Tensor:
    return math.log(2 / math.pi / scale) - torch.log1p((x / scale) ** 2)


# -- every entry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_the_density_is_finite_vectorized_and_repeats(entry: ModelEntry) -> None:
    density, _ = log_density(entry)
    u = points(4, density.dim)
    values = density.batch(u)
    assert torch.isfinite(values).all()
    assert density.batch_function().vectorized
    again, _ = log_density(entry)
    assert torch.equal(again.batch(u), values)


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_quantities_have_the_shape_and_the_labels_they_name(entry: ModelEntry) -> None:
    density, data = log_density(entry)
    draws = density.constrain(points(6, density.dim).reshape(2, 3, -1))
    for name, quantity in entry.quantities.items():
        value = quantity.fn(draws, data)
        assert value.dtype == torch.float64, name
        assert torch.isfinite(value).all(), name
        assert value.shape == (2, 3, *(len(data.coords[d]) for d in quantity.dims)), name
        assert quantity.description


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_dropping_the_observations_gives_the_prior_predictive(entry: ModelEntry) -> None:
    data = entry.load_data()
    given = {k: v for k, v in data.train.items() if k not in data.observed}
    with default_dtype(entry.dtype), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trace = pyro.poutine.trace(entry.program(data)).get_trace(**given)
    for name in data.observed:
        value = trace.nodes[name]["value"]
        assert value.shape == data.train[name].shape
        assert not torch.equal(value, data.train[name])


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_data_say_where_they_come_from(entry: ModelEntry) -> None:
    data = entry.load_data()
    assert len(data.source) > 20
    assert data.licence
    assert entry.cites


# -- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ANALYTIC, ids=[e.key for e in ANALYTIC])
def test_exact_draws_have_the_exact_moments(entry: ModelEntry) -> None:
    data = entry.load_data()
    exact = entry.exact(data)
    assert exact is not None
    n = 40_000
    draws = exact.sample(n, 3)
    for name, quantity in entry.quantities.items():
        value, truth = quantity.fn(draws, data), exact.moments[name]
        centered = value - value.mean(0)
        mean_se = value.std(0) / math.sqrt(n)
        # Delta method: se of the sd is sqrt(kurtosis - 1) sd / (2 sqrt n).
        sd_se = ((centered**4).mean(0) / value.var(0) ** 2 - 1).sqrt() * value.std(0) / (2 * math.sqrt(n))
        assert ((value.mean(0) - truth.mean).abs() < 5 * mean_se).all(), name
        assert ((value.std(0) - truth.sd).abs() < 5 * sd_se).all(), name
        assert (truth.mean_se == 0).all()
        assert truth.mean.shape == truth.sd_se.shape == value.shape[1:]


def stein_errors(exact: Analytic, density: LogDensity, n: int = 4000) -> Tensor:
    """Deviations, in standard errors, from E[grad] = 0 and E[(u_i - m_i) grad_j] = -delta_ij under the target.

    They hold for the log density of a distribution and its own draws only.
    """
    u = density.unconstrain(exact.sample(n, 11))
    point = u.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(density.batch_function()(point).sum(), point)
    products = (u - u.mean(0)).unsqueeze(-1) * gradient.unsqueeze(-2) + torch.eye(density.dim, dtype=torch.float64)
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
        lambda u: math.exp(density(torch.tensor([u], dtype=torch.float64)).item()), -1.5, 1.0, epsabs=0, epsrel=1e-10, limit=200
    )
    assert math.log(area) == pytest.approx(exact.log_evidence, abs=1e-6)
    # Under a uniform chance every count is equally probable.
    assert exact.log_evidence == pytest.approx(-math.log(981), abs=1e-9)


def test_regression_evidence_is_the_density_of_the_multivariate_t() -> None:
    data = linear_regression.ENTRY.load_data()
    x, y = data.train["x"][:120].numpy(), data.train["y"][:120].numpy()  # the t of all 442 rows costs scipy seconds
    exact = linear_regression.ENTRY.exact(Data(train={"x": torch.tensor(x), "y": torch.tensor(y)}, observed=("y",)))
    assert exact is not None
    # Weights and noise variance integrated out of the prior predictive: t with 4 degrees of freedom, shape (1/2) (I + XX').
    marginal = stats.multivariate_t(loc=np.zeros(len(y)), shape=0.5 * (np.eye(len(y)) + x @ x.T), df=4.0)
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
    assert torch.allclose(1 / (sigma.diagonal() * torch.linalg.inv(sigma).diagonal()).sqrt(), torch.tensor(ratio).double(), atol=5e-4)


def test_mean_field_ratios_of_the_regression_are_the_documented_ones() -> None:
    data = linear_regression.ENTRY.load_data()
    precision = torch.eye(10, dtype=torch.float64) + data.train["x"].T @ data.train["x"]
    ratio = dict(zip(data.coords["feature"], (precision.diagonal() * torch.linalg.inv(precision).diagonal()).rsqrt().tolist(), strict=True))
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


@pytest.mark.parametrize(("d", "rho"), [(0, 0.5), (2, 1.0), (2, -1.0), (3, -0.5), (4, float("nan"))])
def test_correlated_gaussian_refuses_what_is_no_covariance(d: int, rho: float) -> None:
    with pytest.raises(UsageError, match="correlated_gaussian got"):
        correlated_gaussian.ENTRY.with_options(d=d, rho=rho).load_data()


# -- hand-written densities -----------------------------------------------------------------------------------------


def test_eight_schools_is_the_hand_written_density() -> None:
    density, data = log_density(eight_schools.ENTRY)
    se, y = data.train["se"], data.train["y"]
    for u in points(5, density.dim, scale=1.5):
        z = density.constrain(u)
        mu, tau, raw = z["mu"], z["tau"], z["theta_raw"]
        by_hand = (
            log_normal(mu, 0.0, 5.0) + log_half_cauchy(tau, 5.0) + log_normal(raw, 0.0, 1.0).sum()
            + log_normal(y, mu + tau * raw, se).sum() + tau.log()
        )  # fmt: skip
        assert density(u).item() == pytest.approx(by_hand.item(), abs=1e-10)


def test_centered_and_non_centered_schools_differ_by_the_jacobian() -> None:
    flat, data = log_density(eight_schools.ENTRY)
    funnel, _ = log_density(eight_schools_centered.ENTRY)
    for u in points(5, flat.dim, scale=1.5):
        z = flat.constrain(u)
        theta = eight_schools.theta(z, data)
        v = funnel.unconstrain({"mu": z["mu"], "tau": z["tau"], "theta": theta})
        # d theta / d theta_raw = tau in each of eight schools.
        assert flat(u).item() == pytest.approx((funnel(v) + 8 * z["tau"].log()).item(), abs=1e-9)
        for name, quantity in eight_schools.ENTRY.quantities.items():
            other = eight_schools_centered.ENTRY.quantities[name]
            assert other.dims == quantity.dims
            assert torch.allclose(other.fn(funnel.constrain(v), data), quantity.fn(z, data), atol=1e-12)


def test_logistic_regression_is_the_hand_written_density() -> None:
    density, data = log_density(logistic_regression.ENTRY)
    x, y = data.train["x"], data.train["malignant"]
    for u in points(3, density.dim):
        z = density.constrain(u)
        logit = z["intercept"] + x @ z["weight"]
        likelihood = -torch.log1p(torch.exp(-(2 * y - 1) * logit)).sum()
        by_hand = likelihood + log_normal(z["intercept"], 0.0, 2.5) + log_normal(z["weight"], 0.0, 2.5).sum()
        assert density(u).item() == pytest.approx(by_hand.item(), abs=1e-9)


def test_random_intercepts_is_the_hand_written_density() -> None:
    density, data = log_density(random_intercepts.ENTRY)
    x, y = data.train["x"], data.train["y"]
    for u in points(3, density.dim):
        z = density.constrain(u)
        group, noise = z["group_scale"], z["noise_scale"]
        by_hand = (
            log_normal(z["intercept"], 0.0, 5.0) + log_normal(z["slope"], 0.0, 2.5)
            + (math.log(2) + log_normal(group, 0.0, 2.0)) + (math.log(2) + log_normal(noise, 0.0, 2.0))
            + log_normal(z["effect"], z["intercept"], group).sum()
            + log_normal(y, z["effect"][:, None] + z["slope"] * x, noise).sum() + group.log() + noise.log()
        )  # fmt: skip
        assert density(u).item() == pytest.approx(by_hand.item(), abs=1e-9)


# -- the mixture ----------------------------------------------------------------------------------------------------


def mixture_by_hand(z: dict[str, Tensor], petal: Tensor) -> Tensor:
    """Return log p(weight, location, scale, petal) with the class summed out, without a Jacobian."""
    prior = (
        dist.Dirichlet(torch.full_like(z["weight"], 5.0)).log_prob(z["weight"])
        + log_normal(z["location"], 4.0, 2.0).sum()
        + (log_normal(z["scale"].log(), math.log(0.5), 0.5) - z["scale"].log()).sum()
    )
    terms = z["weight"].log() + log_normal(petal[:, None], z["location"], z["scale"])  # [flower, class]
    return prior + terms.logsumexp(-1).sum()


@pytest.mark.parametrize("K", [2, 3])
def test_enumerated_mixture_is_the_hand_written_log_sum_exp(K: int) -> None:
    density, data = log_density(gaussian_mixture.ENTRY.with_options(K=K))
    for u in points(4, density.dim):
        value, gradient = density.gradient(u)
        point = u.clone().requires_grad_(True)
        jacobian = sum(
            s.transform.log_abs_det_jacobian(point[s.start : s.stop], s.transform(point[s.start : s.stop])).sum() for s in density.sites
        )
        by_hand = mixture_by_hand(density.constrain(point), data.train["petal"]) + jacobian
        (slope,) = torch.autograd.grad(by_hand, point)
        assert value.item() == pytest.approx(by_hand.item(), rel=1e-12, abs=1e-10)
        assert (gradient - slope).abs().max() <= 1e-10 * (1 + slope.abs().max())


@pytest.mark.parametrize("K", [2, 3])
def test_a_class_shrinking_onto_tied_values_loses_density_without_bound(K: int) -> None:
    density, data = log_density(gaussian_mixture.ENTRY.with_options(K=K))
    values, counts = data.train["petal"].unique(return_counts=True)
    tied = values[counts.argmax()]
    assert counts.max() >= 13
    location = torch.linspace(4.0, 6.0, K, dtype=torch.float64)
    location[0] = tied
    weight = torch.full((K,), 1 / K, dtype=torch.float64)
    heights = []
    for log_scale in (-10.0, -20.0, -40.0, -80.0):
        scale = torch.ones(K, dtype=torch.float64)
        scale[0] = math.exp(log_scale)
        heights.append(density(density.unconstrain({"weight": weight, "location": location, "scale": scale})).item())
    assert heights[-1] < -5000
    assert all(a > b for a, b in pairwise(heights))


@pytest.mark.parametrize("K", [2, 3])
def test_mixture_quantities_do_not_see_labels(K: int) -> None:
    entry = gaussian_mixture.ENTRY.with_options(K=K)
    density, data = log_density(entry)
    draws = density.constrain(points(7, density.dim))
    flipped = {name: value.flip(-1) for name, value in draws.items()}
    assert torch.allclose(density.batch(density.unconstrain(flipped)), density.batch(density.unconstrain(draws)))
    for name, quantity in entry.quantities.items():
        assert torch.allclose(quantity.fn(draws, data), quantity.fn(flipped, data), atol=1e-10), name
    assert (entry.quantities["location"].fn(draws, data).diff(dim=-1) > 0).all()


def test_co_assignment_is_the_probability_of_a_shared_class() -> None:
    entry = gaussian_mixture.ENTRY.with_options(K=3)
    density, data = log_density(entry)
    z = density.constrain(points(1, density.dim)[0])

    def responsibility(value: float) -> Tensor:
        return (z["weight"].log() + log_normal(torch.tensor(value), z["location"], z["scale"])).softmax(-1)

    for log_odds, (a, b) in zip(gaussian_mixture.co_assignment(z, data), gaussian_mixture.PAIRS[3], strict=True):
        assert {a, b} <= set(data.train["petal"].tolist()), "pairs are measured values"
        shared = (responsibility(a) * responsibility(b)).sum()
        assert torch.sigmoid(log_odds).item() == pytest.approx(shared.item(), abs=1e-7)


def test_mixture_refuses_other_numbers_of_classes() -> None:
    with pytest.raises(UsageError, match="2 or 3"):
        gaussian_mixture.ENTRY.with_options(K=1).load_data()


# -- minibatches ----------------------------------------------------------------------------------------------------


def test_minibatches_are_unbiased() -> None:
    density, data = log_density(random_intercepts.ENTRY)
    size, batch = 40, 20
    u = points(1, density.dim)[0]

    def on(index: list[int]) -> float:
        rows = torch.tensor(index)
        return density.evaluate(u, {"x": data.train["x"][rows], "y": data.train["y"][rows], "index": rows}).item()

    full = density(u).item()
    # A partition holds every group once, so its mean is exact; one part alone is not.
    parts = [list(range(start, size, size // batch)) for start in range(size // batch)]
    assert np.mean([on(p) for p in parts]) == pytest.approx(full, rel=1e-12)
    assert abs(on(parts[0]) - full) > 1
    # Wrong rows under the right index must not go unnoticed.
    wrong = density.evaluate(u, {"x": data.train["x"][:batch], "y": data.train["y"][:batch], "index": torch.arange(20, 40)}).item()
    assert wrong != pytest.approx(on(list(range(20, 40))))


def test_the_encoder_sees_sufficient_means() -> None:
    entry = random_intercepts.ENTRY
    density, data = log_density(entry)
    assert entry.amortize is not None
    features = entry.amortize(data.train)
    assert features.shape == (40, 2)
    # Given the hyperparameters the effect of a group is normal with a mean linear in its features: the gradient of the
    # density vanishes there.
    z = density.constrain(points(1, density.dim)[0])
    precision = 1 / z["group_scale"] ** 2 + 6 / z["noise_scale"] ** 2
    residual = features[:, 0] - z["slope"] * features[:, 1]
    z["effect"] = (z["intercept"] / z["group_scale"] ** 2 + 6 * residual / z["noise_scale"] ** 2) / precision
    _, gradient = density.gradient(density.unconstrain(z))
    assert gradient[4:].abs().max() < 1e-9


def test_generated_data_follow_the_recipe_and_the_seed() -> None:
    entry = random_intercepts.ENTRY
    first, again, other = entry.load_data(0), entry.load_data(0), entry.load_data(1)
    assert torch.equal(first.train["y"], again.train["y"])
    assert not torch.equal(first.train["y"], other.train["y"])
    # Within groups, the least-squares slope and residual sd are those of the recipe, within 4 standard errors.
    x = first.train["x"] - first.train["x"].mean(-1, keepdim=True)
    y = first.train["y"] - first.train["y"].mean(-1, keepdim=True)
    slope = (x * y).sum() / (x * x).sum()
    noise = ((y - slope * x).square().sum() / (240 - 40 - 1)).sqrt()
    assert abs(slope - 0.5) < 4 * 0.8 / (x * x).sum().sqrt()
    assert abs(noise / 0.8 - 1) < 4 / math.sqrt(2 * 199)


def test_regression_columns_are_standardized_and_named() -> None:
    for entry, rows in ((linear_regression.ENTRY, 442), (logistic_regression.ENTRY, 569)):
        data = entry.load_data()
        x = data.train["x"]
        assert x.shape == (rows, len(data.coords["feature"]))
        assert x.mean(0).abs().max() < 1e-12
        assert torch.allclose((x * x).mean(0), torch.ones(x.shape[1], dtype=torch.float64))
    # The correlations that make mean-field fail are in the data.
    x = linear_regression.ENTRY.load_data().train["x"]
    strongest = max(abs((x[:, i] * x[:, j]).mean().item()) for i, j in combinations(range(10), 2))
    assert strongest == pytest.approx(0.897, abs=1e-3)
    assert torch.allclose(standardize(3 * x + 1), x)
