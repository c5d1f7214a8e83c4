"""Pathfinder as a family: modes with their masses, reproducible, and honest about how it ended."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

import guides
import zoo
from benchmarks import audit
from guides.families import pathfinder
from zoo.errors import FitError, UsageError
from zoo.quantities import site
from zoo.types import Data

CENTERS, SDS = np.array([[0.0, 0.0], [9.0, -2.0]]), (1.0, 1.0)


def two_modes(quantities=None):
    def program():
        parts = dist.Normal(
            torch.as_tensor(CENTERS), torch.tensor(SDS).double()[:, None].expand(2, 2)
        ).to_event(1)
        mix = dist.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64))
        pyro.sample("x", dist.MixtureSameFamily(mix, parts))

    judged = quantities or {"x": zoo.Quantity(fn=site("x"), dims=("i",))}
    return zoo.from_program(program, {}, name="two_modes", quantities=judged)


def test_a_correlated_normal_is_met(tiny):
    entry, cov = tiny.gaussian(rho=0.9, d=10)
    fit = guides.fit(entry, "pathfinder", seed=3)
    assert fit.stop.status == "ok"
    assert fit.stop.sentence.startswith("One mode, of log density 0.068")
    (normal,) = fit.guide.normals
    assert float((normal.loc - 1).abs().max()) < 0.01
    torch.testing.assert_close(normal.covariance, cov, rtol=0, atol=0.05)
    assert -0.1 < fit.elbo.value_nats < 3 * fit.elbo.se  # the log evidence is 0
    assert fit.points == ()


def test_two_modes_are_found_with_their_masses():
    fit = guides.fit(two_modes(), "pathfinder", seed=1)
    assert fit.stop.status == "ok"
    guide = fit.guide
    assert guide.weight[:2].tolist() == pytest.approx([0.7, 0.3], abs=0.01)
    error = guide.weight_error[:2]
    assert bool(((guide.weight[:2] - torch.tensor([0.7, 0.3])).abs() <= 3 * error + 1e-3).all())
    assert float(guide.weight.sum()) == pytest.approx(1.0)
    assert "2 modes: 0.700 +- 0.001 near x[0] = 9, 0.300 +- 0.001 near x[0] = " in (
        fit.stop.sentence
    )
    assert "equal in every judged quantity" not in fit.stop.sentence
    u = np.random.default_rng(0).normal(size=(40, 2)) * 5
    logs = [
        math.log(w) + stats.multivariate_normal(c, s**2 * np.eye(2)).logpdf(u)
        for w, c, s in zip((0.3, 0.7), CENTERS, SDS, strict=True)
    ]
    log_q = guide.log_prob_flat(torch.as_tensor(u))
    np.testing.assert_allclose(log_q, logsumexp(logs, 0), rtol=1e-3, atol=0.02)
    assert abs(fit.elbo.value_nats) < 0.01


def test_modes_that_no_judged_quantity_tells_apart_are_named_as_copies():
    """Labels or signs are free: |x| is the same at both."""

    def program():
        parts = dist.Normal(torch.tensor([-4.0, 4.0]).double(), 1.0)
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones(2).double()), parts))

    size = zoo.Quantity(fn=lambda draws, data: draws["x"].abs())
    entry = zoo.from_program(program, {}, name="signs", quantities={"size": size})
    said = guides.fit(entry, "pathfinder").stop.sentence
    assert said.startswith("2 modes: 0.50")
    assert "near x = 4" in said
    assert "near x = -4" in said
    assert "They are equal in every judged quantity (free labels or signs)." in said


def test_the_gradients_are_counted_and_bounded_per_path(tiny):
    entry, _ = tiny.skewed()
    fit = guides.fit(entry, "pathfinder", paths=5)
    counted = fit.density.gradient_evaluations
    assert counted <= fit.cost.gradient_evaluations <= counted + 5  # one per start near the origin
    spent = fit.guide.path_gradients
    assert int(spent.sum()) == counted
    assert 1 < int(spent.min()) <= int(spent.max()) < 300
    few = guides.fit(entry, "pathfinder", evaluations=4, paths=5)
    assert few.density.gradient_evaluations <= 5 * 4
    assert few.stop.status == "not_converged"
    assert "settled within 4 gradients" in few.stop.sentence
    assert pathfinder.Settings().evaluations < 300


def test_a_skewed_posterior_is_below_its_evidence_and_passes_the_audit(tiny):
    entry, evidence = tiny.skewed()
    fit = guides.fit(entry, "pathfinder")
    assert evidence - 0.5 < fit.elbo.value_nats <= evidence + 5 * fit.elbo.se
    results = audit.audit(entry, ["pathfinder"], log_evidence=evidence)
    assert [r.name for r in results if r.status == "failed"] == []
    assert any(r.status == "ok" and "elbo_reported" in r.name for r in results)


def test_a_seed_gives_the_same_fit_and_a_file_the_same_density(tmp_path):
    entry = two_modes()
    fits = [guides.fit(entry, "pathfinder", seed=s, paths=8) for s in (0, 0, 1)]
    u = 4 * torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b, c = (fit.guide.log_prob_flat(u) for fit in fits)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert fits[0].stop == fits[1].stop
    guides.save(fits[0], tmp_path / "fit.pt")
    again = guides.load(tmp_path / "fit.pt", entry)
    assert torch.equal(again.guide.log_prob_flat(u), a)
    assert torch.equal(again.guide.weight_error, fits[0].guide.weight_error)
    draws = [guides.draw(fit, 50, seed=2).unconstrained for fit in (fits[0], again)]
    assert torch.equal(*draws)


def improper(tiny, factor):
    def program(index=None):
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
        pyro.factor("f", factor(x))

    return tiny.entry("improper", lambda: Data(train={}), program)


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (lambda x: x.sum(), "met a curvature that gives a normal"),
        (lambda x: -0.5 * (x.sum() - 1.0) ** 2, "equally high but "),
        (lambda x: -0.5 * x[1] ** 2 - (-x[0]).exp(), "stays level along site 'x'[0]"),
        (lambda x: (0.0 * x.sum()).sqrt(), "not finite at any of 10 starting points"),
    ],
)
def test_a_level_or_broken_density_is_told_in_a_sentence(tiny, factor, said):
    fit = guides.fit(improper(tiny, factor), "pathfinder", seed=0)
    assert fit.stop.status == "init_failed"
    assert said in fit.stop.sentence
    assert fit.elbo is None
    with pytest.raises(FitError, match="not usable"):
        guides.draw(fit)


def test_many_dimensions_are_refused(tiny):
    entry, _ = tiny.gaussian(rho=0.1, d=pathfinder.LARGEST + 1)
    with pytest.raises(UsageError, match=r"at most 300 dimensions and gaussian has 301; use low"):
        guides.fit(entry, "pathfinder")


def test_the_normals_of_all_paths_are_a_better_proposal(tiny):
    """They cover what is skewed: the weights of the draws are worth more."""
    entry, evidence = tiny.skewed()
    one, several = (guides.fit(entry, "pathfinder", merge=m) for m in (True, False))
    assert len(one.guide.normals) == 1 < len(several.guide.normals)
    weights = several.guide.weight
    assert float(weights.sum()) == pytest.approx(1.0)
    assert bool((weights[:-1] >= weights[1:]).all())
    assert several.elbo.value_nats <= evidence + 5 * several.elbo.se
    worth = []
    for fit in (one, several):
        weights = torch.softmax(guides.draw(fit, 4000).log_weights, 0)
        worth.append(float(1 / weights.square().sum()))
    assert worth[1] > 1.02 * worth[0]
    assert one.stop == several.stop


def test_two_hundred_dimensions_take_no_full_matrix(tiny):
    entry, _ = tiny.gaussian(rho=0.0, d=200)
    fit = guides.fit(entry, "pathfinder", paths=2)
    assert fit.guide.directions.shape == (2, 200, 60)
    assert abs(fit.elbo.value_nats) < 0.01


@pytest.mark.parametrize(
    "options",
    [{"paths": 0}, {"evaluations": -1}, {"history": 2.5}, {"elbo_draws": 5}, {"pool_draws": True}],
)
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(UsageError, match=f"Option {name} of pathfinder is .*; accepted: a pos"):
        pathfinder.Settings(**options)


def test_merge_is_a_flag():
    with pytest.raises(UsageError, match="Option merge of pathfinder is 'no'; accepted: True or"):
        pathfinder.Settings(merge="no")
