"""Regressions against hand-written densities and conditional normals."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support.densities import log_density, normal, points
from torch import Tensor

from benchmarks.audit.sites import integral
from zoo.distributions.univariate import CensoredWeibull
from zoo.models.regression import (
    bayesian_neural_network,
    horseshoe_marginal,
    horseshoe_regression,
    ordinal_regression,
    weibull_survival,
)


def scales_of(z: dict[str, torch.Tensor]) -> np.ndarray:
    """Prior sds of the weights in the notation of Piironen and Vehtari."""
    tau = (z["global"] * z["sigma"] * 5 / 25 / math.sqrt(442)).numpy()
    local = z["local"].numpy()
    return local * tau * np.sqrt(z["slab"].numpy() / (z["slab"].numpy() + tau**2 * local**2))


def test_the_marginal_horseshoe_is_a_joint_normal_given_its_scales() -> None:
    density, data = log_density(horseshoe_marginal.ENTRY)
    x, y = data.train["x"].numpy(), data.train["progress"].numpy()
    for u in points(3, density.dim):
        z = density.constrain(u)
        sigma, sd = z["sigma"].item(), np.append(1.0, scales_of(z))
        # Jacobian of the logarithms
        prior = (
            stats.halfnorm.logpdf(sigma)
            + stats.halfcauchy.logpdf(z["global"].item())
            + stats.invgamma.logpdf(z["slab"].item(), 2, scale=2)
            + stats.halfcauchy.logpdf(z["local"].numpy()).sum()
            + sum(z[k].log().sum().item() for k in ("sigma", "global", "slab", "local"))
        )
        likelihood = stats.multivariate_normal.logpdf(
            y, np.zeros(442), sigma**2 * np.eye(442) + (x * sd**2) @ x.T
        )
        assert density(u).item() == pytest.approx(prior + likelihood, abs=1e-7)


def test_the_whole_horseshoe_is_the_marginal_times_its_conditional() -> None:
    whole, data = log_density(horseshoe_regression.ENTRY)
    marginal, _ = log_density(horseshoe_marginal.ENTRY)
    x = np.column_stack([np.ones(442), data.train["x"].numpy()])
    for u in points(3, whole.dim):
        z = whole.constrain(u)
        scaled = x * np.append(1.0, scales_of(z)) / z["sigma"].item()
        precision = scaled.T @ scaled + np.eye(31)
        mean = np.linalg.solve(
            precision, scaled.T @ data.train["progress"].numpy() / z["sigma"].item()
        )
        standard = np.append(z["intercept"].item(), z["z"].numpy())
        conditional = stats.multivariate_normal.logpdf(standard, mean, np.linalg.inv(precision))
        rest = marginal(
            marginal.unconstrain({k: z[k] for k in ("sigma", "global", "slab", "local")})
        )
        assert whole(u).item() == pytest.approx(rest.item() + conditional, abs=1e-7)


def test_completed_weights_are_draws_of_their_conditional() -> None:
    data, n = horseshoe_regression.make_data(0), 4000
    one = {"sigma": 0.7, "global": 1.0, "slab": 1.0}
    draws = {k: torch.full((1, n), v, dtype=torch.float64) for k, v in one.items()}
    draws["local"] = torch.linspace(0.1, 20.0, 30, dtype=torch.float64).expand(1, n, 30)
    full = horseshoe_regression.complete(draws, data)
    found = horseshoe_regression.weights(full, data)[0].numpy()
    x, y = data.train["x"].numpy(), data.train["progress"].numpy()
    sd = scales_of({k: v[0, 0] for k, v in draws.items()})
    # the columns are centered, so the intercept separates
    covariance = np.linalg.inv(x.T @ x / 0.49 + np.diag(sd**-2.0))
    mean, width = covariance @ x.T @ y / 0.49, np.sqrt(np.diag(covariance))
    assert np.abs((found.mean(0) - mean) / width).max() < 5 / math.sqrt(n)
    assert np.abs(found.std(0) / width - 1).max() < 5 / math.sqrt(2 * n)
    assert np.abs(
        np.corrcoef(found.T) - covariance / np.outer(width, width)
    ).max() < 5 / math.sqrt(n)
    level = full["intercept"][0]
    assert abs(level.mean().item()) < 5 * (442 / 0.49 + 1) ** -0.5 / math.sqrt(n)


def test_noise_columns_know_nothing_and_follow_the_data_seed() -> None:
    one, two = horseshoe_regression.make_data(0).train, horseshoe_regression.make_data(1).train
    assert torch.equal(one["x"][:, :10], two["x"][:, :10])
    assert not torch.equal(one["x"][:, 10:], two["x"][:, 10:])
    correlation = (one["x"][:, 10:].T @ one["progress"] / 442).abs()
    assert correlation.max() < 4 / math.sqrt(442)


def test_the_network_is_the_hand_written_density() -> None:
    density, data = log_density(bayesian_neural_network.ENTRY)
    t, flow = data.train["t"].numpy(), data.train["flow"].numpy()
    for u in points(3, density.dim):
        z = {k: v.numpy() for k, v in density.constrain(u).items()}
        f = z["level"] + sum(
            b * np.tanh(a * t + c)
            for a, b, c in zip(z["slope"], z["out"], z["shift"], strict=True)
        )
        prior = (
            normal(torch.tensor(np.append(z["slope"], z["shift"])), 0.0, 2.0).sum().item()
            + stats.norm.logpdf(z["out"], scale=12**-0.5).sum()
            + stats.norm.logpdf(z["level"])
            + stats.halfnorm.logpdf(z["sigma"])
            + np.log(z["sigma"])
        )
        assert density(u).item() == pytest.approx(
            prior + stats.norm.logpdf(flow, f, z["sigma"]).sum(), abs=1e-8
        )


def test_orders_and_signs_of_units_change_neither_density_nor_quantities() -> None:
    density, data = log_density(bayesian_neural_network.ENTRY)
    u = points(1, density.dim)[0]
    z = density.constrain(u)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    signs = torch.tensor(
        list(itertools.islice(itertools.cycle((1.0, -1.0, -1.0)), 12)), dtype=torch.float64
    )
    copy = {**z, **{k: (z[k] * signs)[order] for k in ("slope", "shift", "out")}}
    v = density.unconstrain(copy)
    assert not torch.allclose(u, v)
    assert density(v).item() == pytest.approx(density(u).item(), abs=1e-10)
    for quantity in bayesian_neural_network.ENTRY.quantities.values():
        assert torch.allclose(quantity.fn(copy, data), quantity.fn(z, data))


def test_the_censored_weibull_is_that_of_scipy() -> None:
    x, limit = torch.tensor([0.2, 3.0, 17.0, 20.0], dtype=torch.float64), 20.0
    ours = CensoredWeibull(
        torch.tensor(2.1, dtype=torch.float64),
        torch.tensor(1.3, dtype=torch.float64),
        torch.full((4,), limit),
    )
    theirs = stats.weibull_min(1.3, scale=math.exp(2.1))
    expected = np.append(theirs.logpdf(x[:3]), theirs.logsf(limit))
    assert np.allclose(ours.log_prob(x), expected, atol=1e-12)
    torch.manual_seed(0)
    drawn = ours.sample((20_000,))[:, 0].numpy()
    share = theirs.sf(limit)
    assert abs((drawn == limit).mean() - share) < 5 * math.sqrt(share / 20_000)
    assert (
        stats.kstest(drawn[drawn < limit], lambda t: theirs.cdf(t) / theirs.cdf(limit)).pvalue
        > 1e-4
    )
    assert ours.support.check(x).all()
    assert not ours.support.check(torch.tensor(20.1)).any()  # no observation beyond the limit


@pytest.mark.parametrize("log_scale", [1.0, 2.1, 3.5])  # 0, 5 and 57 % reach the limit
def test_the_density_below_the_limit_and_the_chance_of_reaching_it_make_one(
    log_scale: float,
) -> None:
    def node(kind: type) -> dict[str, Any]:
        return {
            "fn": kind(
                torch.full((2,), log_scale, dtype=torch.float64),
                torch.tensor(1.3, dtype=torch.float64),
                20.0,
            )
        }

    class Off(CensoredWeibull):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value) + 0.01

    total = integral(node(CensoredWeibull))
    assert total is not None
    assert torch.allclose(total, torch.ones(2, dtype=torch.float64), atol=1e-4)
    wrong = integral(node(Off))
    assert wrong is not None
    assert (wrong > 1.009).all()


def test_twelve_strikes_are_censored() -> None:
    days = weibull_survival.ENTRY.load_data().train["days"]
    assert (days == 80).sum() == 12
    assert len(days) == 62


def test_ordinal_regression_is_the_hand_written_density() -> None:
    density, data = log_density(ordinal_regression.ENTRY)
    x, answer = data.train["x"].numpy(), data.train["answer"].numpy()
    u = points(1, density.dim)[0]
    z = density.constrain(u)
    cuts = np.concatenate(
        [[-np.inf], stats.logistic.ppf(z["share"].cumsum(-1)[:-1].numpy()), [np.inf]]
    )
    eta = x @ z["weight"].numpy()
    p = stats.logistic.cdf(cuts[answer + 1] - eta) - stats.logistic.cdf(cuts[answer] - eta)
    prior = (
        stats.dirichlet.logpdf(z["share"].numpy() / z["share"].sum().item(), np.ones(7))
        + stats.norm.logpdf(z["weight"].numpy()).sum()
    )
    jacobian = sum(
        s.transform.log_abs_det_jacobian(u[s.start : s.stop], s.transform(u[s.start : s.stop]))
        .sum()
        .item()
        for s in density.sites
    )
    assert density(u).item() == pytest.approx(np.log(p).sum() + prior + jacobian, abs=1e-8)
