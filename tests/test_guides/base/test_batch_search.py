"""Batch and match to the end: exact on normals, an honest stop elsewhere, gradients counted."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from guides.base import batch_search
from guides.base.batch_match import Normal
from guides.base.batch_search import Found, search
from zoo.density.log_density import LogDensity
from zoo.types import Data

LIMITS = {"draws": 40, "design": "matched", "target": 0.02, "budget": 2000}


def density_of(program, dtype=torch.float64):
    return LogDensity(program, Data(train={}), dtype=dtype)


def standard(dim, width=1.0):
    return Normal(
        mean=torch.zeros(dim, dtype=torch.float64),
        factor=width * torch.eye(dim, dtype=torch.float64),
    )


def found_in(density, begin=None, seed=2, **limits):
    generator = torch.Generator().manual_seed(seed)
    begin = begin or standard(density.dim)
    return search(density, begin, generator, **{**LIMITS, **limits})


LOC = torch.linspace(-3.0, 5.0, 10, dtype=torch.float64)
COV = 0.2 * torch.eye(10, dtype=torch.float64) + 0.8
COV = COV * torch.outer(torch.logspace(-1, 1, 10), torch.logspace(-1, 1, 10))


def correlated():
    pyro.sample("x", dist.MultivariateNormal(LOC, COV))


@pytest.mark.parametrize("design", ["matched", "independent"])
def test_a_correlated_normal_is_reached_from_afar(design):
    density = density_of(correlated)
    found = found_in(density, design=design)
    assert found.settled(0.02)
    cov = found.normal.factor @ found.normal.factor.T
    sds = COV.diagonal().sqrt()
    assert float(((found.normal.mean - LOC) / sds).abs().max()) < 1e-3
    assert float(((cov - COV) / torch.outer(sds, sds)).abs().max()) < 1e-3
    assert density.gradient_evaluations == 40 * found.updates <= 2000
    assert found.dropped == (0, 0)


def curved():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x**2, 0.3))


def heavy():
    pyro.sample("x", dist.StudentT(3.0, torch.zeros(3), 1.0).to_event(1))


def test_a_curved_valley_does_not_settle_within_the_budget():
    found = found_in(density_of(curved))
    assert not found.settled(0.02)
    assert found.bad is None
    assert found.wide is None
    assert bool(torch.isfinite(found.normal.factor).all())
    assert 2000 <= 40 * found.updates < 2040


def test_heavy_tails_settle_narrower_than_the_posterior():
    found = found_in(density_of(heavy))
    assert found.settled(0.02)
    assert float((found.normal.mean.abs() / found.normal.sds).max()) < 0.06
    assert float(found.normal.sds.max()) < 3.0**0.5  # the sd of t with 3 degrees of freedom


def test_the_stated_error_is_about_the_spread_over_seeds():
    density = density_of(heavy)
    ends = [found_in(density, seed=s, design="independent", target=0.1) for s in range(12)]
    assert all(end.settled(0.1) for end in ends)
    means = torch.stack([end.normal.mean / end.normal.sds for end in ends])
    stated = torch.stack([end.errors[:3] for end in ends]).mean()
    assert 0.3 < float(means.std(0).mean() / stated) < 2.0


# -- draws without a score -----------------------------------------------------------------------


def walled():
    """A standard normal whose density is not a number beyond 1.8."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    pyro.factor("wall", torch.where((x < 1.8).all(), 0.0, torch.nan))


def test_draws_without_a_score_are_left_out_and_counted():
    found = found_in(density_of(walled), target=0.1)
    assert found.dropped[0] >= found.dropped[1] > 0
    assert found.narrowed == 0
    # the draws that remain have the scores of a normal, which is met whatever they are
    torch.testing.assert_close(found.normal.factor, torch.eye(2, dtype=torch.float64))
    assert float(found.normal.mean.abs().max()) < 1e-10


def test_widths_are_halved_where_few_scores_are_finite():
    found = found_in(density_of(walled), begin=standard(2, 64.0))
    assert found.narrowed >= 3
    assert found.bad is None
    assert float((found.normal.sds - 1).abs().max()) < 1e-3


def hole():
    """A density with a value everywhere and a slope nowhere."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("hole", (0.0 * x).sqrt())


def test_it_ends_where_no_width_has_finite_scores():
    density = density_of(hole)
    found = found_in(density)
    assert found.bad is not None
    assert found.updates == 0
    assert found.narrowed == batch_search.NARROWINGS + 1
    assert density.gradient_evaluations == 40 * found.narrowed
    torch.testing.assert_close(found.normal.mean, standard(1).mean)


def test_a_direction_without_an_end_is_said():
    def ridge():
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (2,), ()).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=torch.tensor(1.0))

    found = found_in(density_of(ridge))
    assert found.wide is not None
    assert float(found.wide.exp().max()) > batch_search.RUNAWAY
    assert found.updates < 12


# -- rates and the stopping rule -----------------------------------------------------------------


def path_of(*left):
    path = batch_search._Path()
    for x in left:
        path.add(standard(1), torch.tensor(x, dtype=torch.float64), 0)
    return path


def test_the_rate_is_that_of_the_paper_until_moves_oppose():
    assert path_of().rate(30, 4) == 120.0
    onward = [1.0, 0.0], [0.5, 0.1], [-0.1, 0.0]  # the last takes back a fifth
    assert path_of(*onward).rate(30, 4) == 30.0
    once = path_of([1.0, 0.0], [-0.3, 0.0])
    assert once.rate(30, 4) == 2.0
    assert path_of([1.0, 0.0], [-0.9, 0.0], [0.8, 0.0]).rate(30, 4) == 1.0


def test_what_is_left_is_judged_with_its_noise():
    def found(left, errors, averaged=4):
        return Found(
            normal=standard(1),
            averaged=averaged,
            left=torch.tensor(left),
            errors=torch.tensor(errors),
        )

    assert found([0.03, 0.0], [0.015, 0.0]).settled(0.02)
    assert not found([0.05, 0.0], [0.015, 0.0]).settled(0.02)  # still moving
    assert not found([0.0, -0.02], [0.015, 0.001]).settled(0.02)  # a width is
    assert not found([0.0, 0.0], [0.0, 0.03]).settled(0.02)  # not known well enough
    assert not found([0.0, 0.0], [0.0, 0.0], averaged=3).settled(0.02)


def test_the_answer_is_the_average_of_the_last_half():
    path = batch_search._Path()
    for k in range(10):
        now = Normal(mean=torch.full((1,), float(k)), factor=torch.full((1, 1), 1.0 + k))
        path.add(now, torch.tensor([0.1 * k, 0.0]), k)
    found = path.found(standard(1), narrowed=0)
    assert (found.updates, found.averaged, found.dropped) == (10, 5, (45, 35))
    assert float(found.normal.mean) == pytest.approx(7.0)
    assert float(found.normal.factor) ** 2 == pytest.approx((36 + 49 + 64 + 81 + 100) / 5)
    assert float(found.left[0]) == pytest.approx(0.7)
    assert float(found.errors[0]) == pytest.approx(0.1 * 2.5**0.5 / 5**0.5)


def test_the_misfit_is_that_of_the_scores():
    """The scores of a t with 3 degrees of freedom are -4 x / (3 + x^2)."""
    found = found_in(density_of(heavy))
    variance = float(found.normal.sds[0] ** 2)
    x = variance**0.5 * torch.randn(10**6, dtype=torch.float64)
    apart = x / variance - 4 * x / (3 + x**2)
    assert found.misfit == pytest.approx(float((variance * apart**2).mean()) ** 0.5, rel=0.1)
    right = Normal(mean=LOC, factor=torch.linalg.cholesky(COV))
    assert found_in(density_of(correlated), begin=right).misfit < 1e-9


def test_no_update_leaves_the_start():
    found = batch_search._Path().found(standard(1), narrowed=0)
    assert (found.updates, found.averaged, found.misfit) == (0, 0, 0.0)
    assert not found.settled(1e9)


def test_what_is_left_does_not_depend_on_the_rate(monkeypatch):
    """One update from a normal at the wrong place, at rates far apart."""
    lefts = []
    for rate in (0.05, 500.0):
        monkeypatch.setattr(batch_search._Path, "rate", lambda self, b, d, r=rate: r)
        density = density_of(lambda: pyro.sample("x", dist.Normal(0.03, 1.02)))
        lefts.append(found_in(density, budget=1).left)
    torch.testing.assert_close(lefts[0], lefts[1], rtol=0.06, atol=0)
    assert float(lefts[1][0]) == pytest.approx(0.03, rel=0.01)
    assert float(lefts[1][1].exp()) == pytest.approx(1.02, rel=0.001)


def test_single_precision_is_enough(monkeypatch):
    found = found_in(density_of(correlated, torch.float32), begin=standard(10))
    assert found.normal.mean.dtype == torch.float64
    assert float(((found.normal.mean - LOC) / COV.diagonal().sqrt()).abs().max()) < 0.01
