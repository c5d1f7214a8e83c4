"""Restarts on a ring end at one ELBO with different answers; that is no agreement."""

import pyro
import pyro.distributions as dist
import torch

import guides
import zoo
from benchmarks.comparison.fit_checks import trust_checks
from zoo.quantities import site

SETTLED = {"patience": 50, "anneal": 150, "num_particles": 16, "compile": "off"}


def ring():
    x = pyro.sample("x", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    pyro.factor("f", -0.5 * ((x.norm() - 5) / 0.3) ** 2)


def restarts(fit):
    return next(t for t in trust_checks(fit, None, None) if t.name == "restarts")


def test_starts_on_a_ring_disagree(tmp_path):
    plain = {"x": zoo.Quantity(fn=site("x"), dims=("axis",))}
    entry = zoo.from_program(ring, {}, quantities=plain)
    fit = guides.fit(entry, "full_rank", seed=0, restarts=4, **SETTLED)
    found = restarts(fit)
    assert found.passed is False
    assert "different answers: x[" in found.sentence
    values = [r.elbo.value_nats for r in fit.restarts]
    assert max(values) - min(values) < 1  # by ELBO alone they agree
    for r in fit.restarts:  # each sits at one place of the ring of radius 5
        assert 4 < sum(r.answer[f"x[{i}]"][0] ** 2 for i in range(2)) ** 0.5 < 5.5
    guides.save(fit, tmp_path / "fit")
    again = guides.load(tmp_path / "fit", entry)
    assert restarts(again) == found


def test_starts_that_differ_by_a_rotation_alone_agree():
    entry = zoo.from_program(ring, {})  # judged by the length of x
    assert restarts(guides.fit(entry, "full_rank", seed=0, restarts=4, **SETTLED)).passed


def test_starts_that_agree_pass():
    fit = guides.fit(zoo.load("eight_schools"), "mean_field", seed=0, restarts=3, **SETTLED)
    assert restarts(fit).passed
    assert len(fit.restarts[0].answer) == 10  # mu, log_tau, theta[8]
    alone = guides.fit(zoo.load("coin"), "mean_field", seed=0, steps=50)
    assert alone.restarts[0].answer == {}
    assert restarts(alone).passed is None
