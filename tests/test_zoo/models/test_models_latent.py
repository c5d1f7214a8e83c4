"""Models with latent effects, abilities and functions against independent formulas.

Also survival, ordinal answers and lines.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from support.densities import log_density, normal, points
from torch import Tensor

from benchmarks.audit import targets_entries
from benchmarks.audit.sites import integral
from zoo.distributions.univariate import CensoredWeibull
from zoo.models.hierarchical import crossed_effects, item_response, item_response_marginal
from zoo.models.mixtures import mixture_of_regressions
from zoo.models.processes import gp_latent, gp_regression
from zoo.models.regression import ordinal_regression, weibull_survival
from zoo.models.time_series import stochastic_volatility
from zoo.truth import stored as reference


def half_normal(x: Tensor, sd: float) -> Tensor:
    return math.log(2) + normal(x, 0.0, sd)


# -- survival, ordinal -------------------------------------------------------------------------


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


def grid_moments(grid: targets_entries.Grid) -> list[tuple[float, float]]:
    """Mean and sd of every coordinate of a density on a grid."""
    axes, values = grid
    weight = np.exp(values - values.max())
    assert max(weight.take([0, -1], axis=i).max() for i in range(3)) < 1e-5
    out = []
    for i, axis in enumerate(axes):
        p = weight.sum(tuple(j for j in range(3) if j != i))
        mean = (p @ axis) / p.sum()
        out.append((mean, math.sqrt((p @ axis**2) / p.sum() - mean**2)))
    return out


def test_the_reference_of_the_strikes_is_that_of_a_grid() -> None:
    stored = reference.read("weibull_survival").moments
    for name, (mean, sd) in zip(
        ("level", "slope", "log_shape"),
        grid_moments(targets_entries.weibull_grid(41)),
        strict=True,
    ):
        assert abs(stored[name].mean.item() - mean) < 4 * stored[name].mean_se.item(), name
        assert abs(stored[name].sd.item() - sd) < 4 * stored[name].sd_se.item(), name


def test_moments_and_evidence_of_the_process_are_those_of_eigenvalues_on_a_grid() -> None:
    exact = gp_regression.ENTRY.exact(gp_regression.ENTRY.load_data())
    assert exact is not None
    grid = targets_entries.gp_grid(41)
    assert exact.log_evidence == pytest.approx(targets_entries.log_integral(grid), abs=1e-3)
    for name, (mean, sd) in zip(gp_regression.QUANTITIES, grid_moments(grid), strict=True):
        assert exact.moments[name].mean.item() == pytest.approx(mean, abs=1e-3 * sd)
        assert exact.moments[name].sd.item() == pytest.approx(sd, rel=2e-3)


def test_exact_draws_of_three_coordinates_have_the_moments_of_the_grid() -> None:
    data = gp_regression.ENTRY.load_data()
    exact = gp_regression.ENTRY.exact(data)
    assert exact is not None
    draws = exact.sample(1000, 5)
    for name, (mean, sd) in zip(
        ("length", "amplitude", "noise"), grid_moments(targets_entries.gp_grid(31)), strict=True
    ):
        x = draws[name].log()
        assert abs(x.mean().item() - mean) < 5 * sd / math.sqrt(1000)
        assert x.std().item() == pytest.approx(sd, rel=5 * 0.03)


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


# -- crossed effects ---------------------------------------------------------------------------


def test_crossed_effects_have_the_marginal_density_of_a_normal() -> None:
    """Log joint - log p(effects | marks, scales) is a normal log density of 1,200 marks.

    It does not depend on the effects.
    """
    density, data = log_density(crossed_effects.ENTRY)
    rater, film, mark = (data.train[k] for k in ("rater", "film", "mark"))
    hot = torch.nn.functional.one_hot
    design = torch.cat([torch.ones(len(mark), 1), hot(rater, 100), hot(film, 24)], -1).double()
    for u in points(2, density.dim):
        z = density.constrain(u)
        a, b, s = z["rater_scale"], z["film_scale"], z["noise_scale"]
        prior_sd = torch.cat([torch.tensor([5.0]).double(), a.expand(100), b.expand(24)])
        effects = torch.cat([z["intercept"].reshape(1), z["rater_effect"], z["film_effect"]])
        precision = design.T @ design / s**2 + torch.diag(prior_sd**-2)
        mean = torch.linalg.solve(precision, design.T @ mark / s**2)
        conditional = torch.distributions.MultivariateNormal(
            mean, precision_matrix=precision
        ).log_prob(effects)
        scales = sum(half_normal(t, 2.0) + t.log() for t in (a, b, s))
        covariance = (design * prior_sd**2) @ design.T + s**2 * torch.eye(
            len(mark), dtype=torch.float64
        )
        marginal = torch.distributions.MultivariateNormal(
            torch.zeros(len(mark)).double(), covariance
        ).log_prob(mark)
        assert density(u).item() == pytest.approx(
            (conditional + marginal + scales).item(), abs=1e-6
        )


def test_every_film_is_marked_and_no_rater_marks_one_twice() -> None:
    data = crossed_effects.ENTRY.load_data()
    pairs = torch.stack([data.train["rater"], data.train["film"]], -1)
    assert len(pairs.unique(dim=0)) == 1200
    assert len(data.train["film"].unique()) == 24


# -- latent variables integrated out -----------------------------------------------------------


def test_abilities_are_integrated_out_to_rounding() -> None:
    data = item_response_marginal.ENTRY.load_data()
    a = torch.linspace(0.3, 2.5, 10, dtype=torch.float64)
    e = torch.linspace(-2.0, 2.0, 10, dtype=torch.float64)
    found = item_response_marginal.Answers(a.unsqueeze(0), e.unsqueeze(0)).log_prob(
        data.train["correct"][:4]
    )
    for i in range(4):
        sign = 2 * data.train["correct"][i].numpy() - 1

        def integrand(t: float, sign: np.ndarray = sign) -> float:
            return math.exp(
                stats.norm.logpdf(t)
                + stats.logistic.logcdf(sign * (a.numpy() * t + e.numpy())).sum()
            )

        exact = math.log(integrate.quad(integrand, -9, 9, epsabs=0, epsrel=1e-10, limit=200)[0])
        assert found[i].item() == pytest.approx(exact, abs=1e-6)


def test_item_response_joint_and_marginal_agree_for_one_person() -> None:
    """Integrating one ability out of the joint density gives the marginal's change."""
    joint, data = log_density(item_response.ENTRY)
    u = points(1, joint.dim)[0]
    z = joint.constrain(u)
    place = next(s for s in joint.sites if s.name == "ability").start
    grid = torch.arange(-7, 7, 0.1, dtype=torch.float64)
    many = u.repeat(len(grid), 1)
    many[:, place] = grid
    integral = joint.batch(many).logsumexp(0) + math.log(0.1)
    own = (
        normal(u[place], 0.0, 1.0)
        + torch.distributions.Bernoulli(logits=z["discrimination"] * u[place] + z["easiness"])
        .log_prob(data.train["correct"][0])
        .sum()
    )
    summed = item_response_marginal.Answers(
        z["discrimination"].unsqueeze(0), z["easiness"].unsqueeze(0)
    ).log_prob(data.train["correct"][:1])
    assert (integral - joint(u)).item() == pytest.approx((summed[0] - own).item(), abs=1e-5)


def test_completed_abilities_are_draws_of_their_conditional() -> None:
    data = item_response.make_data(0)
    a = torch.linspace(0.5, 2.0, 10, dtype=torch.float64).expand(1, 100, 10)
    e = torch.linspace(-1.0, 1.5, 10, dtype=torch.float64).expand(1, 100, 10)
    # [draw, person]
    ability = item_response.complete({"discrimination": a, "easiness": e}, data)["ability"][0]
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    logits = a[0, 0] * grid.unsqueeze(-1) + e[0, 0]
    score = (
        data.train["correct"] @ logits.T
        - torch.nn.functional.softplus(logits).sum(-1)
        - 0.5 * grid**2
    )
    p = score.softmax(-1)
    mean = p @ grid
    sd = (p @ grid**2 - mean**2).sqrt()
    z = (ability.mean(0) - mean) / (sd / 10)
    assert z.abs().max() < 5
    assert z.std().item() == pytest.approx(1.0, abs=0.1)
    assert (ability.std(0) / sd).mean().item() == pytest.approx(1.0, abs=0.02)


def test_the_latent_function_integrates_to_the_marginal_process() -> None:
    latent, data = log_density(gp_latent.ENTRY)
    marginal, _ = log_density(gp_regression.ENTRY)
    y = data.train["y"]
    for u in points(3, latent.dim, scale=0.4):
        z = latent.constrain(u)
        lower = gp_latent.factor(data.train["year"], z["length"], z["amplitude"])
        precision = lower.T @ lower / z["noise"] ** 2 + torch.eye(100, dtype=torch.float64)
        mean = torch.linalg.solve(precision, lower.T @ y / z["noise"] ** 2)
        conditional = torch.distributions.MultivariateNormal(
            mean, precision_matrix=precision
        ).log_prob(z["z"])
        # the three hyperparameters come first in both programs, so their prior and Jacobian cancel
        assert (latent(u) - conditional).item() == pytest.approx(marginal(u[:3]).item(), abs=1e-6)


def test_completed_functions_are_draws_of_their_conditional() -> None:
    data = gp_latent.make_data(0)
    h = {"length": 3.0, "amplitude": 1.1, "noise": 0.2}
    draws = {k: torch.full((1, 500), v, dtype=torch.float64) for k, v in h.items()}
    f = gp_latent.function(gp_latent.complete(draws, data), data)[0]  # [draw, shown]
    year, y = data.train["year"], data.train["y"]
    k = gp_regression.kernel(year, torch.tensor(3.0).double(), torch.tensor(1.1).double())
    gain = torch.linalg.solve(k + 0.04 * torch.eye(100), k).T
    shown = list(gp_latent.SHOWN)
    mean, sd = (gain @ y)[shown], (k - gain @ k).diagonal().sqrt()[shown]
    assert ((f.mean(0) - mean).abs() < 5 * sd / math.sqrt(500)).all()
    assert torch.allclose(f.std(0) / sd, torch.ones(len(shown)).double(), atol=5 / math.sqrt(1000))


# -- time series, mixture ----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.97, 0.3], ids=["slow", "alternating"])
def test_deviations_follow_the_recursion(share: float) -> None:
    p, step = (torch.tensor(v, dtype=torch.float64) for v in (share, 0.3))
    z, phi = points(1, 50, scale=1.0)[0], 2 * share - 1
    d = [(step * z[0] / math.sqrt(1 - phi**2)).item()]
    for t in range(1, 50):
        d.append(phi * d[-1] + step.item() * z[t].item())
    assert torch.allclose(
        stochastic_volatility.deviations(p, step, z), torch.tensor(d, dtype=torch.float64)
    )


def test_stochastic_volatility_has_the_density_of_the_form_with_a_level() -> None:
    """The forms with average and with level have equal density: a shift has Jacobian 1."""
    density, data = log_density(stochastic_volatility.ENTRY)
    u = points(1, density.dim)[0]
    z = density.constrain(u)
    p, step, noise = (z[k].numpy() for k in ("persistence", "volatility", "z"))
    phi = 2 * p - 1
    d = [step * noise[0] / math.sqrt(1 - phi**2)]
    for e in noise[1:]:
        d.append(phi * d[-1] + step * e)
    level = z["average"].item() - np.mean(d)
    value = (
        stats.norm.logpdf(level, -0.5, 1)
        + stats.beta.logpdf(p, 20, 1.5)
        + stats.halfnorm.logpdf(step, scale=0.5)
    )
    value += (
        stats.norm.logpdf(noise).sum()
        + stats.norm.logpdf(data.train["growth"], 0, np.exp((level + np.array(d)) / 2)).sum()
    )
    value += np.log(p * (1 - p)) + np.log(step)  # of the logistic function and of exp
    assert density(u).item() == pytest.approx(value, abs=1e-9)
    assert stochastic_volatility.level(
        {k: v[None] for k, v in z.items()}, data
    ).item() == pytest.approx(level, abs=1e-12)


def test_mixture_of_regressions_is_the_hand_written_density() -> None:
    density, data = log_density(mixture_of_regressions.ENTRY)
    x, y = data.train["length"], data.train["width"]
    u = points(1, density.dim)[0]
    z = density.constrain(u)
    parts = (
        normal(y.unsqueeze(-1), z["center"] + z["slope"] * x.unsqueeze(-1), z["scale"])
        + z["weight"].log()
    )
    prior = (
        torch.distributions.Dirichlet(torch.full((2,), 5.0).double()).log_prob(z["weight"])
        + normal(z["center"], 3.0, 0.5).sum()
        + normal(z["slope"], 0.0, 1.0).sum()
        + (normal(z["scale"].log(), math.log(0.3), 0.4) - z["scale"].log()).sum()
    )
    jacobian = sum(
        s.transform.log_abs_det_jacobian(u[s.start : s.stop], s.transform(u[s.start : s.stop]))
        .sum()
        .item()
        for s in density.sites
    )
    assert density(u).item() == pytest.approx(
        (parts.logsumexp(-1).sum() + prior).item() + jacobian, abs=1e-8
    )
