"""Fits of programs whose posteriors are known in closed form."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine

import guides
from guides.base.flat import Start
from guides.contract import gradient_norms
from guides.families.full_rank import WhitenedFullRank
from guides.session import session
from zoo.density.log_density import LogDensity

SVI = ("mean_field", "full_rank", "low_rank")


def test_full_rank_is_exact_on_a_gaussian(tiny):
    entry, cov = tiny.gaussian()
    fit = guides.fit(entry, "full_rank", **tiny.FAST)
    assert fit.stop.status == "ok"
    posterior = fit.guide.get_posterior()
    assert torch.allclose(posterior.loc, torch.ones(2, dtype=torch.float64), atol=0.01)
    assert torch.allclose(posterior.covariance_matrix, cov, rtol=0.01)
    bound = guides.elbo(fit)
    assert abs(bound.value_nats) <= 5 * bound.se + 1e-4


def test_mean_field_shrinks_as_the_formula_says(tiny):
    entry, cov = tiny.gaussian()
    fit = guides.fit(entry, "mean_field", **tiny.FAST)
    expected = 1 / torch.sqrt(cov.diagonal() * cov.inverse().diagonal())
    assert expected[0] == pytest.approx(0.436, abs=0.001)
    assert torch.allclose(fit.guide.scale, expected, rtol=0.03)
    assert torch.allclose(fit.guide.loc, torch.ones(2, dtype=torch.float64), atol=0.02)
    # KL(q || p) of the optimum is -0.5 log det of the correlation of the precision: the bound
    # falls short by this much.
    gap = -0.5 * math.log(1 - 0.9**2)
    bound = guides.elbo(fit)
    assert abs(bound.value_nats + gap) <= 5 * bound.se


@pytest.mark.parametrize("family", [*SVI, "laplace"])
def test_bound_stays_below_the_evidence(tiny, family):
    entry, evidence = tiny.skewed()
    bound = guides.elbo(guides.fit(entry, family, **({} if family == "laplace" else tiny.FAST)))
    assert bound.value_nats <= evidence + 5 * bound.se
    assert bound.value_nats > evidence - 0.5


def test_a_bound_without_jacobian_would_be_noticed(tiny, monkeypatch):
    entry, evidence = tiny.skewed()
    fit = guides.fit(entry, "full_rank", **tiny.FAST)
    monkeypatch.setattr(LogDensity, "evaluate", _without_jacobian(LogDensity.evaluate))
    bound = guides.elbo(replace(fit, density=None))  # its log density was made before the fault
    assert not abs(bound.value_nats - evidence) < 0.5


def _without_jacobian(evaluate):
    def planted(self, u, tensors=None):
        jacobian = sum(
            s.transform.log_abs_det_jacobian(s.part(u), s.transform(s.part(u))).sum()
            for s in self.sites
        )
        return evaluate(self, u, tensors) - jacobian

    return planted


@pytest.mark.parametrize("family", ["full_rank", "laplace"])
def test_flat_prior(tiny, family):
    fit = guides.fit(tiny.improper(), family, **({} if family == "laplace" else tiny.FAST))
    posterior = fit.guide.get_posterior()
    assert float(posterior.loc) == pytest.approx(3.0, abs=0.01)
    assert float(posterior.stddev) == pytest.approx(0.5, rel=0.02)


def test_enumerated_program_has_exact_log_weights(tiny):
    entry, log_joint = tiny.mixture()
    fit = guides.fit(entry, "mean_field", **tiny.FAST)
    posterior = guides.draw(fit, 50)
    q = torch.distributions.Normal(fit.guide.loc, fit.guide.scale)
    expected = log_joint(posterior.draws["loc"]) - q.log_prob(posterior.unconstrained).sum(-1)
    assert torch.allclose(posterior.log_weights, expected, atol=1e-9)


@pytest.mark.parametrize("family", SVI)
def test_log_weights_equal_pyro_traces(tiny, family):
    entry, _ = tiny.skewed()
    fit = guides.fit(entry, family, **{**tiny.FAST, "steps": 60, "patience": 10, "anneal": 20})
    posterior = guides.draw(fit, 5)
    with session(entry.dtype), torch.no_grad():
        for i in range(5):
            values = {name: value[i] for name, value in posterior.draws.items()}
            latent = {f"_{fit.guide._pyro_name}_latent": posterior.unconstrained[i]}
            # only the latent vector: exp of one row may differ in its last digit from that of
            # five, another value for a Delta
            q = (
                poutine.trace(poutine.condition(fit.guide, data=latent))
                .get_trace(**fit.data.train)
                .log_prob_sum()
            )
            p = (
                poutine.trace(poutine.condition(fit.program, data=values))
                .get_trace(**fit.data.train)
                .log_prob_sum()
            )
            assert float(posterior.log_weights[i]) == pytest.approx(float(p - q), abs=1e-8)


@pytest.mark.parametrize("family", SVI)
def test_flat_elbo_equals_pyro_elbo(tiny, family):
    entry, _ = tiny.skewed()
    fit = guides.fit(entry, family, **{**tiny.FAST, "steps": 60, "patience": 10, "anneal": 20})
    bound = guides.elbo(fit)
    with session(entry.dtype), torch.no_grad():
        pyro.set_rng_seed(1)
        loss = pyro.infer.Trace_ELBO()
        values = torch.tensor(
            [-loss.loss(fit.program, fit.guide, **fit.data.train) for _ in range(300)]
        )
    error = math.hypot(bound.se, float(values.std()) / 300**0.5)
    assert abs(bound.value_nats - float(values.mean())) < 5 * error


@pytest.mark.parametrize("family", [*SVI, "amortized"])
def test_gradients_reach_every_parameter(tiny, family):
    entry, *_ = tiny.intercepts()
    norms = gradient_norms(entry, family)
    assert len(norms) >= 2
    assert all(norm > 0 for norm in norms.values()), norms


def test_sticking_the_landing_keeps_the_gradient_and_drops_the_noise(tiny):
    entry, cov = tiny.gaussian()
    tril = torch.linalg.cholesky(cov)
    program = entry.program(entry.load_data())
    density = LogDensity(program, entry.load_data()).batch_function()
    flat = WhitenedFullRank(
        torch.nn.Module(),
        Start(loc=torch.ones(2, dtype=torch.float64), scale=cov.diagonal().sqrt(), factor=tril),
    )
    noise = torch.randn(64, 2, dtype=torch.float64)

    def gradient(stl):
        u, log_q = flat.sample(noise, stl=stl)
        return torch.cat(
            [
                g.reshape(-1)
                for g in torch.autograd.grad((log_q - density(u)).mean(), list(flat.parameters()))
            ]
        )

    # q equals the posterior: the STL gradient vanishes for each draw, the plain one only on
    # average.
    assert float(gradient(True).abs().max()) < 1e-10
    assert float(gradient(False).abs().max()) > 1e-3


def test_amortized_and_minibatches_on_conjugate_intercepts(tiny):
    entry, mean, precision = tiny.intercepts()
    exact_sd = precision.inverse().diagonal().sqrt()
    for batch_size in (None, 4):
        fit = guides.fit(
            entry,
            "amortized",
            **{**tiny.FAST, "steps": 700, "anneal": 400, "batch_size": batch_size},
        )
        assert fit.ok
        u = guides.draw(fit, 4000).unconstrained
        error = (u.mean(0) - mean) / exact_sd
        assert float(error.abs().max()) < (0.15 if batch_size is None else 0.3)
        # No dependence between mu and effects: each sd is the conditional one, 1 /
        # sqrt(precision_ii).
        ratio = u.std(0) * precision.diagonal().sqrt()
        assert float((ratio - 1).abs().max()) < (0.1 if batch_size is None else 0.25)


def test_minibatches_leave_mean_field_unbiased(tiny):
    entry, mean, precision = tiny.intercepts()
    fit = guides.fit(
        entry, "mean_field", **{**tiny.FAST, "steps": 600, "anneal": 400, "batch_size": 4}
    )
    error = (fit.guide.loc - mean) / precision.inverse().diagonal().sqrt()
    assert float(error.abs().max()) < 0.2
    assert torch.allclose(
        fit.guide.scale * precision.diagonal().sqrt(),
        torch.ones(13, dtype=torch.float64),
        atol=0.15,
    )
