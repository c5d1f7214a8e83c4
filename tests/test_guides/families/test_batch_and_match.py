"""Batch and match as a family: exact on normals, reproducible, and honest about how it ended."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
import zoo
from benchmarks import audit
from guides.base import batch_search
from guides.families import batch_and_match, laplace
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UnknownNameError, UsageError


@pytest.mark.parametrize(("d", "rho"), [(1, 0.0), (10, 0.9), (40, 0.3)])
def test_a_normal_posterior_is_met_in_every_moment(tiny, d, rho):
    entry, cov = tiny.gaussian(rho=rho, d=d)
    fit = guides.fit(entry, "batch_and_match", seed=3)
    assert fit.stop.status == "ok"
    posterior = fit.guide.get_posterior()
    torch.testing.assert_close(posterior.mean, torch.ones(d).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(posterior.covariance_matrix, cov, rtol=1e-6, atol=1e-6)
    assert abs(fit.elbo.value_nats) < 1e-6  # the log evidence is 0, for every draw
    assert float(fit.guide.draw_error.max()) < 1e-6


def test_a_conjugate_hierarchy_is_met(tiny):
    entry, mean, precision = tiny.intercepts()
    posterior = guides.fit(entry, "batch_and_match", seed=1).guide.get_posterior()
    torch.testing.assert_close(posterior.covariance_matrix[0, 0], precision.inverse()[0, 0])
    torch.testing.assert_close(posterior.mean[0], mean[0])


def test_the_mean_is_that_of_the_best_bound_and_widths_are_narrower(tiny):
    """Of a skewed posterior Laplace is at the mode; E[grad log p] = 0 is at the mean."""
    entry, evidence = tiny.skewed()
    fit = guides.fit(entry, "batch_and_match")
    best = guides.fit(entry, "full_rank")
    assert "in doubt" not in fit.stop.sentence
    assert fit.stop.status == "ok"
    assert evidence - 0.5 < fit.elbo.value_nats <= evidence + 5 * fit.elbo.se
    ours, theirs = fit.guide.get_posterior(), best.guide.get_posterior()
    mode = guides.fit(entry, "laplace").guide.get_posterior()
    apart = ((ours.mean - theirs.mean) / theirs.stddev).abs().max()
    assert float(apart) < 0.05 < float(((mode.mean - theirs.mean) / theirs.stddev).abs().max())
    assert 0.85 < float((ours.stddev / theirs.stddev).min()) < 1.0


def test_the_audit_finds_nothing(tiny):
    entry, evidence = tiny.skewed()
    results = audit.audit(entry, ["batch_and_match"], log_evidence=evidence)
    assert [r.name for r in results if r.status == "failed"] == []
    assert any(r.status == "ok" and "elbo_reported" in r.name for r in results)


def test_a_seed_gives_the_same_fit_and_another_seed_another(tiny):
    entry, _ = tiny.skewed()
    fits = [guides.fit(entry, "batch_and_match", seed=s) for s in (0, 0, 1)]
    a, b, c = (fit.guide.get_posterior().mean for fit in fits)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert float((a - c).abs().max()) < 0.1
    assert fits[0].stop == fits[1].stop
    assert fits[0].points == ()


def test_a_saved_fit_keeps_its_errors(tiny, tmp_path):
    entry, _ = tiny.skewed()
    fit = guides.fit(entry, "batch_and_match", design="independent", target=0.1)
    guides.save(fit, tmp_path / "fit.pt")
    again = guides.load(tmp_path / "fit.pt", entry)
    assert again.options == {"design": "independent", "target": 0.1}
    assert bool(torch.isfinite(fit.guide.draw_error).all())
    assert torch.equal(again.guide.draw_error, fit.guide.draw_error)


def test_the_gradients_are_those_of_the_start_and_the_updates(tiny):
    entry, _ = tiny.skewed()
    data = entry.load_data()
    with session(entry.dtype):
        program = entry.program(data)
        density = LogDensity(program, data, dtype=entry.dtype)
        guide = guides.build("batch_and_match", program, data, entry, density=density)
        stop, spent = batch_and_match.solve(guide, density, torch.Generator().manual_seed(0))
        other = LogDensity(program, data, dtype=entry.dtype)
        _, start = laplace.solve(guide, other, torch.Generator().manual_seed(0))
    assert spent - start == batch_and_match.LEAST_DRAWS * stop.step
    # the four starting points of `laplace` are not evaluated by the density itself
    assert spent - density.gradient_evaluations == laplace.STARTS
    assert stop.step >= batch_search.LEAST


def test_matched_draws_need_fewer_updates_than_independent_ones(tiny):
    entry, _ = tiny.skewed()
    ours, plain = (
        guides.fit(entry, "batch_and_match", design=design)
        for design in ("matched", "independent")
    )
    assert ours.stop.step < 0.5 * plain.stop.step


# -- how it ends far from a normal ---------------------------------------------------------------


def curved():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x**2, 0.2))


def test_a_banana_ends_with_its_misfit():
    fit = guides.fit(zoo.from_program(curved, {}), "batch_and_match")
    assert fit.ok
    assert "The scores miss those of a normal by 0.7" in fit.stop.sentence
    assert "the widths are in doubt" in fit.stop.sentence
    assert fit.elbo.value_nats < -0.5


def test_a_spent_budget_is_said(tiny):
    entry, _ = tiny.skewed()
    few = {"design": "independent", "draws": 8}
    fit = guides.fit(entry, "batch_and_match", target=0.001, budget=400, **few)
    assert fit.stop.status == "not_converged"
    assert fit.ok
    assert fit.stop.sentence.startswith("The budget ended")
    assert "the last 25 of 50 updates" in fit.stop.sentence
    assert "(target 0.001)" in fit.stop.sentence
    once = guides.fit(entry, "batch_and_match", budget=1)
    assert once.stop.status == "not_converged"
    assert once.stop.sentence.startswith("The budget ended after 1 updates")
    still = guides.fit(zoo.load("eight_schools"), "batch_and_match", budget=400)
    assert "The budget ended while still moving" in still.stop.sentence


def heavy():
    pyro.sample("x", dist.StudentT(3.0, torch.zeros(3), 1.0).to_event(1))


def test_heavy_tails_settle_and_are_too_narrow():
    fit = guides.fit(zoo.from_program(heavy, {}), "batch_and_match")
    assert fit.stop.status == "ok"
    assert "the widths are in doubt" in fit.stop.sentence
    posterior = fit.guide.get_posterior()
    assert float((posterior.mean / posterior.stddev).abs().max()) < 0.06
    assert float(posterior.stddev.max()) < 1.5 < 3.0**0.5


def test_a_posterior_without_a_mode_starts_elsewhere():
    fit = guides.fit(zoo.load("eight_schools_centered"), "batch_and_match", budget=400)
    assert fit.stop.status == "not_converged"
    assert "a mean field, since no mode was found" in fit.stop.sentence


def ridge():
    x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (2,), ()).to_event(1))
    pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=torch.tensor(1.0))


def tails():
    x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.factor("f", -0.3 * torch.log1p(x**2))


def test_an_improper_posterior_ends_with_a_sentence():
    fit = guides.fit(zoo.from_program(ridge, {}), "batch_and_match")
    assert fit.stop.status == "init_failed"
    assert "site 'x'[0], site 'x'[1] is" in fit.stop.sentence
    assert "is the posterior proper?" in fit.stop.sentence
    assert fit.elbo is None


def test_improper_tails_show_as_a_misfit():
    """Scores of order 1 / x match those of some normal on its draws, but not one by one."""
    fit = guides.fit(zoo.from_program(tails, {}), "batch_and_match")
    assert "The scores miss those of a normal by 1" in fit.stop.sentence


def walled():
    x = pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.zeros(()))
    pyro.factor("slope", torch.where((x < 2.0).all(), 0.0, 0.0 * (2.0 - x).sqrt().sum()))


def test_draws_without_a_score_are_counted_in_the_sentence():
    data = zoo.from_program(walled, {})
    fit = guides.fit(data, "batch_and_match", target=0.1)
    assert "draws without a finite score were left out" in fit.stop.sentence
    assert "of them in the updates that are averaged" in fit.stop.sentence


def hole():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("hole", (0.0 * x).sqrt())


def test_scores_that_are_nowhere_finite_are_a_state_of_the_fit(tiny, monkeypatch):
    fit = guides.fit(zoo.from_program(hole, {}), "batch_and_match")
    assert fit.stop.status == "init_failed"
    begun = batch_and_match.Normal(mean=torch.zeros(1).double(), factor=torch.eye(1).double())
    monkeypatch.setattr(batch_and_match, "_begin", lambda *given: (begun, "zero", 0))
    fit = guides.fit(zoo.from_program(hole, {}), "batch_and_match")
    assert fit.stop.status == "nan"
    assert "fewer than half of the draws had a finite score" in fit.stop.sentence
    assert "first at a Jacobian or a gradient" in fit.stop.sentence

    def nowhere(*given):
        raise FitError("nowhere finite")

    monkeypatch.setattr(batch_and_match, "_begin", nowhere)
    fit = guides.fit(tiny.gaussian()[0], "batch_and_match")
    assert (fit.stop.status, fit.stop.sentence) == ("init_failed", "nowhere finite")
    assert fit.cost.gradient_evaluations == 20


# -- options -------------------------------------------------------------------------------------


def test_many_dimensions_are_refused_with_another_family():
    entry = zoo.load("item_response")
    data = entry.load_data()
    with pytest.raises(UsageError) as refused:
        guides.build("batch_and_match", entry.program(data), data, entry)
    assert str(refused.value) == (
        "batch_and_match keeps a full covariance matrix of at most 300 dimensions and"
        " item_response has 1,020; use low_rank."
    )


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"design": "matchd"}, UnknownNameError, "matched"),
        ({"draws": 0}, UsageError, "Option draws of batch_and_match is 0"),
        ({"target": -0.1}, UsageError, "Option target of batch_and_match is -0.1"),
        ({"covariance": "full"}, UnknownNameError, "covariance"),
    ],
)
def test_wrong_options_are_refused(tiny, options, error, said):
    with pytest.raises(error, match=said):
        guides.fit(tiny.gaussian()[0], "batch_and_match", **options)


def test_draws_and_budget_follow_the_dimension():
    plain = batch_and_match.Settings()
    assert [plain.batch(d) for d in (1, 8, 40)] == [32, 32, 160]
    assert [plain.gradients(d) for d in (1, 40, 300)] == [3000, 3840, 28_800]
    chosen = batch_and_match.Settings(draws=7, budget=100)
    assert (chosen.batch(40), chosen.gradients(40)) == (7, 100)
