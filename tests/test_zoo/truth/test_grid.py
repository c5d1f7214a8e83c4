"""Grids: mass near any face of the box fails the check."""

import math

import pytest
import torch

from zoo.errors import UsageError
from zoo.truth import grid as module
from zoo.truth.grid import (
    EDGE,
    BernoulliLikelihood,
    GaussianLikelihood,
    GridCheck,
    LatentGrid,
    SequentialLikelihood,
    box_for,
    standard_normal,
)


def flat(half_width):
    """Return a grid over a likelihood that says nothing: the posterior is the prior."""
    likelihood = GaussianLikelihood(lambda z: torch.zeros(len(z), 1, dtype=z.dtype), 1.0)
    return LatentGrid(
        likelihood, 2, points=401, half_width=torch.tensor(half_width, dtype=torch.float64)
    )


def beyond(width):
    """Return the mass of a standard normal cut off at `width` in the outermost part of the box."""
    near = (1 - 2 * EDGE) * width
    inside = [math.erf(x / math.sqrt(2)) for x in (near, width)]
    return 1 - inside[0] / inside[1]


@pytest.mark.parametrize("half_width", [(1.5, 8.0), (8.0, 1.5)])
def test_mass_at_the_edge_of_one_axis_is_border_mass(half_width):
    grid, x = flat(half_width), torch.zeros(1, 1, dtype=torch.float64)
    assert float(grid.border_mass(x)) == pytest.approx(beyond(1.5), abs=0.005)
    found = grid.check(x)
    assert found.border_mass > 0.05
    assert not found.ok


def test_a_box_that_holds_the_posterior_passes():
    found = flat((8.0, 7.0)).check(torch.zeros(1, 1, dtype=torch.float64))
    assert found.border_mass == pytest.approx(beyond(7.0) + beyond(8.0), rel=0.2)
    assert found.ok


# -- likelihoods ---------------------------------------------------------------------------------

WEIGHT = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.9]], dtype=torch.float64)
X = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
Z = torch.tensor([[0.3, -0.4], [1.1, 0.2], [-0.6, 0.8]], dtype=torch.float64)


def linear(z):
    return z @ WEIGHT.T


def bernoulli(x, logits):
    return torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)


def sequential(x, z):
    """Every pixel also has the logits of the ones before it."""
    seen = torch.tensor([[9.0, 9, 9], [0.5, 9, 9], [-1.0, 2.0, 9]], dtype=torch.float64)
    logits = linear(z).clone()
    logits[..., 1] += 0.5 * x[..., 0]
    logits[..., 2] += -1.0 * x[..., 0] + 2.0 * x[..., 1]
    return seen, bernoulli(x, logits)


@pytest.mark.parametrize("kind", ["bernoulli", "sequential", "gaussian"])
def test_a_likelihood_on_a_grid_and_at_points_of_its_own(kind):
    if kind == "bernoulli":
        made = BernoulliLikelihood(linear)

        def expected(x, z):
            return bernoulli(x, linear(z))
    elif kind == "sequential":
        made = SequentialLikelihood(linear, sequential(X[0], Z[0])[0])

        def expected(x, z):
            return sequential(x, z)[1]
    else:
        made = GaussianLikelihood(linear, 0.7)

        def expected(x, z):
            return torch.distributions.Normal(linear(z), 0.7).log_prob(x).sum(-1)

    found = made.log_prob(X, made.prepare(Z))
    assert found.shape == (2, 3)
    for i in range(2):
        for g in range(3):
            assert float(found[i, g]) == pytest.approx(float(expected(X[i], Z[g])))
    own = torch.stack([Z[:2], Z[1:]])  # [batch, row, d]
    pairs = made.paired(X, own)
    assert pairs.shape == (2, 2)
    for b in range(2):
        for i in range(2):
            assert float(pairs[b, i]) == pytest.approx(float(expected(X[i], own[b, i])))


def test_the_standard_normal_has_one_term_per_coordinate():
    z = torch.tensor([[0.0, 1.0, -2.0]], dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(standard_normal(z), expected)


# -- a normal posterior --------------------------------------------------------------------------

ROWS = torch.tensor([[0.4, -0.3, 1.0], [2.0, 0.1, 0.5]], dtype=torch.float64)


def conjugate(points=None, latent=2, **options):
    """x | z ~ N(W z, 0.7^2): the posterior of z is normal, in closed form."""
    weight = WEIGHT[:, :latent]
    made = GaussianLikelihood(lambda z: z @ weight.T, 0.7)
    grid = LatentGrid(made, latent, points=points, **options)
    covariance = torch.linalg.inv(torch.eye(latent).double() + weight.T @ weight / 0.49)
    mean = ROWS @ weight @ covariance / 0.49
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(3).double(), weight @ weight.T + 0.49 * torch.eye(3).double()
    )
    return grid, marginal.log_prob(ROWS), mean, covariance


@pytest.mark.parametrize(("latent", "points"), [(1, 201), (2, 101)])
def test_evidence_and_moments_are_those_of_the_normal(latent, points):
    grid, evidence, mean, covariance = conjugate(points, latent)
    torch.testing.assert_close(grid.log_evidence(ROWS), evidence)
    found = grid.moments(ROWS)
    torch.testing.assert_close(found[0], evidence)
    torch.testing.assert_close(found[1], mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(found[2], covariance.expand(2, -1, -1), atol=1e-9, rtol=0)
    again = grid.moments(ROWS)
    assert again[1] is found[1], "kept for the last tensor"
    assert grid.moments(ROWS.clone())[1] is not found[1]


def test_rows_are_taken_in_blocks(monkeypatch):
    whole, evidence, mean, _ = conjugate(51)
    monkeypatch.setattr(module, "CHUNK", 51 * 51)
    assert [rows for rows, _ in whole.blocks(ROWS)] == [slice(0, 1), slice(1, 2)]
    torch.testing.assert_close(whole.moments(ROWS.clone())[1], mean, atol=1e-8, rtol=0)
    torch.testing.assert_close(whole.log_evidence(ROWS), evidence)
    monkeypatch.setattr(module, "CHUNK", 2 * 51 * 51)
    assert [rows for rows, _ in whole.blocks(ROWS)] == [slice(0, 2)]
    monkeypatch.setattr(module, "CHUNK", 1)
    assert len(list(whole.blocks(ROWS))) == 2


def test_the_points_of_a_grid():
    grid, *_ = conjugate(
        5, half_width=torch.tensor([2.0, 4.0]).double(), center=torch.tensor([1.0, -1.0]).double()
    )
    assert grid.points.shape == (25, 2)
    assert grid.axes[0].tolist() == [-1.0, 0.0, 1.0, 2.0, 3.0]
    assert grid.axes[1].tolist() == [-5.0, -3.0, -1.0, 1.0, 3.0]
    assert grid.step.tolist() == [1.0, 2.0]
    assert grid.log_weight == pytest.approx(math.log(2.0))
    fine = grid.doubled()
    assert (fine.number, fine.axes[1][0], fine.axes[1][-1]) == (9, -5.0, 3.0)
    wide = grid.wider()
    assert wide.number == 7
    assert wide.axes[0].tolist() == pytest.approx([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0])
    near = grid.around(torch.zeros(2).double(), torch.diag(torch.tensor([0.01, 9.0])).double())
    assert near.axes[0][-1] == pytest.approx(0.9)
    assert near.axes[1][-1] == pytest.approx(4.0), "at most as wide as this one"
    assert near.number == 5
    assert grid.around(
        torch.zeros(2).double(), torch.eye(2).double(), points=3, sds=1.0
    ).axes[0].tolist() == [-1.0, 0.0, 1.0]  # fmt: skip


@pytest.mark.parametrize(("latent", "number"), [(1, 1001), (2, 201), (3, 61)])
def test_the_default_number_of_points_per_axis(latent, number):
    made = GaussianLikelihood(lambda z: z[:, :1], 1.0)
    assert LatentGrid(made, latent).number == number
    assert len(LatentGrid(made, latent, points=3).points) == 3**latent


@pytest.mark.parametrize("latent", [0, 4])
def test_more_than_three_dimensions_are_refused(latent):
    with pytest.raises(UsageError) as caught:
        LatentGrid(GaussianLikelihood(linear, 1.0), latent)
    assert str(caught.value) == (
        f"A grid over {latent} latent dimensions is too large; accepted: 1 to 3. Use NUTS per"
        " datum beyond."
    )


def test_a_box_ends_one_step_beyond_where_the_prior_falls_by_24_nats():
    """A normal of sd 0.5 falls by 24.5 nats at 3.5; the radii are 0.25 apart."""

    def prior(z):
        return -0.5 * (z / 0.5).square().sum(-1)

    assert box_for(prior, 1) == pytest.approx(3.5)
    assert box_for(prior, 2) == pytest.approx(3.5)
    assert box_for(lambda z: -2e3 * z.square().sum(-1), 1) == 1.0
    assert box_for(lambda z: 0 * z.sum(-1), 1) == 12.0
    assert box_for(lambda z: 0 * z.sum(-1), 1, widest=5.0) == 5.0

    def lopsided(z):
        return torch.where(z[:, -1] < 0, prior(z / 2), prior(z))

    assert box_for(lopsided, 2) == pytest.approx(7.0)
    # the top may lie away from zero
    assert box_for(lambda z: -0.5 * (z.abs() - 4).square().sum(-1), 1) == pytest.approx(11.0)


def test_a_default_box_is_that_of_the_prior():
    grid, *_ = conjugate(5)
    assert grid.half_width == box_for(standard_normal, 2) == pytest.approx(7.0)


# -- the check -----------------------------------------------------------------------------------


def checked(**options):
    good = {
        "log_evidence_change": 9e-4, "mean_change": 9e-4, "log_sd_change": 9e-4,
        "border_mass": 9e-7,
    }  # fmt: skip
    return GridCheck(**{**good, **options})


@pytest.mark.parametrize("name", ["log_evidence_change", "mean_change", "log_sd_change"])
def test_a_check_fails_on_any_figure(name):
    assert checked().ok is True
    assert checked(**{name: 1e-3}).ok is False
    assert checked(border_mass=1e-6).ok is False


def test_a_check_in_one_sentence():
    found = checked(mean_change=2e-4, log_sd_change=3e-5, border_mass=1e-9)
    assert found.sentence == (
        "Doubling the grid changes log p(x) by at most 0.0009 nats, means by 0.0002, log sds by"
        " 3e-05 sd; at most 1e-09 of a posterior lies near the border."
    )


def test_a_coarse_grid_is_compared_with_the_doubled_one():
    grid, *_ = conjugate(9)
    fine = grid.doubled()
    found = grid.check(ROWS, fine)
    coarse, double = grid.moments(ROWS), fine.moments(ROWS)
    sds = [c[2].diagonal(dim1=-2, dim2=-1).clamp(min=1e-300).sqrt() for c in (coarse, double)]
    change = (coarse[0] - double[0]).abs().max()
    assert found.log_evidence_change == pytest.approx(float(change))
    change = ((coarse[1] - double[1]) / sds[1]).abs().max()
    assert found.mean_change == pytest.approx(float(change))
    assert found.log_sd_change == pytest.approx(float((sds[0] / sds[1]).log().abs().max()))
    assert found.border_mass == pytest.approx(float(grid.border_mass(ROWS).max()))
    assert not found.ok
    assert grid.check(ROWS) is found
    assert grid.check(ROWS.clone()) is not found


def test_a_grid_is_refined_or_widened_until_it_is_enough(monkeypatch):
    coarse, *_ = conjugate(9)
    assert coarse.sufficient(ROWS).number in (33, 65, 129)
    narrow, *_ = conjugate(201, latent=1, half_width=1.0)
    enough = narrow.sufficient(ROWS)
    assert enough.half_width > 2.0
    assert float(enough.step) == pytest.approx(float(narrow.step))
    good, *_ = conjugate(101)
    assert good.sufficient(ROWS) is good
    monkeypatch.setattr(module, "MOST_POINTS", 17**2)
    assert coarse.sufficient(ROWS.clone()).number == 17


def test_draws_are_those_of_the_posterior_of_each_row():
    grid, _, mean, covariance = conjugate(101)
    draws = grid.sample(ROWS, 4000, seed=1)
    assert draws.shape == (4000, 2, 2)
    for i in range(2):
        error = 5 * (covariance.diagonal() / 4000).sqrt()
        assert bool(((draws[:, i].mean(0) - mean[i]).abs() < error).all())
        widened = covariance + torch.diag(grid.step.square() / 6)
        torch.testing.assert_close(torch.cov(draws[:, i].T), widened, rtol=0.12, atol=0.004)
    assert torch.equal(draws[:3], grid.sample(ROWS, 4000, seed=1)[:3])
    assert not torch.equal(draws[:3], grid.sample(ROWS, 4000, seed=2)[:3])
    offset = ((draws[..., 0] - grid.axes[0][0]) / grid.step[0]) % 1.0
    assert 0.2 < float(offset.mean()) < 0.8
    assert len(torch.unique(draws[:, 0, 0])) == 4000


# -- the aggregate -------------------------------------------------------------------------------


def test_information_of_two_rows_against_the_formulas():
    """The mean KL from the prior is that of normals, and splits into the other two."""
    grid, _, mean, covariance = conjugate(101)
    aggregate = grid.aggregate(ROWS)
    laws = [torch.distributions.MultivariateNormal(m, covariance) for m in mean]
    expected = torch.logaddexp(*(law.log_prob(grid.points) for law in laws)) - math.log(2)
    seen = expected > -30
    torch.testing.assert_close(aggregate[seen], expected[seen], atol=1e-6, rtol=1e-6)
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    kl = sum(float(torch.distributions.kl_divergence(law, prior)) for law in laws) / 2
    found = grid.information(ROWS)
    assert found["mean_kl_nats"] == pytest.approx(kl, rel=1e-6)
    assert found["mutual_information_nats"] + found["aggregate_kl_nats"] == pytest.approx(kl)
    cell = float(grid.step.prod())
    mutual = sum(
        float((law.log_prob(grid.points).exp() * (law.log_prob(grid.points) - expected)).sum())
        for law in laws
    )
    assert found["mutual_information_nats"] == pytest.approx(mutual * cell / 2, rel=1e-6)
    assert 0 < found["mutual_information_nats"] < math.log(2)


def test_one_row_tells_nothing_about_which_row_it_is():
    grid, *_ = conjugate(51)
    found = grid.information(ROWS[:1])
    assert found["mutual_information_nats"] == pytest.approx(0.0, abs=1e-9)
