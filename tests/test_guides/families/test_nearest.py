"""The members of families of normals that are best for a quadratic log density."""

import pytest
import torch

from guides.base.flat import Start
from guides.families import low_rank as module
from guides.families.full_rank import WhitenedFullRank
from guides.families.low_rank import WhitenedLowRank, best_factors, principal_factors
from guides.families.mean_field import WhitenedMeanField

F = torch.float64


def matrix(dim, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, 2 * dim, dtype=F, generator=generator)
    scale = torch.rand(dim, dtype=F, generator=generator) * 3 + 0.1
    return scale[:, None] * (root @ root.T / (2 * dim)) * scale


def start(dim, seed=3):
    covariance = matrix(dim, seed)
    return Start(
        loc=torch.zeros(dim, dtype=F),
        scale=covariance.diagonal().sqrt(),
        factor=torch.linalg.cholesky(covariance),
    )


class Ranked(torch.nn.Module):
    rank = 2


def cost(precision, covariance):
    """Minus the ELBO of the quadratic, up to constants, in nats."""
    return 0.5 * float((precision * covariance).sum() - covariance.logdet())


def own(guide):
    """The covariance that the guide's parameters have over u."""
    with torch.no_grad():
        if isinstance(guide, WhitenedMeanField):
            return torch.diag(guide._moments()[1].square())
        if isinstance(guide, WhitenedLowRank):
            _, factor, scale = guide._pieces()
            return factor @ factor.T + torch.diag(scale.square())
        factor = guide.tril @ (torch.diag(guide.log_scale.exp()) + guide.lower.tril(-1))
        return factor @ factor.T


@pytest.mark.parametrize("kind", [WhitenedMeanField, WhitenedFullRank, WhitenedLowRank])
def test_the_nearest_member_is_what_the_guide_becomes_and_none_is_better(kind):
    begin = start(5)
    guide = kind(Ranked() if kind is WhitenedLowRank else None, begin)
    precision = matrix(5, 1)
    white = guide.nearest(precision)
    there = guide.tril @ white @ guide.tril.T
    torch.testing.assert_close(own(guide), there)
    back = torch.linalg.inv(guide.tril)
    best = cost(back.T @ precision @ back, there)
    generator = torch.Generator().manual_seed(0)
    names = {"log_scale", "lower", "factor"}
    for _ in range(30):
        kept = {n: p.detach().clone() for n, p in guide.named_parameters() if n in names}
        with torch.no_grad():
            for name, value in kept.items():
                noise = torch.randn(value.shape, dtype=F, generator=generator)
                getattr(guide, name).copy_(value + 0.02 * noise)
        assert cost(back.T @ precision @ back, own(guide)) > best
        with torch.no_grad():
            for name, value in kept.items():
                getattr(guide, name).copy_(value)


def test_independent_scales_are_the_roots_of_the_precision():
    guide = WhitenedMeanField(None, start(4))
    precision = matrix(4, 2)
    guide.nearest(precision)
    back = torch.linalg.inv(guide.tril)
    expected = (back.T @ precision @ back).diagonal().rsqrt()
    torch.testing.assert_close(own(guide).diagonal().sqrt(), expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rank", [1, 3])
def test_factors_are_at_an_optimum_and_better_than_principal_ones(seed, rank):
    precision = matrix(7, seed)
    factor, unique = best_factors(precision, rank)
    assert factor.shape == (7, rank)
    covariance = factor @ factor.T + torch.diag(unique)
    inverse = covariance.inverse()
    own = precision.diagonal()
    free = unique > 1.01 * module.LEAST / own
    torch.testing.assert_close(inverse.diagonal()[free], own[free], rtol=1e-4, atol=0)
    assert bool((inverse.diagonal() <= 1.0001 * own).all()), "a smaller scale would be better"
    assert bool((unique >= 0.999 * module.LEAST / own).all())
    slope = (precision - inverse) @ factor  # by the factor
    assert float(slope.abs().max()) < 1e-4 * float((precision @ factor).abs().max())
    other, rest = principal_factors(precision.inverse(), rank)
    assert cost(precision, covariance) < cost(precision, other @ other.T + torch.diag(rest))
    alone = torch.diag(1.0 / precision.diagonal())
    assert cost(precision, covariance) < cost(precision, alone)


def test_the_factors_of_a_factor_model_are_found():
    weights = torch.tensor([[1.0], [2.0], [-1.0], [0.5]], dtype=F)
    unique = torch.tensor([0.5, 0.2, 1.0, 2.0], dtype=F)
    precision = (weights @ weights.T + torch.diag(unique)).inverse()
    factor, rest = best_factors(precision, 1)
    torch.testing.assert_close(rest, unique, rtol=1e-2, atol=0)
    torch.testing.assert_close(factor @ factor.T, weights @ weights.T, rtol=2e-2, atol=1e-2)


def test_steps_from_nearby_lower_the_cost(monkeypatch):
    precision = matrix(6, 1)
    factor, unique = best_factors(precision, 2)
    best = cost(precision, factor @ factor.T + torch.diag(unique))
    away = 1.2 * factor, 1.3 * unique
    costs = [cost(precision, away[0] @ away[0].T + torch.diag(away[1]))]
    for few in (1, 3, 10, 100):
        monkeypatch.setattr(module, "FEW", few)
        found, rest = best_factors(precision, 2, away)
        costs.append(cost(precision, found @ found.T + torch.diag(rest)))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(best, abs=1e-6)
    assert costs[3] < best + 0.01, "ten steps"


def test_the_first_call_searches_from_afar_and_later_ones_go_on(monkeypatch):
    guide = WhitenedLowRank(Ranked(), start(5))
    seen = []
    best = module.best_factors

    def watched(precision, rank, begin=None):
        found = best(precision, rank, begin)
        seen.append((precision, rank, begin, found))
        return found

    monkeypatch.setattr(module, "best_factors", watched)
    precision = matrix(5, 1)
    guide.nearest(precision)
    guide.nearest(precision)
    back = torch.linalg.inv(guide.tril) * guide.width
    torch.testing.assert_close(seen[0][0], back.T @ precision @ back)
    assert [s[1] for s in seen] == [2, 2]
    assert seen[0][2] is None
    assert seen[1][2] == seen[0][3]


def test_a_posterior_without_dependence_has_factors_that_are_nearly_zero():
    precision = torch.diag(torch.tensor([1.0, 4.0, 0.25], dtype=F))
    factor, unique = best_factors(precision, 1)
    covariance = factor @ factor.T + torch.diag(unique)
    torch.testing.assert_close(covariance, precision.inverse(), atol=1e-3, rtol=1e-3)
