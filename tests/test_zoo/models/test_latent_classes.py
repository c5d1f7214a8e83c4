"""The multivariate mixture and latent classes against scipy and densities by hand.

The posterior is proper for rows in a plane.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from zoo.datasets import read
from zoo.density.log_density import LogDensity
from zoo.errors import UnknownNameError, UsageError
from zoo.models.mixtures import gaussian_mixture_classes as classes
from zoo.models.mixtures import latent_class
from zoo.types import Data, ModelEntry


def density_of(entry: ModelEntry) -> tuple[LogDensity, Data]:
    data = entry.load_data()
    return LogDensity(entry.program(data), data), data


def points(n: int, dim: int, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(
        n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def jacobian(density: LogDensity, u: Tensor) -> float:
    terms = [
        s.transform.log_abs_det_jacobian(u[s.start : s.stop].reshape(s.unconstrained_shape), z)
        for s, z in zip(density.sites, density.constrain(u).values(), strict=True)
    ]
    return float(sum(t.sum() for t in terms))


def wishart_prior(z: dict[str, Tensor], k: int, psi: float) -> float:
    """Return log p(strength, tilt) of one class by scipy's Wishart density of A A^T.

    It includes the Jacobian of Bartlett's map.
    """
    strength, tilt = z["strength"][k].numpy(), z["tilt"][k].numpy()
    size = len(strength)
    lower = np.zeros((size, size))
    lower[np.tril_indices(size, -1)] = tilt
    lower += np.diag(np.sqrt(strength))
    power = np.arange(size - 1, -1, -1)  # d(A A^T) / d(A_jj^2, A_ij) = prod_j A_jj^(D - j)
    wishart = stats.wishart.logpdf(lower @ lower.T, size + 2, np.eye(size) / psi)
    return float(wishart + (power * 0.5 * np.log(strength)).sum())


@pytest.mark.parametrize(
    "options",
    [{}, {"K": 3, "covariance": "diag"}, {"data": "wine", "K": 3}, {"data": "breast_cancer"}],
)
def test_density_is_that_of_scipy(options: dict[str, object]) -> None:
    entry = classes.ENTRY.with_options(**options)
    density, data = density_of(entry)
    x, basis, number = data.train["x"], data.train["basis"], entry.settings["K"]
    size = x.shape[1]
    psi = number ** (-2.0 / size)
    (u,) = points(1, density.dim)
    z = density.constrain(u)
    total = (
        dist.Dirichlet(torch.full((number,), 5.0, dtype=torch.float64))
        .log_prob(z["weight"])
        .item()
    )
    terms = []
    for k in range(number):
        if entry.settings["covariance"] == "full":
            total += stats.norm.logpdf(z["center"][k]).sum() + wishart_prior(z, k, psi)
        else:
            total += (
                stats.norm.logpdf(z["location"][k]).sum()
                + stats.invgamma.logpdf(z["variance"][k], 1.5, scale=psi / 2).sum()
            )
        loc, root, _ = classes.normals(z, basis)
        covariance = np.linalg.inv((root[k] @ root[k].T).numpy())
        terms.append(
            math.log(z["weight"][k]) + stats.multivariate_normal.logpdf(x, loc[k], covariance)
        )
    total += np.logaddexp.reduce(terms, axis=0).sum() + jacobian(density, u)
    assert density(u).item() == pytest.approx(total, rel=1e-9)
    assert np.allclose(classes.log_joint(z, x, basis).numpy(), np.stack(terms, -1), rtol=1e-8)


def test_a_class_that_flattens_onto_a_plane_of_rows_loses_density() -> None:
    density, data = density_of(classes.ENTRY)
    x, basis = data.train["x"], data.train["basis"]
    raw = read("iris").select(("sepal_length", "sepal_width"))
    difference = (raw[:, 0] - raw[:, 1]).mul(10).round()
    values, counts = difference.unique(return_counts=True)
    rows = difference == values[counts.argmax()]
    n = int(rows.sum())
    assert n > 8, "more rows in one plane than an LKJ correlation matrix could bear"
    normal = torch.zeros(4, dtype=torch.float64)
    normal[:2] = raw.std(0, correction=0) * torch.tensor([1.0, -1.0], dtype=torch.float64)
    normal /= normal.norm()
    center = x[rows].mean(0)
    assert ((x[rows] - center) @ normal).abs().max() < 1e-10, "the rows lie exactly in the plane"
    whole = torch.linalg.inv(x.T @ x / len(x))
    heights, soft = [], []
    for thin in (1e-2, 1e-3, 1e-4, 1e-5):
        precision = whole + torch.outer(normal, normal) / thin**2
        lower = torch.linalg.cholesky(
            torch.linalg.inv(basis) @ precision @ torch.linalg.inv(basis).T
        )
        other = torch.eye(4, dtype=torch.float64)
        z = {
            "weight": torch.tensor([0.5, 0.5], dtype=torch.float64),
            "center": torch.stack([center @ basis, torch.zeros(4, dtype=torch.float64)]),
            "strength": torch.stack([lower.diagonal().square(), other.diagonal()]),
            "tilt": torch.stack([m[*torch.tril_indices(4, 4, -1)] for m in (lower, other)]),
        }
        heights.append(density(density.unconstrain(z)).item())
        # the same class under log-normal scales and an LKJ(2) correlation matrix: the likelihood
        # wins by n log(1 / thin)
        covariance = torch.linalg.inv(precision)
        sd = covariance.diagonal().sqrt()
        correlation = covariance / torch.outer(sd, sd)
        prior = (
            dist.LKJCholesky(4, 2.0).log_prob(torch.linalg.cholesky(correlation))
            + dist.LogNormal(-0.7, 0.5).log_prob(sd).sum()
        )
        soft.append(float(prior + classes.log_joint(z, x, basis).logsumexp(-1).sum()))
    assert all(a > b for a, b in pairwise(heights))
    assert heights[-1] < -1e6
    assert all(a < b for a, b in pairwise(soft)), "what this prior is there to prevent"


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_quantities_are_ordered_along_the_axis_and_do_not_see_labels(covariance: str) -> None:
    entry = classes.ENTRY.with_options(K=3, covariance=covariance)
    density, data = density_of(entry)
    draws = density.constrain(points(5, density.dim))
    flipped = {name: value.flip(1) for name, value in draws.items()}
    for name, quantity in entry.quantities.items():
        assert torch.allclose(quantity.fn(draws, data), quantity.fn(flipped, data), atol=1e-9), (
            name
        )
    place = entry.quantities["location"].fn(draws, data) @ classes.axis_of(data.train["x"])
    assert (place.diff(dim=-1) > 0).all()
    r = classes.responsibilities(draws, data)[:, classes.points(data.train["x"])]
    shared = (r[:, :-1] * r[:, 1:]).sum(-1)
    assert torch.allclose(torch.sigmoid(classes.co_assignment(draws, data)), shared, atol=1e-9)


def test_latent_class_density_is_written_by_hand() -> None:
    density, data = density_of(latent_class.ENTRY)
    x = data.train["x"]
    (u,) = points(1, density.dim)
    z = density.constrain(u)
    terms = np.stack(
        [
            math.log(z["weight"][k]) + stats.bernoulli.logpmf(x, z["chance"][k]).sum(-1)
            for k in range(2)
        ]
    )
    total = np.logaddexp.reduce(terms, axis=0).sum() + stats.beta.logpdf(z["chance"], 2, 2).sum()
    total += dist.Dirichlet(torch.full((2,), 5.0, dtype=torch.float64)).log_prob(
        z["weight"]
    ).item() + jacobian(density, u)
    assert density(u).item() == pytest.approx(total, rel=1e-10)
    assert np.allclose(latent_class.log_joint(z, x).numpy().T, terms)


def test_answers_are_values_above_the_median() -> None:
    data = latent_class.ENTRY.load_data()
    radius = read("breast_cancer").column("mean_radius")
    assert torch.equal(data.train["x"][:, 0] == 1, radius > radius.median())
    assert ((data.train["x"].mean(0) - 0.5).abs() < 0.01).all()


def test_wrong_options_are_refused_with_a_guess() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'iris'"):
        classes.ENTRY.with_options(data="irys").load_data()
    with pytest.raises(UnknownNameError, match="did you mean 'diag'"):
        classes.ENTRY.with_options(covariance="diagonal").load_data()
    with pytest.raises(UsageError, match="2 to 9"):
        latent_class.ENTRY.with_options(K=1).load_data()


def test_points_are_rows_at_even_ranks_of_the_first_axis():
    generator = np.random.default_rng(2)
    x = generator.standard_normal((30, 3)) * [1.0, 3.0, 0.5]  # the second column is the axis
    found = classes.points(torch.tensor(x))
    axis = np.linalg.svd(x, full_matrices=False)[2][0]
    order = np.argsort(x @ axis * np.sign(axis[np.abs(axis).argmax()]))
    assert found.tolist() == order[[2, 6, 9, 13, 16, 20, 23, 27]].tolist()
    vector = classes.axis_of(torch.tensor(-x)).numpy()
    np.testing.assert_allclose(vector, axis * np.sign(axis[1]), atol=1e-12)
