"""Hierarchical entries against integrals, marginal normals and hand-written densities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from support.densities import log_density, normal, points
from torch import Tensor

import zoo
from zoo.models.hierarchical import crossed_effects, item_response, item_response_marginal
from zoo.truth import stored as reference


def test_both_forms_of_the_pumps_differ_by_the_jacobian() -> None:
    flat, data = log_density(zoo.load("hierarchical_poisson"))
    centered, _ = log_density(zoo.load("hierarchical_poisson_centered"))
    for u in points(4, flat.dim):
        z = flat.constrain(u)
        rate = zoo.load("hierarchical_poisson").quantities["log_rate"].fn(z, data)
        v = centered.unconstrain({"mean": z["mean"], "spread": z["spread"], "log_rate": rate})
        assert flat(u).item() == pytest.approx(
            (centered(v) + 10 * z["spread"].log()).item(), abs=1e-9
        )


def test_the_reference_of_the_pumps_is_the_nested_integral() -> None:
    """Given mean and spread each pump is a one-dimensional integral; the two form a grid."""
    entry = zoo.load("hierarchical_poisson_centered")
    data = entry.load_data()
    hours, failures = data.train["hours"].numpy(), data.train["failures"].numpy()
    mean, log_spread = np.linspace(-5.0, 3.0, 65), np.linspace(-1.6, 1.8, 61)
    m, s = mean[:, None, None], np.exp(log_spread)[None, :, None]
    # [mean, spread, 1]
    log_joint = stats.norm.logpdf(m, -1, 2) + stats.halfnorm.logpdf(s, scale=2) + np.log(s)
    first, second = [], []  # E[log rate | mean, spread], E[log rate^2 | mean, spread] per pump
    eta = np.linspace(-9.0, 5.0, 281)
    prior = stats.norm.logpdf(eta, m, s)  # [mean, spread, node]
    for t, k in zip(hours, failures, strict=True):
        weight = np.exp(prior + stats.poisson.logpmf(k, t * np.exp(eta)))
        total = weight.sum(-1)
        first.append((weight @ eta) / total)
        second.append((weight @ eta**2) / total)
        log_joint = log_joint + np.log(total)[..., None]
    p = np.exp(log_joint[..., 0] - log_joint.max())
    p /= p.sum()
    assert max(p[0].max(), p[-1].max(), p[:, 0].max(), p[:, -1].max()) < 1e-5 * p.max()
    rates = [(p * a).sum() for a in first]
    exact = {
        "mean": ((p * mean[:, None]).sum(), (p * mean[:, None] ** 2).sum()),
        "log_spread": ((p * log_spread).sum(), (p * log_spread**2).sum()),
        "log_rate": (np.array(rates), np.array([(p * b).sum() for b in second])),
    }
    stored = reference.read(entry.name).moments
    for name, (mu, square) in exact.items():
        z_mean = (stored[name].mean.numpy() - mu) / stored[name].mean_se.numpy()
        z_sd = (stored[name].sd.numpy() - np.sqrt(square - mu**2)) / stored[name].sd_se.numpy()
        assert np.abs(z_mean).max() < 4, name
        assert np.abs(z_sd).max() < 4, name


def half_normal(x: Tensor, sd: float) -> Tensor:
    return math.log(2) + normal(x, 0.0, sd)


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
