"""The enumerated mixture: density by hand, propriety, and label-safe quantities."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro.distributions as dist
import pytest
import torch
from support.densities import log_density, points
from torch import Tensor

from zoo.errors import UsageError
from zoo.models.mixtures import gaussian_mixture


def log_normal(x: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    sd = torch.as_tensor(sd, dtype=torch.float64)
    return -0.5 * ((x - mean) / sd) ** 2 - sd.log() - 0.5 * math.log(2 * math.pi)


def mixture_by_hand(z: dict[str, Tensor], petal: Tensor) -> Tensor:
    """Return log p(weight, location, scale, petal), class summed out, without a Jacobian."""
    prior = (
        dist.Dirichlet(torch.full_like(z["weight"], 5.0)).log_prob(z["weight"])
        + log_normal(z["location"], 4.0, 2.0).sum()
        + (log_normal(z["scale"].log(), math.log(0.5), 0.5) - z["scale"].log()).sum()
    )
    # [flower, class]
    terms = z["weight"].log() + log_normal(petal[:, None], z["location"], z["scale"])
    return prior + terms.logsumexp(-1).sum()


@pytest.mark.parametrize("K", [2, 3])
def test_enumerated_mixture_is_the_hand_written_log_sum_exp(K: int) -> None:
    density, data = log_density(gaussian_mixture.ENTRY.with_options(K=K))
    for u in points(4, density.dim):
        value, gradient = density.gradient(u)
        point = u.clone().requires_grad_(True)
        jacobian = sum(
            s.transform.log_abs_det_jacobian(
                point[s.start : s.stop], s.transform(point[s.start : s.stop])
            ).sum()
            for s in density.sites
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
        heights.append(
            density(
                density.unconstrain({"weight": weight, "location": location, "scale": scale})
            ).item()
        )
    assert heights[-1] < -5000
    assert all(a > b for a, b in pairwise(heights))


@pytest.mark.parametrize("K", [2, 3])
def test_mixture_quantities_do_not_see_labels(K: int) -> None:
    entry = gaussian_mixture.ENTRY.with_options(K=K)
    density, data = log_density(entry)
    draws = density.constrain(points(7, density.dim))
    flipped = {name: value.flip(-1) for name, value in draws.items()}
    assert torch.allclose(
        density.batch(density.unconstrain(flipped)), density.batch(density.unconstrain(draws))
    )
    for name, quantity in entry.quantities.items():
        assert torch.allclose(quantity.fn(draws, data), quantity.fn(flipped, data), atol=1e-10), (
            name
        )
    assert (entry.quantities["location"].fn(draws, data).diff(dim=-1) > 0).all()


def test_co_assignment_is_the_probability_of_a_shared_class() -> None:
    entry = gaussian_mixture.ENTRY.with_options(K=3)
    density, data = log_density(entry)
    z = density.constrain(points(1, density.dim)[0])

    def responsibility(value: float) -> Tensor:
        return (
            z["weight"].log() + log_normal(torch.tensor(value), z["location"], z["scale"])
        ).softmax(-1)

    for log_odds, (a, b) in zip(
        gaussian_mixture.co_assignment(z, data), gaussian_mixture.PAIRS[3], strict=True
    ):
        assert {a, b} <= set(data.train["petal"].tolist()), "pairs are measured values"
        shared = (responsibility(a) * responsibility(b)).sum()
        assert torch.sigmoid(log_odds).item() == pytest.approx(shared.item(), abs=1e-7)


def test_mixture_refuses_other_numbers_of_classes() -> None:
    with pytest.raises(UsageError, match="2 or 3"):
        gaussian_mixture.ENTRY.with_options(K=1).load_data()
