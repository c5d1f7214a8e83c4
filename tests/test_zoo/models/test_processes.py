"""Gaussian processes against grids and eigenvalues."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.densities import log_density, points

from benchmarks.audit import targets_entries
from zoo.models.processes import gp_latent, gp_regression
from zoo.truth import stored as reference


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
