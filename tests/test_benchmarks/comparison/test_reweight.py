"""Reweighted draws: the posterior from a wrong guide, or a refusal by its weights."""

import dataclasses
import re
from types import SimpleNamespace

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import f, multivariate_t

import benchmarks
import guides
import zoo
from benchmarks.comparison import reweight as module
from benchmarks.metrics.resample import capped_mass
from benchmarks.types import ParetoK
from guides.base.flat import fill
from zoo.errors import FitError, UsageError

pytestmark = pytest.mark.usefixtures("eager")
DRAWS = 2000
MEANS, SDS = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([1.0, 2.0, 0.4])


def three(one):
    """x ~ Normal((1, -1), (1, 2)) and s ~ LogNormal(0.5, 0.4): a normal, unconstrained."""
    pyro.sample("x", dist.Normal(MEANS[:2].double() * one, SDS[:2].double()).to_event(1))
    pyro.sample("s", dist.LogNormal(0.5 * one, 0.4))


def two_modes(one):
    parts = dist.Normal(torch.tensor([-4.0, 4.0]).double() * one, torch.ones(2).double())
    pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones(2).double()), parts))


def fitted(program, loc, scale):
    """A mean field with this location and these widths."""
    entry = zoo.from_program(
        program, {"one": torch.tensor(1.0)}, families=["mean_field"], observed=(), name="three"
    )
    fit = guides.fit(entry, "mean_field", seed=0, steps=20, compile="off", progress=False)
    fill(fit.guide, loc=loc.double(), scale=scale.double())
    return dataclasses.replace(fit, stop=dataclasses.replace(fit.stop, status="ok"))


@pytest.fixture(scope="module")
def wrong():
    """Off by half an sd in every coordinate, 1.5 times too wide in two and 0.9 times in one."""
    return fitted(three, MEANS + 0.5 * SDS, SDS * torch.tensor([1.5, 0.9, 1.5]))


@pytest.fixture(scope="module")
def found(wrong):
    return benchmarks.reweight(wrong, draws=DRAWS, seed=1)


def vector(posterior):
    return torch.cat([posterior.draws["x"], posterior.draws["s"].log()[:, None]], 1)


def test_means_and_sds_are_those_of_the_closed_form(wrong, found):
    n = len(found.draws["s"])
    assert n == DRAWS
    mean = lambda x: (x.mean(0) - MEANS).abs() / SDS  # noqa: E731
    width = lambda x: (x.std(0) / SDS).log().abs()  # noqa: E731
    new, raw = vector(found), vector(guides.draw(wrong, DRAWS))
    assert mean(new).max() < 5 / n**0.5
    assert width(new).max() < 5 / (2 * n) ** 0.5
    assert mean(raw).min() > 5 / n**0.5
    assert width(raw).min() > 5 / (2 * n) ** 0.5


def test_draws_are_distinct_and_their_own_transforms(found):
    assert len(found.unconstrained.unique(dim=0)) == DRAWS
    assert torch.allclose(vector(found), found.unconstrained)
    assert found.log_weights is None
    assert found.sample_dims == ("sample",)


def test_figures_are_kept_and_said(wrong, found):
    figures = {name: x.unique().item() for name, x in found.stats.items()}
    assert set(figures) == {"k_hat", "importance_ess", "guide_draws", "capped_mass"}
    assert figures["k_hat"] <= 0.5
    assert figures["importance_ess"] >= 2 * DRAWS
    assert figures["guide_draws"] in (4 * DRAWS, 16 * DRAWS, 64 * DRAWS)
    assert figures["capped_mass"] <= 0.01
    assert found.method == "mean_field_reweighted"
    assert found.cost.gradient_evaluations == wrong.cost.gradient_evaluations
    assert found.cost.seconds > wrong.cost.seconds
    assert found.notes[0].startswith("2,000 of ")
    assert f"{int(figures['guide_draws']):,} evaluations of the density" in found.notes[1]


def test_the_seed_decides_everything(wrong, found):
    again = benchmarks.reweight(wrong, draws=DRAWS, seed=1)
    assert torch.equal(again.unconstrained, found.unconstrained)
    other = benchmarks.reweight(wrong, draws=DRAWS, seed=2)
    assert not set(other.draws["s"].tolist()) & set(found.draws["s"].tolist())


def test_weights_are_smoothed_and_half_of_the_effective_draws_are_the_most():
    log_weights = 0.6 * np.random.default_rng(0).exponential(size=3000)  # a tail of index 0.6
    got = module._Weights.of(log_weights, 3000)
    smoothed, k = arviz.psislw(log_weights - log_weights.max())
    assert got.k.value == pytest.approx(float(k))
    assert got.weights == pytest.approx(np.exp(smoothed))
    assert np.abs(got.weights / (np.exp(log_weights) / np.exp(log_weights).sum()) - 1).max() > 0.05
    assert got.k.importance_ess == pytest.approx(1 / np.square(got.weights).sum())
    assert got.n <= got.k.importance_ess / 2
    assert capped_mass(got.weights, got.n) <= 0.01
    flat = module._Weights.of(np.zeros(3000), 3000)
    assert (flat.k.value, flat.n) == (0.0, pytest.approx(1500, abs=1))


def test_the_draws_of_the_guide_grow_until_enough_are_left():
    """An sd of 3 per coordinate leaves one draw in twelve effective."""
    fit = fitted(three, MEANS, SDS * 3)
    found = benchmarks.reweight(fit, draws=1000)
    assert float(found.stats["guide_draws"][0]) == 64_000
    assert len(found.draws["s"]) == 1000
    small = benchmarks.reweight(fit, draws=100)
    assert float(small.stats["guide_draws"][0]) == 6400
    assert len(small.draws["s"]) == 100


def test_weights_with_a_heavy_tail_are_refused(monkeypatch):
    """A guide of 0.3 times the width: k is 1 - 0.3^2 = 0.91."""
    monkeypatch.setattr(module._Wider, "of", classmethod(lambda *_: None))
    with pytest.raises(FitError) as error:
        benchmarks.reweight(fitted(three, MEANS, SDS * 0.3))
    assert str(error.value).startswith("mean_field on three cannot be reweighted: k-hat ")
    assert "(at most 0.50)" in str(error.value)
    assert str(error.value).endswith("; fit a richer family, or call benchmarks.repair(fit).")


@pytest.mark.parametrize(
    ("k", "n", "refused"), [(0.5, 200, False), (0.5, 199, True), (0.71, 4000, True)]
)
def test_the_gate(k, n, refused):
    known = module.ParetoK(value=k, threshold=0.7, draws=16_000, importance_ess=2 * n)
    weights = module._Weights(weights=np.ones(16_000) / 16_000, k=known, n=n)
    assert bool(weights.refused(200)) == refused
    near = dataclasses.replace(weights, k=dataclasses.replace(known, value=0.7013))
    assert near.refused(200).startswith("k-hat 0.7013 (at most 0.70), and of 16,000 draws")


def test_more_draws_are_not_made_where_they_cannot_help():
    def known(k, n):
        found = module.ParetoK(value=k, threshold=0.7, draws=16_000, importance_ess=2 * n)
        return module._Weights(weights=np.ones(16_000) / 16_000, k=found, n=n)

    most = 256_000
    assert not known(0.3, 50).hopeless(most, 200)
    assert known(0.3, 5).hopeless(most, 200)  # at most 2 * 5 * 16
    assert known(0.95, 5000).hopeless(most, 200)
    assert known(float("nan"), 0).hopeless(most, 200)


def test_a_mode_that_the_guide_misses_stays_missing_and_the_note_says_so():
    fit = fitted(two_modes, torch.tensor([-4.0]), torch.tensor([1.1]))
    found = benchmarks.reweight(fit, draws=500)
    assert float(found.draws["x"].max()) < 2  # half of the posterior is near 4
    assert float(found.stats["k_hat"][0]) <= 0.5
    assert "a mode that it misses is missing here too" in found.notes[-1]


def test_points_failed_fits_and_many_coordinates_are_refused(wrong, monkeypatch):
    point = dataclasses.replace(wrong, points=("x",))
    with pytest.raises(FitError, match=r"A point, no spread, in x.*; fit a family with a spread"):
        benchmarks.reweight(point)
    stop = dataclasses.replace(wrong.stop, status="nan", sentence="The loss is NaN at step 3.")
    with pytest.raises(FitError, match="cannot be reweighted: the loss is NaN at step 3"):
        benchmarks.reweight(dataclasses.replace(wrong, stop=stop))
    monkeypatch.setattr(module, "NUMBERS", 1000)
    with pytest.raises(FitError, match="3 coordinates are too many for joint weights"):
        benchmarks.reweight(wrong)


def test_weights_that_are_not_finite_are_refused(wrong, monkeypatch):
    def broken(guide, density, n, seed):
        return torch.zeros(n, 3).double(), torch.full((n,), torch.nan), torch.zeros(n)

    monkeypatch.setattr(module, "weighted_draws", broken)
    with pytest.raises(FitError, match="weights of its 8,000 draws are not finite"):
        benchmarks.reweight(wrong, draws=DRAWS)


@pytest.mark.parametrize("family", ["block_full_rank", "mean_field"])
def test_many_rows_are_refused_by_name(family):
    def rows(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def fit(number):
        data = {"x": torch.linspace(-1, 1, number).double()}
        entry = zoo.from_program(rows, data, families=[family], batched=["x"])
        made = guides.fit(entry, family, seed=0, steps=300, compile="off", progress=False)
        return dataclasses.replace(made, stop=dataclasses.replace(made.stop, status="ok"))

    with pytest.raises(FitError, match="its weights are products over 20 rows") as error:
        benchmarks.reweight(fit(20))
    assert "benchmarks.gap_report(fit)" in str(error.value)
    assert len(benchmarks.reweight(fit(3), draws=100).draws["z"]) == 100


def test_arguments_are_checked(wrong):
    with pytest.raises(UsageError, match="draws"):
        benchmarks.reweight(wrong, draws=0)
    with pytest.raises(UsageError, match="seed"):
        benchmarks.reweight(wrong, seed=-1)


# -- tails that a normal lacks -----------------------------------------------------------------


def heavy(one):
    """Two independent t distributions of 5 degrees of freedom, scales 1 and 2."""
    scales = torch.tensor([1.0, 2.0]).double() * one
    pyro.sample("x", dist.StudentT(5.0, torch.zeros(2).double(), scales).to_event(1))


@pytest.fixture(scope="module")
def light():
    """A normal with the right mean and sds."""
    return fitted(heavy, torch.zeros(2), torch.tensor([1.0, 2.0]) * (5 / 3) ** 0.5)


def test_where_weights_have_no_variance_a_t_distribution_stands_in_for_the_guide(light):
    found = benchmarks.reweight(light, draws=DRAWS, seed=0)
    assert float(found.stats["k_hat"][0]) < 0.3
    assert " draws of a t distribution with mean and covariance of mean_field, " in found.notes[0]
    right = torch.tensor([1.0, 2.0]) * (5 / 3) ** 0.5
    x = found.draws["x"]
    n = len(x)
    assert n == DRAWS
    assert ((x.mean(0) / right).abs() < 5 / n**0.5).all()
    # kurtosis 9 of t(5): the sd of an sd is sqrt((9 - 1) / 4 n)
    assert ((x.std(0) / right - 1).abs() < 4 * (2 / n) ** 0.5).all()
    assert (x.abs() > 5 * right).any()  # draws where the normal has none
    counted = int(float(found.stats["guide_draws"][0]))
    (spent,) = re.findall(r"([\d,]+) evaluations", found.notes[1])
    assert int(spent.replace(",", "")) > counted  # those of the guide itself too


def test_without_it_the_guides_own_weights_have_a_heavy_tail(light, monkeypatch):
    monkeypatch.setattr(module._Wider, "of", classmethod(lambda *_: None))
    monkeypatch.setattr(module._Weights, "refused", lambda *_: "")
    found = benchmarks.reweight(light, draws=DRAWS, seed=0)
    assert float(found.stats["k_hat"][0]) > 0.5
    assert " draws of mean_field, " in found.notes[0]


def test_weights_of_the_t_distribution_are_those_of_its_density():
    loc, shape = np.array([1.0, -2.0]), np.array([[2.0, 0.7], [0.7, 1.0]])
    law = multivariate_t(loc, shape, df=4.0)
    density = SimpleNamespace(
        dim=2, dtype=torch.float64, batch=lambda u: torch.as_tensor(law.logpdf(u.numpy())) + 3.0
    )
    u, log_weights = module._Wider(density=density, loc=loc, shape=shape).draw(4000, 7)
    assert log_weights.numpy() == pytest.approx(np.full(4000, 3.0))
    assert u.mean(0).numpy() == pytest.approx(loc, abs=0.15)
    away = u.numpy() - loc
    outside = np.einsum("ni,ij,nj->n", away, np.linalg.inv(shape), away) / 2
    assert (outside < 1.0).mean() == pytest.approx(f.cdf(1.0, 2, 4), abs=0.03)
    assert torch.equal(u, module._Wider(density=density, loc=loc, shape=shape).draw(4000, 7)[0])


def test_the_t_distribution_needs_draws_and_a_covariance():
    density = SimpleNamespace(dim=3, dtype=torch.float64)
    good = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = module._Wider.of(good, density)
    assert made.loc == pytest.approx(good.mean(0).numpy())
    assert made.shape == pytest.approx(np.cov(good.T.numpy()))
    assert module._Wider.of(good[:59], density) is None
    assert module._Wider.of(torch.cat([good[:, :2], good[:, :1]], 1), density) is None
    bad = good.clone()
    bad[4, 1] = torch.inf
    assert module._Wider.of(bad, density) is None


@pytest.mark.parametrize(
    ("own", "other", "beats"),
    [
        ((0.6, 900), (0.4, 900), True),
        ((0.4, 900), (0.6, 900), False),
        ((0.9, 900), (0.6, 900), True),
        ((0.6, 10), (0.65, 900), True),
        ((0.9, 900), (0.3, 10), False),
        ((0.9, 900), (0.8, 900), False),
    ],
)
def test_the_lighter_tail_of_weights_that_are_used_wins(own, other, beats):
    def weights(k, n):
        kept = ParetoK(value=k, threshold=0.7, draws=8000, importance_ess=2.0 * n)
        return module._Weights(weights=np.full(8000, 1 / 8000), k=kept, n=n)

    assert weights(*other).beats(weights(*own), 200) is beats


def test_a_refusal_names_both_proposals():
    """Neither a narrow normal nor its t version has the tails of a Cauchy."""

    def cauchy(one):
        pyro.sample("x", dist.Cauchy(torch.zeros(2).double() * one, 1.0).to_event(1))

    fit = fitted(cauchy, torch.zeros(2), torch.tensor([0.02, 0.02]))
    with pytest.raises(FitError) as error:
        benchmarks.reweight(fit, draws=DRAWS, seed=0)
    said = str(error.value)
    assert re.search(r"k-hat \d\.\d\d \(at most 0\.50\), and of [\d,]+ draws", said)
    assert re.search(
        r"\(at least 200\); with the tails of a t distribution k-hat \d\.\d\d; ", said
    )


def test_weights_that_are_not_finite_are_said_to_be():
    kept = ParetoK(value=float("nan"), threshold=0.5, draws=8000, importance_ess=0.0)
    none = module._Weights(weights=np.zeros(8000), k=kept, n=0)
    assert none.words == "weights are not finite"
    assert (
        dataclasses.replace(none, k=dataclasses.replace(kept, value=0.634)).words == "k-hat 0.63"
    )
