"""Deterministic fits: exact on normal posteriors, honest about draws, tails and dimensions."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal

import guides
import zoo
from benchmarks import audit
from guides.base import fixed_draws, fixed_search
from guides.base.fixed_draws import FixedDraws
from guides.families import deterministic
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UnknownNameError, UsageError


@pytest.mark.parametrize(("d", "rho"), [(2, 0.9), (5, 0.5), (40, 0.3)])
def test_a_normal_posterior_is_met_in_every_moment(tiny, d, rho):
    entry, cov = tiny.gaussian(rho=rho, d=d)
    fit = guides.fit(entry, "deterministic", seed=3)
    assert fit.stop.status == "ok"
    posterior = fit.guide.get_posterior()
    one = torch.ones(d, dtype=torch.float64)
    torch.testing.assert_close(posterior.mean, one, rtol=0, atol=1e-6)
    torch.testing.assert_close(posterior.covariance_matrix, cov, rtol=1e-6, atol=1e-6)
    assert abs(fit.elbo.value_nats) < 1e-6  # the log evidence is 0, for every draw
    assert float(fit.guide.draw_error.max()) < 1e-6
    if 2 * d <= deterministic.MOST_DRAWS:  # all second moments of the draws are matched
        narrow = cov.inverse().diagonal().rsqrt()
        torch.testing.assert_close(fit.guide.mean_field_scale, narrow, rtol=1e-5, atol=0)


def test_the_mean_field_itself_can_be_drawn(tiny):
    entry, cov = tiny.gaussian(rho=0.9)
    fit = guides.fit(entry, "deterministic", covariance="mean_field")
    assert isinstance(fit.guide, AutoDiagonalNormal)
    torch.testing.assert_close(
        fit.guide.scale, cov.inverse().diagonal().rsqrt(), rtol=1e-5, atol=0
    )
    gap = -0.5 * math.log(1 - 0.9**2)  # of the best mean field, in nats
    assert abs(fit.elbo.value_nats + gap) <= 5 * fit.elbo.se


def test_a_conjugate_hierarchy_is_met(tiny):
    entry = tiny.intercepts()[0]
    fit = guides.fit(entry, "deterministic", seed=1)
    density = guides.draws.density_of(fit)
    zero = torch.zeros(density.dim, dtype=torch.float64)
    with session(entry.dtype):  # log p is a quadratic
        precision, slope = -density.hessian(zero), density.gradient(zero)[1]
    posterior = fit.guide.get_posterior()
    torch.testing.assert_close(posterior.covariance_matrix, precision.inverse())
    torch.testing.assert_close(posterior.mean, torch.linalg.solve(precision, slope))
    assert fit.cost.gradient_evaluations < 3000


def test_the_bound_stays_below_the_evidence(tiny):
    entry, evidence = tiny.skewed()
    fit = guides.fit(entry, "deterministic")
    assert fit.stop.status == "ok"
    assert evidence - 0.5 < fit.elbo.value_nats <= evidence + 5 * fit.elbo.se


def test_discrete_sites_are_summed_out(tiny):
    entry, log_joint = tiny.mixture()
    grid = torch.linspace(-4.0, 6.0, 4001, dtype=torch.float64)
    height = log_joint(grid)
    weight = height.softmax(0)
    mean = float(weight @ grid)
    sd = float(weight @ (grid - mean) ** 2) ** 0.5
    evidence = float(height.logsumexp(0)) + math.log(float(grid[1] - grid[0]))
    fit = guides.fit(entry, "deterministic")
    posterior = fit.guide.get_posterior()
    assert float(posterior.mean) == pytest.approx(mean, abs=0.02 * sd)
    assert float(posterior.stddev) == pytest.approx(sd, rel=0.03)
    assert evidence - 0.1 < fit.elbo.value_nats <= evidence + 5 * fit.elbo.se


def test_the_audit_finds_nothing(tiny):
    entry, evidence = tiny.skewed()
    results = audit.audit(entry, ["deterministic"], log_evidence=evidence)
    assert [r.name for r in results if r.status == "failed"] == []
    assert any(r.status == "ok" and "elbo_reported" in r.name for r in results)


def test_a_flat_prior_is_no_obstacle(tiny):
    posterior = guides.fit(tiny.improper(), "deterministic").guide.get_posterior()
    assert float(posterior.mean) == pytest.approx(3.0, abs=1e-6)
    assert float(posterior.stddev) == pytest.approx(0.5, rel=1e-6)


def test_a_seed_gives_the_same_fit_and_another_seed_another(tiny):
    entry, _ = tiny.skewed()
    fits = [guides.fit(entry, "deterministic", seed=s, design="mirrored") for s in (0, 0, 1)]
    a, b, c = (fit.guide.get_posterior().mean for fit in fits)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert float((a - c).abs().max()) < 0.3
    assert fits[0].stop == fits[1].stop
    assert fits[0].points == ()


def test_a_saved_fit_keeps_its_widths_and_errors(tiny, tmp_path):
    entry, _ = tiny.skewed()
    fit = guides.fit(entry, "deterministic", covariance="mean_field", design="sobol")
    guides.save(fit, tmp_path / "fit.pt")
    again = guides.load(tmp_path / "fit.pt", entry)
    assert again.options == {"covariance": "mean_field", "design": "sobol"}
    for name in ("mean_field_scale", "draw_error"):
        value = getattr(fit.guide, name)
        assert bool(torch.isfinite(value).all())
        assert torch.equal(getattr(again.guide, name), value)


# -- the error of the draws, and their growth -----------------------------------------------------


def test_draws_grow_until_the_target_is_met(tiny):
    entry, _ = tiny.skewed()
    few = {"design": "independent", "draws": 4, "budget": 10**6}
    loose = guides.fit(entry, "deterministic", target=1.0, **few)
    tight = guides.fit(entry, "deterministic", target=0.1, **few)
    assert "8 fixed draws (2 blocks of 4)" in loose.stop.sentence  # fewer give no estimate
    assert "128 fixed draws" in tight.stop.sentence  # the first power of two above 1 / 0.1^2
    assert tight.cost.gradient_evaluations > loose.cost.gradient_evaluations
    error = float(tight.guide.draw_error.max())
    assert error <= 0.1 < float(loose.guide.draw_error.max())
    assert f"an error of at most {error:.2g} posterior sds (target 0.1)" in tight.stop.sentence


def test_a_spent_budget_is_said(tiny):
    entry, _ = tiny.skewed()
    fit = guides.fit(entry, "deterministic", design="independent", target=0.01, budget=500)
    assert fit.stop.status == "not_converged"
    assert fit.ok
    error = float(fit.guide.draw_error.max())
    assert f"an error of {error:.2g} posterior sds, more than the target" in fit.stop.sentence
    assert "more than 500 gradients" in fit.stop.sentence


def test_matched_draws_are_far_better_than_independent_ones(tiny):
    entry = tiny.intercepts()[0]
    truth = guides.fit(entry, "deterministic", seed=1).guide.get_posterior()
    fit = guides.fit(
        entry, "deterministic", seed=1, design="independent", draws=30, target=1e9
    ).guide.get_posterior()
    assert float(((fit.mean - truth.mean) / truth.stddev).abs().max()) > 0.1  # 1 / sqrt(30) each


def test_a_normal_that_is_worse_than_the_mean_field_is_said():
    fit = guides.fit(zoo.load("eight_schools_centered"), "deterministic")
    assert fit.ok
    assert "nats below that of the mean field" in fit.stop.sentence
    assert "widths are in doubt" in fit.stop.sentence


# -- no optimum, no Hessian ----------------------------------------------------------------------


def rising():
    pyro.factor("up", pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ())))


def ridge():
    x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (2,), ()).to_event(1))
    pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=torch.tensor(1.0))


def tails():
    x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.factor("f", -0.3 * torch.log1p(x**2))


@pytest.mark.parametrize("program", [rising, ridge, tails])
def test_an_improper_posterior_ends_with_a_sentence(program):
    fit = guides.fit(zoo.from_program(program, {}), "deterministic")
    assert fit.stop.status == "init_failed"
    assert "No optimum of the mean field on 16 fixed draws" in fit.stop.sentence
    assert "site 'x'" in fit.stop.sentence
    assert fit.elbo is None


def test_no_finite_point_is_a_state_of_the_fit(tiny, monkeypatch):
    def nowhere(*given):
        raise FitError("nowhere finite")

    monkeypatch.setattr(fixed_search, "first_point", nowhere)
    fit = guides.fit(tiny.gaussian()[0], "deterministic")
    assert (fit.stop.status, fit.stop.sentence) == ("init_failed", "nowhere finite")


def test_above_the_limit_no_hessian_is_formed(tiny, monkeypatch):
    for module in (deterministic, fixed_search):
        monkeypatch.setattr(module, "DENSE", 4)
    entry, cov = tiny.gaussian(d=5, rho=0.5)
    fit = guides.fit(entry, "deterministic")
    assert fit.stop.status == "ok"
    assert "At 5 dimensions (more than 4) no Hessian is formed" in fit.stop.sentence
    assert isinstance(fit.guide, AutoDiagonalNormal)
    narrow = cov.inverse().diagonal().rsqrt()
    torch.testing.assert_close(fit.guide.scale, narrow, rtol=1e-2, atol=0)
    assert bool(torch.isinf(fit.guide.draw_error).all())
    failed = guides.fit(zoo.from_program(rising_in_five, {}), "deterministic")
    assert failed.stop.status == "init_failed"
    assert "has moved farthest" in failed.stop.sentence


def rising_in_five():
    x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (5,), ()).to_event(1))
    pyro.factor("up", x.sum())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"covariance": "linear"}, UnknownNameError, "linear_response"),
        ({"design": "matchd"}, UnknownNameError, "matched"),
        ({"draws": 0}, UsageError, "Option draws of deterministic is 0"),
        ({"target": -0.1}, UsageError, "Option target of deterministic is -0.1"),
        ({"draw": 30}, UnknownNameError, "draws"),
    ],
)
def test_wrong_options_are_refused(tiny, options, error, said):
    with pytest.raises(error, match=said):
        guides.fit(tiny.gaussian()[0], "deterministic", **options)


# -- planted faults -------------------------------------------------------------------------------


def test_a_wrong_sign_of_the_entropy_would_be_noticed(tiny, monkeypatch):
    sound = FixedDraws.slopes

    def shrunk(self, place):
        slopes = sound(self, place)
        units = slopes.units.clone()
        units[:, self.density.dim :] += 2
        return slopes._replace(value=slopes.value + 2 * float(place.log_scale.sum()), units=units)

    monkeypatch.setattr(FixedDraws, "slopes", shrunk)
    entry, _ = tiny.gaussian()
    assert guides.fit(entry, "deterministic").stop.status == "init_failed"


def test_independent_draws_in_place_of_matched_ones_would_be_noticed(tiny, monkeypatch):
    monkeypatch.setitem(fixed_draws.DESIGNS, "matched", (fixed_draws.independent, None))
    with pytest.raises(AssertionError):
        test_a_normal_posterior_is_met_in_every_moment(tiny, 2, 0.9)


def test_the_density_is_not_left_with_other_draws(tiny):
    """The family builds its own density only if none is given."""
    entry, _ = tiny.gaussian()
    data = entry.load_data()
    with session(entry.dtype):
        density = LogDensity(entry.program(data), data, dtype=entry.dtype)
        guide = guides.build("deterministic", entry.program(data), data, entry, density=density)
        stop, spent = deterministic.solve(guide, density, torch.Generator().manual_seed(0))
    assert stop.status == "ok"
    assert spent == density.gradient_evaluations


@pytest.mark.parametrize(
    ("dim", "draws"), [(1, 16), (7, 16), (8, 16), (9, 18), (31, 62), (32, 64), (33, 64), (500, 64)]
)
def test_a_block_has_twice_as_many_draws_as_dimensions_between_16_and_64(dim, draws):
    assert deterministic.Settings().block(dim) == draws
    assert deterministic.Settings(draws=7).block(dim) == 7
