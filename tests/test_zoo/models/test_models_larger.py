"""Funnels, banana, pumps, change point and tables against independent formulas.

These use scipy, loops and quadrature.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from support.densities import log_density, normal, points

import zoo
from zoo import datasets
from zoo.datasets.portable_random import Recipe
from zoo.distributions.multivariate import LevelShift
from zoo.models.classics import banana, funnel
from zoo.models.time_series import change_point
from zoo.truth import stored as reference

# -- targets without data ----------------------------------------------------------------------


def test_moments_of_the_funnel_are_those_of_quadrature() -> None:
    moments = funnel.moments()
    v, z = np.linspace(-25, 25, 1001)[:, None], np.linspace(0, 9, 2001)
    # E[asinh(x)^2 | v]
    inner = 2 * integrate.simpson(np.arcsinh(np.exp(v / 2) * z) ** 2 * stats.norm.pdf(z), x=z)
    square = integrate.simpson(inner * stats.norm.pdf(v[:, 0], scale=3), x=v[:, 0])
    assert moments["asinh_x"].sd[0].item() == pytest.approx(math.sqrt(square), rel=1e-4)
    mean = 2 * integrate.quad(lambda z: math.log(z) * stats.norm.pdf(z), 0, 9)[0]
    var = 2 * integrate.quad(lambda z: (math.log(z) - mean) ** 2 * stats.norm.pdf(z), 0, 9)[0]
    assert moments["log_abs_x"].mean[0].item() == pytest.approx(mean, abs=1e-7)
    assert moments["log_abs_x"].sd[0].item() == pytest.approx(math.sqrt(var + 9 / 4), abs=1e-6)


def test_both_funnels_are_one_distribution() -> None:
    flat, data = log_density(zoo.load("funnel"))
    neck, _ = log_density(zoo.load("funnel_centered"))
    for u in points(4, 10, scale=1.5):
        z = flat.constrain(u)
        x = {"v": z["v"], "x": z["z"] * (z["v"] / 2).exp()}
        assert flat(u).item() == pytest.approx(
            (neck(neck.unconstrain(x)) + 9 * z["v"] / 2).item(), abs=1e-9
        )
        for quantity in funnel.QUANTITIES.values():
            assert torch.allclose(quantity.fn(z, data), quantity.fn(x, data))


def test_documented_mean_field_of_the_funnel() -> None:
    density, _ = log_density(zoo.load("funnel_centered"))
    s2 = 1 / (1 / 9 + 9 / 2)
    sd = torch.tensor([s2**0.5] + [math.exp(-s2 / 4)] * 9, dtype=torch.float64)
    u = points(100_000, 10, scale=1.0) * sd
    gap = -(density.batch(u) - normal(u, 0.0, sd).sum(-1))
    assert sd[0].item() / 3 == pytest.approx(0.155, abs=5e-4)
    assert abs(gap.mean().item() - 1.863) < 5 * gap.std().item() / 316


def test_documented_mean_field_of_the_banana() -> None:
    density, _ = log_density(banana.ENTRY)
    nodes, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(12))
    grid = torch.cartesian_prod(nodes, nodes)
    weight = torch.outer(weights, weights).reshape(-1) / (2 * math.pi)

    def gap(q: np.ndarray) -> float:  # KL(q || p), exact: the integrand is a polynomial
        loc, log_sd = torch.tensor(q[:2]), torch.tensor(q[2:])
        entropy = log_sd.sum() + 1 + math.log(2 * math.pi)
        return float(-(weight @ density.batch(loc + grid * log_sd.exp())) - entropy)

    best = optimize.minimize(gap, np.array([0.0, -2.0, 1.0, 0.1]), method="BFGS")
    assert best.fun == pytest.approx(0.7258, abs=1e-4)
    assert np.exp(best.x[2]) / 10 == pytest.approx(0.3916, abs=1e-3)
    assert np.exp(best.x[3]) / math.sqrt(19) == pytest.approx(0.2294, abs=1e-3)
    assert best.x[1] / math.sqrt(19) == pytest.approx(-0.5827, abs=1e-3)


# -- hierarchical Poisson ----------------------------------------------------------------------


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


# -- change point ------------------------------------------------------------------------------


def test_the_level_shift_sums_over_every_change() -> None:
    x = torch.tensor([0.3, 1.9, -0.4, 2.2, 0.8], dtype=torch.float64)
    level, scale = (
        torch.tensor([0.1, 1.4], dtype=torch.float64),
        torch.tensor(0.7, dtype=torch.float64),
    )
    terms = [
        stats.norm.logpdf(x[:c], 0.1, 0.7).sum()
        + stats.norm.logpdf(x[c:], 1.4, 0.7).sum()
        - math.log(4)
        for c in range(1, 5)
    ]
    shift = LevelShift(level, scale, 5)
    assert shift.log_prob(x).item() == pytest.approx(np.logaddexp.reduce(terms), abs=1e-12)
    assert torch.allclose(shift.joint(x), torch.tensor(terms, dtype=torch.float64))
    torch.manual_seed(0)
    drawn = shift.sample((20_000,))
    # the first value is always of the first level, the third one of it in two of four cases
    assert drawn[:, 0].mean().item() == pytest.approx(0.1, abs=5 * 0.7 / 141)
    assert drawn[:, 2].mean().item() == pytest.approx(0.1 + 1.3 * 0.5, abs=5 * 1.0 / 141)


def test_evidence_of_the_change_point_is_a_sum_of_multivariate_t() -> None:
    data = change_point.ENTRY.load_data()
    exact = change_point.ENTRY.exact(data)
    assert exact is not None
    flow, terms = data.train["flow"].numpy(), []
    for change in range(1, 100):
        x = np.repeat(np.eye(2), [change, 100 - change], axis=0)
        # normal-inverse-gamma with shape 3 and rate 4: t with 6 degrees
        shape = (4 / 3) * (np.eye(100) + 4 * x @ x.T)
        terms.append(
            stats.multivariate_t.logpdf(flow, np.full(100, 9.0), shape, df=6) - math.log(99)
        )
    assert exact.log_evidence == pytest.approx(np.logaddexp.reduce(terms), abs=1e-8)
    assert 1871 + int(np.argmax(terms)) == 1898


# -- data --------------------------------------------------------------------------------------


def test_tables_have_their_published_figures() -> None:
    nile, stack, gdp = datasets.read("nile"), datasets.read("stackloss"), datasets.read("gdp")
    # Cobb 1978; Durbin and Koopman 2001
    assert nile.column("volume").mean().item() == pytest.approx(919.35)
    assert nile.column("year").tolist() == list(range(1871, 1971))
    x = np.column_stack([np.ones(21), stack.values[:, 1:].numpy()])
    fit = np.linalg.lstsq(x, stack.column("loss").numpy(), rcond=None)[0]
    # Brownlee 1965; Dodge 1996
    assert fit == pytest.approx([-39.9197, 0.7156, 1.2953, -0.1521], abs=1e-4)
    assert gdp.column("gdp")[[0, -1]].tolist() == [2710.349, 12990.341]
    sunspots = datasets.read("sunspots")
    assert sunspots.column("number").max().item() == 190.2  # 1957, the largest on record
    strikes = datasets.read("strikes").column("duration")
    assert (len(strikes), strikes.min().item(), strikes.max().item()) == (62, 1.0, 216.0)
    party = datasets.read("anes96").column("party").long()
    assert torch.bincount(party).tolist() == [200, 180, 108, 37, 94, 150, 175]


def test_recipes_are_the_stream_of_python() -> None:
    stream = random.Random(7)
    first = [(stream.getrandbits(52) + 0.5) / 2**52 for _ in range(3)]
    recipe = Recipe(7)
    assert recipe.uniforms(2).tolist() == first[:2]
    assert recipe.normals(1).item() == pytest.approx(NormalDist().inv_cdf(first[2]), abs=1e-15)
