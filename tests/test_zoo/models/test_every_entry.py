"""All entries: labels, prior predictive, densities against formulas, minibatches."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pyro
import pytest
import torch
from support.densities import log_density, points
from torch import Tensor

from zoo.datasets import standardize
from zoo.density.log_density import default_dtype
from zoo.models.classics import correlated_gaussian
from zoo.models.conjugate import coin, linear_regression
from zoo.models.hierarchical import eight_schools, eight_schools_centered, random_intercepts
from zoo.models.mixtures import gaussian_mixture
from zoo.models.regression import logistic_regression
from zoo.types import ModelEntry

MODULES = (
    coin,
    correlated_gaussian,
    eight_schools,
    eight_schools_centered,
    gaussian_mixture,
    linear_regression,
    logistic_regression,
    random_intercepts,
)
ENTRIES = [m.ENTRY for m in MODULES] + [
    correlated_gaussian.ENTRY.with_options(d=5, rho=-0.2),
    gaussian_mixture.ENTRY.with_options(K=3),
]
IDS = [e.key for e in ENTRIES]


def log_normal(x: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    sd = torch.as_tensor(sd, dtype=torch.float64)
    return -0.5 * ((x - mean) / sd) ** 2 - sd.log() - 0.5 * math.log(2 * math.pi)


def log_half_cauchy(x: Tensor, scale: float) -> Tensor:
    return math.log(2 / math.pi / scale) - torch.log1p((x / scale) ** 2)


# -- every entry -------------------------------------------------------------------------------


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


# -- hand-written densities --------------------------------------------------------------------


def test_eight_schools_is_the_hand_written_density() -> None:
    density, data = log_density(eight_schools.ENTRY)
    se, y = data.train["se"], data.train["y"]
    for u in points(5, density.dim, scale=1.5):
        z = density.constrain(u)
        mu, tau, raw = z["mu"], z["tau"], z["theta_raw"]
        by_hand = (
            log_normal(mu, 0.0, 5.0)
            + log_half_cauchy(tau, 5.0)
            + log_normal(raw, 0.0, 1.0).sum()
            + log_normal(y, mu + tau * raw, se).sum()
            + tau.log()
        )
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
            assert torch.allclose(
                other.fn(funnel.constrain(v), data), quantity.fn(z, data), atol=1e-12
            )


def test_logistic_regression_is_the_hand_written_density() -> None:
    density, data = log_density(logistic_regression.ENTRY)
    x, y = data.train["x"], data.train["malignant"]
    for u in points(3, density.dim):
        z = density.constrain(u)
        logit = z["intercept"] + x @ z["weight"]
        likelihood = -torch.log1p(torch.exp(-(2 * y - 1) * logit)).sum()
        by_hand = (
            likelihood
            + log_normal(z["intercept"], 0.0, 2.5)
            + log_normal(z["weight"], 0.0, 2.5).sum()
        )
        assert density(u).item() == pytest.approx(by_hand.item(), abs=1e-9)


def test_random_intercepts_is_the_hand_written_density() -> None:
    density, data = log_density(random_intercepts.ENTRY)
    x, y = data.train["x"], data.train["y"]
    for u in points(3, density.dim):
        z = density.constrain(u)
        group, noise = z["group_scale"], z["noise_scale"]
        by_hand = (
            log_normal(z["intercept"], 0.0, 5.0)
            + log_normal(z["slope"], 0.0, 2.5)
            + (math.log(2) + log_normal(group, 0.0, 2.0))
            + (math.log(2) + log_normal(noise, 0.0, 2.0))
            + log_normal(z["effect"], z["intercept"], group).sum()
            + log_normal(y, z["effect"][:, None] + z["slope"] * x, noise).sum()
            + group.log()
            + noise.log()
        )
        assert density(u).item() == pytest.approx(by_hand.item(), abs=1e-9)


# -- minibatches -------------------------------------------------------------------------------


def test_minibatches_are_unbiased() -> None:
    density, data = log_density(random_intercepts.ENTRY)
    size, batch = 40, 20
    u = points(1, density.dim)[0]

    def on(index: list[int]) -> float:
        rows = torch.tensor(index)
        return density.evaluate(
            u, {"x": data.train["x"][rows], "y": data.train["y"][rows], "index": rows}
        ).item()

    full = density(u).item()
    # A partition holds every group once, so its mean is exact; one part alone is not.
    parts = [list(range(start, size, size // batch)) for start in range(size // batch)]
    assert np.mean([on(p) for p in parts]) == pytest.approx(full, rel=1e-12)
    assert abs(on(parts[0]) - full) > 1
    # Wrong rows with the right index must be noticed.
    wrong = density.evaluate(
        u,
        {
            "x": data.train["x"][:batch],
            "y": data.train["y"][:batch],
            "index": torch.arange(20, 40),
        },
    ).item()
    assert wrong != pytest.approx(on(list(range(20, 40))))


def test_a_minibatch_keeps_the_order_of_its_index() -> None:
    entry = random_intercepts.ENTRY
    data = entry.load_data()
    index = torch.tensor([7, 3, 31])
    tensors = {name: data.train[name][index] for name in data.batched}
    with default_dtype(entry.dtype):
        trace = pyro.poutine.trace(entry.program(data)).get_trace(**tensors, index=index)
    # Rows and effects are matched by position, and guides slice their locals by the plate's value.
    assert torch.equal(trace.nodes["group"]["value"], index)
    assert trace.nodes["effect"]["value"].shape == (3,)
    assert trace.nodes["effect"]["scale"] == pytest.approx(40 / 3)
    assert trace.nodes["y"]["scale"] == pytest.approx(40 / 3)
    assert trace.nodes["slope"]["scale"] == 1


def test_the_encoder_sees_sufficient_means() -> None:
    entry = random_intercepts.ENTRY
    density, data = log_density(entry)
    assert entry.amortize is not None
    features = entry.amortize(data.train)
    assert features.shape == (40, 2)
    # Given the hyperparameters the effect of a group is normal with a mean linear in its features:
    # the gradient of the density vanishes there.
    z = density.constrain(points(1, density.dim)[0])
    precision = 1 / z["group_scale"] ** 2 + 6 / z["noise_scale"] ** 2
    residual = features[:, 0] - z["slope"] * features[:, 1]
    z["effect"] = (
        z["intercept"] / z["group_scale"] ** 2 + 6 * residual / z["noise_scale"] ** 2
    ) / precision
    _, gradient = density.gradient(density.unconstrain(z))
    assert gradient[4:].abs().max() < 1e-9


def test_generated_data_follow_the_recipe_and_the_seed() -> None:
    entry = random_intercepts.ENTRY
    first, again, other = entry.load_data(0), entry.load_data(0), entry.load_data(1)
    assert torch.equal(first.train["y"], again.train["y"])
    assert not torch.equal(first.train["y"], other.train["y"])
    # Within groups, the least-squares slope and residual sd are those of the recipe, within 4
    # standard errors.
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
